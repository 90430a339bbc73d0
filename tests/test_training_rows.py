"""Which rows train and validate, in which batches, and what they count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gradstep.train import MiniBatches, class_weights, k_fold, sample_weights, validation_split


def test_mini_batches_take_every_row_once_in_a_new_order() -> None:
    x, y = np.arange(20).reshape(10, 2), np.arange(10)
    minibatches = MiniBatches(x, y, size=3, seed=4)
    epochs = []
    for epoch in range(3):
        assert (minibatches.epoch, len(minibatches)) == (epoch, 4)
        parts = [(a.copy(), b.copy()) for a, b in minibatches]
        assert [len(b) for _, b in parts] == [3, 3, 3, 1]
        assert all((a == x[b]).all() for a, b in parts)
        epochs.append(np.concatenate([b for _, b in parts]).tolist())
    assert all(sorted(rows) == list(range(10)) for rows in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = MiniBatches(x, y, size=3, seed=4)
    assert np.concatenate([b.copy() for _, b in again]).tolist() == epochs[0]
    other = MiniBatches(x, y, size=3, seed=5)
    assert np.concatenate([b.copy() for _, b in other]).tolist() != epochs[0]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"size": 1}, [1] * 7),
        ({"size": None}, [7]),
        ({"size": 9}, [7]),
        ({"size": 9, "drop_last": True}, []),
        ({"size": 7, "drop_last": True}, [7]),
        ({"size": None, "drop_last": True}, [7]),
        ({"size": 3}, [3, 3, 1]),
        ({"size": 3, "drop_last": True}, [3, 3]),
        ({"size": 3, "smallest": 2}, [3, 4]),
        ({"size": 2, "shuffle": False}, [2, 2, 2, 1]),
        ({"size": 2, "shuffle": False, "drop_last": True}, [2, 2, 2]),
    ],
)
def test_sizes_of_batches(options: dict[str, Any], sizes: list[int]) -> None:
    minibatches = MiniBatches(np.arange(7), **options)
    found = [batch.tolist() for batch in minibatches]
    assert [len(batch) for batch in found] == sizes
    assert len(minibatches) == len(sizes)
    if not options.get("shuffle", True):
        assert [row for batch in found for row in batch] == list(range(sum(sizes)))


@pytest.mark.parametrize("rows", [10, np.zeros((10, 3)), list(range(10))])
def test_validation_split_parts_the_rows(rows: Any) -> None:
    train, valid = validation_split(rows, 0.3, seed=1)
    assert (len(train), len(valid)) == (7, 3)
    assert sorted([*train, *valid]) == list(range(10))
    assert valid.tolist() == validation_split(rows, 0.3, seed=1)[1].tolist()
    assert valid.tolist() != validation_split(rows, 0.3, seed=2)[1].tolist()
    assert len(validation_split(rows, 0.01)[1]) == len(validation_split(rows, 0.99)[0]) == 1


def test_stratified_split_keeps_the_shares() -> None:
    labels = np.array(["a"] * 80 + ["b"] * 20)
    for seed in range(5):
        train, valid = validation_split(100, 0.25, stratify=labels, seed=seed)
        assert (np.count_nonzero(labels[valid] == "a"), len(valid), len(train)) == (20, 25, 75)


@pytest.mark.parametrize("stratify", [None, np.arange(23) % 4])
def test_folds_validate_every_row_once(stratify: Any) -> None:
    folds = k_fold(23, 5, stratify=stratify, seed=3)
    assert sorted(np.concatenate([valid for _, valid in folds])) == list(range(23))
    for train, valid in folds:
        assert sorted([*train, *valid]) == list(range(23))
        assert len(valid) in (4, 5)
        if stratify is not None:
            assert set(np.bincount(stratify[valid], minlength=4)) <= {0, 1, 2}
    assert folds[0][1].tolist() == k_fold(23, 5, stratify=stratify, seed=3)[0][1].tolist()


def test_class_weights_are_those_of_scikit_learn() -> None:
    theirs = pytest.importorskip("sklearn.utils")
    y = np.array([0, 0, 1, 2, 2, 2, 2, 0])
    expected = theirs.compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(class_weights(y), expected)
    np.testing.assert_allclose(sample_weights(y), theirs.compute_sample_weight("balanced", y))
    given = {0: 1.0, 1: 3.0, 2: 0.5}
    np.testing.assert_allclose(sample_weights(y, given), theirs.compute_sample_weight(given, y))
    assert class_weights(y, {1: 2}, classes=5).tolist() == [1, 2, 1, 1, 1]
    assert class_weights(y, [1, 2, 3]).tolist() == [1, 2, 3]
    assert class_weights(y, classes=4)[3] == 0


X, Y = np.zeros((40, 4), np.float32), np.zeros(40, np.int64)
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: MiniBatches(size=1), ValueError, "arrays: none, expected at least one"),
    (lambda: MiniBatches([1], size=1), TypeError, "arrays[0]: list, expected a numpy.ndarray"),
    (lambda: MiniBatches(X, Y[1:], size=1), ValueError, "arrays[1]: 39 rows, expected 40 as in"),
    (lambda: MiniBatches(X, size=0), ValueError, "size: 0, expected an integer >= 1"),
    (lambda: MiniBatches(X, size=1, smallest=2), ValueError, "smallest: 2, expected at most the 1"),
    (lambda: MiniBatches(X, size=1, seed=-1), ValueError, "seed: -1, expected an integer >= 0"),
    (lambda: validation_split(1), ValueError, "rows: 1, expected an integer >= 2"),
    (lambda: validation_split(9, 1.0), ValueError, "share: 1.0, expected a number between 0 and 1"),
    (lambda: validation_split(9, stratify=[1]), ValueError, "stratify: shape (1,), expected (9,)"),
    (
        lambda: validation_split(3, stratify=[1, 1, 2]),
        ValueError,
        "y: class 2 has one row, expected at least two to split",
    ),
    (lambda: k_fold(9, 10), ValueError, "folds: 10, expected an integer from 2 to 9"),
    (lambda: k_fold("rows"), TypeError, "rows: str, expected their number or an array of them"),
    (lambda: class_weights([0.5]), TypeError, "y: float64 of shape (1,), expected integers (N,)"),
    (lambda: class_weights([-1]), ValueError, "y: -1, expected classes >= 0"),
    (lambda: class_weights([3], classes=2), ValueError, "y: 3, expected 0 to 1"),
    (lambda: class_weights([0], "even"), ValueError, "weights: 'even', expected 'balanced', a"),
    (
        lambda: class_weights([0, 1], [1]),
        ValueError,
        "weights: 1 of them, expected 2, one for each",
    ),
    (lambda: class_weights([0], {1: 2}), ValueError, "weights: 1, expected an integer from 0 to 0"),
    (lambda: class_weights([0], [-1]), ValueError, "weights[0]: -1, expected a number >= 0"),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_wrong_arguments_are_named(
    call: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(message)
