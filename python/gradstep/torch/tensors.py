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


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether the tensor is float32 or float64 in ordinary memory of the CPU."""
    return (
        type(tensor) in _PLAIN_TYPES
        and tensor.dtype in _DTYPES
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_neg()
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
    """The tensor's own memory as an array. The tensor must be plain and contiguous in `order`."""
    # force only lets a tensor pass that requires a gradient: plain memory is not copied.
    found: Array = tensor.numpy(force=True)
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
