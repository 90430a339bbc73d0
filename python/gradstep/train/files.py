"""Datasets from the user's files: arrays (.npz), text tables, Parquet, and standard input."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gradstep.train import parquet, sources
from gradstep.train.datasets import (
    BUILT_IN,
    Dataset,
    LabelColumn,
    framed,
    learnable,
    make_dataset,
)
from gradstep.train.frame import EVERY, Choices, Column, Frame, arrange, arrange_like
from gradstep.train.labels import MOST_NUMBERS, is_one_hot
from gradstep.train.tables import Known, Table, read_table

__all__ = [
    "Reading",
    "Rows",
    "from_csv",
    "from_npz",
    "from_parquet",
    "load_dataset",
    "load_rows",
    "read_arrays",
]

TABLES = {*sources.TEXT, ".parquet"}
KINDS = f"{', '.join(BUILT_IN)} or a .npz, .csv, .tsv (or these .gz) or .parquet file, or - (stdin)"


@dataclass(frozen=True)
class Reading:
    """How to read a table.

    label: first, last, a name or an index. header: whether there is one, None finds out. task: of
    TASKS, None finds out. choices: of columns. missing: more words for missing values.
    """

    label: str | None = None
    header: bool | None = None
    task: str | None = None
    choices: Choices = EVERY
    missing: Collection[str] = ()


PLAIN = Reading()


def load_dataset(source: str, reading: Reading = PLAIN) -> Dataset:
    """Return a built-in set ("digits", "mnist5k") or what a file or standard input holds.

    source: a name, a path, or "-". reading: of a table; of all but the task nothing may be asked of
    other sources. Raises ValueError if the name is unknown or the data do not fit,
    FileNotFoundError without the file, MissingExtraError without the package that is needed.
    """
    kind = sources.kind_of(source)
    asked = {
        "label": reading.label,
        "header": reading.header,
        "categories": ",".join(reading.choices.categories) or None,
        "drop": ",".join(reading.choices.drop) or None,
        "missing": ",".join(reading.missing) or None,
    }
    for name, option in asked.items():
        if option is not None and (kind not in TABLES or (name == "header" and kind == ".parquet")):
            raise ValueError(
                f"{name}: {option!r} with data {source!r}, expected only with a .csv file "
                "or another table"
            )
    if source in BUILT_IN:
        if reading.task == "regression":
            raise ValueError(f"--task: regression with data {source!r}, expected numbers to learn")
        return BUILT_IN[source]()
    if kind not in {".npz", *TABLES}:
        raise ValueError(f"data: {source!r}, expected {KINDS}")
    if source != sources.STDIN:
        sources.check_file(source)
    if kind == ".npz":
        return from_npz(source, reading.task)
    return from_parquet(source, reading) if kind == ".parquet" else from_csv(source, reading)


def from_npz(path: str | Path, task: str | None = None) -> Dataset:
    """Return the rows and labels of a .npz file.

    path: holds `X`, `x` or `data` (N, ...), numbers, flattened to rows, NaN where missing; and `y`,
    `Y`, `labels` or `target` (N,), as `learnable` takes them. Raises ValueError if an array is
    missing or does not fit, or holds Python objects, which are not loaded as they may run code.
    """
    try:
        x, y = read_arrays(path)
        if y is None:
            raise ValueError("no array of labels, expected one called y (or Y, labels, target)")
        return make_dataset(Path(path).name, x, y, task=task)
    except ValueError as error:
        raise ValueError(f"data: {path}: {error}") from None


def read_arrays(path: str | Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Return X and y of a .npz file; None for y if there is none. Raises ValueError."""
    if not Path(path).stat().st_size:
        raise ValueError("an empty file")
    if not zipfile.is_zipfile(path):
        raise ValueError("not a .npz file as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as file:
            x = _array(file, ("X", "x", "data"))
            y = _array(file, ("y", "Y", "labels", "target"))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"damaged file ({error})") from None
    if x is None:
        found = ", ".join(file.files) or "none"
        raise ValueError(f"arrays {found}, expected one called X (or x, data)")
    return x, y


