"""How many predicted classes are right, in the ways that people count."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.arguments import choice, flag, real, shown
from gradstep.train.metrics.inputs import (
    as_label,
    as_labels,
    as_scores,
    as_weights,
    encoded,
    numbered_among,
    same_length,
)

__all__ = ["accuracy", "confusion_matrix", "f1", "log_loss", "precision", "recall"]

AVERAGES = ("binary", "macro", "micro", "weighted")


def accuracy(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """The share of rows whose predicted label is the true one.

    y_true, y_pred: labels (N,), integers, truth values or texts. sample_weight: (N,), >= 0.
    Raises TypeError or ValueError.

    >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
    0.75
    """
    _, true, pred = encoded(y_true, y_pred)
    return float(
        np.average(true == pred, weights=as_weights("sample_weight", sample_weight, len(true)))
    )


def confusion_matrix(
    y_true: Any,
    y_pred: Any,
    *,
    labels: Any = None,
    sample_weight: Any = None,
    normalize: str | None = None,
) -> npt.NDArray[Any]:
    """(C, C): how many rows of each true class, down, were given each class, across.

    y_true, y_pred: labels (N,). labels: the classes and their order, all that occur unless given;
    rows with others do not count. sample_weight: (N,), >= 0. normalize: "true", "pred" or "all" to
    divide by the sum of a row, of a column, or of everything; 0 where that is 0.
    Returns int64, or float64 with fractions. Raises TypeError or ValueError.

    >>> confusion_matrix(["cat", "dog", "cat"], ["cat", "cat", "cat"])
    array([[2, 0],
           [1, 0]])
    """
    classes, true, pred = encoded(y_true, y_pred, labels)
    weights = as_weights("sample_weight", sample_weight, len(true))
    size = len(classes)
    if labels is not None:
        number = np.full(size, -1, np.intp)
        places = _places(classes, labels)
        size = len(places)
        number[places] = np.arange(size)
        true, pred = number[true], number[pred]
        if (true < 0).all():
            raise ValueError(
                f"labels: {shown(np.asarray(labels).tolist())}, expected one of y_true"
            )
        inside = (true >= 0) & (pred >= 0)
        true, pred = true[inside], pred[inside]
        weights = None if weights is None else weights[inside]
    cells = true * size + pred
    counts: Any = np.bincount(cells, weights, size * size).reshape(size, size)
    if weights is not None and weights.dtype.kind in "iu":
        counts = counts.astype(np.int64)
    if normalize is None:
        return np.asarray(counts)
    along = {"true": 1, "pred": 0, "all": None}[
        choice("normalize", normalize, ["true", "pred", "all"])
    ]
    return _ratio(counts, counts.sum(axis=along, keepdims=True), 0.0)


def _places(classes: npt.NDArray[Any], labels: Any) -> npt.NDArray[np.intp]:
    return np.searchsorted(classes, as_labels("labels", labels))


def precision(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "binary",
    pos_label: Any = 1,
    labels: Any = None,
    sample_weight: Any = None,
    zero_division: float = 0.0,
) -> Any:
    """Of the rows that were given a class, the share that are of it.

    y_true, y_pred: labels (N,). average: "binary", that of `pos_label` among two classes; "macro",
    the mean over classes; "weighted", by their rows; "micro", counted over all classes; None, an
    array (C,). labels: the classes and their order, all that occur unless given. sample_weight:
    (N,), >= 0. zero_division: what 0 / 0 is, a number or NaN, which takes no part in a mean.
    Raises TypeError or ValueError. Source: van Rijsbergen 1979, "Information Retrieval", chapter 7.

    >>> precision([0, 1, 1, 1], [1, 1, 1, 0])
    0.6666666666666666
    """
    counts = _counts(y_true, y_pred, average, pos_label, labels, sample_weight)
    right, given, _ = counts
    return _averaged(_ratio(right, given, zero_division), counts, average)


def recall(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "binary",
    pos_label: Any = 1,
    labels: Any = None,
    sample_weight: Any = None,
    zero_division: float = 0.0,
) -> Any:
    """Of the rows of a class, the share that were given it; arguments as for `precision`.

    Raises TypeError or ValueError. Source: van Rijsbergen 1979, "Information Retrieval", chapter 7.

    >>> recall([0, 1, 1, 1, 1], [1, 1, 1, 0, 1])
    0.75
    """
    counts = _counts(y_true, y_pred, average, pos_label, labels, sample_weight)
    right, _, there = counts
    return _averaged(_ratio(right, there, zero_division), counts, average)


def f1(
    y_true: Any,
    y_pred: Any,
    *,
    average: str | None = "binary",
    pos_label: Any = 1,
    labels: Any = None,
    sample_weight: Any = None,
    zero_division: float = 0.0,
) -> Any:
    """The harmonic mean of precision and recall, of each class; arguments as for `precision`.

    Raises TypeError or ValueError. Source: van Rijsbergen 1979, "Information Retrieval", chapter 7.

    >>> f1([0, 1, 2, 2], [0, 2, 2, 2], average=None)
    array([1. , 0. , 0.8])
    """
    counts = _counts(y_true, y_pred, average, pos_label, labels, sample_weight)
    right, given, there = counts
    return _averaged(_ratio(2.0 * right, given + there, zero_division), counts, average)


Counts = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


def _counts(
    y_true: Any, y_pred: Any, average: str | None, pos_label: Any, labels: Any, sample_weight: Any
) -> Counts:
    """(C,) each: rows that were rightly given a class, were given it, are of it."""
    if average is not None:
        choice("average", average, AVERAGES)
    if labels is not None:
        labels = as_labels("labels", labels)
    classes, true, pred = encoded(y_true, y_pred, None if average == "binary" else labels)
    weights = as_weights("sample_weight", sample_weight, len(true))
    hits = true == pred
    right = np.bincount(true[hits], None if weights is None else weights[hits], len(classes))
    given, there = (np.bincount(codes, weights, len(classes)) for codes in (pred, true))
    counts = right, given, there
    if average == "binary":
        return _of_one(counts, classes, pos_label)
    if labels is not None:
        places = _places(classes, labels)
        counts = right[places], given[places], there[places]
    if average == "micro":
        counts = tuple(each.sum(keepdims=True) for each in counts)
    return counts


def _of_one(counts: Counts, classes: npt.NDArray[Any], pos_label: Any) -> Counts:
    known = classes.tolist()
    pos_label = as_label("pos_label", pos_label)
    if len(known) > 2:
        expected = "expected 'macro', 'micro', 'weighted' or None"
        raise ValueError(f"average: 'binary' with {len(known)} classes, {expected}")
    if pos_label in known:
        place = known.index(pos_label)
        right, given, there = (each[place : place + 1] for each in counts)
        return right, given, there
    if len(known) == 2:
        raise ValueError(f"pos_label: {shown(pos_label)}, expected {known[0]!r} or {known[1]!r}")
    return np.zeros(1), np.zeros(1), np.zeros(1)


def _ratio(part: npt.NDArray[Any], of: npt.NDArray[Any], zero_division: float) -> npt.NDArray[Any]:
    undefined = np.full(part.shape, real("zero_division", zero_division))
    ratio: npt.NDArray[Any] = np.divide(part, of, out=undefined, where=of > 0)
    return ratio


def _averaged(values: npt.NDArray[Any], counts: Counts, average: str | None) -> Any:
    if average is None:
        return values
    defined = ~np.isnan(values)
    if not defined.any():
        return float("nan")
    weights = counts[2][defined] if average == "weighted" else None
    if weights is not None and not weights.sum():
        weights = None
    return float(np.average(values[defined], weights=weights))


def log_loss(
    y_true: Any,
    y_prob: Any,
    *,
    labels: Any = None,
    sample_weight: Any = None,
    normalize: bool = True,
) -> float:
    """The mean of -log(probability that was given to the true class).

    y_true: labels (N,). y_prob: (N, C), the columns in the order of the sorted labels, or (N,), the
    probability of the larger of two; kept off 0 and 1 by the rounding of its dtype. labels: all
    classes, where y_true lacks some. sample_weight: (N,), >= 0. normalize: False for the sum.
    Raises TypeError, or ValueError for what are no probabilities. Source: Good 1952, "Rational
    decisions".

    >>> round(log_loss(["b", "a"], [[0.1, 0.9], [0.8, 0.2]]), 4)
    0.1643
    """
    classes, codes = numbered_among(y_true, labels)
    prob = as_scores("y_prob", y_prob, (1, 2))
    same_length("y_prob", prob, "y_true", len(codes))
    weights = as_weights("sample_weight", sample_weight, len(codes))
    if prob.ndim == 1 or prob.shape[1] == 1:
        prob = np.stack([1 - prob.ravel(), prob.ravel()], axis=1)
    if prob.shape[1] != len(classes) or len(classes) < 2:
        what = f"y_prob: {prob.shape[1]} columns and {len(classes)} classes"
        raise ValueError(f"{what}, expected one for each of at least two; see labels")
    eps = np.finfo(prob.dtype).eps
    _check_probabilities(prob, float(np.sqrt(eps)))
    chosen = np.clip(prob[np.arange(len(codes)), codes], eps, 1 - eps)
    losses = -np.log(chosen.astype(np.float64))
    if flag("normalize", normalize):
        return float(np.average(losses, weights=weights))
    return float(losses.sum() if weights is None else losses @ weights)


def _check_probabilities(prob: npt.NDArray[Any], tolerance: float) -> None:
    outside = ((prob < 0) | (prob > 1)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(f"y_prob: {shown(prob[row].tolist())} in row {row}, expected 0 to 1")
    off = np.abs(prob.sum(axis=1) - 1) > tolerance
    if off.any():
        row = int(np.argmax(off))
        raise ValueError(f"y_prob: a sum of {prob[row].sum():.6g} in row {row}, expected 1")
