"""Class labels: their numbers, their order, and what is no class but a measurement."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_number", "encode_labels", "encode_text", "is_one_hot"]

IntArray = npt.NDArray[np.intp]

INTEGER = re.compile(r"0|-?[1-9][0-9]*")
WHOLE_FLOAT = re.compile(r"(0|-?[1-9][0-9]*)\.0")
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "?"})

# More different numbers than these, and than half of the rows, are measurements and no classes.
MOST_NUMBERS = 20


def as_number(text: str) -> float | None:
    """Return what the text stands for, or None; 1_000 is a number to Python alone.

    >>> as_number(" 1e3 "), as_number("1_000")
    (1000.0, None)
    """
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def encode_labels(y: npt.ArrayLike) -> tuple[IntArray, tuple[str, ...]]:
    """Number the classes of y in sorted order.

    y: (N,) or (N, 1) integers, booleans, whole floats or strings; or (N, C), one 1 in each row of
    zeros, whose classes are the numbers of the columns. Returns the numbers (N,) and the C labels.
    Strings are ordered as `encode_text` does. Raises ValueError if y is of another kind or shape,
    holds measurements, or fewer than two classes.

    >>> encode_labels(["cat", "dog", "cat"])
    (array([0, 1, 0]), ('cat', 'dog'))
    >>> encode_labels([[0, 1], [1, 0]])
    (array([1, 0]), ('0', '1'))
    """
    labels = np.asarray(y)
    if is_one_hot(labels):
        labels = labels.argmax(axis=1)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"y: shape {labels.shape}, expected one label per row")
    if labels.dtype.kind not in "biufUS":
        raise ValueError(f"y: {labels.dtype}, expected integers or strings as class labels")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "U":
        return encode_text(labels.tolist())
    if labels.dtype.kind == "f":
        return _number(_whole(labels).tolist())
    return _number(labels.tolist())


def is_one_hot(labels: npt.NDArray[Any]) -> bool:
    """Tell whether labels (N, C) have a single 1 in each row of zeros."""
    if labels.ndim != 2 or labels.shape[1] < 2 or labels.dtype.kind not in "biuf":
        return False
    ones, zeros = labels == 1, labels == 0
    return bool((ones | zeros).all() and (ones.sum(axis=1) == 1).all())


def _whole(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    finite = np.isfinite(labels)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"y: {labels[row]} in row {row}, expected a label")
    fractions = labels[labels != np.trunc(labels)]
    if len(fractions):
        raise ValueError(_measurements(len(np.unique(labels)), len(labels), fractions[0]))
    return np.array([int(value) for value in labels.tolist()], dtype=object)


def encode_text(
    labels: Sequence[str], where: Callable[[int], str] = "row {}".format
) -> tuple[IntArray, tuple[str, ...]]:
    """Number the classes of labels as they stand in a file.

    Different texts are different classes: `01` is not `1`. Labels that all are integers as Python
    writes them, or all such floats, are in the order of the numbers, others in that of the text.
    where: says where the label of a row stands. Raises ValueError for an empty label, a missing one
    among numbers, measurements, and fewer than two classes.

    >>> encode_text(["10", "9"])[1], encode_text(["10", "09"])[1]
    (('9', '10'), ('09', '10'))
    """
    texts = set(labels)
    numbers = [as_number(text) for text in texts if text.lower() not in MISSING]
    numeric = bool(numbers) and None not in numbers
    missing = {text for text in texts if not text or (numeric and text.lower() in MISSING)}
    if missing:
        row = next(row for row, label in enumerate(labels) if label in missing)
        raise ValueError(f"y: {labels[row]!r} in {where(row)}, expected a label")
    if numeric:
        for text in texts:
            value = float(text)
            if not math.isfinite(value) or value != int(value):
                raise ValueError(_measurements(len(texts), len(labels), text))
    if all(map(INTEGER.fullmatch, texts)):
        _, classes = _number(map(int, texts), rows=len(labels))
    elif all(map(WHOLE_FLOAT.fullmatch, texts)):
        classes = tuple(sorted(texts, key=float))
    else:
        classes = tuple(sorted(texts))
    _check(classes, len(labels), numeric)
    codes = {text: code for code, text in enumerate(classes)}
    return np.array([codes[label] for label in labels], np.intp), classes


def _number(labels: Iterable[Any], rows: int | None = None) -> tuple[IntArray, tuple[str, ...]]:
    labels = list(labels)
    order: list[Any] = sorted(set(labels))
    codes: dict[Hashable, int] = {label: code for code, label in enumerate(order)}
    classes = tuple(map(str, order))
    _check(classes, len(labels) if rows is None else rows, numeric=True)
    return np.array([codes[label] for label in labels], np.intp), classes


def _check(classes: Sequence[str], rows: int, numeric: bool) -> None:
    if len(classes) < 2:
        found = f"one class ({classes[0]})" if classes else "no labels"
        raise ValueError(f"y: {found}, expected at least two classes")
    if numeric and len(classes) > max(MOST_NUMBERS, rows // 2):
        raise ValueError(_measurements(len(classes), rows, classes[0]))


def _measurements(different: int, rows: int, example: object) -> str:
    return (
        f"y: {different:,} different numbers in {rows:,} rows, such as {example}, expected classes "
        "(the command trains classifiers, no regression)"
    )
