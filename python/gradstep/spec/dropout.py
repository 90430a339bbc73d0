"""The specification of `gradstep.ops.dropout` in NumPy: the kernels give these bits."""

from __future__ import annotations

import math

import numpy as np

from gradstep.arrays import Array
from gradstep.spec.halves import of_halves
from gradstep.spec.philox import keep_scale, threshold, uniform16

__all__ = [
    "SATURATION",
    "alpha_dropout",
    "alpha_dropout_backward",
    "drop_path",
    "dropout",
    "dropout_mask",
    "spatial_dropout",
]

# -lambda alpha of SELU, its value far to the left.
SATURATION = -1.7580993408473766


def dropout_mask(
    shape: int | tuple[int, ...], p: float, *, seed: int, offset: int = 0, first: int = 0
) -> Array:
    """The specification of `dropout_mask`, from element `first` of the stream on."""
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    kept = uniform16(first, math.prod(sizes), seed, offset) >= threshold(p)
    return np.reshape(kept, sizes)


def _affine(x: Array, kept: Array, scale: float, shift: float, dropped: float) -> Array:
    f = x.dtype.type
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        value = x * f(scale)
        y: Array = np.where(kept, value + f(shift) if shift else value, f(dropped))
    return y


def _scaled(x: Array, kept: Array, p: float) -> Array:
    return x.copy() if threshold(p) == 0 else _affine(x, kept, keep_scale(p), 0.0, 0.0)


@of_halves()
def dropout(x: Array, p: float, *, seed: int, offset: int = 0, first: int = 0) -> Array:
    """The specification of `dropout`, its backward and `drop_connect`."""
    kept = dropout_mask(x.shape, p, seed=seed, offset=offset, first=first)
    return _scaled(x, kept, p)


@of_halves()
def spatial_dropout(x: Array, p: float, *, seed: int, offset: int = 0, axis: int = 1) -> Array:
    """The specification of `spatial_dropout` and its backward."""
    shape = [1] * x.ndim
    shape[0], shape[axis] = x.shape[0], x.shape[axis]
    kept = dropout_mask((shape[0], shape[axis]), p, seed=seed, offset=offset)
    return _scaled(x, kept.reshape(shape), p)


@of_halves()
def drop_path(x: Array, p: float, *, seed: int, offset: int = 0) -> Array:
    """The specification of `drop_path` and its backward."""
    kept = dropout_mask(x.shape[0], p, seed=seed, offset=offset)
    return _scaled(x, kept.reshape(-1, *[1] * (x.ndim - 1)), p)


def _alpha(p: float) -> tuple[float, float, float]:
    """What alpha dropout multiplies by, adds, and puts in place of what it drops."""
    drop = threshold(p) / 65536
    keep = 1 - drop
    if keep == 0:
        return 0.0, 0.0, 0.0
    scale = 1 / math.sqrt(keep + SATURATION * SATURATION * keep * drop)
    shift = -scale * drop * SATURATION
    return scale, shift, scale * SATURATION + shift


@of_halves()
def alpha_dropout(x: Array, p: float, *, seed: int, offset: int = 0) -> Array:
    """The specification of `alpha_dropout`."""
    if threshold(p) == 0:
        return x.copy()
    kept = dropout_mask(x.shape, p, seed=seed, offset=offset)
    return _affine(x, kept, *_alpha(p))


@of_halves()
def alpha_dropout_backward(dy: Array, p: float, *, seed: int, offset: int = 0) -> Array:
    """The specification of `alpha_dropout_backward`."""
    if threshold(p) == 0:
        return dy.copy()
    kept = dropout_mask(dy.shape, p, seed=seed, offset=offset)
    return _affine(dy, kept, _alpha(p)[0], 0.0, 0.0)
