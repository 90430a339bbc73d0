"""Metrics are scikit-learn's numbers where it has them, and say what is wrong with their input."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from folded import folded
from gradstep.train import metrics

sklearn = pytest.importorskip("sklearn")
theirs = pytest.importorskip("sklearn.metrics")

KINDS: dict[str, Callable[[Any], Any]] = {
    "integers": lambda y: y,
    "far integers": lambda y: y * 10**12 - 10**12,
    "bytes": lambda y: y.astype(np.uint8),
    "floats": lambda y: y.astype(np.float64),
    "texts": lambda y: np.array(["b", "cc", "a", "d"])[y],
    "objects": lambda y: np.array(["b", "cc", "a", "d"], object)[y],
    "large unsigned": lambda y: np.uint64(2**64 - 5) + y.astype(np.uint64),
    "all of a byte": lambda y: np.array([-128, 0, 1, 127], np.int8)[y],
    "far apart": lambda y: np.array([-(2**63), -1, 5, 2**63 - 1])[y],
}
WEIGHTS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "unweighted": lambda rng, n: None,
    "whole": lambda rng, n: rng.integers(0, 4, n),
    "fractions": lambda rng, n: rng.random(n),
}
kinds = folded("kind", KINDS)
weighted = folded("weights", WEIGHTS)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """scikit-learn's checks of what it is given take longer than its answers."""
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        yield


