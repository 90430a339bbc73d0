"""Losses with their gradient, in one pass."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradstep import _core
from gradstep.activations import log_softmax_reference, sum_along

__all__ = ["cross_entropy", "mse"]

Array: TypeAlias = NDArray[Any]
_REDUCTIONS = {"mean": 0, "sum": 1, "none": 2}


def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weight: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[Any, Array]:
    """(loss, d loss / d logits) of the softmax of logits against classes, as in torch.

    logits: shape (N, C), (N, C, d1, ...) or (C,), in C order. targets: int32 or int64, that shape
    without C, each 0 to C - 1 or `ignore_index`, which takes no part. weight: shape (C,), of the
    classes. label_smoothing: in [0, 1], the share of the target spread evenly over all classes.
    reduction: "mean" (over the weights of the targets), "sum": the loss is a float, summed in
    double in one order; "none": an array shaped like targets, and the gradient is of their sum.
    out: for the gradient; may be logits. With "mean" and no target that takes part the loss is NaN
    and the gradient 0.

    Raises TypeError or ValueError, and then nothing was written.

    >>> import numpy as np, gradstep as gs
    >>> loss, dlogits = gs.cross_entropy(np.zeros((2, 2)), np.array([0, 1]))
    >>> round(loss, 6), dlogits
    (0.693147, array([[-0.25,  0.25],
           [ 0.25, -0.25]]))
    """
    if isinstance(label_smoothing, bool) or not isinstance(
        label_smoothing, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"label_smoothing: {type(label_smoothing).__name__}, expected a number")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: {label_smoothing}, expected 0 to 1")
    if isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer)):
        raise TypeError(f"ignore_index: {type(ignore_index).__name__}, expected an integer")
    if reduction not in _REDUCTIONS:
        raise ValueError(f'reduction: {reduction!r}, expected "mean", "sum" or "none"')
    kind = _REDUCTIONS[reduction]
    return _core.cross_entropy(logits, targets, weight, label_smoothing, ignore_index, kind, out)


def cross_entropy_reference(
    logits: Array,
    targets: Array,
    *,
    weight: Array | None = None,
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
    scores = log_softmax_reference(rows) if len(rows) else rows
    losses = np.where(share != 0, -share * scores, 0).sum(1)
    count = float(weights[hot][used].sum())
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


def mse(prediction: Array, target: Array, *, out: Array | None = None) -> tuple[float, Array]:
    """(mean of (prediction - target)², its gradient 2 (prediction - target) / n).

    prediction, target: the same shape, dtype and memory order. The sum is in double, in one order.
    out: for the gradient; may be either of them. Raises TypeError or ValueError.

    >>> import numpy as np, gradstep as gs
    >>> gs.mse(np.array([1.0, 5.0]), np.array([1.0, 2.0]))
    (4.5, array([0., 3.]))
    """
    return _core.mse(prediction, target, out)


def mse_reference(prediction: Array, target: Array) -> tuple[float, Array]:
    """The NumPy specification of `mse`."""
    difference = prediction - target
    wide = difference.ravel("K").astype(np.float64)
    if not wide.size:
        return math.nan, difference
    gradient = difference * difference.dtype.type(2 / wide.size)
    return float(sum_along(wide * wide, 0)[0]) / wide.size, np.asarray(gradient)
