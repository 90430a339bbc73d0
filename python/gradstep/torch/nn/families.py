"""Norms and dropouts of other libraries that compute what our functions do.

Nothing is taken by its name alone: a class is a candidate where its `forward` is torch's, where its
library is known to have such norms, or where it was registered; and a norm is taken once its own
`forward` and our formula gave the same values, gradients and statistics for made-up inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from gradstep.arguments import shown
from gradstep.torch.nn import functional, modules
from gradstep.torch.tensors import HALVES, is_native

__all__ = [
    "Formula",
    "Recognised",
    "is_registered",
    "native_class",
    "original",
    "recognise",
    "register",
]

LIBRARIES = ("diffusers", "timm", "torchvision", "transformers", "transformers_modules")
EPS_NAMES = ("variance_epsilon", "eps", "epsilon")

Forward = Callable[[Any, torch.Tensor], torch.Tensor]


class Formula(NamedTuple):
    """A way to compute a module's forward."""

    name: str
    forward: Forward
    # The shape of an input that the module takes; None where this cannot be its formula.
    shape: Callable[[Any], tuple[int, ...] | None]
    # Whether it gives the module's results in 16 bits too: where these are rounded is not tried.
    halves: bool = False


class Recognised(NamedTuple):
    """What was found: a formula, or why there is none; neither where nothing was tried."""

    formula: Formula | None = None
    reason: str | None = None


def _eps(module: Any) -> float:
    return next(float(getattr(module, name)) for name in EPS_NAMES if hasattr(module, name))


def _after(module: Any, y: torch.Tensor) -> torch.Tensor:
    """timm's norms go on with a dropout and an activation."""
    for name in ("drop", "act"):
        if name in module._modules:
            y = getattr(module, name)(y)
    return y


def _layer(module: Any, x: torch.Tensor) -> torch.Tensor:
    shape, eps = module.weight.shape, _eps(module)
    return _after(module, functional.layer_norm(x, shape, module.weight, module.bias, eps))


def _layer_of_channels(module: Any, x: torch.Tensor) -> torch.Tensor:
    last, eps = x.movedim(1, -1), _eps(module)
    y = functional.layer_norm(last, module.weight.shape, module.weight, module.bias, eps)
    return _after(module, y.movedim(-1, 1))


