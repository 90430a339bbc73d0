"""exp, log, tanh and their relatives to the bit: the formulas of `cpp/isa/math.hpp` in NumPy.

They use `+ - * /`, comparisons, selections and integer operations on the bits, in the order of the
kernels, so that they give the kernels' bits on any machine; NumPy's own functions do not. x is
float32 or float64 throughout, and so is the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gradstep.arrays import Array
from gradstep.spec.intervals import GELU_SLOPE, NORMAL_ABOVE, TANH

__all__ = [
    "NORMAL_END",
    "ExpParts",
    "at_least",
    "at_most",
    "constants",
    "exp",
    "exp_parts",
    "expm1_positive",
    "gelu_slope_below",
    "log",
    "normal_above",
    "normal_tail",
    "sigmoid",
    "tanh",
    "with_sign",
]


@dataclass(frozen=True)
class Constants:
    """What differs between the types; names and sources are those of `math.hpp`."""

    bits: Any
    mantissa: int
    bias: int
    root_half: int
    one: int
    upper_half: int
    smallest_normal: float
    raised: int
    ln2_high: float
    ln2_low: float
    exp_low: float
    exp_high: float
    tanh_one: float
    tail_end: float
    tail_centre: float
    exp: tuple[float, ...]
    log: tuple[float, ...]
    tail: tuple[float, ...]

    @property
    def round(self) -> float:
        """Rounds what it is added to, and leaves that plus 2 bias in the low bits."""
        return 1.5 * 2.0**self.mantissa + 2 * self.bias


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float.fromhex(word) for word in text.split())


SINGLE = Constants(
    bits=np.uint32,
    mantissa=23,
    bias=127,
    root_half=0x3F3504F3,
    one=0x3F800000,
    upper_half=0xFFFFF000,
    smallest_normal=2.0**-126,
    raised=25,
    ln2_high=float.fromhex("0x1.62e4p-1"),
    ln2_low=float.fromhex("0x1.7f7d1cp-20"),
    exp_low=-120,
    exp_high=89,
    tanh_one=10,
    tail_end=15,
    tail_centre=3,
    exp=_numbers("0x1p-1 0x1.555492p-3 0x1.555462p-5 0x1.1239e6p-7 0x1.6db17p-10"),
    log=_numbers("0x1.555556p-1 0x1.999a64p-2 0x1.243d46p-2 0x1.e2660ep-3"),
    tail=_numbers(
        "0x1.754a76p-1 -0x1.04c72ap-1 0x1.d71386p-3 -0x1.832d0ap-5 -0x1.56d5ecp-7 0x1.c8bda4p-8 "
        "0x1.0ca21p-10 -0x1.0eaed4p-10 -0x1.009e24p-12 0x1.136b5p-13 0x1.c9161p-15"
    ),
)
DOUBLE = Constants(
    bits=np.uint64,
    mantissa=52,
    bias=1023,
    root_half=0x3FE6A09E667F3BCD,
    one=0x3FF0000000000000,
    upper_half=0xFFFFFFFFF8000000,
    smallest_normal=2.0**-1022,
    raised=54,
    ln2_high=float.fromhex("0x1.62e42fefa38p-1"),
    ln2_low=float.fromhex("0x1.ef35793c7673p-45"),
    exp_low=-760,
    exp_high=710,
    tanh_one=20,
    tail_end=39,
    tail_centre=5,
    exp=_numbers(
        "0x1.0000000000009p-1 0x1.555555555556p-3 0x1.5555555550a96p-5 0x1.111111110da2cp-7 "
        "0x1.6c16c183d4dcbp-10 0x1.a01a01b9c48bdp-13 0x1.a0199abbb7299p-16 "
        "0x1.71dde1effc7b5p-19 0x1.28acf47477852p-22 0x1.af828f6ba1a75p-26"
    ),
    log=_numbers(
        "0x1.5555555555555p-1 0x1.9999999999c34p-2 0x1.249249244859cp-2 0x1.c71c723c33b42p-3 "
        "0x1.745ce5f7f67f2p-3 0x1.3b1f81969ef3ep-3 0x1.0f7429fbd597ep-3 0x1.0ea392cd4741p-3"
    ),
    tail=_numbers(
        "0x1.89d3abe1f95aep-1 -0x1.54ad03f27ca17p-1 0x1.fb31653876fap-2 -0x1.410ed5f8759e3p-2 "
        "0x1.51f6329f0119cp-3 -0x1.1b1c254c9eca1p-4 0x1.54b4d4f4fbdc6p-6 -0x1.88590ea2878b8p-9 "
        "-0x1.a250381f7568p-11 0x1.1daf1c35d8adap-11 -0x1.f2144946e0904p-15 "
        "-0x1.a1707b70c23c8p-15 0x1.17dc7e8a0a59cp-16 0x1.0b1e50867bb3dp-18 "
        "-0x1.73a3edf069dccp-19 -0x1.6840e62e35797p-22 0x1.d0c911ac8d608p-22 "
        "0x1.5ed7161a2615cp-25 -0x1.1b7b5e012acc9p-24 -0x1.1bf2584c725d2p-27 "
        "0x1.1109c82d47ccep-27 0x1.86a39be0a9826p-30 -0x1.51a79e822d299p-32"
    ),
)
LOG2_E = float.fromhex("0x1.71547652b82fep0")


def constants(x: Array) -> Constants:
    """Those of the type of x."""
    return SINGLE if x.dtype == np.float32 else DOUBLE


def at_most(x: Array, limit: float) -> Array:
    """x but at most `limit`; NaN stays."""
    return np.where(x > limit, x.dtype.type(limit), x)


def at_least(x: Array, limit: float) -> Array:
    """x but at least `limit`; NaN stays."""
    return np.where(x < limit, x.dtype.type(limit), x)


def with_sign(x: Array, sign: Array) -> Array:
    """x with the sign of `sign`, for x >= 0 or sign < 0."""
    bits, top = constants(x).bits, x.dtype.itemsize * 8 - 1
    signs = sign.view(bits) >> bits(top) << bits(top)
    return np.asarray((x.view(bits) | signs).view(x.dtype))


def _every_other(first: int, square: Array, c: tuple[float, ...]) -> Array:
    f = square.dtype.type
    last = first + (len(c) - 1 - first) // 2 * 2
    total = np.full_like(square, c[last])
    for i in range(last - 2, first - 1, -2):
        total = total * square + f(c[i])
    return total


def _polynomial(x: Array, c: tuple[float, ...]) -> Array:
    square = x * x
    return np.asarray(_every_other(0, square, c) + _every_other(1, square, c) * x)


@dataclass(frozen=True)
class ExpParts:
    """exp(x) as p 2^n; `raised` is n + `Constants.round`."""

    p: Array
    raised: Array

    def times(self, factor: Array) -> Array:
        """factor exp(x): 2^n in two factors, of which only the last rounds."""
        return _scaled(self.p * factor, self.raised)

    def value(self) -> Array:
        """exp(x)."""
        return _scaled(self.p, self.raised)


def _scaled(p: Array, raised: Array) -> Array:
    c = constants(p)
    shift = raised.view(c.bits)
    first = shift >> c.bits(1)
    powers = [(part << c.bits(c.mantissa)).view(p.dtype) for part in (first, shift - first)]
    return np.asarray(p * powers[0] * powers[1])


def _reduce(x: Array, high: Array, low: Array) -> tuple[Array, Array, Array]:
    """x = high + low = n ln 2 + r + c: r, c, and n raised; Cody & Waite 1980."""
    f, c = x.dtype.type, constants(x)
    raised = np.asarray(x * f(LOG2_E) + f(c.round))
    n = raised - f(c.round)
    near, rest = high - n * f(c.ln2_high), n * f(c.ln2_low) - low
    r = near - rest
    return r, (near - r) - rest, raised


def _parts(r: Array, raised: Array) -> ExpParts:
    small = r + r * r * _polynomial(r, constants(r).exp)
    return ExpParts(np.asarray(small + r.dtype.type(1)), raised)


def exp_parts(x: Array) -> ExpParts:
    """exp(x) in parts, for x up to where it is infinite; 0 from far below on."""
    x = at_least(x, constants(x).exp_low)
    r, _, raised = _reduce(x, x, np.zeros_like(x))
    return _parts(r, raised)


def exp(x: Array) -> Array:
    """exp(x)."""
    return exp_parts(at_most(x, constants(x).exp_high)).value()


def expm1_positive(x: Array) -> tuple[Array, Array]:
    """exp(x) - 1 and what its rounding lost, for 0 <= x <= 2 `tanh_one`."""
    one = x.dtype.type(1)
    r, rest, raised = _reduce(x, x, np.zeros_like(x))
    scale = _scaled(np.full_like(x, one), raised)
    whole, part = scale - one, scale * r
    total = whole + part
    lost = part - (total - whole)
    small = lost + scale * (rest + r * r * _polynomial(r, constants(x).exp))
    value = np.asarray(total + small)
    return value, np.asarray(small - (value - total))


def tanh(x: Array) -> Array:
    """tanh(x): of float32 by sixteen polynomials, of float64 from exp."""
    f = x.dtype.type
    if x.dtype == np.float32:
        a = at_most(np.abs(x), 9.25)
        index = (a * f(0.7890625) + f(0.5)).view(np.uint32) >> np.uint32(21)
        return with_sign(_piecewise(TANH, index, a), x)
    m, m_lost = expm1_positive(at_most(np.abs(x), constants(x).tanh_one) * f(2))
    d = m + f(2)
    y = m / d
    rest = f(1) - y
    lost = m_lost * rest - y * (m - (d - f(2)))
    correction = lost * (rest * f(0.5))
    return with_sign(np.asarray(y + np.where(m < 1024, correction, f(0))), x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    one = x.dtype.type(1)
    e = exp_parts(-np.abs(x)).value()
    return np.asarray(np.where(x < 0, e, one) / (e + one))


def log(x: Array) -> Array:
    """log(x); -inf for 0, NaN below."""
    f, c = x.dtype.type, constants(x)
    subnormal = x < c.smallest_normal
    raised = np.where(subnormal, x * f(2.0**c.raised), x)
    shifted = raised.view(c.bits) + c.bits(c.one - c.root_half)
    mantissa = (shifted & c.bits((1 << c.mantissa) - 1)) + c.bits(c.root_half)
    to_mantissa = f(2.0**c.mantissa)
    exponent = (shifted >> c.bits(c.mantissa)) | to_mantissa.view(c.bits)
    k = exponent.view(x.dtype) - (to_mantissa + f(c.bias)) - np.where(subnormal, f(c.raised), f(0))
    g = mantissa.view(x.dtype) - f(1)
    s = g / (g + f(2))
    z, half = s * s, g * g * f(0.5)
    rest = s * (half + z * _polynomial(z, c.log)) + k * f(c.ln2_low)
    y = k * f(c.ln2_high) - ((half - rest) - g)
    outside = np.where(x == 0, f(-np.inf), f(np.nan))
    return np.where(x > 0, np.where(x < np.inf, y, x), outside)


def _piecewise(table: Array, index: Array, x: Array) -> Array:
    """The polynomials that the low four bits of the indices name, at x, in pairs."""
    centre, *c = table[:, index & np.uint32(15)]
    t = x - centre
    square = t * t
    top = len(c) - 1
    if top % 2 == 0:
        top -= 1
        total = c[top] + c[top + 1] * t
    else:
        total = c[top]
    for i in range(top - 2, 0, -2):
        total = total * square + (c[i] + c[i + 1] * t)
    return np.asarray(c[0] + total * t)


NORMAL_END = 5.625


def _by_normal_intervals(table: Array, a: Array) -> Array:
    f = np.float32
    nearest = np.asarray(a * (f(1.3) + f(0.25859) * a) + f(2.0**23))
    return _piecewise(table, nearest.view(np.uint32), a)


def normal_above(a: Array) -> Array:
    """The probability of a standard normal variable above a, for float32 0 <= a <= NORMAL_END."""
    return _by_normal_intervals(NORMAL_ABOVE, a)


def gelu_slope_below(a: Array) -> Array:
    """That minus a times the density: the slope of gelu at -a, likewise."""
    return _by_normal_intervals(GELU_SLOPE, a)


def normal_tail(x: Array) -> tuple[Array, ExpParts, Array]:
    """For a = |x|: a, exp(-a² / 2) in parts, and its ratio to the probability above a."""
    f, c = x.dtype.type, constants(x)
    a = at_most(np.abs(x), c.tail_end)
    upper = (a.view(c.bits) & c.bits(c.upper_half)).view(x.dtype)
    high, low = upper * upper * f(-0.5), (a - upper) * (a + upper) * f(-0.5)
    inverse = f(1) / (a + f(c.tail_centre))
    ratio = _polynomial((a - f(c.tail_centre)) * inverse, c.tail) * inverse
    r, _, raised = _reduce(high + low, high, low)
    return a, _parts(r, raised), np.asarray(ratio)
