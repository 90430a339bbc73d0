"""The specification of `gradstep.ops.activations` in NumPy."""

from __future__ import annotations

import math

import numpy as np

from gradstep.arrays import Array
from gradstep.spec.halves import of_halves
from gradstep.spec.sums import SUM_BLOCK, paired_sums_along, sum_along

__all__ = [
    "CHANNEL_ROWS",
    "gelu",
    "gelu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "log_softmax",
    "log_softmax_backward",
    "maxout",
    "maxout_backward",
    "mish",
    "mish_backward",
    "prelu",
    "prelu_backward",
    "relu",
    "relu_backward",
    "selu",
    "selu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]

# Rows that the gradient of `prelu`'s weights is summed over at a time, with channels innermost.
CHANNEL_ROWS = 256


@of_halves()
def relu(x: Array) -> Array:
    """The NumPy specification of `relu`."""
    return np.where(x <= 0, x.dtype.type(0), x)


@of_halves()
def relu_backward(dy: Array, y: Array) -> Array:
    """The NumPy specification of `relu_backward`."""
    return np.where(y <= 0, y.dtype.type(0), dy)


@of_halves()
def leaky_relu(x: Array, slope: float = 0.01) -> Array:
    """The NumPy specification of `leaky_relu`."""
    return np.where(x > 0, x, x * x.dtype.type(slope))


@of_halves()
def leaky_relu_backward(dy: Array, y: Array, slope: float = 0.01) -> Array:
    """The NumPy specification of `leaky_relu_backward`."""
    return np.where(y > 0, dy, dy * y.dtype.type(slope))


@of_halves()
def sigmoid(x: Array) -> Array:
    """`sigmoid` with NumPy's exp; equal within a few ULP, not to the bit."""
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e, x.dtype.type(1)) / (1 + e))


@of_halves()
def sigmoid_backward(dy: Array, y: Array) -> Array:
    """The NumPy specification of `sigmoid_backward`."""
    return np.asarray(dy * (1 - y) * y)


@of_halves()
def tanh(x: Array) -> Array:
    """`tanh` of NumPy; equal within a few ULP, not to the bit."""
    return np.asarray(np.tanh(x))


@of_halves()
def tanh_backward(dy: Array, y: Array) -> Array:
    """The NumPy specification of `tanh_backward`."""
    return np.asarray(dy * (1 - y * y))


@of_halves()
def silu(x: Array) -> Array:
    """`silu` with NumPy's exp; equal within a few ULP where x is finite."""
    return x * sigmoid(x)


@of_halves()
def silu_backward(dy: Array, x: Array) -> Array:
    """`silu_backward` with NumPy's exp; equal to rounding, where x is finite."""
    s = sigmoid(x)
    return np.asarray(dy * (s + x * s * sigmoid(-x)))


@of_halves()
def gelu(x: Array, approximate: str = "none") -> Array:
    """`gelu` in float64 with Python's erfc, or with NumPy's exp; equal to rounding."""
    z = x.astype(np.float64)
    if approximate == "tanh":
        return np.asarray(z * sigmoid(_gelu_argument(z)), x.dtype)
    return np.asarray(z * _below(z), x.dtype)


def _gelu_argument(z: Array) -> Array:
    return np.asarray(math.sqrt(8 / math.pi) * (z + 0.044715 * z**3))


def _below(z: Array) -> Array:
    return np.asarray(np.vectorize(lambda v: math.erfc(-v / math.sqrt(2)) / 2, otypes=[float])(z))


@of_halves()
def gelu_backward(dy: Array, x: Array, approximate: str = "none") -> Array:
    """`gelu_backward` in float64; equal to rounding."""
    z = x.astype(np.float64)
    if approximate == "tanh":
        s, rest = sigmoid(_gelu_argument(z)), sigmoid(-_gelu_argument(z))
        slope = math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * z * z)
        return np.asarray(dy * (s + z * s * rest * slope), x.dtype)
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return np.asarray(dy * (_below(z) + z * density), x.dtype)


SELU_ABOVE, SELU_BELOW = 1.0507009873554804934, 1.7580993408473768599


@of_halves()
def selu(x: Array) -> Array:
    """`selu` in float64 with NumPy's expm1; equal to rounding."""
    z = x.astype(np.float64)
    below = SELU_BELOW * np.expm1(np.minimum(z, 0))
    return np.asarray(np.where(z > 0, SELU_ABOVE * z, below), x.dtype)


