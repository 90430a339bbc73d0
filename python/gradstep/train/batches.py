"""Rows put together for the steps of an epoch, and the weights of their classes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gradstep.nn import FloatArray, Layer
from gradstep.train.datasets import Split

__all__ = ["IntArray", "balanced_class_weights", "batches", "check_batch_size"]

IntArray = npt.NDArray[np.integer]


def batches(
    x: FloatArray, y: IntArray, size: int | None, rng: np.random.Generator, smallest: int = 1
) -> Iterator[tuple[FloatArray, IntArray]]:
    """Yield every row of x (N, I) and y (N,) once, in an order drawn from rng, `size` at a time.

    size: rows per batch; the last may have fewer. None is one batch of all rows, as they stand.
    smallest: a last batch with fewer rows is joined to the one before. The arrays yielded are
    buffers that the next batch overwrites.

    >>> rng = np.random.default_rng(0)
    >>> [len(y) for _, y in batches(np.eye(5), np.arange(5), 2, rng)]
    [2, 2, 1]
    >>> [len(y) for _, y in batches(np.eye(5), np.arange(5), 2, rng, smallest=2)]
    [2, 3]
    """
    if size is None or size >= len(x):
        yield x, y
        return
    order = rng.permutation(len(x))
    most = size + smallest - 1
    batch_x, batch_y = np.empty((most, *x.shape[1:]), x.dtype), np.empty(most, y.dtype)
    starts = range(0, len(x) - smallest + 1, size)
    for start, end in pairwise([*starts, len(x)]):
        rows = order[start:end]
        # mode="clip" lets take write straight into out; the indices are in range anyway.
        yield (
            np.take(x, rows, axis=0, out=batch_x[: len(rows)], mode="clip"),
            np.take(y, rows, out=batch_y[: len(rows)], mode="clip"),
        )


def check_batch_size(model: Layer, data: Split, batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}, expected at least 1")
    rows, least = len(data.y), model.smallest_batch
    if min(rows, batch_size or rows) < least:
        name, found = ("batch_size", batch_size) if rows >= least else ("data", f"{rows} row")
        raise ValueError(f"{name}: {found}, expected at least {least} with batch norm")


def balanced_class_weights(y: IntArray, classes: int) -> npt.NDArray[np.float64]:
    """Return weights (C,) that let every class count alike in the loss; their mean over y is 1.

    y: (N,), numbers below `classes`. A class without a row gets 0. As in scikit-learn.
    Source: King & Zeng 2001, "Logistic regression in rare events data".

    >>> balanced_class_weights(np.array([0, 0, 0, 1]), 2).tolist()
    [0.6666666666666666, 2.0]
    """
    counts = np.bincount(y, minlength=classes)
    weights: npt.NDArray[np.float64] = len(y) / (classes * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0)