def _array(file: Any, wanted: tuple[str, ...]) -> npt.NDArray[Any] | None:
    for name in wanted:
        if name in file.files:
            break
    else:
        return None
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


def from_csv(path: str | Path, reading: Reading = PLAIN) -> Dataset:
    """Return the rows and labels of a text table, one row per line.

    path: or "-" for standard input. reading: see `gradstep.train.tables.read_table`; the classes
    are the labels as they stand in the file, see `encode_text`. Raises ValueError naming line and
    column of the first cell that does not fit.
    """
    name = "standard input" if str(path) == sources.STDIN else str(path)
    delimiter = sources.TEXT.get(sources.kind_of(str(path)))
    try:
        with sources.open_text(path) as file:
            table = read_table(
                file,
                reading.label,
                reading.header,
                delimiter=delimiter,
                missing=reading.missing,
            )
        return replace(_from_table(table, reading), name=Path(name).name)
    except ValueError as error:
        raise ValueError(f"data: {name}: {error}") from None


def from_parquet(path: str | Path, reading: Reading = PLAIN) -> Dataset:
    """Return the rows and labels of a Parquet file, whose names are those of its columns.

    reading: as for text. Raises MissingExtraError without pyarrow, ValueError if the file is
    damaged or a column does not fit.
    """
    try:
        table = parquet.read_parquet(
            path, reading.label, missing=reading.missing, drop=reading.choices.drop
        )
        return replace(_from_table(table, reading), name=Path(path).name)
    except ValueError as error:
        raise ValueError(f"data: {path}: {error}") from None


@dataclass(frozen=True)
class Rows:
    """Rows to predict: as a frame, and their labels, if there are any, as texts."""

    frame: Frame
    labels: list[str] | None


class Model(Protocol):
    """What a model says of the data that it was trained on."""

    @property
    def columns(self) -> tuple[Column, ...]: ...
    @property
    def label(self) -> LabelColumn: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


def load_rows(
    source: str, model: Model, label: str | None = None, header: bool | None = None
) -> Rows:
    """Return the columns that a model was trained on, from a source as `load_dataset` takes it.

    Columns are found by their names where both tables have names, and by position otherwise; the
    label may be there or not. label, header: as for `load_dataset`.
    Raises what that raises, and ValueError naming a column that is missing or does not fit.
    """
    kind = sources.kind_of(source)
    if source not in BUILT_IN and kind not in {".npz", *TABLES}:
        raise ValueError(f"data: {source!r}, expected {KINDS}")
    if source not in BUILT_IN and source != sources.STDIN:
        sources.check_file(source)
    name = "standard input" if source == sources.STDIN else source
    try:
        if source in BUILT_IN or kind == ".npz":
            return _array_rows(source, model)
        return _table_rows(source, kind, model, label, header)
    except ValueError as error:
        raise ValueError(f"data: {name}: {error}") from None


def _table_rows(
    source: str, kind: str, model: Model, label: str | None, header: bool | None
) -> Rows:
    trained = model.label
    names = tuple(column.name for column in model.columns) if trained.named else ()
    width = trained.width + (trained.position is None)
    known = Known(names, trained.name, trained.position, width)
    missing = model.options["missing"]
    if kind == ".parquet":
        table = parquet.read_parquet(source, label, missing=missing, known=known)
    else:
        delimiter = sources.TEXT.get(kind)
        with sources.open_text(source) as file:
            table = read_table(
                file, label, header, delimiter=delimiter, missing=missing, known=known
            )
    if not len(table.cells.x):
        raise ValueError("no rows, expected some below the header")
    columns = model.columns
    if not (names and table.header):
        columns = tuple(_moved(column, trained.position, table.position) for column in columns)
    return Rows(arrange_like(table.cells, columns, bool(names) and table.header), table.labels)


def _moved(column: Column, old: int | None, new: int | None) -> Column:
    """The column's place in a table whose label stands at `new`, where it stood at `old`."""
    place = column.position
    place -= old is not None and place > old
    place += new is not None and place >= new
    return replace(column, position=place)


