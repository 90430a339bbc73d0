"""The one order of every sum: doubles in sixteen lanes of a block, folded in halves."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gradstep.arrays import Array

__all__ = [
    "SUM_BLOCK",
    "SUM_LANES",
    "global_norm",
    "paired_sums",
    "paired_sums_along",
    "square_blocks",
    "sum_along",
    "sum_blocks",
    "total",
]

SUM_BLOCK = 4096
SUM_LANES = 16
PAIRED_ROWS = 16


def sum_blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of blocks of 4096 doubles: sixteen lanes down the rows, then folded in halves."""
    blocks = -(-values.size // SUM_BLOCK)
    rows = np.zeros((blocks, SUM_BLOCK // SUM_LANES, SUM_LANES))
    rows.reshape(-1)[: values.size] = values
    lanes = np.zeros((blocks, SUM_LANES))
    for row in range(SUM_BLOCK // SUM_LANES):
        lanes += rows[:, row]
    width = SUM_LANES
    while width > 1:
        width //= 2
        lanes = lanes[:, :width] + lanes[:, width:]
    return lanes[:, 0]


def sum_along(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """The sums of doubles along an axis, which is kept, in the order of every sum here.

    Element i of a block of 4096 goes to lane i mod 16; lanes are folded in halves; blocks in order.
    """
    rows = np.moveaxis(values, axis, 0)
    total = np.zeros(rows.shape[1:])
    for at in range(0, len(rows), SUM_BLOCK):
        block = rows[at : at + SUM_BLOCK]
        lanes = np.zeros((SUM_LANES, *rows.shape[1:]))
        for i in range(0, len(block), SUM_LANES):
            lanes[: len(block) - i] += block[i : i + SUM_LANES]
        for half in (8, 4, 2, 1):
            lanes = lanes[:half] + lanes[half : 2 * half]
        total = total + lanes[0]
    return np.expand_dims(total, axis)


def paired_sums(values: Array) -> NDArray[np.float64]:
    """Sums over the last axis, in the type of the values where that is fast, then in double.

    256 elements are 16 rows of 16 lanes. Rows are added in pairs, pairs in pairs, and so on, in
    the type of the values; what that gives is added to sixteen doubles, block by block; these are
    folded in halves.
    """
    *outer, size = values.shape
    blocks = -(-size // (PAIRED_ROWS * SUM_LANES))
    padded = np.zeros((*outer, blocks * PAIRED_ROWS * SUM_LANES), values.dtype)
    padded[..., :size] = values
    rows = padded.reshape(*outer, blocks, PAIRED_ROWS, SUM_LANES)
    with np.errstate(over="ignore", invalid="ignore"):
        while rows.shape[-2] > 1:
            rows = rows[..., ::2, :] + rows[..., 1::2, :]
        lanes = np.zeros((*outer, SUM_LANES))
        for block in range(blocks):
            lanes = lanes + rows[..., block, 0, :]
        while lanes.shape[-1] > 1:
            half = lanes.shape[-1] // 2
            lanes = lanes[..., :half] + lanes[..., half:]
    total: NDArray[np.float64] = lanes[..., 0]
    return total


def paired_sums_along(values: Array, axis: int) -> NDArray[np.float64]:
    """`paired_sums` of blocks of 4096 along an axis, which is kept, the blocks added in order."""
    rows = np.moveaxis(values, axis, -1)
    total = np.zeros(rows.shape[:-1])
    for at in range(0, rows.shape[-1], SUM_BLOCK):
        total = total + paired_sums(rows[..., at : at + SUM_BLOCK])
    return np.expand_dims(total, axis)


def global_norm(arrays: Iterable[Array]) -> float:
    """L2 norm over all arrays: squares summed in double by blocks, blocks in order."""
    return math.sqrt(total(map(square_blocks, arrays)))


def square_blocks(array: Array) -> NDArray[np.float64]:
    """The sum of squares of each 4096 elements as they lie in memory."""
    values = array.ravel("K").astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return sum_blocks(values * values)


def total(blocks: Iterable[NDArray[np.float64]]) -> float:
    """The sums of all blocks, added one after the other."""
    with np.errstate(over="ignore", invalid="ignore"):
        running = np.cumsum(np.concatenate([np.zeros(1), *blocks]))
    return float(running[-1])