def silent(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """scikit-learn's answer without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **keywords)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def answers(classes: int, kind: str, seed: int = 0, rows: int = 60) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, rows)
    wrong = rng.random(rows) < 0.3
    return KINDS[kind](true), KINDS[kind](np.where(wrong, rng.integers(0, classes, rows), true))


@kinds
@weighted
@folded("average", ["macro", "micro", "weighted", None])
def test_precision_recall_and_f1_of_several_classes(kind: str, weights: str, average: Any) -> None:
    true, pred = answers(4, kind)
    given = {"average": average, "sample_weight": WEIGHTS[weights](np.random.default_rng(1), 60)}
    for ours, name in ((metrics.precision, "precision"), (metrics.recall, "recall")):
        close(ours(true, pred, **given), getattr(theirs, f"{name}_score")(true, pred, **given))
    close(metrics.f1(true, pred, **given), theirs.f1_score(true, pred, **given))


@kinds
@weighted
@folded("positive", [0, 1])
def test_precision_recall_and_f1_of_two_classes(kind: str, weights: str, positive: int) -> None:
    true, pred = answers(2, kind)
    pos_label = KINDS[kind](np.array([0, 1]))[positive]
    weight = WEIGHTS[weights](np.random.default_rng(1), 60)
    for name in ("precision", "recall", "f1"):
        ours, other = getattr(metrics, name), getattr(theirs, f"{name}_score")
        given = {"pos_label": pos_label, "sample_weight": weight}
        close(ours(true, pred, **given), other(true, pred, **given))


@folded("average", ["macro", "micro", "weighted", None])
@folded("labels", [None, [0, 1, 2], [2, 0], [5, 1], [7]])
@folded("zero_division", [0.0, 1.0, math.nan])
@folded("weights", ["unweighted", "fractions"])
def test_labels_and_zero_division(
    average: Any, labels: list[int] | None, zero_division: float, weights: str
) -> None:
    true, pred = np.array([0, 0, 2, 3, 3, 2, 0]), np.array([0, 3, 3, 1, 3, 1, 0])
    weight = WEIGHTS[weights](np.random.default_rng(4), 7)
    given = {"average": average, "zero_division": zero_division, "sample_weight": weight}
    for name in ("precision", "recall", "f1"):
        found = getattr(metrics, name)(true, pred, labels=labels, **given)
        close(found, silent(getattr(theirs, f"{name}_score"), true, pred, labels=labels, **given))


@folded("zero_division", [0.0, 1.0, math.nan])
@folded("rows", [([0, 0], [0, 0]), ([0, 1], [0, 0]), ([0, 0], [0, 1])])
def test_zero_division_of_two_classes(rows: tuple[Any, Any], zero_division: float) -> None:
    for name in ("precision", "recall", "f1"):
        found = getattr(metrics, name)(*rows, zero_division=zero_division)
        other = getattr(theirs, f"{name}_score")
        close(found, silent(other, *rows, zero_division=zero_division))


@kinds
@weighted
@folded("normalize", [None, "true", "pred", "all"])
def test_confusion_matrix(kind: str, weights: str, normalize: Any) -> None:
    true, pred = answers(4, kind)
    given = {"normalize": normalize}
    given["sample_weight"] = WEIGHTS[weights](np.random.default_rng(1), 60)
    for places in (None, [0, 1, 2, 3], [3, 1]):
        given["labels"] = None if places is None else KINDS[kind](np.array(places))
        found, expected = (of.confusion_matrix(true, pred, **given) for of in (metrics, theirs))
        close(found, expected)
        assert found.dtype == expected.dtype


def test_a_class_nobody_was_given_is_a_row_of_zeros() -> None:
    found = metrics.confusion_matrix([0, 0], [1, 1], labels=[0, 1, 2], normalize="pred")
    assert found.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


@kinds
@weighted
def test_accuracy(kind: str, weights: str) -> None:
    true, pred = answers(4, kind)
    weight = WEIGHTS[weights](np.random.default_rng(1), 60)
    expected = theirs.accuracy_score(true, pred, sample_weight=weight)
    close(metrics.accuracy(true, pred, sample_weight=weight), expected)


@kinds
@weighted
@folded("dtype", ["f4", "f8"])
@folded("normalize", [True, False])
def test_log_loss(kind: str, weights: str, dtype: str, normalize: bool) -> None:
    true, _ = answers(4, kind)
    rng = np.random.default_rng(2)
    prob = rng.random((60, 4)).astype(dtype) ** 8
    prob[3] = [0, 1, 0, 0]
    prob /= prob.sum(axis=1, keepdims=True)
    given = {"sample_weight": WEIGHTS[weights](rng, 60), "normalize": normalize}
    tolerance = 1e-5 if dtype == "f4" else 1e-12
    expected = theirs.log_loss(true, prob, **given)
    assert metrics.log_loss(true, prob, **given) == pytest.approx(expected, rel=tolerance)
    true = KINDS[kind](np.arange(60) % 2)
    expected = theirs.log_loss(true, prob[:, 0], **given)
    assert metrics.log_loss(true, prob[:, 0], **given) == pytest.approx(expected, rel=tolerance)


def test_log_loss_with_labels_that_do_not_occur() -> None:
    prob = [[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]
    for true in ([2, 2], [1, 3]):
        expected = silent(theirs.log_loss, true, prob, labels=[3, 1, 2])
        close(metrics.log_loss(true, prob, labels=[3, 1, 2]), expected)


def scored(ties: bool, seed: int = 0, rows: int = 80) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 2, rows)
    score = rng.standard_normal(rows) + true
    return true, score.round(0 if ties else 9)


@kinds
@weighted
@folded("ties", [False, True])
@folded("method", ["area", "pairs"])
def test_auc_in_both_definitions(kind: str, weights: str, ties: bool, method: str) -> None:
    true, score = scored(ties)
    true, weight = KINDS[kind](true), WEIGHTS[weights](np.random.default_rng(1), 80)
    expected = theirs.roc_auc_score(true, score, sample_weight=weight)
    close(metrics.roc_auc(true, score, sample_weight=weight, method=method), expected)
    lowest = KINDS[kind](np.array([0]))[0]
    found = metrics.roc_auc(true, score, sample_weight=weight, method=method, pos_label=lowest)
    close(found, 1 - expected)


@folded("dtype", ["f2", "f4", "f8", "i8", "?"])
def test_auc_is_the_share_of_pairs(dtype: str) -> None:
    true, score = scored(ties=True)
    score = score.astype(dtype)
    pairs = score[true == 1][:, None].astype(float) - score[true == 0].astype(float)
    share = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    for method in ("area", "pairs"):
        close(metrics.roc_auc(true, score, method=method), share)


@folded(("score", "expected"), [([1, 2, 3, 4], 1), ([4, 3, 2, 1], 0), ([5] * 4, 0.5)])
@folded("method", ["area", "pairs"])
def test_auc_at_its_ends(score: list[float], expected: float, method: str) -> None:
    assert metrics.roc_auc([-1, -1, 1, 1], score, method=method) == expected
    infinite = np.where(np.array(score) == 4, np.inf, score)
    assert metrics.roc_auc([-1, -1, 1, 1], infinite, method=method) == expected


def test_whole_weights_too_large_to_multiply_are_no_trouble() -> None:
    true, score = scored(ties=True)
    weight = np.full(80, 2**60) + np.arange(80) * 2**54
    expected = theirs.roc_auc_score(true, score, sample_weight=weight.astype(float))
    for method in ("area", "pairs"):
        weights = weight // 2**10 if method == "area" else weight
        close(metrics.roc_auc(true, score, sample_weight=weights, method=method), expected)
    small = np.full(80, 100, np.int8)
    expected = theirs.roc_auc_score(true, score)
    close(metrics.roc_auc(true, score, sample_weight=small, method="pairs"), expected)


@folded(
    ("kind", "method"),
    [*((kind, "area") for kind in KINDS), ("integers", "pairs"), ("texts", "pairs")],
)
@folded(
    ("multi_class", "average", "weights"),
    [
        *(("ovr", average, w) for average in ("macro", "micro", "weighted", None) for w in WEIGHTS),
        ("ovo", "macro", "unweighted"),
        ("ovo", "weighted", "unweighted"),
    ],
)
def test_auc_of_several_classes(
    kind: str, method: str, multi_class: str, average: Any, weights: str
) -> None:
    true, _ = answers(4, kind)
    rng = np.random.default_rng(2)
    prob = rng.random((60, 4)).round(1) + 0.1
    prob /= prob.sum(axis=1, keepdims=True)
    given = {"multi_class": multi_class, "average": average}
    given["sample_weight"] = WEIGHTS[weights](rng, 60)
    expected = theirs.roc_auc_score(true, prob, **given)
    close(metrics.roc_auc(true, prob, method=method, **given), expected)


@weighted
@folded("ties", [False, True])
@folded("drop", [False, True])
@folded("rows", [2, 3, 4, 80])
def test_roc_curve(weights: str, ties: bool, drop: bool, rows: int) -> None:
    true, score = scored(ties, rows=rows)
    true[:2] = 0, 1
    weight = WEIGHTS[weights](np.random.default_rng(1), rows)
    if weight is not None:
        weight[:2] = 1
    given = {"sample_weight": weight, "drop_intermediate": drop}
    pairs = zip(
        metrics.roc_curve(true, score, **given), theirs.roc_curve(true, score, **given), strict=True
    )
    for found, expected in pairs:
        close(found, expected)


@weighted
@folded("mean", ["impressions", "clicks", "equal"])
@folded("ids", ["integers", "far integers", "texts"])
@folded("ties", [False, True])
def test_group_auc_is_the_mean_over_users(weights: str, mean: str, ids: str, ties: bool) -> None:
    true, score, user, weight, aucs, of = of_users(weights, ties)
    out = [one for one in np.unique(user).tolist() if one not in aucs]
    name = {"integers": lambda u: u, "far integers": lambda u: u * 10**9, "texts": str}[ids]
    order = sorted(aucs, key=name)
    assert 0 < len(out) < 60
    named = np.array([name(one) for one in user.tolist()])
    found = metrics.group_auc(true, score, named, weights=mean, sample_weight=weight)
    assert found.groups.tolist() == [name(one) for one in order]
    assert found.left_out.tolist() == sorted(map(name, out))
    expected, share = [aucs[one] for one in order], [of[mean][one] for one in order]
    np.testing.assert_allclose(found.aucs, expected, rtol=1e-11)
    np.testing.assert_allclose(found.weights, share, rtol=1e-11)
    assert found.auc == pytest.approx(np.average(expected, weights=share), rel=1e-11)


@cache
def of_users(weights: str, ties: bool) -> Any:
    """Labels, scores, users, weights, scikit-learn's AUC of each user, and what users count."""
    rng = np.random.default_rng(1)
    true, score = scored(ties, rows=400)
    user = rng.integers(0, 60, 400)
    weight = WEIGHTS[weights](rng, 400)
    w = np.ones(400) if weight is None else weight
    aucs: dict[int, float] = {}
    of: dict[str, dict[int, float]] = {"impressions": {}, "clicks": {}, "equal": {}}
    for one in np.unique(user).tolist():
        rows = user == one
        clicks, others = w[rows & (true == 1)].sum(), w[rows & (true == 0)].sum()
        if clicks and others:
            aucs[one] = theirs.roc_auc_score(true[rows], score[rows], sample_weight=w[rows])
            of["impressions"][one], of["clicks"][one] = w[rows].sum(), clicks
            of["equal"][one] = 1
    return true, score, user, weight, aucs, of


def test_auc_and_group_auc_may_disagree() -> None:
    """Users that click much have higher scores: a score that says who it is, not what he likes."""
    user = np.repeat(np.arange(4), 6)
    true = (np.arange(24) % 6 < np.array([1, 2, 4, 5])[user]).astype(int)
    assert metrics.roc_auc(true, user.astype(float)) > 0.7
    assert metrics.group_auc(true, user.astype(float), user).auc == 0.5


def test_many_users_without_a_loop() -> None:
    rng = np.random.default_rng(0)
    user, true = rng.integers(0, 40_000, 200_000), rng.integers(0, 2, 200_000)
    score = rng.random(200_000, dtype=np.float32)
    found = metrics.group_auc(true, score, user)
    assert abs(found.auc - 0.5) < 0.01
    assert len(found.groups) + len(found.left_out) == len(np.unique(user))


def test_pandas_columns_are_taken() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"y": ["a", "b", "b"], "p": ["a", "b", "a"], "s": [0.1, 0.9, 0.2]})
    assert metrics.accuracy(frame.y, frame.p) == pytest.approx(2 / 3)
    assert metrics.roc_auc(frame.y, frame.s) == 1
    assert metrics.f1(frame.y.astype("category"), frame.p, pos_label="b") == pytest.approx(2 / 3)