def _plain_layer(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Also where weight or bias are None."""
    shape = module.normalized_shape
    y = functional.layer_norm(x, shape, module.weight, module.bias, module.eps)
    return _after(module, y)


def _rms(module: Any, x: torch.Tensor) -> torch.Tensor:
    y = functional.rms_norm(x, module.weight.shape, module.weight, _eps(module))
    return _after(module, y)


def _rms_from_one(module: Any, x: torch.Tensor) -> torch.Tensor:
    y = functional.rms_norm(x, module.weight.shape, 1.0 + module.weight, _eps(module))
    return _after(module, y)


def _group(module: Any, x: torch.Tensor) -> torch.Tensor:
    groups, weight, bias = module.num_groups, module.weight, module.bias
    return _after(module, functional.group_norm(x, groups, weight, bias, module.eps))


def _batch(module: Any, x: torch.Tensor) -> torch.Tensor:
    act, drop = module._modules.get("act"), module._modules.get("drop")
    fused = type(act) is nn.ReLU and type(drop) in (nn.Identity, type(None))
    fused = fused and not _has_hooks(act) and not _has_hooks(drop)
    y = modules.batch_norm(module, x, module.eps, fused)
    return y if fused else _after(module, y)


def _has_hooks(module: Any) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _trailing(module: Any) -> tuple[int, ...] | None:
    weight = module._parameters.get("weight")
    if weight is None or not any(hasattr(module, name) for name in EPS_NAMES):
        return None
    return (2, 3, *weight.shape)


def _with_bias(module: Any) -> tuple[int, ...] | None:
    return _trailing(module) if module._parameters.get("bias") is not None else None


def _without_bias(module: Any) -> tuple[int, ...] | None:
    return _trailing(module) if module._parameters.get("bias") is None else None


def _channels(module: Any) -> tuple[int, ...] | None:
    shape = _with_bias(module)
    return (2, shape[2], 3, 4) if shape is not None and len(shape) == 3 else None


def _dimensions(module: Any) -> tuple[int, ...] | None:
    for dims, kind in enumerate((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), start=1):
        if isinstance(module, kind):
            return (4, module.num_features, 3, 2, 2)[: dims + 2]
    return None


def _when(kind: type, shape: Callable[[Any], tuple[int, ...]]) -> Callable[[Any], Any]:
    return lambda module: shape(module) if isinstance(module, kind) else None


FORMULAS = {
    formula.name: formula
    for formula in (
        Formula(
            "layer_norm", _plain_layer, _when(nn.LayerNorm, lambda m: (2, 3, *m.normalized_shape))
        ),
        Formula("layer_norm of weight and bias", _layer, _with_bias),
        Formula("layer_norm over channels", _layer_of_channels, _channels),
        Formula("rms_norm", _rms, _without_bias),
        Formula("rms_norm with 1 + weight", _rms_from_one, _without_bias),
        Formula("group_norm", _group, _when(nn.GroupNorm, lambda m: (2, m.num_channels, 3, 4))),
        Formula("batch_norm", _batch, _dimensions),
    )
}
# Registered by the user: the class, and its formula or None for one of those above.
_registered: dict[type[nn.Module], Formula | None] = {}


def register(kind: type[nn.Module], forward: Forward | None = None) -> None:
    """Makes `accelerate` try a class of modules that is not torch's.

    kind: the class; its subclasses are not meant. forward: what a module of this class computes,
    as a function of the module and its input that calls `gradstep.torch.functional`; it is taken
    at its word. None: one of the formulas that `accelerate` knows (layer, RMS, group and batch
    norm), which it finds by trying: a module of which none gives its values and gradients is left.

    Raises TypeError.

    >>> import torch, gradstep.torch as gt
    >>> class Scaled(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight, self.eps = torch.nn.Parameter(torch.ones(4)), 1e-6
    ...     def forward(self, x):
    ...         return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
    >>> gt.register(Scaled)
    >>> list(gt.accelerate(torch.nn.Sequential(Scaled())).replaced.values())[0][1]
    'gradstep.torch.functional.rms_norm'
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"kind: {shown(kind)}, expected a subclass of torch.nn.Module")
    if forward is not None and not callable(forward):
        found = type(forward).__name__
        raise TypeError(f"forward: {found}, expected a function of a module and its input")
    name = getattr(forward, "__qualname__", "forward")
    _registered[kind] = None if forward is None else Formula(name, forward, _never)


def _never(module: Any) -> None:
    """The shape of formulas that are not tried."""


def _dropout(name: str) -> Formula:
    """That of a class of ours, for subclasses of torch's that inherit `forward`."""
    kind: Any = getattr(modules, name)
    return Formula(name, kind.forward, _never, halves=True)


def is_registered(kind: type[nn.Module]) -> bool:
    return kind in _registered


def _inherited(kind: type[nn.Module], ours: Mapping[type[nn.Module], Any]) -> type | None:
    """The class of torch's whose computation this subclass does not override."""
    for base in kind.__mro__[1:]:
        if base in ours:
            own = ("forward", "__call__", "__getattr__", "__getattribute__", "_apply_instance_norm")
            same = all(getattr(kind, each, None) is getattr(base, each, None) for each in own)
            return base if same else None
    return None


def recognise(module: nn.Module, ours: Mapping[type[nn.Module], type[nn.Module]]) -> Recognised:
    """Finds what computes a module that is none of torch's own. ours: our classes by torch's."""
    kind = type(module)
    base = _inherited(kind, ours)
    if base is not None and "Dropout" in base.__name__:
        return Recognised(_dropout(ours[base].__name__))
    if kind in _registered:
        formula = _registered[kind]
        if formula is not None:
            return Recognised(formula)
    elif base is None and not (module._parameters and _is_known(kind)):
        return Recognised()
    error = ""
    for formula in FORMULAS.values():
        shape = formula.shape(module)
        if shape is None:
            continue
        try:
            if _agree(module, formula, shape):
                return Recognised(formula)
        except Exception as failure:  # whatever a stranger's forward raises
            error = f" ({type(failure).__name__}: {failure})".partition("\n")[0]
    return Recognised(reason=f"computes something else than our norms{error}")


def _is_known(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in LIBRARIES and "norm" in kind.__name__.lower()


def _sample(module: nn.Module) -> nn.Module:
    """A copy with other weights and statistics, whatever type and device the module has."""
    sample = copy.deepcopy(module)
    tensors = [*sample.parameters(), *sample.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        sample.to_empty(device="cpu")
    sample = sample.cpu().float().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*sample.parameters(), *sample.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.zero_()
    return sample


def _outcome(forward: Forward, module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = forward(module, x * 1)  # not a leaf, for activations in place
    dy = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
    parameters = [each for each in module.parameters() if each.requires_grad]
    grads = torch.autograd.grad(y, (x, *parameters), dy, allow_unused=True)
    found = [y.detach(), *(torch.zeros(()) if grad is None else grad for grad in grads)]
    return [*found, *(buffer.detach().clone() for buffer in module.buffers())]


def _agree(module: nn.Module, formula: Formula, shape: tuple[int, ...]) -> bool:
    theirs: Any = type(module).forward
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        for training in (True, False):
            # The second, so that eps counts.
            for scale, shift in ((1.0, 3.0), (1e-3, 0.0)):
                x = torch.randn(shape, generator=generator) * scale + shift
                pair = [
                    _outcome(forward, _sample(module).train(training), x)
                    for forward in (theirs, formula.forward)
                ]
                if not all(map(_close, *pair)):
                    return False
    return True


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    scale = float(b.abs().max()) if b.numel() else 0.0
    return bool(torch.allclose(a.double(), b.double(), rtol=0, atol=1e-3 * scale + 1e-6))


def native_class(kind: type[nn.Module], formula: Formula) -> type[nn.Module]:
    """A subclass of `kind`, with its name, that computes by the formula where our kernels can."""
    found = _made.get((kind, formula))
    if found is None:  # two threads that make one keep the same
        found = _made.setdefault((kind, formula), _make(kind, formula))
    return found


_made: dict[tuple[type[nn.Module], Formula], type[nn.Module]] = {}


def _make(kind: type[nn.Module], formula: Formula) -> type[nn.Module]:
    theirs: Any = kind.forward

    def forward(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        own = self._parameters
        taken = not (args or kwargs) and is_native(x, own.get("weight"), own.get("bias"))
        if not taken or (x.dtype in HALVES and not formula.halves):
            return theirs(self, x, *args, **kwargs)
        return formula.forward(self, x)

    def reduced(self: Any, protocol: Any) -> Any:
        return _bare, (kind, formula.name), dict(vars(self))

    def scriptable(self: Any) -> Any:
        twin = copy.copy(self)
        twin.__class__ = kind
        return twin

    forward.__wrapped__ = theirs  # type: ignore[attr-defined]
    names = {each: getattr(kind, each) for each in ("__module__", "__qualname__", "__doc__")}
    methods = {
        "forward": forward,
        "__reduce_ex__": reduced,
        "__prepare_scriptable__": scriptable,
        "_stands_for": kind,
    }
    return type(kind.__name__, (kind,), {**names, **methods})


def original(kind: type) -> type[nn.Module] | None:
    """The class that one from `native_class` stands for; None for others."""
    found: type[nn.Module] | None = vars(kind).get("_stands_for")
    return found


def _bare(kind: type[nn.Module], name: str) -> nn.Module:
    """An instance without state; of the class itself where its formula is not known here."""
    formula = _registered.get(kind) or FORMULAS.get(name)
    if formula is None and name in modules.__all__:
        formula = _dropout(name)
    known = formula is not None and formula.name == name
    found: Any = native_class(kind, formula) if known and formula is not None else kind
    return found.__new__(found)
