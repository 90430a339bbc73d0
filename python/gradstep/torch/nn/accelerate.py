"""Swapping the modules of a model for ours and back, in place."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import nn

from gradstep.torch.nn import modules
from gradstep.torch.nn.families import is_registered, native_class, original, recognise
from gradstep.torch.nn.fusing import register_fusers
from gradstep.torch.nn.modules import _FusedBatchNorm

__all__ = ["Swapped", "accelerate", "restore"]

# Ours for torch's, by class.
OURS: dict[type[nn.Module], type[nn.Module]] = {
    getattr(nn, name): getattr(modules, name) for name in modules.__all__
}
TORCHS = {ours: torchs for torchs, ours in OURS.items()}
register_fusers(OURS)
# Looked up by isinstance: what a reader of the report might have expected to be replaced.
_RELATIVES = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
)


@dataclass(frozen=True)
class Swapped:
    """What `accelerate` or `restore` did; `print` shows it.

    replaced: module name → (class before, class now). left: module name → (class, reason), for the
    modules that do dropout or normalisation and stayed as they were.
    """

    replaced: dict[str, tuple[str, str]] = field(default_factory=dict)
    left: dict[str, tuple[str, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.replaced)} modules replaced, {len(self.left)} left"]
        for name, (before, now) in self.replaced.items():
            lines.append(f"  {name or '(model)'}: {before} -> {now}")
        for name, (kind, reason) in self.left.items():
            lines.append(f"  {name or '(model)'}: {kind} left: {reason}")
        if any("Dropout" in now for _, now in self.replaced.values()):
            lines.append("a replaced dropout helps only where its forward is called")
        return "\n".join(lines)


def _class_name(kind: type) -> str:
    package = kind.__module__.partition(".")[0]
    known = {"torch": "torch.nn", "gradstep": "gradstep.torch"}
    return f"{known.get(package, kind.__module__)}.{kind.__qualname__}"


_LOOKS_LIKE_ONE = re.compile(r"norm|drop_?(out|path|block)", re.IGNORECASE)


def _is_ours(kind: type[nn.Module]) -> bool:
    return kind in TORCHS or original(kind) is not None


def _is_related(module: nn.Module) -> bool:
    """Whether a reader of the report might have expected it to be replaced."""
    if isinstance(module, _RELATIVES) or is_registered(type(module)):
        return True
    # Not for blocks that are only made of such modules.
    own = module._parameters or module._buffers or not module._modules
    return bool(own and _LOOKS_LIKE_ONE.search(type(module).__name__))


def _why_not_tried(module: nn.Module) -> str | None:
    """What keeps a module as it is, whatever it computes."""
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and module.dropout > 0:
        return "its dropout is inside torch's own function"
    if _is_ours(type(module)):
        return "is one of gradstep's already"
    if not _is_related(module):
        return None
    if "forward" in vars(module):
        return "its forward was replaced"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "is lazy: run one batch through the model first"
    if nn.utils.parametrize.is_parametrized(module):
        return "is parametrized"
    return None


def _why_not_known(module: nn.Module) -> str | None:
    """Why a related module has no counterpart here; None for all others."""
    if any(isinstance(module, torchs) for torchs in OURS):
        return "is a subclass with a forward of its own: see gradstep.torch.register"
    if isinstance(module, _RELATIVES):
        return "gradstep has no such module"
    return "looks like one: see gradstep.torch.register" if _is_related(module) else None


def _checked(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__}, expected a torch.nn.Module")
    return model


def _swap(
    report: Swapped, name: str, module: nn.Module, now: type[nn.Module], called: str | None = None
) -> None:
    before = _class_name(type(module))
    # The same object with the same state: parents, hooks, parameters and their owners keep it.
    module.__class__ = now
    report.replaced[name] = before, called or _class_name(now)


def _replace(report: Swapped, name: str, module: nn.Module) -> str | None:
    """Replaces a module if something here computes the same; else tells why not."""
    kind = type(module)
    if kind in OURS:
        _swap(report, name, module, OURS[kind])
        return None
    found = recognise(module, OURS)
    if found.formula is None:
        return found.reason or _why_not_known(module)
    called = f"gradstep.torch.functional.{found.formula.name}"
    _swap(report, name, module, native_class(kind, found.formula), called)
    return None


def accelerate(model: nn.Module) -> Swapped:
    """Makes the dropout and normalisation modules of a model ours, in place.

    model: a module, itself or parts of it of torch's classes that have a counterpart here, of
    subclasses that compute the same, and of norms of transformers, timm and other libraries that
    were found to compute what ours do by trying (`register` adds classes). Only the class of a
    module changes: parameters, buffers, hooks, training flag and the names in the state dict stay.
    Lazy and parametrized modules and those whose `forward` was replaced stay as they are. A second
    call does nothing. `restore` undoes it.

    A replaced dropout helps only where its `forward` is called: attention that reads `p` and calls
    a function, as in transformers, stays torch's.

    Returns what was replaced, and what was left and why. Raises TypeError if model is no module.

    >>> import torch, gradstep.torch as gt
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    >>> print(gt.accelerate(model))
    1 modules replaced, 0 left
      1: torch.nn.LayerNorm -> gradstep.torch.LayerNorm
    """
    report = Swapped()
    for name, module in _checked(model).named_modules():
        reason = _why_not_tried(module) or _replace(report, name, module)
        if reason is not None:
            report.left[name] = _class_name(type(module)), reason
    return report


def restore(model: nn.Module) -> Swapped:
    """Makes our modules torch's again, in place, whether `accelerate` made them or the user.

    A batch norm with relu=True stays: torch has none. Returns what was replaced and what was left.
    Raises TypeError if model is no module.

    >>> import torch, gradstep.torch as gt
    >>> model = torch.nn.LayerNorm(4)
    >>> _ = gt.accelerate(model)
    >>> print(gt.restore(model))
    1 modules replaced, 0 left
      (model): gradstep.torch.LayerNorm -> torch.nn.LayerNorm
    """
    report = Swapped()
    for name, module in _checked(model).named_modules():
        before = TORCHS.get(type(module)) or original(type(module))
        if before is None:
            continue
        if isinstance(module, _FusedBatchNorm) and module.relu:
            report.left[name] = _class_name(type(module)), "torch has none with relu=True"
            continue
        _swap(report, name, module, before)
    return report