T, S = [0, 1, 1], [0.1, 0.2, 0.3]
P = [[0.5, 0.5], [0.1, 0.9], [0.3, 0.7]]
P3 = [[0.2, 0.3, 0.5]] * 3
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: metrics.accuracy([0, 1], [0]), ValueError, "y_pred: 1 rows, expected 2 as in y_true"),
    (lambda: metrics.accuracy([], []), ValueError, "y_true: empty, expected at least one row"),
    (lambda: metrics.accuracy([[0]], [0]), ValueError, "y_true: shape (1, 1), expected (N,)"),
    (lambda: metrics.accuracy([0.5], [0]), ValueError, "y_true: 0.5 in row 0, expected labels"),
    (
        lambda: metrics.accuracy([0, math.nan], T),
        ValueError,
        "y_true: nan in row 1, expected labels",
    ),
    (
        lambda: metrics.accuracy([1j], [0]),
        TypeError,
        "y_true: complex128, expected integers, truth",
    ),
    (lambda: metrics.accuracy(["a"], [0]), TypeError, "y_pred: labels of <U1 and int64, expected"),
    (
        lambda: metrics.accuracy(np.array(["a", None, 3], object), T),
        TypeError,
        "y_true: objects of NoneType, int, str, expected labels of one kind",
    ),
    (
        lambda: metrics.accuracy(T, T, sample_weight=[1, 2]),
        ValueError,
        "sample_weight: shape (2,), expected (3,), one for each row",
    ),
    (
        lambda: metrics.accuracy(T, T, sample_weight=[1, -2, 1]),
        ValueError,
        "sample_weight: -2 in row 1, expected finite numbers >= 0",
    ),
    (
        lambda: metrics.accuracy(T, T, sample_weight=[0, 0, 0]),
        ValueError,
        "sample_weight: all 0, expected a row that counts",
    ),
    (
        lambda: metrics.accuracy(T, T, sample_weight=["a"] * 3),
        TypeError,
        "sample_weight: <U1, expected numbers",
    ),
    (
        lambda: metrics.precision([0, 1, 2], [0, 1, 2]),
        ValueError,
        "average: 'binary' with 3 classes, expected 'macro', 'micro', 'weighted' or None",
    ),
    (
        lambda: metrics.recall(T, T, average="samples"),
        ValueError,
        "average: 'samples', expected 'binary', 'macro', 'micro' or 'weighted'",
    ),
    (lambda: metrics.f1(T, T, pos_label=7), ValueError, "pos_label: 7, expected 0 or 1"),
    (lambda: metrics.f1(T, T, zero_division="warn"), TypeError, "zero_division: str, expected a"),
    (
        lambda: metrics.confusion_matrix(T, T, labels=[7]),
        ValueError,
        "labels: [7], expected one of y_true",
    ),
    (
        lambda: metrics.confusion_matrix(T, T, labels=[1, 1]),
        ValueError,
        "labels: [1, 1], expected each once",
    ),
    (
        lambda: metrics.confusion_matrix(T, T, normalize="rows"),
        ValueError,
        "normalize: 'rows', expected 'true', 'pred' or 'all'",
    ),
    (
        lambda: metrics.log_loss(T, [0.1, 1.5, 0.3]),
        ValueError,
        "y_prob: [-0.5, 1.5] in row 1, expected 0 to 1",
    ),
    (
        lambda: metrics.log_loss(T, [[0.5, 0.4]] * 3),
        ValueError,
        "y_prob: a sum of 0.9 in row 0, expected 1",
    ),
    (
        lambda: metrics.log_loss(T, P3),
        ValueError,
        "y_prob: 3 columns and 2 classes, expected one for each of at least two; see labels",
    ),
    (
        lambda: metrics.log_loss([1, 1, 1], S),
        ValueError,
        "y_prob: 2 columns and 1 classes, expected one for each of at least two; see labels",
    ),
    (
        lambda: metrics.log_loss(T, P3, labels=[1, 2, 3]),
        ValueError,
        "labels: no 0, expected all labels of y_true",
    ),
    (lambda: metrics.roc_auc([1, 1, 1], S), ValueError, "y_true: one class (1), expected two"),
    (lambda: metrics.roc_auc([0, 1, 2], S), ValueError, "y_true: 3 classes, expected two"),
    (lambda: metrics.roc_auc(T, [0, math.nan, 1]), ValueError, "y_score: nan in row 1, expected"),
    (lambda: metrics.roc_auc(T, ["a"] * 3), TypeError, "y_score: <U1, expected numbers"),
    (lambda: metrics.roc_auc(T, [{}, 1, 2]), TypeError, "y_score: object, expected numbers"),
    (lambda: metrics.roc_auc(T, S[:2]), ValueError, "y_score: 2 rows, expected 3 as in y_true"),
    (
        lambda: metrics.roc_auc(T, P),
        ValueError,
        "y_score: shape (3, 2), expected (N,), or multi_class='ovr' or 'ovo'",
    ),
    (
        lambda: metrics.roc_auc(T, S, method="rank"),
        ValueError,
        "method: 'rank', expected 'area' or",
    ),
    (
        lambda: metrics.roc_auc(T, S, sample_weight=[0, 1, 1]),
        ValueError,
        "y_true: no negative row with a weight, expected both classes",
    ),
    (
        lambda: metrics.roc_auc([0, 1, 1], P3, multi_class="ovr", labels=[0, 1, 2]),
        ValueError,
        "y_true: class 2: no positive row with a weight, expected both classes",
    ),
    (
        lambda: metrics.roc_auc([0, 1, 2], P3, multi_class="ovo", average="micro"),
        ValueError,
        "average: 'micro', expected 'macro' or 'weighted'",
    ),
    (
        lambda: metrics.roc_auc([0, 1, 2], P3, multi_class="ovo", sample_weight=[1, 1, 1]),
        ValueError,
        "sample_weight: with multi_class='ovo', expected None",
    ),
    (
        lambda: metrics.roc_auc([0, 1, 2], P, multi_class="ovr"),
        ValueError,
        "y_score: 2 columns, expected 3, one a class",
    ),
    (
        lambda: metrics.group_auc(T, S, [0, 1]),
        ValueError,
        "groups: 2 rows, expected 3 as in y_true",
    ),
    (
        lambda: metrics.group_auc(T, S, [0, 1, 1]),
        ValueError,
        "groups: each of one class, expected one with both",
    ),
    (
        lambda: metrics.group_auc(T, S, [0, 0, 0], weights="rows"),
        ValueError,
        "weights: 'rows', expected 'impressions', 'clicks' or 'equal'",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_wrong_input_is_named(call: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_metrics_need_numpy_alone(python: Callable[..., str]) -> None:
    code = """
import sys
sys.modules["sklearn"] = sys.modules["scipy"] = sys.modules["pandas"] = None
from gradstep.train import metrics
print(metrics.roc_auc([0, 1], [0.1, 0.2]), metrics.f1([0, 1], [0, 1]))
"""
    assert python(code) == "1.0 1.0"
