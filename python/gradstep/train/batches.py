"""Rows put together for the steps of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from gradstep.arguments import entry, flag, integer, shown
from gradstep.arrays import Array
from gradstep.nn import FloatArray, Layer
from gradstep.train.datasets import Split
from gradstep.train.splits import IntArray

__all__ = ["IntArray", "MiniBatches", "batches", "check_batch_size"]


class MiniBatches:
    """Rows in batches, epoch after epoch: what a `for` loop takes is one epoch.

    arrays: one or more, N rows each. size: rows of a batch; 1 is single-sample descent, None batch
    descent over all rows. shuffle: a new order in each epoch, of `seed` and the epoch's number
    alone. drop_last: leave out a last batch of fewer rows. smallest: rows that a batch needs, as
    with batch norm; a last one of fewer is joined to the one before. Yields tuples of arrays, or
    arrays where there is one; buffers that the next batch overwrites. Goes into checkpoints,
    between epochs. Raises TypeError or ValueError.

    >>> minibatches = MiniBatches(np.arange(5), size=2, seed=1)
    >>> len(minibatches), [batch.tolist() for batch in minibatches]
    (3, [[4, 0], [1, 2], [3]])
    >>> [batch.tolist() for batch in minibatches]
    [[1, 4], [0, 3], [2]]
    """

    def __init__(
        self,
        *arrays: Array,
        size: int | None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        smallest: int = 1,
    ) -> None:
        self._arrays = _checked(arrays)
        self._rows = len(self._arrays[0])
        self._size = None if size is None else integer("size", size, 1)
        self._shuffle, self._seed = flag("shuffle", shuffle), integer("seed", seed, 0)
        self._drop_last = flag("drop_last", drop_last)
        self._smallest = integer("smallest", smallest, 1)
        least = min(self._rows, self._size or self._rows)
        if least < self._smallest:
            raise ValueError(
                f"smallest: {shown(smallest)}, expected at most the {least} rows of a batch"
            )
        self._epoch = 0

    @property
    def epoch(self) -> int:
        """The number of the next epoch, from 0."""
        return self._epoch

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return len(_bounds(self._rows, self._size, self._smallest, self._drop_last)) - 1

    def __iter__(self) -> Iterator[Any]:
        rng = np.random.default_rng([self._seed, self._epoch]) if self._shuffle else None
        self._epoch += 1
        for parts in _batches(self._arrays, self._size, rng, self._smallest, self._drop_last):
            yield parts if len(parts) > 1 else parts[0]

    def state_dict(self) -> dict[str, Any]:
        """What the orders of the next epochs depend on."""
        return {"seed": self._seed, "epoch": self._epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises TypeError or ValueError."""
        found = [integer(key, entry(state_dict, key, "state_dict"), 0) for key in self.state_dict()]
        self._seed, self._epoch = found


def _checked(arrays: tuple[Any, ...]) -> tuple[Array, ...]:
    if not arrays:
        raise ValueError("arrays: none, expected at least one")
    for i, array in enumerate(arrays):
        if not isinstance(array, np.ndarray):
            raise TypeError(f"arrays[{i}]: {type(array).__name__}, expected a numpy.ndarray")
        if array.ndim == 0:
            raise ValueError(f"arrays[{i}]: 0 dimensions, expected rows")
        if len(array) != len(arrays[0]):
            what = f"arrays[{i}]: {len(array)} rows"
            raise ValueError(f"{what}, expected {len(arrays[0])} as in arrays[0]")
    if not len(arrays[0]):
        raise ValueError("arrays[0]: no rows, expected at least one")
    return arrays


def batches(
    x: FloatArray, y: Array, size: int | None, rng: np.random.Generator, smallest: int = 1
) -> Iterator[tuple[FloatArray, Any]]:
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
    found: Iterator[Any] = _batches((x, y), size, rng, smallest, False)
    yield from found


def _bounds(rows: int, size: int | None, smallest: int, drop_last: bool) -> list[int]:
    """Where batches begin, and where the last one ends."""
    if size is None or size >= rows:
        whole = size is None or size == rows or not drop_last
        return [0, rows] if whole else [0]
    if drop_last:
        return list(range(0, rows + 1, size))
    return [*range(0, rows - smallest + 1, size), rows]


def _batches(
    arrays: tuple[Array, ...],
    size: int | None,
    rng: np.random.Generator | None,
    smallest: int,
    drop_last: bool,
) -> Iterator[tuple[Array, ...]]:
    rows = len(arrays[0])
    bounds = _bounds(rows, size, smallest, drop_last)
    if bounds == [0, rows]:
        yield arrays
        return
    if rng is None:
        for start, end in pairwise(bounds):
            yield tuple(array[start:end] for array in arrays)
        return
    order = rng.permutation(rows)
    most = max((end - start for start, end in pairwise(bounds)), default=0)
    buffers = [np.empty((most, *array.shape[1:]), array.dtype) for array in arrays]
    for start, end in pairwise(bounds):
        rows_of_batch = order[start:end]
        # mode="clip" lets take write straight into out; the indices are in range anyway.
        yield tuple(
            np.take(array, rows_of_batch, axis=0, out=buffer[: end - start], mode="clip")
            for array, buffer in zip(arrays, buffers, strict=True)
        )


def check_batch_size(model: Layer, data: Split, batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}, expected at least 1")
    rows, least = len(data.y), model.smallest_batch
    if min(rows, batch_size or rows) < least:
        name, found = ("batch_size", batch_size) if rows >= least else ("data", f"{rows} row")
        raise ValueError(f"{name}: {found}, expected at least {least} with batch norm")
