"""Initial values of weights.

shape: of a linear layer (in, out), as in `x @ w`; or of a convolution (out, in, k1, ...), whose
fans are in and out times the kernel's size. rng: a numpy.random.Generator, or a seed for a new
one. dtype: float32 or float64. All raise TypeError for another kind or dtype, ValueError for a
number or shape that cannot be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from gradstep.arguments import floating, generator, number
from gradstep.arguments import shape as checked_shape
from gradstep.arrays import Array

__all__ = [
    "constant",
    "fans",
    "he_normal",
    "he_uniform",
    "normal",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]

Shape: TypeAlias = Sequence[int]
Seed: TypeAlias = np.random.Generator | int | None
AT_LEAST_0: tuple[str, Callable[[Any], bool]] = ("a number >= 0", lambda x: x >= 0)


def fans(shape: Shape) -> tuple[int, int]:
    """(fan-in, fan-out): how many inputs an output sums, how many outputs an input reaches.

    shape: (in, out) or (out, in, k1, ...). Raises TypeError, ValueError for fewer than two sizes.

    >>> import gradstep as gs
    >>> gs.init.fans((784, 256)), gs.init.fans((64, 3, 5, 5))
    ((784, 256), (75, 1600))
    """
    sizes = checked_shape("shape", shape)
    if len(sizes) < 2:
        raise ValueError(f"shape: {sizes}, expected (in, out) or (out, in, k1, ...)")
    if len(sizes) == 2:
        return sizes[0], sizes[1]
    window = math.prod(sizes[2:])
    return sizes[1] * window, sizes[0] * window


def _mean_fan(shape: Shape) -> float:
    return sum(fans(shape)) / 2


def _held(kind: np.dtype[Any], name: str, value: float, *rule: Any) -> float:
    """The value as a finite number, which those of this type can be."""
    found = number(name, value, *rule)
    if abs(found) > float(np.finfo(kind).max):
        raise ValueError(f"{name}: {found:g}, expected a number that {kind} can hold")
    return found


def _scaled_normal(shape: Shape, deviation: float, rng: Seed, dtype: Any) -> Array:
    kind = floating("dtype", dtype)
    drawn: Array = generator("rng", rng).standard_normal(checked_shape("shape", shape), dtype=kind)
    drawn *= kind.type(deviation)
    return drawn


def _scaled_uniform(shape: Shape, deviation: float, rng: Seed, dtype: Any) -> Array:
    """Even over ±√3 deviation: that has this deviation."""
    kind = floating("dtype", dtype)
    drawn: Array = generator("rng", rng).random(checked_shape("shape", shape), dtype=kind)
    drawn -= kind.type(0.5)
    drawn *= kind.type(2 * math.sqrt(3) * deviation)
    return drawn


def _over(variance: float, fan: float) -> float:
    return math.sqrt(variance / fan) if fan else 0.0


def _behind(slope: float) -> float:
    found = number("slope", slope, *AT_LEAST_0)
    return 2 / (1 + found * found)


def xavier_uniform(
    shape: Shape, *, gain: float = 1.0, rng: Seed = None, dtype: Any = np.float32
) -> Array:
    """Uniform, standard deviation gain √(2 / (fan-in + fan-out)). Glorot & Bengio 2010.

    shape, rng, dtype: see `gradstep.init`. gain: at least 0. Raises TypeError or ValueError.

    >>> import gradstep as gs
    >>> abs(gs.init.xavier_uniform((300, 100), rng=0)).max() <= (6 / 400) ** 0.5
    np.True_
    """
    scale = _held(floating("dtype", dtype), "gain", gain, *AT_LEAST_0)
    deviation = scale * _over(1, _mean_fan(shape))
    return _scaled_uniform(shape, deviation, rng, dtype)


def xavier_normal(
    shape: Shape, *, gain: float = 1.0, rng: Seed = None, dtype: Any = np.float32
) -> Array:
    """Normal, standard deviation gain √(2 / (fan-in + fan-out)). Glorot & Bengio 2010.

    shape, rng, dtype: see `gradstep.init`. gain: at least 0. Raises TypeError or ValueError.

    >>> import gradstep as gs
    >>> round(float(gs.init.xavier_normal((200, 200), rng=0).std()), 3)
    0.071
    """
    scale = _held(floating("dtype", dtype), "gain", gain, *AT_LEAST_0)
    deviation = scale * _over(1, _mean_fan(shape))
    return _scaled_normal(shape, deviation, rng, dtype)


def he_uniform(
    shape: Shape, *, slope: float = 0.0, rng: Seed = None, dtype: Any = np.float32
) -> Array:
    """Uniform, standard deviation √(2 / ((1 + slope²) fan-in)). He et al. 2015 (arXiv:1502.01852).

    shape, rng, dtype: see `gradstep.init`. slope: at least 0, of the leaky ReLU that follows; 0 for
    ReLU. Raises TypeError or ValueError.

    >>> import gradstep as gs
    >>> abs(gs.init.he_uniform((150, 100), rng=0)).max() <= (6 / 150) ** 0.5
    np.True_
    """
    variance = _behind(slope)
    return _scaled_uniform(shape, _over(variance, fans(shape)[0]), rng, dtype)


def he_normal(
    shape: Shape, *, slope: float = 0.0, rng: Seed = None, dtype: Any = np.float32
) -> Array:
    """Normal, standard deviation √(2 / ((1 + slope²) fan-in)). He et al. 2015 (arXiv:1502.01852).

    Also called MSRA. Arguments and errors as of `he_uniform`.

    >>> import gradstep as gs
    >>> round(float(gs.init.he_normal((200, 200), rng=0).std()), 3)
    0.1
    """
    variance = _behind(slope)
    return _scaled_normal(shape, _over(variance, fans(shape)[0]), rng, dtype)


def normal(shape: Shape, std: float = 0.01, *, rng: Seed = None, dtype: Any = np.float32) -> Array:
    """Normal with mean 0 and a constant deviation, as in Krizhevsky, Sutskever & Hinton 2012.

    shape: any. std: at least 0. rng, dtype: see `gradstep.init`. Raises TypeError or ValueError.

    >>> import gradstep as gs
    >>> gs.init.normal((2, 3), rng=0).shape
    (2, 3)
    """
    deviation = _held(floating("dtype", dtype), "std", std, *AT_LEAST_0)
    return _scaled_normal(shape, deviation, rng, dtype)


def zeros(shape: Shape, *, dtype: Any = np.float32) -> Array:
    """Zeros, for biases. shape: any. dtype: float32 or float64. Raises TypeError or ValueError.

    >>> import gradstep as gs
    >>> gs.init.zeros((2,))
    array([0., 0.], dtype=float32)
    """
    return np.zeros(checked_shape("shape", shape), floating("dtype", dtype))


def constant(shape: Shape, value: float, *, dtype: Any = np.float32) -> Array:
    """One finite value everywhere. shape: any. dtype: float32 or float64.

    Raises TypeError or ValueError.

    >>> import gradstep as gs
    >>> gs.init.constant((2,), 0.25)
    array([0.25, 0.25], dtype=float32)
    """
    kind = floating("dtype", dtype)
    return np.full(checked_shape("shape", shape), _held(kind, "value", value), kind)
