"""Which of torch's tensors a native step can take, and their memory as NumPy sees it."""

from __future__ import annotations

from typing import Any

import torch

from gradstep.arrays import Array

__all__ = ["array_of", "check_gradient", "check_like", "check_parameter", "is_dense", "same_layout"]

DTYPES = (torch.float32, torch.float64)


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


def same_layout(tensor: Any, model: Any) -> bool:
    """Whether equal places of both tensors hold the same element."""
    return bool(tensor.shape == model.shape) and _strides(tensor) == _strides(model)


def array_of(tensor: Any) -> Array:
    """The tensor's own memory: with its shape where that is contiguous, else flat."""
    plain = tensor.detach()
    if not plain.is_contiguous():
        plain = plain.as_strided((plain.numel(),), (1,))
    array: Array = plain.numpy()
    return array


def check_parameter(tensor: Any, what: str, optimizer: str) -> None:
    """Raises TypeError or ValueError for a parameter that cannot be updated in place."""
    _check_kind(tensor, what, optimizer)
    if not is_dense(tensor):
        raise ValueError(
            f"{what}: shape {tuple(tensor.shape)} with strides {tensor.stride()}, "
            "expected memory without gaps or repetition; make the parameter from .contiguous()"
        )
    if tensor.is_inference():
        raise ValueError(f"{what}: made in inference mode, expected a tensor made outside of it")


def _check_kind(tensor: Any, what: str, optimizer: str) -> None:
    other = f"use torch.optim.{optimizer}" if hasattr(torch.optim, optimizer) else "leave it out"
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{what}: layout {tensor.layout}, expected a dense tensor; {other} for it, "
            "or make its gradient dense (sparse=False in an embedding)"
        )
    if tensor.device.type != "cpu":
        raise TypeError(f"{what}: on {tensor.device}, expected a CPU tensor; {other} for it")
    if tensor.dtype not in DTYPES:
        raise TypeError(
            f"{what}: {tensor.dtype}, expected torch.float32 or torch.float64; {other} for it, "
            "or keep the parameters in float32 (torch.autocast)"
        )


def check_gradient(grad: Any, parameter: Any, what: str, optimizer: str) -> None:
    """Raises TypeError or ValueError for a gradient that does not lie as its parameter does."""
    _check_kind(grad, what, optimizer)
    check_like(grad, parameter, what)
    if not same_layout(grad, parameter):
        raise ValueError(
            f"{what}: strides {grad.stride()}, expected {parameter.stride()} as in the parameter; "
            "copy it: p.grad = torch.empty_like(p).copy_(p.grad)"
        )
    if grad.is_neg():
        raise ValueError(f"{what}: a lazily negated view, expected memory; use .resolve_neg()")


def check_like(tensor: Any, parameter: Any, what: str) -> None:
    """Raises where dtype or shape are not those of the parameter."""
    if tensor.dtype != parameter.dtype:
        raise TypeError(f"{what}: {tensor.dtype}, expected {parameter.dtype} as in the parameter")
    if tensor.shape != parameter.shape:
        shapes = f"shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
        raise ValueError(f"{what}: {shapes} as in the parameter")
