"""Which rows train and which validate: one split, or K folds, classes kept in proportion."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.arguments import MOST_BYTES, integer, is_integer, number

__all__ = ["k_fold", "stratified_folds", "stratified_split", "validation_split"]

IntArray = npt.NDArray[np.intp]
Labels = npt.NDArray[Any]
Rows = tuple[IntArray, IntArray]


def validation_split(
    rows: Any, share: float = 0.2, *, stratify: Any = None, seed: int = 0
) -> tuple[IntArray, IntArray]:
    """Row numbers to train on and to validate on, both in random order.

    rows: their number N, or an array of N rows. share: of them that validates, between 0 and 1; at
    least one row goes to either side. stratify: labels (N,), each class of which keeps its share in
    both. seed: of the order. Raises TypeError or ValueError.

    >>> train, valid = validation_split(10, 0.3)
    >>> len(train), len(valid), sorted({*train.tolist(), *valid.tolist()}) == list(range(10))
    (7, 3, True)
    """
    count = _count(rows, 2)
    number("share", share, "a number between 0 and 1", lambda s: 0 < s < 1)
    if stratify is not None:
        return stratified_split(_labels(stratify, count), share, integer("seed", seed, 0))
    order = np.random.default_rng(integer("seed", seed, 0)).permutation(count)
    valid = _held_out(share, count)
    return order[valid:], order[:valid]


def k_fold(rows: Any, folds: int = 5, *, stratify: Any = None, seed: int = 0) -> list[Rows]:
    """K splits into rows to train on and rows to validate on; every row validates exactly once.

    rows: their number N, or an array of N rows. folds: K, from 2 to N. stratify: labels (N,), each
    class of which keeps its share in every fold. seed: of the order. Sizes differ by one at most.
    Raises TypeError or ValueError. Source: Kohavi 1995, "A study of cross-validation and
    bootstrap".

    >>> [(len(train), len(valid)) for train, valid in k_fold(10, 3)]
    [(6, 4), (7, 3), (7, 3)]
    """
    count = _count(rows, 2)
    integer("folds", folds, 2, count)
    if stratify is not None:
        return stratified_folds(_labels(stratify, count), folds, integer("seed", seed, 0))
    return _dealt(np.random.default_rng(integer("seed", seed, 0)).permutation(count), folds)


def _count(rows: Any, least: int) -> int:
    if not is_integer(rows):
        if isinstance(rows, (str, bytes)) or not np.iterable(rows) or not isinstance(rows, Sized):
            kind = type(rows).__name__
            raise TypeError(f"rows: {kind}, expected their number or an array of them")
        rows = len(rows)
    return integer("rows", rows, least, MOST_BYTES // 8)


def _labels(stratify: Any, rows: int) -> Labels:
    labels = np.asarray(stratify)
    if labels.shape != (rows,):
        raise ValueError(f"stratify: shape {labels.shape}, expected ({rows},), one for each row")
    return labels


def _held_out(share: float, rows: int) -> int:
    return min(max(round(share * rows), 1), rows - 1)


def _dealt(order: IntArray, folds: int) -> list[Rows]:
    """The rows dealt out to the folds in turn."""
    dealt_to = np.arange(len(order)) % folds
    return [(order[dealt_to != fold], order[dealt_to == fold]) for fold in range(folds)]


def stratified_split(y: Labels, fraction: float, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Return row numbers to train on and to validate on, every class with its share in both.

    y: (N,) class labels. fraction: of each class that goes to validation, between 0 and 1; at least
    one row goes to either side. Both parts are in random order.
    Raises ValueError if fraction is out of range or a class has a single row.

    >>> train_rows, valid_rows = stratified_split(np.array([0] * 8 + [1] * 4), 0.25)
    >>> len(train_rows), len(valid_rows)
    (9, 3)
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: {fraction}, expected a number between 0 and 1")
    rng = np.random.default_rng(seed)
    parts: tuple[list[IntArray], list[IntArray]] = ([], [])
    for rows in _rows_of_classes(y, rng):
        count = _held_out(fraction, len(rows))
        parts[0].append(rows[count:])
        parts[1].append(rows[:count])
    return rng.permutation(np.concatenate(parts[0])), rng.permutation(np.concatenate(parts[1]))


def stratified_folds(y: Labels, folds: int, seed: int = 0) -> list[Rows]:
    """Return K splits (rows to train on, rows to validate on); every row validates exactly once.

    y: (N,) class labels; each keeps its share in every fold. folds: K, at least 2 and at most N.
    Raises ValueError if folds is out of range or a class has a single row. Source: Kohavi 1995, "A
    study of cross-validation and bootstrap".

    >>> [len(rows) for _, rows in stratified_folds(np.array([0, 0, 1, 1, 1]), 2)]
    [3, 2]
    """
    if not 2 <= folds <= len(y):
        raise ValueError(f"folds: {folds}, expected 2 to the number of rows, {len(y)}")
    rng = np.random.default_rng(seed)
    # Dealt out class by class, so sizes of folds, and counts of a class in them, differ by 1.
    return _dealt(np.concatenate(list(_rows_of_classes(y, rng))), folds)


def _rows_of_classes(y: Labels, rng: np.random.Generator) -> Iterator[IntArray]:
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        if len(rows) < 2:
            raise ValueError(f"y: class {label} has one row, expected at least two to split")
        yield rng.permutation(rows)
