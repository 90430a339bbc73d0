"""Swapping the modules of a model for ours and back, in place."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from gradstep.torch.nn import modules
from gradstep.torch.nn.fusing import register_fusers

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
        return "\n".join(lines)


def _class_name(kind: type) -> str:
    package = kind.__module__.partition(".")[0]
    known = {"torch": "torch.nn", "gradstep": "gradstep.torch"}
    return f"{known.get(package, kind.__module__)}.{kind.__qualname__}"


def _reason_to_leave(module: nn.Module) -> str | None:
    """Why a module related to those we replace is not replaced; None for all others."""
    if type(module) in TORCHS:
        return "is one of gradstep's already"
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) and module.dropout > 0:
        return "its dropout is inside torch's own function"
    if not isinstance(module, _RELATIVES):
        return None
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "is lazy: run one batch through the model first"
    if nn.utils.parametrize.is_parametrized(module):
        return "is parametrized"
    if any(isinstance(module, torchs) for torchs in OURS):
        return "is a subclass, which may compute something else"
    return "gradstep has no such module"


def _is_replaceable(module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> bool:
    return type(module) in classes and "forward" not in vars(module)


def _checked(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: {type(model).__name__}, expected a torch.nn.Module")
    return model


def _swap(
    report: Swapped, name: str, module: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]
) -> None:
    before, now = type(module), classes[type(module)]
    # The same object with the same state: parents, hooks, parameters and their owners keep it.
    module.__class__ = now
    report.replaced[name] = _class_name(before), _class_name(now)


def accelerate(model: nn.Module) -> Swapped:
    """Makes the dropout and normalisation modules of a model ours, in place.

    model: a module, itself or parts of it of the classes in `gradstep.torch.modules`. Only the
    class of a module changes: parameters, buffers, hooks, training flag and the names in the state
    dict stay. Subclasses, lazy and parametrized modules and those whose `forward` was replaced stay
    as they are. A second call does nothing. `restore` undoes it.

    Returns what was replaced, and what was left and why. Raises TypeError if model is no module.

    >>> import torch, gradstep.torch as gt
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    >>> print(gt.accelerate(model))
    1 modules replaced, 0 left
      1: torch.nn.LayerNorm -> gradstep.torch.LayerNorm
    """
    report = Swapped()
    for name, module in _checked(model).named_modules():
        if _is_replaceable(module, OURS):
            _swap(report, name, module, OURS)
            continue
        replaced = type(module) in OURS
        reason = "its forward was replaced" if replaced else _reason_to_leave(module)
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
        if type(module) not in TORCHS:
            continue
        if getattr(module, "relu", False):
            report.left[name] = _class_name(type(module)), "torch has none with relu=True"
            continue
        _swap(report, name, module, TORCHS)
    return report
