"""The NumPy specification of `gradstep.norm`: native results equal these to the bit.

Sums are in double, in an order that depends on the shape and the layout alone. A tile is at most
4096 elements of a channel (spatial lanes) or 1024 rows (channel lanes). With spatial lanes element
i of a piece goes to lane i % 16; with channel lanes each channel is a lane, or 16 of them, row by
row, where there are fewer than 64 channels. Lanes are folded in halves, tiles meet in index order.
The rows of layer norm and RMS norm are summed by `paired_sums`, in tiles of 4096 elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradstep.arrays import Array
from gradstep.spec.halves import of_halves
from gradstep.spec.sums import paired_sums

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_stats",
    "group_norm",
    "group_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]

TILE = 4096
TILE_ROWS = 1024
NARROW = 64
LANES = 16
GRADIENT_ROWS = 64

Doubles: TypeAlias = NDArray[np.float64]
LaneSums: TypeAlias = Callable[[Doubles], Doubles]


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations from the mean, of the values of every channel."""

    number: float
    mean: Doubles
    m2: Doubles


def merge(a: Moments | None, b: Moments) -> Moments:
    """Moments of both parts together: Chan, Golub & LeVeque 1979."""
    if a is None:
        return b
    count = a.number + b.number
    share = b.number / count
    delta = b.mean - a.mean
    m2 = (a.m2 + b.m2) + (delta * delta) * (a.number * share)
    return Moments(count, a.mean + delta * share, m2)


def fold(lanes: Doubles, axis: int) -> Doubles:
    """The sum over an axis whose length is a power of 2, halves added to halves."""
    lanes = np.moveaxis(lanes, axis, 0)
    while len(lanes) > 1:
        half = len(lanes) // 2
        lanes = lanes[:half] + lanes[half:]
    total: Doubles = lanes[0]
    return total


