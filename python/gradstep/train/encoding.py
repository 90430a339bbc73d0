"""What rows become before a network sees them, fitted on the training rows and on nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.train.frame import MOST_LEVELS, Rows, most_frequent

__all__ = ["Encoding", "Scale", "standardize"]

FloatArray = npt.NDArray[np.float32]
Categories = Sequence[Sequence[str | None]]


@dataclass(frozen=True)
class Encoding:
    """Standard scores of numbers, flags where values are missing, and one-hot categories.

    fill (I,): median of the training rows, which stands where a number is missing. exponent, mean,
    deviation (I,): a score is (x / 2**exponent - mean) / deviation. flagged (F,): numbers that were
    missing in some training row have a column that is 1 where they are. levels: of each category;
    another level, in rows to come, is 0 in all of its columns. scaled: numbers stay as they are.

    >>> encoding = Encoding.fit(np.array([[1.0], [3.0], [np.nan], [2.0]]), [["a", "b", "a", "a"]])
    >>> encoding.apply(np.array([[2.0], [np.nan]]), [["b", "c"]]).tolist()
    [[0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]]
    """

    fill: npt.NDArray[np.float64]
    exponent: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]
    flagged: npt.NDArray[np.int64]
    levels: tuple[tuple[str | None, ...], ...] = ()
    scaled: bool = False

    @classmethod
    def fit(cls, numbers: Rows, categories: Categories = (), scaled: bool = False) -> Encoding:
        """Return the encoding that training rows (N, I) and their categories ask for."""
        levels = tuple(tuple(most_frequent(texts, MOST_LEVELS)) for texts in categories)
        columns = numbers.shape[1]
        fill, mean = np.zeros(columns), np.zeros(columns)
        exponent, deviation = np.zeros(columns, np.int64), np.ones(columns)
        flagged = np.zeros(columns, bool)
        for part in () if scaled else _parts(numbers):
            flagged[part], fill[part], near = _filled(numbers[:, part])
            exponent[part], mean[part], deviation[part] = _moments(near)
        return cls(fill, exponent, mean, deviation, np.flatnonzero(flagged), levels, scaled)

    @property
    def columns(self) -> int:
        """Columns of what comes out."""
        return len(self.fill) + len(self.flagged) + sum(map(len, self.levels))

    def names(self, names: Sequence[str]) -> list[str]:
        """Return names of the columns that come out, from those of numbers and categories."""
        count = len(self.fill)
        flags = [f"{names[i]} missing" for i in self.flagged]
        pairs = zip(names[count:], self.levels, strict=True)
        hot = [f"{n} {'missing' if v is None else f'= {v}'}" for n, levels in pairs for v in levels]
        return [*names[:count], *flags, *hot]

    def apply(self, numbers: Rows, categories: Categories = ()) -> FloatArray:
        """Return rows (N, I) and their categories as float32 (N, columns).

        Raises ValueError if a result is beyond float32.
        """
        if self.scaled and self.columns == numbers.shape[1]:
            return np.ascontiguousarray(numbers, np.float32)
        out = np.zeros((len(numbers), self.columns), np.float32)
        for part in _parts(numbers):
            out[:, part] = self._scores(numbers[:, part], part)
        place = len(self.fill)
        if not np.isfinite(out[:, :place]).all():
            row, column = np.argwhere(~np.isfinite(out[:, :place]))[0]
            raise ValueError(
                f"X: {numbers[row, column]} in column {column}, expected a number that float32 "
                "holds when standardised by the training rows"
            )
        for i in self.flagged:
            out[:, place] = np.isnan(numbers[:, i])
            place += 1
        for texts, levels in zip(categories, self.levels, strict=True):
            codes = {level: code for code, level in enumerate(levels)}
            found = np.array([codes.get(text, -1) for text in texts], np.intp)
            rows = np.flatnonzero(found >= 0)
            out[rows, place + found[rows]] = 1
            place += len(levels)
        return out

    def _scores(self, numbers: Rows, part: slice) -> FloatArray:
        x = numbers.astype(np.float64)
        missing = np.isnan(x)
        if missing.any():
            x = np.where(missing, self.fill[part], x)
        with np.errstate(over="ignore"):
            near = np.ldexp(x, -self.exponent[part]) - self.mean[part]
            return np.asarray(near / self.deviation[part], np.float32)

    def state(self) -> dict[str, Any]:
        """Return all of it as arrays and texts, as a checkpoint takes them."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        return {**arrays, "levels": [list(texts) for texts in self.levels], "scaled": self.scaled}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Encoding:
        """Return what `state` described."""
        arrays = {name: np.asarray(state[name]) for name in ARRAYS}
        levels = tuple(tuple(texts) for texts in state["levels"])
        return cls(**arrays, levels=levels, scaled=state["scaled"])


