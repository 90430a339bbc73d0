"""Losses with their gradient, in one pass."""

from __future__ import annotations

from typing import Any

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
    smoothing = probability("label_smoothing", label_smoothing)
    ignored = integer("ignore_index", ignore_index, -(2**63), 2**63 - 1)
    kind = _REDUCTIONS[choice("reduction", reduction, _REDUCTIONS)]
    return _core.cross_entropy(logits, targets, weight, smoothing, ignored, kind, out)


def mse(prediction: Array, target: Array, *, out: Array | None = None) -> tuple[float, Array]:
    """(mean of (prediction - target)², its gradient 2 (prediction - target) / n).

    prediction, target: the same shape, dtype and memory order. The sum is in double, in one order.
    out: for the gradient; may be either of them. Raises TypeError or ValueError.

    >>> import numpy as np, gradstep as gs
    >>> gs.mse(np.array([1.0, 5.0]), np.array([1.0, 2.0]))
    (4.5, array([0., 3.]))
    """
    return _core.mse(prediction, target, out)