def _array_rows(source: str, model: Model) -> Rows:
    if source in BUILT_IN:
        data = BUILT_IN[source]()
        x = data.x
        labels: list[str] | None = [data.classes[code] for code in data.y]
    else:
        x, y = read_arrays(source)
        labels = None if y is None else _label_texts(y)
    if x.ndim < 2 or x.dtype.kind not in "biuf":
        raise ValueError(f"X: shape {x.shape}, {x.dtype}, expected rows and columns of numbers")
    if not x.size:
        raise ValueError(f"X: shape {x.shape}, expected rows and columns")
    rows = x.reshape(len(x), -1)
    named = model.label.named or any(column.category for column in model.columns)
    if named or rows.shape[1] != len(model.columns):
        names = f", {model.columns[0].name}, ..." if named else ""
        expected = f"expected the {len(model.columns)} that were trained on{names}"
        raise ValueError(f"X: {rows.shape[1]} columns without names, {expected}")
    if labels is not None and len(labels) != len(rows):
        raise ValueError(f"y: {len(labels)} labels for {len(rows)} rows, expected one each")
    if rows.dtype.kind == "f" and np.isinf(rows).any():
        row, place = np.argwhere(np.isinf(rows))[0]
        raise ValueError(f"X: {rows[row, place]} in row {row}, column {place}, expected finite")
    origins = [column.origin for column in model.columns]
    numbers = rows if not any(origins) else _less(rows, origins)
    return Rows(Frame(model.columns, numbers), labels)


def _less(rows: npt.NDArray[Any], origins: Sequence[int]) -> npt.NDArray[np.float64]:
    exact = rows.astype(object) if rows.dtype.kind in "iu" else rows.astype(np.float64)
    return np.asarray(exact - np.array(origins, object), np.float64)


def _label_texts(y: npt.NDArray[Any]) -> list[str]:
    if is_one_hot(y):
        y = y.argmax(axis=1)
    flat = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if flat.ndim != 1:
        raise ValueError(f"y: shape {y.shape}, expected one label per row")
    whole = flat.dtype.kind == "f" and bool((flat == np.trunc(flat)).all())
    return [str(int(v)) if whole else str(v) for v in flat.tolist()]


def _from_table(table: Table, reading: Reading) -> Dataset:
    labels = table.labels or []
    if not labels:
        raise ValueError("no rows, expected some below the header")

    def where(row: int) -> str:
        return f"{table.cells.where(row)}, column {table.label}"

    frame = arrange(table.cells, reading.choices)
    try:
        y, classes, notes = learnable(labels, reading.task, where)
    except ValueError as error:
        raise ValueError("; ".join([str(error), *_hint(table, reading, True)])) from None
    if reading.task is None:
        hint = _hint(table, reading, not classes)
        notes = ("; ".join([*notes, *hint]),) if notes or hint else ()
    label = LabelColumn(table.label, table.position, table.header, len(table.cells.names))
    data = framed("", frame, y, classes, label, (*table.notes, *notes))
    return replace(data, where=table.cells.where)


def _hint(table: Table, reading: Reading, doubtful: bool) -> list[str]:
    """Say that the first column may hold the classes, if nobody has said where they are.

    It may if it is the only column of texts, or if the labels are doubtful and it has few numbers.
    """
    cells = table.cells
    if reading.label is not None or table.position in (None, 0) or 0 in cells.skip:
        return []
    first, texts = cells.x[:, 0], set(cells.texts.get(0, {}).values())
    alone = not any(cells.texts.get(i) for i in range(1, len(cells.names)))
    whole = bool((first == np.trunc(first)).all())
    if texts:
        values = len(texts) if alone and np.isnan(first).all() else 0
    else:
        values = len(np.unique(first)) if doubtful and whole else 0
    if not 2 <= values <= min(MOST_NUMBERS, len(first) // 2):
        return []
    return [f"the first column has {values} values: if they are the classes, --label first"]
