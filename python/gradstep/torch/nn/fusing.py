"""Our modules in the table of torch.ao.quantization.fuse_modules, which goes by exact class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.ao.quantization import fuser_method_mappings

__all__ = ["register_fusers"]

Classes = Mapping[type[nn.Module], type[nn.Module]]


def register_fusers(ours: Classes) -> None:
    """Enters each row of the table with our classes for torch's. ours: by torch's class."""
    table: dict[Any, Any] = getattr(fuser_method_mappings, "_DEFAULT_OP_LIST_TO_FUSER_METHOD", {})
    torchs = {own: other for other, own in ours.items()}
    for kinds, fuse in list(table.items()):
        own = tuple(ours.get(kind, kind) for kind in kinds)
        table.setdefault(own, _with_torchs(fuse, torchs))


def _with_torchs(fuse: Callable[..., Any], torchs: Classes) -> Callable[..., Any]:
    def fused(is_qat: bool, *modules: nn.Module) -> Any:
        if any(getattr(module, "relu", False) is True for module in modules):
            raise RuntimeError(
                "a gradstep.torch batch norm with relu=True would lose its ReLU when fused; use "
                "relu=False and torch.nn.ReLU behind it"
            )
        for module in modules:
            # The fused module is torch's, and takes only torch's.
            module.__class__ = torchs.get(type(module), type(module))
        return fuse(is_qat, *modules)

    return fused
