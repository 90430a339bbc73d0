"""Text tables (.csv): dialect, header and label column, found by what stands in the file."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from gradstep.train.labels import INTEGER, MISSING, as_number

__all__ = ["Table", "read_table"]

DELIMITERS = ",;\t"
DECIMAL_COMMA = re.compile(r"[+-]?[0-9.]*,[0-9]+")
# Integers from here on are not all float64 numbers.
EXACT = 2**53
LABEL_NAMES = frozenset({"label", "labels", "class", "classes", "target"})
WORDS = {"first": 0, "last": -1}
SAMPLE_LINES = 20

Row = tuple[int, list[str]]


@dataclass(frozen=True)
class Table:
    """Columns of numbers x (N, I), float64, and the N labels as they stand in the file.

    names: of the columns, their positions where the file has no header. lines: of the rows in the
    file. label: name of the label column. notes: what was taken for what, a line each.
    """

    x: npt.NDArray[np.float64]
    labels: list[str]
    names: list[str]
    lines: Sequence[int]
    label: str
    notes: tuple[str, ...]


def read_table(path: str | Path, label: str | None = None, header: bool | None = None) -> Table:
    """Read a text table, one row per line; the dialect is that of Python's csv module.

    path: cells separated by `,`, `;` or tabs, whichever fits the first lines best; numbers with a
    point everywhere but in the label column. A separator at the end of every line is no cell.
    label: "first", "last", the name of the label column, or its index, -1 the last; None is the
    last. header: whether the first line holds names. None finds out: it does if `label` is a name;
    if no cell outside the label column is a number; if the cells count the columns, as pandas
    writes them; or if some cells are text and its label is none of those below.
    A first column without a name that counts the rows is left out. Integers beyond 2**53 are
    counted from the smallest of their column, which keeps them exact.
    Raises ValueError naming line and column of the first cell that does not fit.
    """
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = _rows(file)
        try:
            line, first = next(rows, (0, []))
            first = [cell.strip() for cell in first]
            if not first:
                raise ValueError("an empty file, expected numbers and a label column")
            if len(first) < 2:
                raise ValueError(
                    f"{len(first)} columns, expected numbers and a label column, with , ; or tabs "
                    "between"
                )
            column, named = _label_column(first, label)
            body = _read_body(rows, first, column, label is None)
        except csv.Error as error:
            raise ValueError(f"{error}, expected a quote to be closed on its cell") from None
    if named:
        header = True
    if header is None:
        header = _is_header(first, column, body)
    if header:
        names = first
    else:
        names = [str(i) for i in range(len(first))]
        top = _Body(names, column, label is None)
        top.add(line, first)
        top.extend(body)
        body = top
    _check_label_name(names, column, label, header)
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    found = f"line {line} taken as header ({shown})" if header else "no header found"
    where = f"label column {names[column]}" if header else f"label column {column}"
    notes = [f"{found}, {where}{' (the last)' if column == len(names) - 1 else ''}"]
    x = body.numbers()
    features = [name for i, name in enumerate(names) if i != column]
    if header and column > 0 and x.shape[1] > 1 and not names[0] and _counts_rows(x[:, 0]):
        x, features = x[:, 1:], features[1:]
        notes.append("the first column has no name and counts the rows: left out")
    return Table(x, body.labels, features, body.lines, names[column], tuple(notes))


def _rows(file: IO[str]) -> Iterator[Row]:
    """Yield line number and cells of every row that is not empty."""
    lines = list(islice(file, SAMPLE_LINES))
    samples = {delimiter: _sample(lines, delimiter) for delimiter in DELIMITERS}
    delimiter = max(samples, key=lambda delimiter: _fit(delimiter, samples[delimiter]))
    sample = samples[delimiter]
    ended = bool(sample) and all(not cells[-1] for cells in sample)
    width = 0
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        start = reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise csv.Error(f"line {start + 1}: {error}") from None
        if not any(map(str.strip, cells)):
            continue
        if not cells[-1].strip() and (ended or len(cells) == width + 1):
            cells.pop()
        width = width or len(cells)
        yield reader.line_num, cells


def _sample(lines: Iterable[str], delimiter: str) -> list[list[str]]:
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    rows = [[cell.strip() for cell in cells] for cells in reader]
    return [cells for cells in rows if any(cells)]


def _fit(delimiter: str, sample: list[list[str]]) -> tuple[bool, float, int]:
    """Rank a delimiter: cells that are numbers with a comma show that the comma is none."""
    widths = [len(cells) for cells in sample]
    if max(widths, default=1) == 1:
        return False, 0.0, 0
    usual = max(set(widths), key=lambda width: (widths.count(width), width))
    share = widths.count(usual) / len(widths)
    commas = delimiter != "," and any(DECIMAL_COMMA.fullmatch(c) for row in sample for c in row)
    return usual > 1 and commas and share == 1, share if usual > 1 else 0.0, usual


def _label_column(first: list[str], label: str | None) -> tuple[int, bool]:
    """Return the column's number, and whether its name, which is in the first line, told it."""
    index = _index(label)
    inside = index is not None and -len(first) <= index < len(first)
    if label in first and (label in WORDS or not inside):
        if first.count(label) > 1:
            raise ValueError(
                f"label: {label!r} names {first.count(label)} columns, "
                "expected one, or the index of a column"
            )
        return first.index(label), True
    if index is None:
        raise ValueError(
            f"label: {label!r}, expected first, last, a name of the header or an index"
        )
    if not inside:
        raise ValueError(f"label: {index}, expected the index of one of {len(first)} columns")
    return index % len(first), False