@of_halves()
def selu_backward(dy: Array, y: Array) -> Array:
    """The NumPy specification of `selu_backward`."""
    above, below = y.dtype.type(SELU_ABOVE), y.dtype.type(SELU_BELOW)
    return np.asarray(dy * np.where(y > 0, above, y + below))


@of_halves()
def mish(x: Array) -> Array:
    """`mish` in float64 with functions of NumPy; equal to rounding where x is finite."""
    z = x.astype(np.float64)
    return np.asarray(z * np.tanh(np.logaddexp(0, z)), x.dtype)


@of_halves()
def mish_backward(dy: Array, x: Array) -> Array:
    """`mish_backward` in float64 with functions of NumPy; equal to rounding where x is finite."""
    z = x.astype(np.float64)
    t = np.tanh(np.logaddexp(0, z))
    return np.asarray(dy * (t + z * (1 - t * t) * sigmoid(z)), x.dtype)


@of_halves()
def softmax(x: Array, axis: int = -1) -> Array:
    """`softmax` in float64 with NumPy's exp; equal to rounding."""
    z = x.astype(np.float64)
    e = np.exp(z - z.max(axis, keepdims=True))
    return np.asarray(e / e.sum(axis, keepdims=True), x.dtype)


@of_halves()
def softmax_backward(dy: Array, y: Array, axis: int = -1) -> Array:
    """The NumPy specification of `softmax_backward`."""
    return np.asarray(y * (dy - paired_sums_along(dy * y, axis).astype(y.dtype)))


@of_halves()
def log_softmax(x: Array, axis: int = -1) -> Array:
    """`log_softmax` in float64 with NumPy's exp and log; equal to rounding."""
    z = x.astype(np.float64)
    z = z - z.max(axis, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis, keepdims=True)), x.dtype)


@of_halves()
def log_softmax_backward(dy: Array, y: Array, axis: int = -1) -> Array:
    """`log_softmax_backward` with NumPy's exp; equal to rounding."""
    return np.asarray(dy - np.exp(y) * paired_sums_along(dy, axis).astype(y.dtype))


def _beside(weight: Array, x: Array, axis: int) -> Array:
    return weight.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def prelu(x: Array, weight: Array, axis: int = 1) -> Array:
    """The NumPy specification of `prelu`."""
    return np.where(x > 0, x, x * _beside(weight, x, axis))


def prelu_backward(dy: Array, x: Array, weight: Array, axis: int = 1) -> tuple[Array, Array]:
    """The NumPy specification of `prelu_backward`."""
    dx = np.where(x > 0, dy, dy * _beside(weight, x, axis))
    zero = x.dtype.type(0)
    terms = np.where(x > 0, zero, x).astype(np.float64) * np.where(x > 0, zero, dy)
    if weight.size == 1:
        return dx, sum_along(terms.reshape(-1), 0).astype(x.dtype)
    axis %= x.ndim
    inner = math.prod(x.shape[axis + 1 :])
    terms = terms.reshape(-1, x.shape[axis], inner)
    dweight = np.zeros(x.shape[axis])
    if inner == 1:
        for at in range(0, len(terms), CHANNEL_ROWS):
            rows = np.zeros(x.shape[axis])
            for row in terms[at : at + CHANNEL_ROWS, :, 0]:
                rows = rows + row
            dweight = dweight + rows
        return dx, dweight.astype(x.dtype)
    for sample in terms:
        for at in range(0, inner, SUM_BLOCK):
            dweight = dweight + sum_along(sample[:, at : at + SUM_BLOCK], 1)[:, 0]
    return dx, dweight.astype(x.dtype)


def _pieces(x: Array, k: int, axis: int) -> tuple[Array, int]:
    axis %= x.ndim
    shape = (*x.shape[:axis], x.shape[axis] // k, k, *x.shape[axis + 1 :])
    return x.reshape(shape), axis + 1


def maxout(x: Array, k: int, axis: int = 1) -> Array:
    """The NumPy specification of `maxout`."""
    pieces, along = _pieces(x, k, axis)
    first, *others = np.moveaxis(pieces, along, 0)
    for piece in others:
        first = np.where((piece > first) | np.isnan(piece), piece, first)
    return np.ascontiguousarray(first)


def maxout_backward(dy: Array, x: Array, k: int, axis: int = 1) -> Array:
    """The NumPy specification of `maxout_backward`."""
    pieces, along = _pieces(x, k, axis)
    dx = np.zeros_like(pieces)
    first = np.expand_dims(pieces.argmax(along), along)
    np.put_along_axis(dx, first, np.expand_dims(dy, along), along)
    return dx.reshape(x.shape)