def spatial_sums(values: Doubles) -> Doubles:
    """Sums of (pieces, channels, size) per channel: sixteen lanes along each piece."""
    pieces, channels, size = values.shape
    rows = -(-size // LANES)
    padded = np.zeros((pieces, channels, rows * LANES))
    padded[:, :, :size] = values
    lanes = np.zeros((channels, LANES))
    for piece in padded.reshape(pieces, channels, rows, LANES):
        for row in range(rows):
            lanes += piece[:, row]
    return fold(lanes, 1)


def channel_sums(values: Doubles) -> Doubles:
    """Sums of (rows, channels, 1) per channel: row by row, narrow rows sixteen at a time."""
    rows, channels, _ = values.shape
    width = LANES if channels < NARROW else 1
    groups = -(-rows // width)
    padded = np.zeros((groups * width, channels))
    padded[:rows] = values[:, :, 0]
    lanes = np.zeros((width, channels))
    for group in padded.reshape(groups, width, channels):
        lanes += group
    return fold(lanes, 0)


class Layout(NamedTuple):
    """An array as (pieces, channels, size), and how a tile of it is summed."""

    values: Array
    sums: LaneSums

    def tiles(self) -> Iterator[tuple[slice, slice]]:
        """Pieces and elements of the tiles, in order."""
        pieces, _, size = self.values.shape
        if size == 0:
            return
        step = TILE_ROWS if self.sums is channel_sums else max(1, TILE // size)
        for piece in range(0, pieces, step):
            for begin in range(0, size, TILE):
                yield slice(piece, piece + step), slice(begin, begin + TILE)


def layout(x: Array, axis: int) -> Layout:
    """Channel lanes for channels last and for N x C, spatial lanes for channels first."""
    if axis != 1 or x.ndim == 2:
        return Layout(x.reshape(-1, x.shape[-1], 1) if x.size else x[..., None], channel_sums)
    pieces, channels = x.shape[:2]
    values = x.reshape(pieces, channels, int(np.prod(x.shape[2:])))
    return Layout(values, channel_sums if values.shape[2] == 1 else spatial_sums)


def moments(of: Layout) -> Moments:
    """Moments of every channel: sums of x - shift, with the first x of each tile as shift."""
    found: Moments | None = None
    for pieces, elements in of.tiles():
        tile = of.values[pieces, :, elements].astype(np.float64)
        shift = tile[0, :, 0]
        d = tile - shift[:, None]
        count = float(tile.shape[0] * tile.shape[2])
        total = of.sums(d)
        offset = total / count
        part = Moments(count, shift + offset, of.sums(d * d) - total * offset)
        found = merge(found, part)
    zeros = np.zeros(of.values.shape[1])
    return found or Moments(0.0, zeros, zeros)


def inverse_deviation(variance: Doubles, eps: float) -> Doubles:
    """1 / √(variance + eps), and 0 where both are 0: a constant channel gives its bias."""
    both = (variance == 0) & (eps == 0)
    with np.errstate(divide="ignore"):
        return np.where(both, 0.0, 1 / np.sqrt(variance + eps))


def doubles(numbers: Array | None, size: int, missing: float) -> Doubles:
    return np.full(size, missing) if numbers is None else numbers.astype(np.float64).ravel()


def affine(x: Array, mean: Doubles, scale: Doubles, bias: Doubles) -> Array:
    """(x - mean) scale + bias in the type of x; what rounding leaves of the mean joins the bias.

    x is (pieces, channels, size), the others are per channel.
    """
    shift = mean.astype(x.dtype)
    offset = bias - (mean - shift) * scale
    columns = [v.astype(x.dtype)[:, None] for v in (shift, scale, offset)]
    y: Array = (x - columns[0]) * columns[1] + columns[2]
    return y


def rectified(y: Array, values: Array) -> Array:
    return np.where(y <= 0, values.dtype.type(0), values)


@of_halves()
def batch_norm_stats(x: Array, axis: int = 1) -> tuple[Doubles, Doubles, int]:
    """Mean, biased variance and count of every channel."""
    found = moments(layout(x, axis))
    count = found.number
    return found.mean, found.m2 / count if count else found.m2, int(count)


@of_halves()
def batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    axis: int = 1,
    activation: str | None = None,
) -> tuple[Array, Doubles, Doubles]:
    """y, mean and invstd; updates the running statistics in place in training."""
    of = layout(x, axis)
    channels = of.values.shape[1]
    if training:
        found = moments(of)
        mean = found.mean
        variance = found.m2 / found.number if found.number else found.m2
        if running_mean is not None and running_var is not None and found.number:
            unbiased = found.m2 / (found.number - 1)
            running_mean[:] = (1 - momentum) * doubles(running_mean, 0, 0) + momentum * mean
            running_var[:] = (1 - momentum) * doubles(running_var, 0, 0) + momentum * unbiased
    else:
        mean, variance = doubles(running_mean, 0, 0), doubles(running_var, 0, 0)
    invstd = inverse_deviation(variance, eps)
    scale = doubles(weight, channels, 1) * invstd
    y = affine(of.values, mean, scale, doubles(bias, channels, 0))
    if activation == "relu":
        y = rectified(y, y)
    return y.reshape(x.shape), mean, invstd


def _gradient_sums(of: Layout, dy: Array, mean: Doubles) -> tuple[Doubles, Doubles]:
    """Sums of dy and of dy (x - mean) of every channel, tile by tile."""
    total, total_x = np.zeros((2, of.values.shape[1]))
    for pieces, elements in of.tiles():
        g = dy[pieces, :, elements].astype(np.float64)
        x = of.values[pieces, :, elements].astype(np.float64)
        total = total + of.sums(g)
        total_x = total_x + of.sums(g * (x - mean[:, None]))
    return total, total_x


def _slope(
    dy: Array,
    x: Array,
    of_dy: Doubles,
    of_x: Doubles,
    rest: Doubles,
    mean: Doubles,
    invstd: Doubles,
) -> Array:
    """of_dy dy + of_x xhat + rest in the type of x; all but dy and x are per channel."""
    shift = mean.astype(x.dtype)
    constant = of_x * ((shift - mean) * invstd) - rest
    a, b, c, s, r = (v.astype(x.dtype)[:, None] for v in (of_dy, of_x, constant, shift, invstd))
    dx: Array = (a * dy + b * ((x - s) * r)) + c
    return dx


@of_halves(weight=2)
def batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Doubles,
    invstd: Doubles,
    *,
    training: bool = True,
    axis: int = 1,
    activation: str | None = None,
    bias: Array | None = None,
) -> tuple[Array, Array, Array]:
    """dx, dweight and dbias."""
    of = layout(x, axis)
    channels = of.values.shape[1]
    g = dy.reshape(of.values.shape)
    scale = doubles(weight, channels, 1) * invstd
    if activation == "relu":
        g = rectified(affine(of.values, mean, scale, doubles(bias, channels, 0)), g)
    total, total_x = _gradient_sums(of, g, mean)
    dweight = total_x * invstd
    if training and x.size:
        count = float(x.size // channels)
        of_x = -(scale * dweight) / count
        dx = _slope(g, of.values, scale, of_x, scale * (total / count), mean, invstd)
    else:
        dx = g * scale.astype(x.dtype)[:, None]
    return dx.reshape(x.shape), dweight.astype(x.dtype), total.astype(x.dtype)


def _rows(x: Array, axes: int) -> tuple[Array, tuple[int, ...], tuple[int, ...]]:
    """(1, rows, size), the shape of the rows and the shape of one."""
    outer, inner = x.shape[: x.ndim - axes], x.shape[x.ndim - axes :]
    return x.reshape(1, int(np.prod(outer)), int(np.prod(inner))), outer, inner


def _tiles(x: Array) -> Iterator[Array]:
    """Tiles of (1, rows, size), as (rows, at most 4096)."""
    return (x[0, :, begin : begin + TILE] for begin in range(0, x.shape[2], TILE))


def _in_range(squares: Doubles, dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Whether squares in this type neither overflowed nor lost digits."""
    return (squares > (2.0**-100 if dtype == np.float32 else 2.0**-900)) & (squares < np.inf)


def _row_moments(x: Array) -> Moments:
    """Moments of the rows of (1, rows, size): the mean first, then deviations from it.

    Where squares in the type of x overflow or vanish, those of `moments`.
    """
    found: Moments | None = None
    for tile in _tiles(x):
        count = float(tile.shape[1])
        with np.errstate(over="ignore", invalid="ignore"):
            shift = (paired_sums(tile) / count).astype(x.dtype)
            d = tile - shift[:, None]
            total, squares = paired_sums(d), paired_sums(d * d)
        offset = total / count
        exact = moments(Layout(tile[None], spatial_sums))
        with np.errstate(over="ignore", invalid="ignore"):
            mean, m2 = shift.astype(np.float64) + offset, squares - total * offset
        good = _in_range(squares, x.dtype)
        part = Moments(count, np.where(good, mean, exact.mean), np.where(good, m2, exact.m2))
        found = merge(found, part)
    zeros = np.zeros(x.shape[1])
    return found or Moments(0.0, zeros, zeros)


def _row_squares(x: Array) -> Doubles:
    """Sums of squares of the rows of (1, rows, size)."""
    total = np.zeros(x.shape[1])
    for tile in _tiles(x):
        with np.errstate(over="ignore", invalid="ignore"):
            squares = paired_sums(tile * tile)
            wide = tile[None].astype(np.float64)
            exact = spatial_sums(wide * wide)
        total = total + np.where(_in_range(squares, x.dtype), squares, exact)
    return total


def _scale_rows(x: Array, mean: Doubles, invstd: Doubles, weight: Doubles, bias: Doubles) -> Array:
    xhat = affine(x, mean, invstd, np.zeros_like(mean))
    y: Array = xhat * weight.astype(x.dtype) + bias.astype(x.dtype)
    return y


@of_halves()
def layer_norm(
    x: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[Array, Doubles, Doubles]:
    """y, mean and invstd."""
    rows, outer, _ = _rows(x, axes)
    found = _row_moments(rows)
    invstd = inverse_deviation(found.m2 / found.number if found.number else found.m2, eps)
    size = rows.shape[2]
    y = _scale_rows(rows, found.mean, invstd, doubles(weight, size, 1), doubles(bias, size, 0))
    return y.reshape(x.shape), found.mean.reshape(outer), invstd.reshape(outer)


@of_halves()
def rms_norm(x: Array, weight: Array | None, *, axes: int = 1, eps: float) -> tuple[Array, Doubles]:
    """y and invstd."""
    rows, outer, _ = _rows(x, axes)
    size = rows.shape[2]
    invstd = inverse_deviation(_row_squares(rows) / size, eps)
    y = _scale_rows(rows, np.zeros_like(invstd), invstd, doubles(weight, size, 1), np.zeros(size))
    return y.reshape(x.shape), invstd.reshape(outer)


@of_halves(weight=2)
def layer_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Doubles | None,
    invstd: Doubles,
    *,
    axes: int = 1,
) -> tuple[Array, Array, Array]:
    """dx, dweight and dbias; mean None is RMS norm."""
    rows, _, inner = _rows(x, axes)
    g = dy.reshape(rows.shape)
    size = rows.shape[2]
    w = doubles(weight, size, 1)
    r = invstd.ravel()
    m = np.zeros_like(r) if mean is None else mean.ravel()
    xhat = affine(rows, m, r, np.zeros_like(m))
    wg = w.astype(x.dtype) * g
    total, total_x = np.zeros((2, len(r)))
    for tile, tile_x in zip(_tiles(wg), _tiles(wg * xhat), strict=True):
        total, total_x = total + paired_sums(tile), total_x + paired_sums(tile_x)
    by_one = np.zeros_like(r) if mean is None else -(r * (total / size))
    by_row = (r, -(r * (total_x / size)), by_one)
    a, b, c = (v.astype(x.dtype)[:, None] for v in by_row)
    dx = (a * wg + b * xhat) + c
    dweight, dbias = np.zeros((2, size))
    for first in range(0, len(r), GRADIENT_ROWS):
        part, part_bias = np.zeros((2, size), x.dtype)
        for row in range(first, min(first + GRADIENT_ROWS, len(r))):
            part, part_bias = part + g[0, row] * xhat[0, row], part_bias + g[0, row]
        dweight, dbias = dweight + part, dbias + part_bias
    shaped = [v.astype(x.dtype).reshape(inner) for v in (dweight, dbias)]
    return dx.reshape(x.shape), shaped[0], shaped[1]


@of_halves(weight=2)
def rms_norm_backward(
    dy: Array, x: Array, weight: Array | None, invstd: Doubles, *, axes: int = 1
) -> tuple[Array, Array]:
    """dx and dweight."""
    return layer_norm_backward(dy, x, weight, None, invstd, axes=axes)[:2]


def _by_channel(x: Array) -> Array:
    """(1, samples * channels, size)."""
    return x.reshape(1, x.shape[0] * x.shape[1], int(np.prod(x.shape[2:])))


@of_halves()
def group_norm(
    x: Array, groups: int, weight: Array | None, bias: Array | None, *, eps: float = 1e-5
) -> tuple[Array, Doubles, Doubles]:
    """y, mean and invstd."""
    samples, channels = x.shape[:2]
    rows = x.reshape(1, samples * groups, -1) if x.size else np.zeros((1, samples * groups, 0))
    found = moments(Layout(rows, spatial_sums))
    invstd = inverse_deviation(found.m2 / found.number if found.number else found.m2, eps)
    per_channel = [np.repeat(v, channels // groups) for v in (found.mean, invstd)]
    w, b = (
        np.tile(doubles(v, channels, missing), samples) for v, missing in ((weight, 1), (bias, 0))
    )
    y = affine(_by_channel(x), per_channel[0], w * per_channel[1], b)
    shape = (samples, groups)
    return y.reshape(x.shape), found.mean.reshape(shape), invstd.reshape(shape)


@of_halves(weight=3)
def group_norm_backward(
    dy: Array, x: Array, groups: int, weight: Array | None, mean: Doubles, invstd: Doubles
) -> tuple[Array, Array, Array]:
    """dx, dweight and dbias."""
    samples, channels = x.shape[:2]
    width = channels // groups
    w = doubles(weight, channels, 1)
    m, r = (np.repeat(v.ravel(), width) for v in (mean, invstd))
    g, values = _by_channel(dy), _by_channel(x)
    total, total_x = _gradient_sums(Layout(values, spatial_sums), g, m)
    group = np.zeros((2, samples * groups))
    for c in range(width):
        of_channel = np.tile(w.reshape(groups, width)[:, c], samples)
        group[0] += of_channel * total.reshape(-1, width)[:, c]
        group[1] += of_channel * total_x.reshape(-1, width)[:, c]
    count = float(max(1, width * values.shape[2]))
    by_group = invstd.ravel()
    of_x = np.repeat(-(by_group * (group[1] * by_group)) / count, width)
    rest = np.repeat(by_group * (group[0] / count), width)
    dx = _slope(g, values, np.tile(w, samples) * r, of_x, rest, m, r)
    dweight, dbias = np.zeros((2, channels))
    for sample in range(samples):
        at = slice(sample * channels, (sample + 1) * channels)
        dweight = dweight + total_x[at] * r[at]
        dbias = dbias + total[at]
    return dx.reshape(x.shape), dweight.astype(x.dtype), dbias.astype(x.dtype)
