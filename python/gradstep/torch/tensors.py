"""What the autograd functions share: which tensors they take, and their memory as NumPy's.

A permutation of the dimensions in which a tensor lies contiguous in memory is called its order;
None is the usual one. It lets channels last and transposed tensors through without a copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version

from gradstep import _core
from gradstep.arrays import Array

Order: TypeAlias = tuple[int, ...] | None

_PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
_DTYPES = (torch.float32, torch.float64)


def _watched() -> bool:
    """Whether a tracer, a transform or a dispatch mode wants to see torch's own operators."""
    return bool(
        torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )


def _keys(*names: str) -> int:
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    for name in names:
        keys = keys.add(getattr(torch._C.DispatchKey, name))
    return int(keys.raw_repr())


_keys_of: Any = torch._C._dispatch_keys
# What a tensor in ordinary memory of the CPU may be dispatched by. Everything else adds a key:
# devices, layouts, lazy negation, zeros without memory, subclasses with operators of their own,
# wrappers of transforms.
_OTHER_KEYS = ~_keys("ADInplaceOrView", "AutogradCPU", "AutocastCPU")


def refusal(tensor: Any) -> str | None:
    """Why native code cannot take the memory of a tensor for its elements; None if it can.

    What was found and what was expected, as it stands behind "params['weight']: ".
    """
    if not isinstance(tensor, torch.Tensor):
        return f"{type(tensor).__name__}, expected a torch.Tensor"
    if not _keys_of(tensor).raw_repr() & _OTHER_KEYS:
        if tensor.dtype not in _DTYPES:
            return f"{tensor.dtype}, expected torch.float32 or torch.float64"
        if not tensor.data_ptr() and tensor.numel():
            return "its storage holds nothing (freed or resized), expected elements in memory"
        return None
    return _what_else(tensor)


def _what_else(tensor: torch.Tensor) -> str:
    if tensor.layout is not torch.strided:
        return f"layout {tensor.layout}, expected a dense tensor"
    if _keys_of(tensor).has(torch._C.DispatchKey.Python):
        kind = type(tensor).__name__
        return f"a {kind}, which has operators of its own, expected a plain tensor"
    if tensor.device.type != "cpu":
        return f"on {tensor.device}, expected a CPU tensor"
    if tensor.dtype not in _DTYPES:
        return f"{tensor.dtype}, expected torch.float32 or torch.float64"
    if tensor.is_neg():
        return "a lazily negated view, expected memory; use .resolve_neg()"
    if tensor._is_zerotensor():
        return "zeros without memory, expected elements in memory; use .clone()"
    return f"a tensor with {_keys_of(tensor)}, expected a plain tensor"


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether native code may stand in for torch's operators on this tensor.

    Not for subclasses, which may want to see them. `array` notices storage that was freed.
    """
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.dtype in _DTYPES
        and not _keys_of(tensor).raw_repr() & _OTHER_KEYS
    )


def is_native(x: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether our kernels take these; otherwise torch's own implementation has to.

    The others must be plain and contiguous, and of x's type.
    """
    # First, because torch.compile follows this branch and must not come to the rest.
    if torch.compiler.is_compiling() or _watched():
        return False
    if not is_plain(x) or x.numel() == 0:
        return False
    for other in others:
        if other is None:
            continue
        if not is_plain(other) or other.dtype is not x.dtype or not other.is_contiguous():
            return False
    return True


def wants_grad(*tensors: torch.Tensor | None) -> bool:
    """Whether autograd records an operation on these."""
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:  # noqa: SIM110
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes this one."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def memory_order(x: torch.Tensor) -> Order:
    """The order in which x is contiguous. None also where there is no such order."""
    if x.is_contiguous():
        return None
    strides = x.stride()
    order = tuple(sorted(range(x.dim()), key=lambda dim: (-strides[dim], dim)))
    return order if x.permute(order).is_contiguous() else None


def channels_last_order(x: torch.Tensor) -> Order:
    """The order (N, ..., C) if x is in torch's memory format channels_last or channels_last_3d."""
    # Of three dimensions torch knows no such format and makes the result contiguous.
    if x.dim() not in (4, 5) or x.is_contiguous():
        return None
    order = (0, *range(2, x.dim()), 1)
    return order if x.permute(order).is_contiguous() else None


def array(tensor: torch.Tensor, order: Order = None) -> Array:
    """The tensor's own memory as an array. The tensor must be plain and contiguous in `order`.

    Raises RuntimeError where it has elements and no memory. The array keeps the tensor alive, but
    not its storage from being resized: hold it for one call.
    """
    found = _core.tensor_array(tensor)
    if found is None:
        raise RuntimeError(f"tensor of shape {tuple(tensor.shape)}: {refusal(tensor)}")
    return found if order is None else found.transpose(order)


def optional_array(tensor: torch.Tensor | None) -> Array | None:
    """The same for a tensor that may be missing."""
    return None if tensor is None else array(tensor)


def tensor(found: Array, order: Order = None) -> torch.Tensor:
    """A tensor on the array's memory; undoes the `order` that `array` applied."""
    return torch.from_numpy(found if order is None else found.transpose(inverse(order)))


def laid_out(dy: torch.Tensor, order: Order, module: str) -> torch.Tensor:
    """A gradient that came from above in the memory layout of the input; raises RuntimeError.

    Autograd may bring any strides, which are copied when they differ.
    """
    if not is_plain(dy):
        raise RuntimeError(
            f"gradstep.torch.{module}: the gradient is a {type(dy).__name__} of {dy.dtype} on "
            f"{dy.device}, expected a plain CPU tensor; use torch.nn.{module} for batched gradients"
        )
    if order is None:
        return dy.contiguous()
    return dy.permute(order).contiguous().permute(inverse(order))


def written(tensors: Iterable[torch.Tensor]) -> None:
    """Tells autograd that the memory of these was written behind its back."""
    # Tensors made in inference mode count no versions.
    increment_version([tensor for tensor in tensors if not tensor.is_inference()])


def draw_seed() -> int:
    """A seed from torch's default CPU generator: torch.manual_seed governs it."""
    word = torch.empty((), dtype=torch.int64, device="cpu")
    return int(word.random_().item())


class _Twice(torch.autograd.Function):
    """Passes gradients on and refuses to be differentiated itself."""

    @staticmethod
    def forward(ctx: Any, module: str, anchor: torch.Tensor, *grads: object) -> tuple[object, ...]:
        ctx.module = module
        return tuple(grads)

    @staticmethod
    def backward(ctx: Any, *_: object) -> None:
        module = ctx.module
        raise RuntimeError(
            f"gradstep.torch.{module}: differentiated twice, but only its first derivative is "
            f"implemented; use torch.nn.{module}, or restore(model)"
        )


# Any: torch's own annotations leave it untyped.
_twice: Any = _Twice.apply


def only_once(module: str, grads: tuple[torch.Tensor | None, ...]) -> tuple[object, ...]:
    """The gradients, which raise a RuntimeError as soon as someone differentiates them."""
    if not torch.is_grad_enabled():
        return grads
    # Requires a gradient whatever the gradients do, so that no second derivative is silently 0.
    anchor = torch.empty(0, requires_grad=True)
    found = iter(_twice(module, anchor, *(grad for grad in grads if grad is not None)))
    return tuple(None if grad is None else next(found) for grad in grads)
