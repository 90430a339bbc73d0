"""Losses with their gradient, in one pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradstep import _core
from gradstep.arguments import choice, integer, probability
from gradstep.arrays import Array

__all__ = ["cross_entropy", "mse"]

_REDUCTIONS = {"mean": 0, "sum": 1, "none": 2}


def cross_entropy(
    logits: Array,
    targets: Array,
    *,
    weight: Array | None = None,
    sample_weight: Array | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    out: Array | None = None,
) -> tuple[Any, Array]:
    """(loss, d loss / d logits) of the softmax of logits against classes, as in torch.

    logits: shape (N, C), (N, C, d1, ...) or (C,), in C order. targets: int32 or int64, that shape
    without C, each 0 to C - 1 or `ignore_index`, which takes no part. weight: shape (C,), of the
    classes. sample_weight: numbers >= 0, shaped like targets, which multiply the losses; they cost
    a pass in NumPy. label_smoothing: in [0, 1], the share of the target spread evenly over all
    classes. reduction: "mean" (over the weights of the targets), "sum": the loss is a float, summed
    in double in one order; "none": an array shaped like targets, and the gradient is of their sum.
    out: for the gradient; may be logits. With "mean" and no target that takes part the loss is NaN
    and the gradient 0.

    Raises TypeError or ValueError, and then nothing was written.

    >>> import numpy as np, gradstep as gs
    >>> loss, dlogits = gs.cross_entropy(np.zeros((2, 2)), np.array([0, 1]))
    >>> round(loss, 6), dlogits
    (0.693147, array([[-0.25,  0.25],
           [ 0.25, -0.25]]))
    """
    smoothing = probability("label_smoothing", label_smoothing)
    ignored = integer("ignore_index", ignore_index, -(2**63), 2**63 - 1)
    kind = _REDUCTIONS[choice("reduction", reduction, _REDUCTIONS)]
    if sample_weight is None:
        return _core.cross_entropy(logits, targets, weight, smoothing, ignored, kind, out)
    rows = _row_weights(sample_weight, targets)
    none = _REDUCTIONS["none"]
    losses, dlogits = _core.cross_entropy(logits, targets, weight, smoothing, ignored, none, out)
    rows[np.asarray(targets) == ignored] = 0
    return _weighted(losses, dlogits, rows, targets, weight, reduction)


def _row_weights(given: Any, targets: Any) -> Array:
    """A copy of the weights, checked, in double."""
    if not isinstance(given, np.ndarray) or isinstance(given, np.ma.MaskedArray):
        raise TypeError(f"sample_weight: {type(given).__name__}, expected a numpy.ndarray")
    if given.dtype.kind not in "iuf":
        raise TypeError(f"sample_weight: dtype {given.dtype}, expected numbers")
    if given.shape != np.shape(targets):
        raise ValueError(f"sample_weight: shape {given.shape}, expected {np.shape(targets)}")
    rows = given.astype(np.float64)
    if rows.size and not 0 <= rows.min() <= rows.max() < math.inf:
        raise ValueError("sample_weight: negative or not finite, expected numbers >= 0")
    return rows


def _weighted(
    losses: Array, dlogits: Array, rows: Array, targets: Array, weight: Array | None, reduction: str
) -> tuple[Any, Array]:
    """Losses of rows and their gradients, times the weights of the rows."""
    all_count = not rows.size or rows.min() > 0
    used = None if all_count else rows > 0  # a row that does not count may hold anything
    wide = losses * rows if used is None else np.where(used, losses, 0.0) * rows
    count = 1.0
    if reduction == "mean":
        chosen = targets if used is None else np.where(used, targets, 0)
        count = _sum(rows if weight is None else rows * weight[chosen])
    share = (rows / count if count else rows).astype(dlogits.dtype)
    axis = 0 if dlogits.ndim == 1 else 1
    np.multiply(dlogits, np.expand_dims(share, axis), out=dlogits)
    if used is not None:
        np.copyto(dlogits, 0, where=~np.expand_dims(used, axis))
    if reduction == "none":
        return wide.astype(dlogits.dtype), dlogits
    return (_sum(wide) / count if count else math.nan), dlogits


def _sum(values: Array) -> float:
    [(_, _, total, _, bad)] = _core.summarize([np.asarray(values)], [None], "losses")
    return float(values.sum()) if bad else total


def mse(prediction: Array, target: Array, *, out: Array | None = None) -> tuple[float, Array]:
    """(mean of (prediction - target)², its gradient 2 (prediction - target) / n).

    prediction, target: the same shape, dtype and memory order. The sum is in double, in one order.
    out: for the gradient; may be either of them. Raises TypeError or ValueError.

    >>> import numpy as np, gradstep as gs
    >>> gs.mse(np.array([1.0, 5.0]), np.array([1.0, 2.0]))
    (4.5, array([0., 3.]))
    """
    return _core.mse(prediction, target, out)
