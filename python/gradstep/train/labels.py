"""Labels: classes with their numbers and their order, or measurements for a regression."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["as_number", "encode_labels", "encode_text", "is_one_hot", "measured", "to_numbers"]

IntArray = npt.NDArray[np.intp]

INTEGER = re.compile(r"0|-?[1-9][0-9]*")
FLOAT = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
# What tables write, in any case, where a value is missing.
MISSING = frozenset(
    {"", "nan", "-nan", "na", "n/a", "#n/a", "#na", "<na>", "nat", "null", "none", "?", "-", "."}
)

# Up to so many different whole numbers are classes, whatever their shares of the rows.
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


def measured(labels: Sequence[str] | npt.NDArray[Any]) -> str | None:
    """Tell why labels are measurements rather than classes, in words; None: they are classes.

    labels: texts, or an array (N,) of numbers. Fractions are measurements, and so are more than 20
    different numbers of which one occurs once, or that are more than a fifth of the rows.

    >>> measured(["1.5", "2"]), measured(["1", "2", "b"]), measured(np.arange(40) ** 2)
    ('fractions such as 1.5', None, '40 different numbers')
    """
    if isinstance(labels, np.ndarray):
        if labels.dtype.kind not in "iuf":
            return None
        values, counts = np.unique(labels[np.isfinite(labels)], return_counts=True)
        fractions = values[values != np.trunc(values)]
        shown = f"{fractions[0]:g}" if len(fractions) else ""
    else:
        numbers = {text: as_number(text) for text in set(labels)}
        if None in [value for text, value in numbers.items() if text.lower() not in MISSING]:
            return None
        finite = {t: v for t, v in numbers.items() if v is not None and math.isfinite(v)}
        found = Counter(labels)
        counts = np.array([found[text] for text in finite])
        shown = min((text for text, value in finite.items() if value % 1), default="")
    if shown:
        return f"fractions such as {shown}"
    many = len(counts) > MOST_NUMBERS and (counts.min() == 1 or len(counts) > len(labels) / 5)
    return f"{len(counts):,} different numbers" if many else None


def to_numbers(
    labels: Sequence[str] | npt.NDArray[Any], where: Callable[[int], str] = "row {}".format
) -> npt.NDArray[np.float64]:
    """Return labels as numbers (N,); where: says where the label of a row stands.

    Raises ValueError for one that is no finite number, and where all are the same.

    >>> to_numbers(["1.5", "2"])
    array([1.5, 2. ])
    """
    if isinstance(labels, np.ndarray):
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if labels.ndim != 1:
            raise ValueError(f"y: shape {labels.shape}, expected one number per row")
        if labels.dtype.kind not in "biuf":
            raise ValueError(f"y: {labels.dtype}, expected numbers for a regression")
        y = labels.astype(np.float64)
    else:
        numbers = map(as_number, labels)
        y = np.array([math.nan if value is None else value for value in numbers], np.float64)
    if not np.isfinite(y).all():
        row = int(np.argmin(np.isfinite(y)))
        found = labels[row] if isinstance(labels, np.ndarray) else repr(labels[row])
        raise ValueError(f"y: {found} in {where(row)}, expected a finite number")
    if len(y) and np.ptp(y) == 0:
        raise ValueError(f"y: {y[0]:g} in all rows, expected different numbers")
    return y


def encode_labels(y: npt.ArrayLike) -> tuple[IntArray, tuple[str, ...]]:
    """Number the classes of y in sorted order.

    y: (N,) or (N, 1) integers, booleans, whole floats or strings; or (N, C), one 1 in each row of
    zeros, whose classes are the numbers of the columns. Returns the numbers (N,) and the C labels.
    Strings are ordered as `encode_text` does. Raises ValueError if y is of another kind or shape,
    or holds fewer than two classes.

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
    if (labels != np.trunc(labels)).any():
        return labels
    return np.array([int(value) for value in labels.tolist()], dtype=object)


def encode_text(
    labels: Sequence[str], where: Callable[[int], str] = "row {}".format
) -> tuple[IntArray, tuple[str, ...]]:
    """Number the classes of labels as they stand in a file.

    Different texts are different classes: `01` is not `1`. Labels that all are integers as Python
    writes them, or all decimal fractions, are in the order of the numbers, others in that of text.
    where: says where the label of a row stands. Raises ValueError for an empty label, a missing one
    among numbers, and fewer than two classes.

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
    if all(map(INTEGER.fullmatch, texts)):
        classes = tuple(map(str, sorted(map(int, texts))))
    elif all(map(FLOAT.fullmatch, texts)):
        classes = tuple(sorted(texts, key=float))
    else:
        classes = tuple(sorted(texts))
    _check(classes)
    codes = {text: code for code, text in enumerate(classes)}
    return np.array([codes[label] for label in labels], np.intp), classes


def _number(labels: list[Any]) -> tuple[IntArray, tuple[str, ...]]:
    order: list[Any] = sorted(set(labels))
    codes: dict[Hashable, int] = {label: code for code, label in enumerate(order)}
    classes = tuple(map(str, order))
    _check(classes)
    return np.array([codes[label] for label in labels], np.intp), classes


def _check(classes: Sequence[str]) -> None:
    if len(classes) < 2:
        found = f"one class ({classes[0]})" if classes else "no labels"
        raise ValueError(f"y: {found}, expected at least two classes")
