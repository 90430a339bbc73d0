"""Which of torch's tensors a native step can take, and their memory as NumPy sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch

from gradstep import _core
from gradstep.arrays import Array
from gradstep.torch.tensors import refusal

__all__ = [
    "DTYPES",
    "WHOLE",
    "array_of",
    "check_gradient",
    "check_like",
    "check_parameter",
    "fill_with_zeros",
    "flat_of",
    "is_dense",
    "is_fake",
    "same_layout",
]

WHOLE = (torch.float32, torch.float64)
# Of parameters and gradients. All but float64 go together.
DTYPES = (*WHOLE, torch.bfloat16, torch.float16)


def is_dense(tensor: Any) -> bool:
    """Whether the elements fill one stretch of memory, each once, in whatever order."""
    filled = 1
    for stride, size in sorted(_strides(tensor)):
        if stride != filled:
            return False
        filled *= size
    return True


def _strides(tensor: Any) -> list[tuple[int, int]]:
    """(stride, size) of the dimensions that have more than one element."""
    pairs = zip(tensor.stride(), tensor.shape, strict=True)
    return [(stride, size) for stride, size in pairs if size != 1] if tensor.numel() else []


def _reach(tensor: Any) -> int:
    """The number of elements from the first to the last in memory."""
    return (
        1 + sum(stride * (size - 1) for stride, size in _strides(tensor)) if tensor.numel() else 0
    )


def same_layout(tensor: Any, model: Any) -> bool:
    """Whether equal places of both tensors hold the same element."""
    return bool(tensor.shape == model.shape) and _strides(tensor) == _strides(model)


def array_of(tensor: Any) -> Array:
    """The tensor's own memory: with its shape where that is contiguous, else flat.

    The tensor must have passed `check_parameter` or `check_gradient`.
    """
    plain = tensor.detach()  # of its own: it keeps the storage if the tensor gets another
    if not plain.is_contiguous():
        plain = flat_of(plain)
    return cast(Array, _core.tensor_array(plain))


def flat_of(tensor: Any) -> Any:
    """The memory of a dense tensor, as a tensor."""
    return tensor.as_strided((tensor.numel(),), (1,))


def fill_with_zeros(tensors: Iterable[Any]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            tensor.zero_()


def is_fake(tensor: Any) -> bool:
    return isinstance(tensor, torch._subclasses.FakeTensor)


def check_parameter(
    tensor: Any, what: str, optimizer: str, dtypes: Sequence[torch.dtype] = DTYPES
) -> None:
    """Raises TypeError or ValueError for a parameter that cannot be updated in place."""
    _check_kind(tensor, what, optimizer, dtypes)
    if not is_dense(tensor):
        raise ValueError(
            f"{what}: shape {tuple(tensor.shape)} with strides {tensor.stride()}, "
            "expected memory without gaps or repetition; make the parameter from .contiguous()"
        )
    if tensor.is_inference():
        raise ValueError(f"{what}: made in inference mode, expected a tensor made outside of it")


def _check_kind(tensor: Any, what: str, optimizer: str, dtypes: Sequence[torch.dtype]) -> None:
    reason = refusal(tensor, dtypes)
    if reason is not None:
        raise TypeError(f"{what}: {reason}{_advice(tensor, reason, optimizer)}")
    reach = tensor.storage_offset() + _reach(tensor)
    held = tensor.untyped_storage().nbytes() // tensor.element_size()
    if reach > held:
        raise ValueError(f"{what}: {held} elements in its storage, expected {reach}")


def _advice(tensor: Any, reason: str, optimizer: str) -> str:
    if tensor.layout is not torch.strided:
        return (
            "; sparse gradients are for SparseAdam, SGD and Adagrad of gradstep.torch, and an "
            "embedding gives dense ones with sparse=False"
        )
    if "use ." in reason or not optimizer:
        return ""
    other = f"use torch.optim.{optimizer}" if hasattr(torch.optim, optimizer) else "leave it out"
    half = tensor.device.type == "cpu" and tensor.dtype not in DTYPES
    return f"; {other} for it" + ", or keep the parameters in float32 (torch.autocast)" * half


def check_gradient(grad: Any, parameter: Any, what: str, optimizer: str) -> None:
    """Raises TypeError or ValueError for a gradient that does not lie as its parameter does."""
    _check_kind(grad, what, optimizer, DTYPES)
    together = torch.float64 not in (grad.dtype, parameter.dtype)
    check_like(grad, parameter, what, grad.dtype if together else parameter.dtype)
    if not same_layout(grad, parameter):
        raise ValueError(
            f"{what}: strides {grad.stride()}, expected {parameter.stride()} as in the parameter; "
            "copy it: p.grad = torch.empty_like(p).copy_(p.grad)"
        )


def check_like(tensor: Any, parameter: Any, what: str, dtype: torch.dtype) -> None:
    """Raises where dtype or shape are not these of the parameter."""
    if tensor.dtype != dtype:
        as_in = " as in the parameter" * (dtype == parameter.dtype)
        raise TypeError(f"{what}: {tensor.dtype}, expected {dtype}{as_in}")
    if tensor.shape != parameter.shape:
        shapes = f"shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
        raise ValueError(f"{what}: {shapes} as in the parameter")
