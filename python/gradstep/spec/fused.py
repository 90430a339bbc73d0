"""The specification of `gradstep.ops.fused` in NumPy."""

from __future__ import annotations

import math

import numpy as np

from gradstep.arrays import Array
from gradstep.spec import activations
from gradstep.spec.activations import CHANNEL_ROWS
from gradstep.spec.dropout import dropout

__all__ = ["bias_activation", "bias_activation_backward", "column_sums"]

READS_X = ("silu", "gelu", "mish")


def bias_activation(
    x: Array, bias: Array, activation: str, *, p: float = 0.0, seed: int = 0, offset: int = 0
) -> Array:
    """The specification of `bias_activation`, with the activation's own."""
    y: Array = getattr(activations, activation)(x + bias)
    return dropout(y, p, seed=seed, offset=offset)


def bias_activation_backward(
    dy: Array,
    saved: Array,
    activation: str,
    *,
    bias: Array | None = None,
    p: float = 0.0,
    seed: int = 0,
    offset: int = 0,
) -> tuple[Array, Array]:
    """The specification of `bias_activation_backward`: (dx, dbias)."""
    state = saved
    if bias is not None:
        state = saved + bias
        if activation not in READS_X:
            state = getattr(activations, activation)(state)
    dy = dropout(dy, p, seed=seed, offset=offset)
    dx: Array = getattr(activations, f"{activation}_backward")(dy, state)
    return dx, column_sums(dx)


def column_sums(x: Array) -> Array:
    """Of (..., C), the sums (C,) in double, so many rows at a time."""
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).astype(np.float64)
    total = np.zeros(x.shape[-1])
    for start in range(0, len(rows), CHANNEL_ROWS):
        part = np.zeros(x.shape[-1])
        for row in rows[start : start + CHANNEL_ROWS]:
            part += row
        total += part
    return total.astype(x.dtype)
