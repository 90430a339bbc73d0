"""The specification of `gradstep.ops.losses` in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradstep.arrays import Array
from gradstep.spec.activations import log_softmax
from gradstep.spec.sums import sum_along

__all__ = [
    "cross_entropy",
    "mse",
]


def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weight: Array | None = None,
    sample_weight: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Any, Array]:
    """`cross_entropy` in float64 with NumPy's exp and log; equal to rounding."""
    axis = 0 if logits.ndim == 1 else 1
    rows = np.moveaxis(logits, axis, -1).astype(np.float64)
    classes = rows.shape[-1]
    rows = rows.reshape(-1, classes)
    chosen = targets.reshape(-1)
    used = chosen != ignore_index
    weights = np.ones(classes) if weight is None else weight.astype(np.float64)
    share = np.full((len(rows), classes), label_smoothing / classes) * weights
    hot = np.where(used, chosen, 0)
    share[np.arange(len(rows)), hot] += (1 - label_smoothing) * weights[hot]
    share[~used] = 0
    counts = np.ones(len(rows)) if sample_weight is None else sample_weight.reshape(-1)
    share *= counts[:, None]
    scores = log_softmax(rows) if len(rows) else rows
    losses = np.where(share != 0, -share * scores, 0).sum(1)
    count = float((counts * weights[hot])[used].sum())
    scale = 1 / count if reduction == "mean" and count else 1.0
    gradient = scale * (np.exp(scores) * share.sum(1, keepdims=True) - share)
    moved = np.moveaxis(logits, axis, -1).shape
    dlogits = np.moveaxis(gradient.reshape(moved), -1, axis).astype(logits.dtype)
    if reduction == "none":
        return losses.reshape(targets.shape).astype(logits.dtype), dlogits
    total = float(losses.sum())
    if reduction == "sum":
        return total, dlogits
    return total / count if count else math.nan, dlogits


def mse(prediction: Array, target: Array) -> tuple[float, Array]:
    """The NumPy specification of `mse`."""
    difference = prediction - target
    wide = difference.ravel("K").astype(np.float64)
    if not wide.size:
        return math.nan, difference
    gradient = difference * difference.dtype.type(2 / wide.size)
    return float(sum_along(wide * wide, 0)[0]) / wide.size, np.asarray(gradient)