ARRAYS = ("fill", "exponent", "mean", "deviation", "flagged")


def _parts(numbers: Rows) -> list[slice]:
    """Columns a few at a time, which bounds the copies in float64."""
    step = max(2**20 // max(len(numbers), 1), 1)
    return [slice(i, min(i + step, numbers.shape[1])) for i in range(0, numbers.shape[1], step)]


def _filled(numbers: Rows) -> tuple[Any, Any, npt.NDArray[np.float64]]:
    """Return which columns lack values, the medians, and the columns with these in the gaps."""
    x = numbers.astype(np.float64)
    missing = np.isnan(x)
    lacking = missing.any(axis=0)
    fill = np.zeros(x.shape[1])
    for i in np.flatnonzero(lacking):
        present = x[~missing[:, i], i]
        fill[i] = np.median(present) if len(present) else 0.0
        x[missing[:, i], i] = fill[i]
    if len(x):
        fill[~lacking] = np.median(x[:, ~lacking], axis=0)
    return lacking, fill, x


def _moments(near: npt.NDArray[np.float64]) -> tuple[Any, Any, Any]:
    # Powers of two bring every column to -1 ... 1 without rounding: squares cannot overflow.
    _, exponent = np.frexp(np.abs(near).max(axis=0))
    near = np.ldexp(near, -exponent)
    mean, deviation = near.mean(axis=0), near.std(axis=0)
    # A constant column's deviation need not come out as exactly 0.
    constant = np.ptp(near, axis=0) == 0
    mean[constant] = near[0, constant]
    deviation[constant] = np.ldexp(1.0, -exponent[constant])
    return exponent, mean, deviation


def standardize(x: Rows, reference: Rows) -> FloatArray:
    """Return x with the column means and deviations of `reference` taken out, computed in float64.

    x: (N, I). reference: (M, I), the training rows. Columns constant in it are only centred.
    Raises ValueError if a result is beyond float32.

    >>> standardize(np.float32([[3.0], [5.0]]), np.float32([[1.0], [3.0]])).ravel().tolist()
    [1.0, 3.0]
    """
    return Encoding.fit(reference).apply(x)


@dataclass(frozen=True)
class Scale:
    """How targets y of a regression become those that a network learns: (y - mean) / deviation.

    >>> scale = Scale.fit(np.array([1.0, 3.0]))
    >>> scale.apply(np.array([5.0])), scale.undo(np.array([3.0]))
    (array([3.], dtype=float32), array([5.]))
    """

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def fit(cls, y: npt.NDArray[Any]) -> Scale:
        """Return the scale that training targets (N,) ask for."""
        exponent, mean, deviation = _moments(np.asarray(y, np.float64)[:, None])
        return cls(*(float(np.ldexp(v[0], exponent[0])) for v in (mean, deviation)))

    def apply(self, y: npt.NDArray[Any]) -> FloatArray:
        """Return what the network learns, float32."""
        return np.asarray((y - self.mean) / self.deviation, np.float32)

    def undo(self, scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return what the network says in the data's units, float64."""
        units: npt.NDArray[np.float64] = self.mean + self.deviation * scores.astype(np.float64)
        return units
