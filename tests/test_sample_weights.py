"""What rows count in cross-entropy: as often as their weight says, and not at all for 0."""

from __future__ import annotations

import math
from typing import Any

import gradstep as gs
import numpy as np
import pytest


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_weight_counts_a_row_as_often(dtype: Any, reduction: str, smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((6, 4)).astype(dtype), rng.integers(0, 4, 6)
    times = np.array([1, 0, 3, 2, 1, 1])
    given: Any = {"reduction": reduction, "weight": np.array([1, 2, 0.5, 1], dtype)}
    given["label_smoothing"] = smoothing
    loss, d = gs.cross_entropy(logits, targets, sample_weight=times, **given)
    often = np.repeat(np.arange(6), times)
    expected, each = gs.cross_entropy(logits[often], targets[often], **given)
    assert loss == pytest.approx(expected, rel=1e-6)
    summed = np.zeros_like(logits)
    np.add.at(summed, often, each)
    np.testing.assert_allclose(d, summed, rtol=1e-5, atol=1e-7)


def test_no_row_that_counts() -> None:
    targets = np.array([-100, -100, 1])
    loss, d = gs.cross_entropy(np.ones((3, 4)), targets, sample_weight=np.array([1, 2, 0]))
    assert math.isnan(loss) and (d == 0).all()


def test_a_row_that_does_not_count_may_hold_anything() -> None:
    logits = np.array([[1.0, 2.0], [np.nan, 0.0], [np.inf, 1.0]])
    targets, out = np.array([0, 1, 0]), np.full((3, 2), 7.0)
    loss, d = gs.cross_entropy(logits, targets, sample_weight=np.array([2, 0, 0]), out=out)
    alone, of_row = gs.cross_entropy(logits[:1], targets[:1])
    assert d is out
    assert loss == alone and (d[0] == of_row[0]).all() and (d[1:] == 0).all()


def test_a_loss_that_is_not_finite_shows() -> None:
    logits, targets = np.array([[1.0, 2.0], [np.nan, 0.0]]), np.array([0, 1])
    assert math.isnan(gs.cross_entropy(logits, targets, sample_weight=np.ones(2))[0])


@pytest.mark.parametrize(
    ("weights", "kind", "message"),
    [
        ([1, 2], TypeError, "sample_weight: list, expected a numpy.ndarray"),
        (np.ma.ones(2), TypeError, "sample_weight: MaskedArray, expected a numpy.ndarray"),
        (np.array(["a", "b"]), TypeError, "sample_weight: dtype <U1, expected numbers"),
        (np.ones(3), ValueError, "sample_weight: shape (3,), expected (2,)"),
        (-np.ones(2), ValueError, "sample_weight: negative or not finite, expected numbers >= 0"),
        (np.array([1, np.nan]), ValueError, "sample_weight: negative or not finite, expected num"),
    ],
)
def test_wrong_weights_are_named(weights: Any, kind: type[Exception], message: str) -> None:
    out = np.full((2, 3), 7.0)
    with pytest.raises(kind) as caught:
        gs.cross_entropy(np.ones((2, 3)), np.array([0, 2]), sample_weight=weights, out=out)
    assert str(caught.value).startswith(message)
    assert (out == 7).all()
