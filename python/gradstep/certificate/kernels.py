"""Whose functions train: the native kernels, the NumPy specification, or both, compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradstep.ops import activations, dropout, fused, losses, norm
from gradstep.optim.optimizer import Optimizer
from gradstep.spec.exact import FUNCTIONS

__all__ = ["BOTH", "NATIVE", "SPECIFICATION", "DifferenceError", "Kernels"]


class DifferenceError(Exception):
    """A kernel gave other bits than its specification; the message names it."""


@dataclass(frozen=True)
class Kernels:
    """call: a function by its name, with its arguments. update: a step of an optimizer."""

    call: Callable[..., Any]
    update: Callable[[Optimizer, Mapping[str, Any]], None]


NATIVE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(module, name)
    for module in (activations, dropout, fused, losses, norm)
    for name in module.__all__
    if name.islower()
}


def _native(name: str, *args: Any, **given: Any) -> Any:
    return NATIVE_FUNCTIONS[name](*args, **given)


def _specification(name: str, *args: Any, **given: Any) -> Any:
    with np.errstate(all="ignore"):
        return FUNCTIONS[name](*args, **given)


def _both(name: str, *args: Any, **given: Any) -> Any:
    # Of what both may write, such as running statistics, each gets its own.
    copies = [np.copy(arg) if isinstance(arg, np.ndarray) else arg for arg in args]
    expected = _specification(name, *copies, **given)
    found = _native(name, *args, **given)
    for a, b in ((found, expected), (args, copies)):
        if _bytes(a) != _bytes(b):
            raise DifferenceError(name)
    return found


def _bytes(values: Any) -> list[bytes]:
    several = values if isinstance(values, (tuple, list)) else (values,)
    return [np.asarray(v).tobytes() for v in several if isinstance(v, (np.ndarray, float))]


def _step(optimizer: Optimizer, grads: Mapping[str, Any]) -> None:
    optimizer.step(grads)


def _reference_step(optimizer: Optimizer, grads: Mapping[str, Any]) -> None:
    optimizer.reference_step(grads)


def _both_steps(optimizer: Optimizer, grads: Mapping[str, Any]) -> None:
    arrays = optimizer._arrays
    state, before = optimizer.state_dict(), [array.copy() for array in arrays]
    optimizer.reference_step(grads)
    expected = [array.copy() for array in arrays], optimizer.state_dict()
    for array, values in zip(arrays, before, strict=True):
        array[...] = values
    optimizer.load_state_dict(state)
    optimizer.step(grads)
    if _bytes(arrays) != _bytes(expected[0]):
        raise DifferenceError(f"a step of {type(optimizer).__name__}")


NATIVE = Kernels(_native, _step)
SPECIFICATION = Kernels(_specification, _reference_step)
BOTH = Kernels(_both, _both_steps)
