"""Parquet tables, by pyarrow, which is imported only here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from gradstep.train.datasets import MissingExtraError
from gradstep.train.frame import Cells
from gradstep.train.labels import MISSING, as_number
from gradstep.train.tables import EXACT, Known, Table, label_position

__all__ = ["read_parquet"]


def read_parquet(
    path: str | Path,
    label: str | None = None,
    *,
    missing: Collection[str] = (),
    drop: Collection[str] = (),
    known: Known | None = None,
) -> Table:
    """Read a Parquet file as `read_table` reads text: numbers, texts, and truth values as texts.

    path, label, missing, known: see there. drop: columns not to look into.
    Raises MissingExtraError without pyarrow, ValueError for a damaged file or a type that is
    neither.
    """
    try:
        import pyarrow
        from pyarrow import compute, parquet  # noqa: F401  pyarrow.compute is used by name
    except ImportError:
        raise MissingExtraError("pyarrow", "a .parquet file", "parquet") from None
    try:
        content = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"not a whole Parquet file ({str(error).splitlines()[0]})") from None
    names = list(content.column_names)
    column, _ = label_position(names, label, known)
    words = MISSING | {word.strip().lower() for word in missing}
    x = np.full((content.num_rows, len(names)), np.nan)
    texts: dict[int, dict[int, str]] = {}
    digits: dict[int, dict[int, str]] = {}
    labels: list[str] | None = None
    for i, name in enumerate(names):
        if name in drop or (known is not None and i != column and name not in known.names):
            continue
        if i != column and (numbers := _numbers(pyarrow, content.column(i))) is not None:
            x[:, i] = numbers
            continue
        values = _plain(pyarrow, content.column(i), name)
        if i == column:
            labels = _labels(values, name)
            continue
        _add(i, values, x, texts, digits, words)
    skip = set() if column is None else {column}
    index = [i for i, name in enumerate(names) if name.startswith("__index_level_")]
    skip.update(i for i in index if i != column)
    notes = ["the index of pandas is left out"] if index else []
    where = "" if column is None else f"label column {names[column]}"
    last = " (the last)" if column == len(names) - 1 else ""
    name = "" if column is None else names[column]
    cells = Cells(x, names, texts, digits, skip=skip)
    rows = range(content.num_rows)
    return Table(cells, labels, rows, True, name, column, (where + last, *notes) if where else ())


def _numbers(arrow: Any, column: Any) -> Any:
    """The values of most columns of numbers at once, NaN where missing; None for another one."""
    if arrow.types.is_integer(column.type):
        ends = arrow.compute.min_max(column).as_py()
        exact = all(end is not None and -EXACT < end < EXACT for end in ends.values())
        return column.to_numpy() if exact else None
    if not arrow.types.is_floating(column.type):
        return None
    values = column.to_numpy()
    return None if np.isinf(values).any() else values


def _plain(arrow: Any, column: Any, name: str) -> list[Any]:
    """The values of a column as Python's, None where missing."""
    kind = column.type.value_type if arrow.types.is_dictionary(column.type) else column.type
    types = arrow.types
    numbers = (types.is_integer, types.is_floating, types.is_decimal)
    texts = (types.is_string, types.is_large_string, types.is_boolean, types.is_null)
    if not any(test(kind) for test in (*numbers, *texts, types.is_temporal)):
        raise ValueError(f"column {name}: {column.type}, expected numbers or texts (--drop {name})")
    values: list[Any] = column.to_pylist()
    return values


def _labels(values: list[Any], name: str) -> list[str]:
    for row, value in enumerate(values):
        if value is None or value != value or value == "":
            raise ValueError(f"row {row}, column {name}: empty label, expected a number or a name")
    return [repr(value) if isinstance(value, float) else str(value) for value in values]


def _add(
    i: int,
    values: list[Any],
    x: Any,
    texts: dict[int, dict[int, str]],
    digits: dict[int, dict[int, str]],
    words: Collection[str],
) -> None:
    for row, value in enumerate(values):
        if value is None:
            continue
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            text = str(value).strip()
            number = None if isinstance(value, bool) else as_number(text)
            if text.lower() in words:
                continue
            if number is None or not np.isfinite(number):
                texts.setdefault(i, {})[row] = text
                continue
            value = number
        if not np.isfinite(float(value)) and float(value) == float(value):
            texts.setdefault(i, {})[row] = str(value)
            continue
        if isinstance(value, int) and not -EXACT < value < EXACT:
            digits.setdefault(i, {})[row] = str(value)
        x[row, i] = float(value)