def _index(label: str | None) -> int | None:
    if label is None or label in WORDS:
        return WORDS.get(label or "last")
    return int(label) if re.fullmatch(r"-?[0-9]+", label) else None


def _check_label_name(names: list[str], column: int, label: str | None, header: bool) -> None:
    """Refuse a header that says that the label is elsewhere, unless the user has chosen."""
    if not header:
        return
    if names.count(names[column]) > 1:
        raise ValueError(
            f"header: {names.count(names[column])} columns are called {names[column]!r} like the "
            "label column, expected one; rename the others"
        )
    telling = [name for name in names if name.lower() in LABEL_NAMES]
    if label is None and len(telling) == 1 and telling[0] != names[column]:
        raise ValueError(
            f"header: column {telling[0]!r} seems to hold the classes, and not the last, "
            f"{names[column]!r}, expected a choice: --label {telling[0]} or --label last"
        )


@dataclass
class _Body:
    """Rows below the first: numbers, labels, and the texts of integers that float64 cannot hold."""

    names: list[str]
    column: int
    by_default: bool
    values: array[float] = field(default_factory=lambda: array("d"))
    labels: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))
    large: dict[int, dict[int, str]] = field(default_factory=dict)

    def add(self, line: int, cells: list[str]) -> None:
        if len(cells) != len(self.names):
            raise ValueError(f"line {line}: {len(cells)} cells, expected {len(self.names)}")
        features = cells[: self.column] + cells[self.column + 1 :]
        try:
            numbers = list(map(float, features))
            plain = sum(map(abs, numbers)) < EXACT and "_" not in "".join(features)
        except ValueError:
            plain = False
        if not plain:
            numbers = self._checked(line, cells)
        label = cells[self.column].strip()
        if not label:
            raise ValueError(
                f"line {line}, column {self._name(self.column)}: empty label, "
                "expected an integer or a name"
            )
        if DECIMAL_COMMA.fullmatch(label):
            raise ValueError(self._refusal(line, self.column, label))
        self.values.extend(numbers)
        self.labels.append(label)
        self.lines.append(line)

    def _checked(self, line: int, cells: list[str]) -> list[float]:
        """Look at each cell of a row that has a large number, or something else."""
        numbers = []
        for i, cell in enumerate(map(str.strip, cells)):
            if i == self.column:
                continue
            value = as_number(cell)
            if value is None or not math.isfinite(value):
                raise ValueError(self._refusal(line, i, cell))
            if not -EXACT < value < EXACT:
                self.large.setdefault(i - (i > self.column), {})[len(self.labels)] = cell
            numbers.append(value)
        return numbers

    def _name(self, i: int) -> str:
        name = self.names[i]
        return f"{name} (number {i})" if self.names.count(name) > 1 else name or str(i)

    def _refusal(self, line: int, i: int, cell: str) -> str:
        hint = ""
        if DECIMAL_COMMA.fullmatch(cell):
            hint = " written with a point, not a comma"
        elif cell.lower() in MISSING:
            hint = " (a missing value: fill it in, or leave its row or column out)"
        elif self.by_default and as_number(cell) is None:
            choice = "first" if i == 0 else self.names[i]
            hint = f" (is it the column of the classes? --label {choice})"
        return f"line {line}, column {self._name(i)}: {cell!r}, expected a finite number{hint}"

    def extend(self, other: _Body) -> None:
        rows = len(self.labels)
        for i, texts in other.large.items():
            self.large.setdefault(i, {}).update({rows + row: t for row, t in texts.items()})
        self.values.extend(other.values)
        self.labels += other.labels
        self.lines.extend(other.lines)

    def numbers(self) -> npt.NDArray[np.float64]:
        x = np.array(self.values, np.float64).reshape(len(self.labels), len(self.names) - 1)
        for i, texts in self.large.items():
            others = np.delete(x[:, i], list(texts))
            if all(map(INTEGER.fullmatch, texts.values())) and (others == np.trunc(others)).all():
                exact = [int(texts.get(row, value)) for row, value in enumerate(x[:, i].tolist())]
                smallest = min(exact)
                x[:, i] = [value - smallest for value in exact]
        return x


