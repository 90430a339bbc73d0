"""What a sharded optimizer may be given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradstep.arguments import kind
from gradstep.arrays import Array
from gradstep.optim.optimizer import Optimizer
from gradstep.optim.storage import bfloat16

__all__ = [
    "check_arguments",
    "check_gradient",
    "check_no_copies",
    "check_parameter",
    "sum_type",
    "wire_types",
]


def sum_type(array: Array) -> np.dtype[Any]:
    """The type in which gradients of a parameter are added up."""
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)


def wire_types(sums: Sequence[np.dtype[Any]], grad_dtype: str) -> list[np.dtype[Any]]:
    """The types in which gradients travel; sums: those in which they are added up.

    Raises ImportError.
    """
    if grad_dtype == "float32":
        return list(sums)
    half = bfloat16("grad_dtype='bfloat16'")
    return [half if dtype == np.float32 else dtype for dtype in sums]


def check_arguments(
    optimizer: Any, reduction: Any, grad_dtype: Any, hyper: Mapping[str, Any]
) -> None:
    """Raises TypeError or ValueError."""
    if not (isinstance(optimizer, type) and issubclass(optimizer, Optimizer)):
        raise TypeError(f"optimizer: {kind(optimizer)}, expected a class of gradstep.OPTIMIZERS")
    for name, value, allowed in (
        ("reduction", reduction, ("mean", "sum")),
        ("grad_dtype", grad_dtype, ("float32", "bfloat16")),
    ):
        if value not in allowed:
            raise ValueError(f"{name}: {value!r}, expected one of {', '.join(map(repr, allowed))}")
    check_no_copies(hyper)


def check_no_copies(given: Mapping[str, Any]) -> None:
    """Raises ValueError for `copy_to` among the arguments, or in a group."""
    if given.get("copy_to") is not None:
        raise ValueError("copy_to: given, expected None: a shard keeps no second copy")


def check_parameter(what: str, array: Any) -> None:
    """Raises TypeError or ValueError."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{what}: {kind(array)}, expected a numpy.ndarray")
    if not array.flags.forc:
        raise ValueError(f"{what}: not contiguous, expected C or F order")


def check_gradient(what: str, gradient: Any, parameter: Array) -> None:
    """Raises TypeError or ValueError."""
    if not isinstance(gradient, np.ndarray):
        raise TypeError(f"{what}: {kind(gradient)}, expected a numpy.ndarray or None")
    expected = sum_type(parameter)
    if gradient.dtype != expected:
        raise TypeError(f"{what}: dtype {gradient.dtype}, expected {expected}")
    if gradient.shape != parameter.shape:
        raise ValueError(f"{what}: shape {gradient.shape}, expected {parameter.shape}")
    order = "C" if parameter.flags.c_contiguous else "F"
    if not (gradient.flags.c_contiguous if order == "C" else gradient.flags.f_contiguous):
        raise ValueError(f"{what}: not contiguous in {order} order, expected it as in params")
