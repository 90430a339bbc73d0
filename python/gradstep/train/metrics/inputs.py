"""What metrics take: labels, scores and weights of rows, checked, and labels as numbers."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.arguments import kind, shown

__all__ = [
    "as_label",
    "as_labels",
    "as_scores",
    "as_weights",
    "binary",
    "encoded",
    "numbered",
    "numbered_among",
    "same_length",
]

Labels = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.intp]

# Integers within so small a range are numbered by a table rather than by sorting.
TABLE = 2**20


def as_labels(name: str, values: Any) -> Labels:
    """The labels of N rows, (N,): integers, whole floats, truth values or texts."""
    found = np.asarray(values)
    if found.dtype == object:
        found = _of_objects(name, found)
    if found.ndim != 1:
        raise ValueError(f"{name}: shape {found.shape}, expected (N,)")
    if not found.size:
        raise ValueError(f"{name}: empty, expected at least one row")
    if found.dtype.kind not in "biufU":
        raise TypeError(f"{name}: {found.dtype}, expected integers, truth values or texts")
    if found.dtype.kind == "f":
        _first_wrong(name, found, ~(np.isfinite(found) & (found == np.trunc(found))), "labels")
    return found


def _of_objects(name: str, found: Labels) -> Labels:
    """Texts or numbers that came as Python objects, as pandas keeps them."""
    kinds = {type(value) for value in found.ravel().tolist()}
    if kinds <= {str} or kinds <= {int, bool, float}:
        return np.array(found.tolist())
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise TypeError(f"{name}: objects of {names}, expected labels of one kind")


def as_label(name: str, value: Any) -> Any:
    """One label, as Python has it."""
    found = value.item() if isinstance(value, np.generic) else value
    if not isinstance(found, (bool, int, float, str)):
        raise TypeError(f"{name}: {kind(value)}, expected a label")
    return found


def as_scores(name: str, values: Any, dimensions: tuple[int, ...] = (1,)) -> npt.NDArray[Any]:
    """Real numbers, none of them NaN, of one of so many dimensions."""
    found = np.asarray(values)
    if found.dtype == object:
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            found = found.astype(np.float64)
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{name}: {found.dtype}, expected numbers")
    if found.ndim not in dimensions:
        expected = " or ".join("(N, C)" if n == 2 else "(N,)" for n in dimensions)
        raise ValueError(f"{name}: shape {found.shape}, expected {expected}")
    if found.dtype.kind == "f":
        _first_wrong(name, found, np.isnan(found), "numbers")
    return found if found.dtype.kind == "f" else found.astype(np.float64)


def as_weights(name: str, values: Any, rows: int) -> npt.NDArray[Any] | None:
    """Weights (N,) of the rows, finite and >= 0, not all 0; None where none are given."""
    if values is None:
        return None
    found = np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{name}: {found.dtype}, expected numbers")
    if found.shape != (rows,):
        raise ValueError(f"{name}: shape {found.shape}, expected ({rows},), one for each row")
    _first_wrong(name, found, ~((found >= 0) & np.isfinite(found)), "finite numbers >= 0")
    if not found.any():
        raise ValueError(f"{name}: all 0, expected a row that counts")
    return found.astype(np.int64 if found.dtype.kind in "iu" else np.float64)


def _first_wrong(name: str, values: Any, wrong: Any, expected: str) -> None:
    if wrong.any():
        place = tuple(int(i) for i in np.unravel_index(np.argmax(wrong), values.shape))
        where = place[0] if len(place) == 1 else place
        raise ValueError(f"{name}: {values[place]} in row {where}, expected {expected}")


def same_length(name: str, found: Any, other: str, rows: int) -> None:
    """Raises ValueError unless there are as many rows as in the other argument."""
    if len(found) != rows:
        raise ValueError(f"{name}: {len(found)} rows, expected {rows} as in {other}")


def numbered(values: Labels) -> tuple[Labels, Codes]:
    """The different values in their order, and the number of each row's."""
    if values.dtype.kind in "biu":
        low, high = int(values.min()), int(values.max())
        if high - low < TABLE:
            wide = values.dtype if values.dtype.kind == "u" else np.dtype(np.int64)
            offsets = np.subtract(values, low, dtype=wide).astype(np.intp)
            there = np.bincount(offsets, minlength=high - low + 1) > 0
            classes = np.flatnonzero(there)
            codes = (np.cumsum(there) - 1)[offsets]
            return np.add(classes.astype(wide), low, dtype=wide).astype(values.dtype), codes
    classes, codes = np.unique(values, return_inverse=True)
    return classes, codes


def numbered_among(y_true: Any, labels: Any) -> tuple[Labels, Codes]:
    """All labels in their order, those of y_true unless given, and the number of each row's."""
    classes, codes = numbered(as_labels("y_true", y_true))
    if labels is None:
        return classes, codes
    known = np.unique(as_labels("labels", labels))
    lacks = classes[~np.isin(classes, known)]
    if len(lacks):
        raise ValueError(f"labels: no {lacks.tolist()[0]!r}, expected all labels of y_true")
    return known, np.searchsorted(known, classes)[codes]


def encoded(
    y_true: Any, y_pred: Any, labels: Any = None, name: str = "y_pred"
) -> tuple[Labels, Codes, Codes]:
    """All classes of two columns of labels, and of `labels`, in order, and the columns as numbers.

    Raises TypeError or ValueError.
    """
    true, pred = as_labels("y_true", y_true), as_labels(name, y_pred)
    same_length(name, pred, "y_true", len(true))
    columns = [true, pred]
    if labels is not None:
        columns.append(as_labels("labels", labels))
        if len(np.unique(columns[-1])) < len(columns[-1]):
            raise ValueError(f"labels: {shown(columns[-1].tolist())}, expected each once")
    texts = {column.dtype.kind == "U" for column in columns}
    if len(texts) > 1:
        of = " and ".join(dict.fromkeys(str(column.dtype) for column in columns))
        raise TypeError(f"{name}: labels of {of}, expected those of y_true")
    classes, codes = numbered(np.concatenate(columns))
    return classes, codes[: len(true)], codes[len(true) : 2 * len(true)]


def binary(name: str, values: Any, pos_label: Any = None) -> npt.NDArray[np.bool_]:
    """Which rows are positive: those of `pos_label`, or else of the larger of two labels."""
    found = as_labels(name, values)
    classes, codes = numbered(found)
    if len(classes) != 2:
        several = f"{len(classes)} classes" if len(classes) > 2 else f"one class ({classes[0]})"
        raise ValueError(f"{name}: {several}, expected two")
    positive: npt.NDArray[np.bool_] = codes == 1
    if pos_label is None:
        return positive
    known, pos_label = classes.tolist(), as_label("pos_label", pos_label)
    if pos_label not in known:
        raise ValueError(f"pos_label: {shown(pos_label)}, expected {known[0]!r} or {known[1]!r}")
    return positive if known.index(pos_label) else ~positive