def _read_body(rows: Iterator[Row], first: list[str], column: int, by_default: bool) -> _Body:
    features = [cell for i, cell in enumerate(first) if i != column]
    surely = any(map(_is_text, features)) and all(as_number(cell) is None for cell in features)
    names = first if surely else [str(i) for i in range(len(first))]
    body = _Body(names, column, by_default)
    for line, cells in rows:
        body.add(line, cells)
    return body


def _is_text(cell: str) -> bool:
    missing = cell.lower() in MISSING or DECIMAL_COMMA.fullmatch(cell)
    return as_number(cell) is None and not missing


def _is_header(first: list[str], column: int, body: _Body) -> bool:
    features = [cell for i, cell in enumerate(first) if i != column]
    new = first[column] not in body.labels
    text = [cell for cell in features if _is_text(cell)]
    if text and not any(as_number(cell) is not None for cell in features):
        return True
    if text:  # a name among numbers, or a slip
        return new and not any(cell[0] in "+-.0123456789" for cell in text)
    if first[0] == "" and len(first) > 2:
        return _count(first[1:], column - 1)
    counted = first[column] == str(column)
    if _count(first, column):
        # `0,1,2` may be data, but far more often pandas wrote it above columns without names.
        return new or (counted and len(first) > 2) or not _has_integers(body)
    return new and len(first) > 2 and first == [str(i + 1) for i in range(len(first))]


def _count(cells: list[str], column: int) -> bool:
    """Tell whether the cells are their positions; a label in the last column may be a word."""
    word = column == len(cells) - 1 and _is_text(cells[-1])
    numbers = cells[:-1] if word else cells
    return numbers == [str(i) for i in range(len(numbers))]


def _has_integers(body: _Body) -> bool:
    return any(value.is_integer() for value in body.values)


def _counts_rows(x: npt.NDArray[np.float64]) -> bool:
    return len(x) > 0 and bool((x == x[0] + np.arange(len(x))).all()) and x[0] in (0, 1)
