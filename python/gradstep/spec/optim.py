"""The parts of the optimizers' specification in NumPy that they share.

Native code gives the same bits as these functions: they use `+ - * /`, square roots, comparisons
and selections in the order of the kernels, with every scalar computed in double and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from gradstep.arrays import Array
from gradstep.spec.sums import square_blocks

Scalars: TypeAlias = Mapping[str, float]
# Rounds a double to the type of the arrays.
Round: TypeAlias = Callable[[float], Any]

__all__ = [
    "Round",
    "Scalars",
    "accumulate",
    "clamp",
    "clip_coefficient",
    "denominator",
    "ewma",
    "maximum",
    "moments",
    "power",
    "prepare",
    "shrunk",
    "sign",
]


def power(base: float, exponent: int) -> float:
    """base**exponent by repeated squaring: IEEE multiplications only, unlike libm's pow."""
    result = 1.0
    while exponent:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def maximum(a: Array, b: Array) -> Array:
    """The larger; NaN in either gives NaN; b where they are equal."""
    return np.where((a > b) | np.isnan(a), a, b)


def clamp(x: Array, limit: Any) -> Array:
    """x limited to [-limit, limit]; NaN stays."""
    x = np.where(x > limit, limit, x)
    return np.where(x < -limit, -limit, x)


def sign(x: Array) -> Array:
    """1, -1, or x itself where that is 0 or NaN."""
    one = x.dtype.type(1)
    return np.where(x > 0, one, np.where(x < 0, -one, x))


def prepare(h: Scalars, scale: float, g: Array, p: Array) -> Array:
    """The gradient that the formula sees: scaled, clipped by value, with L1 and L2 penalties."""
    f = p.dtype.type
    scale = f(-scale if h["maximize"] else scale)
    limit, l1, l2 = f(h["clip_value"]), f(h["l1"]), f(h["l2"])
    g = g * scale
    if limit < math.inf:
        g = clamp(g, limit)
    if l1 != 0:
        g = g + l1 * sign(p)
    if l2 != 0:
        g = g + l2 * p
    return g


def moments(f: Round, h: Scalars, g: Array, m: Array, v: Array) -> tuple[Array, Array]:
    """The two moving averages of the Adam family."""
    m = f(h["beta1"]) * m + f(1 - h["beta1"]) * g
    v = f(h["beta2"]) * v + f(1 - h["beta2"]) * (g * g)
    return m, v


def denominator(f: Round, h: Scalars, t: int, v: Array) -> Array:
    """√v / √(1 - β₂ᵗ) + eps."""
    root_scale = f(1 / math.sqrt(1 - power(h["beta2"], t)))
    result: Array = np.sqrt(v) * root_scale + f(h["eps"])
    return result


def shrunk(f: Round, h: Scalars, p: Array) -> Array:
    """The parameter after decoupled weight decay."""
    factor: Array = f(1 - h["lr"] * h["decay"])
    return factor * p


def clip_coefficient(norm: float, max_norm: float) -> float:
    """What brings gradients of this norm to at most max_norm; NaN for NaN."""
    if max_norm <= 0 or max_norm == math.inf:
        return 1.0
    coefficient = max_norm / (norm + 1e-6)
    return 1.0 if coefficient >= 1 else coefficient


def accumulate(total: Array, gradient: Array) -> tuple[Array, Array]:
    """The NumPy specification of `accumulate` for one array: the new total and its block sums.

    gradient: its values, of the type of total and flat as that lies in memory.
    """
    with np.errstate(all="ignore"):
        flat = total.reshape(-1, order="A") + gradient
    return flat.reshape(total.shape, order="F" if total.flags.f_contiguous else "C"), square_blocks(
        flat
    )


def ewma(
    average: Array, value: Array, beta: float, step: int | None = None
) -> tuple[Array, Array | None]:
    """The NumPy specification of `ewma_` for one array: new average and corrected average."""
    f = average.dtype.type
    average = f(beta) * average + f(1 - beta) * value
    return average, None if step is None else average / f(1 - power(beta, step))
