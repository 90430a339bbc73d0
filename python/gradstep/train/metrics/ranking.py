"""How well scores put positive rows above negative ones, over all rows and within groups."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradstep.arguments import choice, flag, shown
from gradstep.train.metrics.inputs import (
    as_labels,
    as_scores,
    as_weights,
    binary,
    numbered,
    numbered_among,
    same_length,
)

__all__ = ["GroupAUC", "group_auc", "roc_auc", "roc_curve"]

Bools = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]


# Twice the product of two sums up to this fits int64.
LARGEST_SUM = 2.0**31


class GroupAUC(NamedTuple):
    """The AUC within groups.

    auc: the weighted mean over `groups`, (G,), whose own are `aucs` with `weights`. left_out: the
    groups of one class, which have none.
    """

    auc: float
    groups: Array
    aucs: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    left_out: Array


def roc_auc(
    y_true: Any,
    y_score: Any,
    *,
    sample_weight: Any = None,
    method: str = "area",
    pos_label: Any = None,
    multi_class: str | None = None,
    average: str | None = "macro",
    labels: Any = None,
) -> Any:
    """The area under the ROC curve: how likely a positive row has a higher score than a negative.

    y_true: labels (N,) of two classes, the larger or `pos_label` positive. y_score: numbers (N,),
    of which only the order counts. sample_weight: (N,), >= 0. method: both definitions, equal but
    for rounding: "area", the trapezoids under the curve of true over false positives; "pairs", the
    share of pairs in the right order, where equal scores count one half.

    With more classes y_score is (N, C), probabilities, its columns in the order of the sorted
    `labels`; multi_class: "ovr", each class against the rest, with average "macro", "weighted",
    "micro" or None, or "ovo", each against each other, with "macro" or "weighted" and no weights.
    Raises TypeError or ValueError. Sources: Hanley & McNeil 1982; Hand & Till 2001 for "ovo".

    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8], method="pairs")
    0.875
    """
    choice("method", method, ["area", "pairs"])
    if average is not None:
        choice("average", average, ["macro", "weighted", "micro"])
    if labels is not None:
        labels = as_labels("labels", labels)
    score = as_scores("y_score", y_score, (1, 2))
    if score.ndim == 2 and multi_class is None:
        expected = "expected (N,), or multi_class='ovr' or 'ovo'"
        raise ValueError(f"y_score: shape {score.shape}, {expected}")
    if multi_class is not None:
        return _of_classes(y_true, score, sample_weight, method, multi_class, average, labels)
    positive = binary("y_true", y_true, pos_label)
    same_length("y_score", score, "y_true", len(positive))
    return _auc(positive, score, as_weights("sample_weight", sample_weight, len(score)), method)


def _auc(
    positive: Bools, score: Array, weight: Array | None, method: str, of: str = "y_true"
) -> float:
    for rows, kind in ((positive, "positive"), (~positive, "negative")):
        if not (rows if weight is None else weight[rows]).any():
            raise ValueError(f"{of}: no {kind} row with a weight, expected both classes")
    if method == "pairs":
        (won,), (of_positive,), (of_negative,) = _pairs(None, positive, score, weight)
        return float(won / (2 * of_positive * of_negative))
    false, true, _ = _curve(positive, score, weight)
    return float(np.trapezoid(true / true[-1], false / false[-1]))


def _pairs(
    group: npt.NDArray[np.intp] | None, positive: Bools, score: Array, weight: Array | None
) -> tuple[Array, Array, Array]:
    """(G,) each: twice the weight of pairs in order, ties once; of positive, of negative rows.

    group: the number of each row's group, all of 0 ... G - 1; None for a single one. Exact in
    integers without weights or with whole ones.
    """
    order = np.argsort(score)
    if group is not None:
        order = order[np.argsort(group[order], kind="stable")]
    score, positive = score[order], positive[order]
    weight = np.ones(len(score), np.int64) if weight is None else weight[order]
    if float(weight.sum(dtype=np.float64)) > LARGEST_SUM:
        weight = weight.astype(np.float64)
    new = np.ones(len(score), np.bool_)  # rows with which equal scores begin
    new[1:] = score[1:] != score[:-1]
    first = np.zeros(1, np.intp)  # of each group, in runs of equal scores
    if group is not None:
        begins = np.diff(group[order], prepend=-1) > 0
        new |= begins
        first = np.flatnonzero(begins[new])
    runs = np.flatnonzero(new)
    ups = np.add.reduceat(np.where(positive, weight, 0), runs)
    downs = np.add.reduceat(np.where(positive, 0, weight), runs)
    below = np.cumsum(downs) - downs
    below -= np.repeat(below[first], np.diff(first, append=len(runs)))
    won = np.add.reduceat(ups * (2 * below + downs), first)
    return won, np.add.reduceat(ups, first), np.add.reduceat(downs, first)


def _curve(positive: Bools, score: Array, weight: Array | None) -> tuple[Array, Array, Array]:
    """False positives, true positives and thresholds, from the highest score down, from (0, 0)."""
    order = np.argsort(score)[::-1]
    if weight is not None:
        order = order[weight[order] > 0]
    score, positive = score[order], positive[order]
    last = np.append(np.flatnonzero(score[1:] != score[:-1]), len(score) - 1)
    if weight is None:
        true = np.cumsum(positive)[last]
        false = 1 + last - true
    else:
        weight = weight[order]
        true = np.cumsum(np.where(positive, weight, 0))[last]
        false = np.cumsum(np.where(positive, 0, weight))[last]
    thresholds = np.concatenate([[np.inf], score[last].astype(np.float64)])
    return np.concatenate([[0], false]), np.concatenate([[0], true]), thresholds


def roc_curve(
    y_true: Any,
    y_score: Any,
    *,
    sample_weight: Any = None,
    pos_label: Any = None,
    drop_intermediate: bool = True,
) -> tuple[Array, Array, Array]:
    """(false positive rates, true positive rates, thresholds), from the highest threshold down.

    Arguments as for `roc_auc`. A row counts as positive from its threshold up; the first is
    infinite. drop_intermediate: leave out points on a straight line.
    Raises TypeError or ValueError. Source: Fawcett 2006, "An introduction to ROC analysis".

    >>> false, true, thresholds = roc_curve([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    >>> false.tolist(), true.tolist()
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    positive = binary("y_true", y_true, pos_label)
    score = as_scores("y_score", y_score)
    same_length("y_score", score, "y_true", len(positive))
    weight = as_weights("sample_weight", sample_weight, len(score))
    false, true, thresholds = _curve(positive, score, weight)
    if not (false[-1] and true[-1]):
        raise ValueError("sample_weight: 0 for a whole class, expected rows of both that count")
    if flag("drop_intermediate", drop_intermediate) and len(false) > 3:
        bends = (np.diff(false[1:], 2) != 0) | (np.diff(true[1:], 2) != 0)
        kept = np.concatenate([[True, True], bends, [True]])
        false, true, thresholds = false[kept], true[kept], thresholds[kept]
    return false / false[-1], true / true[-1], thresholds


def _of_classes(
    y_true: Any,
    score: Array,
    sample_weight: Any,
    method: str,
    multi_class: str,
    average: str | None,
    labels: Any,
) -> Any:
    ovr = choice("multi_class", multi_class, ["ovr", "ovo"]) == "ovr"
    if average is not None or not ovr:
        allowed = ["macro", "weighted", "micro"] if ovr else ["macro", "weighted"]
        choice("average", average, allowed)
    if score.ndim != 2:
        raise ValueError(f"y_score: shape {score.shape}, expected (N, C) with multi_class")
    classes, codes = numbered_among(y_true, labels)
    same_length("y_score", score, "y_true", len(codes))
    if score.shape[1] != len(classes):
        raise ValueError(f"y_score: {score.shape[1]} columns, expected {len(classes)}, one a class")
    weight = as_weights("sample_weight", sample_weight, len(codes))
    of = [f"y_true: class {shown(label)}" for label in classes.tolist()]
    if not ovr:
        if weight is not None:
            raise ValueError("sample_weight: with multi_class='ovo', expected None")
        return _one_against_one(codes, score, method, average, of)
    hot = codes[:, None] == np.arange(len(classes))
    if average == "micro":
        repeated = None if weight is None else np.repeat(weight, len(classes))
        return _auc(hot.ravel(), score.ravel(), repeated, method)
    found = [_auc(hot[:, c], score[:, c], weight, method, of[c]) for c in range(len(classes))]
    if average is None:
        return np.array(found)
    rows = np.bincount(codes, weight, len(classes)) if average == "weighted" else None
    return float(np.average(found, weights=rows))


def _one_against_one(
    codes: npt.NDArray[np.intp], score: Array, method: str, average: str | None, of: list[str]
) -> float:
    found: list[float] = []
    shares: list[float] = []
    for a, b in combinations(range(score.shape[1]), 2):
        rows = (codes == a) | (codes == b)
        first = codes[rows] == a
        pair = [_auc(first, score[rows, a], None, method, of[a])]
        pair.append(_auc(~first, score[rows, b], None, method, of[b]))
        found.append(sum(pair) / 2)
        shares.append(float(rows.mean()))
    return float(np.average(found, weights=shares if average == "weighted" else None))


def group_auc(
    y_true: Any,
    y_score: Any,
    groups: Any,
    *,
    weights: str = "impressions",
    sample_weight: Any = None,
    pos_label: Any = None,
) -> GroupAUC:
    """The mean of the AUC within each group, such as the rows of one user.

    y_true, y_score, sample_weight, pos_label: as for `roc_auc`. groups: labels (N,). weights: of a
    group in the mean: "impressions", its rows; "clicks", its positive rows; "equal". Groups of one
    class are left out and returned. Exact counts without weights; no loop over groups.
    Raises TypeError or ValueError. Source: Zhu et al. 2017 (arXiv:1703.02091); Zhou et al. 2018
    (arXiv:1706.06978), section 6.2.

    >>> found = group_auc([1, 0, 1, 0, 1], [0.9, 0.1, 0.2, 0.3, 0.5], ["a", "a", "b", "b", "c"])
    >>> found.auc, found.aucs.tolist(), found.left_out.tolist()
    (0.5, [1.0, 0.0], ['c'])
    """
    choice("weights", weights, ["impressions", "clicks", "equal"])
    positive = binary("y_true", y_true, pos_label)
    score = as_scores("y_score", y_score)
    same_length("y_score", score, "y_true", len(positive))
    names, codes = numbered(as_labels("groups", groups))
    same_length("groups", codes, "y_true", len(positive))
    weight = as_weights("sample_weight", sample_weight, len(positive))
    won, ups, downs = _pairs(codes, positive, score, weight)
    both = (ups > 0) & (downs > 0)
    if not both.any():
        raise ValueError("groups: each of one class, expected one with both")
    of = {"impressions": ups + downs, "clicks": ups, "equal": np.ones(len(names))}[weights][both]
    aucs = won[both] / (2.0 * ups[both] * downs[both])
    mean = float(np.average(aucs, weights=of))
    return GroupAUC(mean, names[both], aucs, of.astype(np.float64), names[~both])
