"""What rows count in a loss, by their classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.arguments import MOST_BYTES, integer, number, several, shown

__all__ = ["balanced_class_weights", "class_weights", "sample_weights"]

Weights = npt.NDArray[np.float64]


def class_weights(y: Any, weights: Any = "balanced", *, classes: int | None = None) -> Weights:
    """(C,): what each class counts, for `cross_entropy(weight=...)`, which takes the logits' dtype.

    y: (N,), numbers of classes, 0 to C - 1. weights: "balanced", so that every class counts alike
    and the mean over y is 1, a class without a row 0; or a mapping of classes, others 1; or a
    sequence (C,). classes: C, one more than the largest of y unless given.
    Raises TypeError or ValueError. Source: King & Zeng 2001, "Logistic regression in rare events
    data"; as in scikit-learn.

    >>> class_weights([0, 0, 0, 1]).tolist()
    [0.6666666666666666, 2.0]
    >>> class_weights([0, 1, 2], {2: 5.0}).tolist()
    [1.0, 1.0, 5.0]
    """
    rows = _classes(y)
    count = (
        int(rows.max()) + 1 if classes is None else integer("classes", classes, 1, MOST_BYTES // 8)
    )
    if rows.max() >= count:
        raise ValueError(f"y: {rows.max()}, expected 0 to {count - 1}")
    if isinstance(weights, str):
        if weights != "balanced":
            expected = "expected 'balanced', a mapping or a sequence"
            raise ValueError(f"weights: {weights!r}, {expected}")
        return balanced_class_weights(rows, count)
    if isinstance(weights, Mapping):
        found = np.ones(count)
        for key, value in weights.items():
            found[integer("weights", key, 0, count - 1)] = _weight(f"weights[{key!r}]", value)
        return found
    values = several("weights", weights, _weight)
    if len(values) != count:
        raise ValueError(f"weights: {len(values)} of them, expected {count}, one for each class")
    return np.array(values, np.float64)


def sample_weights(y: Any, weights: Any = "balanced", *, classes: int | None = None) -> Weights:
    """(N,): what each row counts, for `cross_entropy(sample_weight=...)`: that of its class.

    Arguments as for `class_weights`. Raises TypeError or ValueError.

    >>> sample_weights([0, 0, 0, 1]).round(3).tolist()
    [0.667, 0.667, 0.667, 2.0]
    """
    found: Weights = class_weights(y, weights, classes=classes)[_classes(y)]
    return found


def _classes(y: Any) -> npt.NDArray[np.integer]:
    rows = np.asarray(y)
    if rows.dtype.kind not in "iu" or rows.ndim != 1:
        raise TypeError(f"y: {rows.dtype} of shape {rows.shape}, expected integers (N,)")
    if not rows.size or rows.min() < 0:
        what = shown(int(rows.min())) if rows.size else "no rows"
        raise ValueError(f"y: {what}, expected classes >= 0")
    return rows


def _weight(name: str, value: Any) -> float:
    value = value.item() if isinstance(value, np.generic) else value
    return number(name, value, "a number >= 0", lambda x: x >= 0)


def balanced_class_weights(y: npt.NDArray[np.integer], classes: int) -> Weights:
    """Return weights (C,) that let every class count alike in the loss; their mean over y is 1.

    y: (N,), numbers below `classes`. A class without a row gets 0. As in scikit-learn.
    Source: King & Zeng 2001, "Logistic regression in rare events data".

    >>> balanced_class_weights(np.array([0, 0, 0, 1]), 2).tolist()
    [0.6666666666666666, 2.0]
    """
    counts = np.bincount(y, minlength=classes)
    weights: Weights = len(y) / (classes * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0)
