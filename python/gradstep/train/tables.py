"""Text tables (.csv, .tsv): dialect, header and label column, found by what stands in the file."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import IO

import numpy as np
import numpy.typing as npt

from gradstep.train.frame import Cells, has_decimal_comma
from gradstep.train.labels import MISSING, as_number

__all__ = ["Known", "Table", "label_position", "read_table"]

DELIMITERS = ",;\t"
# Integers from here on are not all float64 numbers.
EXACT = 2**53
LABEL_NAMES = frozenset({"label", "labels", "class", "classes", "target"})
WORDS = {"first": 0, "last": -1}
SAMPLE_LINES = 20

Row = tuple[int, list[str]]


@dataclass(frozen=True)
class Table:
    """A table as it stands: its cells, and the N labels.

    cells: all columns, of which the label and an index are skipped. labels: None without a label
    column. lines: of the rows in the file. header: whether names stand above. label: name of the
    label column. position: its number. notes: what was taken for what, a line each.
    """

    cells: Cells
    labels: list[str] | None
    lines: Sequence[int]
    header: bool
    label: str
    position: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """What is known of a table from another one: names of columns, of the label, the width.

    names: () where that one had no header. width: its columns, the label among them at `position`.
    """

    names: Collection[str]
    label: str
    position: int | None
    width: int


def read_table(
    file: IO[str],
    label: str | None = None,
    header: bool | None = None,
    *,
    delimiter: str | None = None,
    missing: Collection[str] = (),
    known: Known | None = None,
) -> Table:
    """Read a text table, one row per line; the dialect is that of Python's csv module.

    file: cells separated by `,`, `;` or tabs, whichever fits the first lines best, unless
    `delimiter` says it; numbers with a point. A separator at the end of every line is no cell.
    label: "first", "last", the name of the label column, or its index, -1 the last; None is the
    last. header: whether the first line holds names. None finds out: it does if `label` is a name;
    if its cells count the columns, as pandas writes them; or if there are texts among its cells,
    above numbers or such as occur nowhere below. missing: words for missing values, beside the
    usual ones. known: of a table like this one, which may lack the label.
    A first column without a name that counts the rows is skipped.
    Raises ValueError naming line and column of the first cell that does not fit.
    """
    rows = _rows(file, delimiter)
    words = MISSING | {word.strip().lower() for word in missing}
    try:
        line, first = next(rows, (0, []))
        first = [cell.strip() for cell in first]
        if not first:
            raise ValueError("an empty file, expected columns and a label column")
        column, named = label_position(first, label, known)
        if len(first) < 2 and column is not None:
            raise ValueError(
                f"{len(first)} columns, expected some and a label column, with , ; or tabs between"
            )
        body = _Body(len(first), column, words)
        for at, cells in rows:
            body.add(at, cells)
    except csv.Error as error:
        raise ValueError(f"{error}, expected a quote to be closed on its cell") from None
    if named:
        header = True
    if header is None:
        lone = known is not None and not body.lines  # a single row to predict
        header = not lone and _is_header(first, column, body)
    if header:
        names = first
    else:
        names = [str(i) for i in range(len(first))]
        top = _Body(len(first), column, words)
        top.add(line, first)
        top.extend(body)
        body = top
    if known is None and column is not None:
        _check_label_name(names, column, label, header)
        _check_labels(body, names[column] or str(column))
    return _table(body, names, header, line)


def _table(body: _Body, names: list[str], header: bool, line: int) -> Table:
    column = body.column
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    found = f"line {line} taken as header ({shown})" if header else "no header found"
    notes = [found]
    if column is not None:
        last = " (the last)" if column == len(names) - 1 else ""
        notes = [f"{found}, label column {names[column]}{last}"]
    lines = body.lines
    x = np.array(body.values, np.float64).reshape(len(lines), len(names))
    skip = set() if column is None else {column}
    indexed = header and not names[0] and 0 not in skip and len(names) - len(skip) > 1
    if indexed and 0 not in body.texts and _counts_rows(x[:, 0]):
        skip.add(0)
        notes.append("the first column has no name and counts the rows: left out")

    def where(row: int) -> str:
        return f"line {lines[row]}"

    cells = Cells(x, names, body.texts, body.digits, where, skip)
    labels = None if column is None else body.labels
    name = "" if column is None else names[column]
    return Table(cells, labels, lines, header, name, column, tuple(notes))


def _rows(file: IO[str], delimiter: str | None) -> Iterator[Row]:
    """Yield line number and cells of every row that is not empty."""
    lines = list(islice(file, SAMPLE_LINES))
    samples = {sign: _sample(lines, sign) for sign in (delimiter or DELIMITERS)}
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
    commas = delimiter != "," and any(has_decimal_comma(c) for row in sample for c in row)
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


def _check_labels(body: _Body, name: str) -> None:
    for label in {label for label in body.labels if not label or has_decimal_comma(label)}:
        line = body.lines[body.labels.index(label)]
        found = f"{label!r}, expected a number written with a point, not a comma"
        empty = "empty label, expected a number or a name"
        raise ValueError(f"line {line}, column {name}: {found if label else empty}")


@dataclass
class _Body:
    """Rows below the first: numbers by row, labels, and the cells that are something else."""

    width: int
    column: int | None
    missing: Collection[str]
    values: array[float] = field(default_factory=lambda: array("d"))
    labels: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))
    texts: dict[int, dict[int, str]] = field(default_factory=dict)
    digits: dict[int, dict[int, str]] = field(default_factory=dict)

    def add(self, line: int, cells: list[str]) -> None:
        if len(cells) != self.width:
            raise ValueError(f"line {line}: {len(cells)} cells, expected {self.width}")
        if self.column is not None:
            self.labels.append(cells[self.column].strip())
            cells[self.column] = "0"
        try:
            numbers = list(map(float, cells))
            plain = sum(map(abs, numbers)) < EXACT and "_" not in "".join(cells)
        except ValueError:
            plain = False
        self.values.extend(numbers if plain else self._checked(line, cells))
        self.lines.append(line)

    def _checked(self, line: int, cells: list[str]) -> list[float]:
        """Look at each cell of a row that has a large number, or something else."""
        numbers, row = [], len(self.lines)
        for i, cell in enumerate(map(str.strip, cells)):
            if cell.lower() in self.missing:
                numbers.append(math.nan)
                continue
            value = as_number(cell)
            if value is None or not math.isfinite(value):
                self.texts.setdefault(i, {})[row] = cell
                numbers.append(math.nan)
                continue
            if not -EXACT < value < EXACT:
                self.digits.setdefault(i, {})[row] = cell
            numbers.append(value)
        return numbers

    def extend(self, other: _Body) -> None:
        rows = len(self.lines)
        for own, others in ((self.texts, other.texts), (self.digits, other.digits)):
            for i, cells in others.items():
                own.setdefault(i, {}).update({rows + row: cell for row, cell in cells.items()})
        self.values.extend(other.values)
        self.labels += other.labels
        self.lines.extend(other.lines)

    def holds_numbers(self, i: int) -> bool:
        """Tell whether a column has more numbers than texts."""
        numbers = sum(value == value for value in self.values[i :: self.width])
        return numbers > len(self.texts.get(i, ()))


def label_position(
    first: list[str], label: str | None, known: Known | None = None
) -> tuple[int | None, bool]:
    """Return the label column, if there is one, and whether the first line surely holds names.

    first: its cells. label, known: see `read_table`. Raises ValueError if there is no such column.
    """
    if known is None:
        return _label_column(first, label)
    names = {*known.names, label or known.label} - {""}
    if known.names and names & set(first):
        at = _label_column(first, label)[0] if label else None
        if at is None and first.count(known.label) == 1:
            at = first.index(known.label)
        return at, True
    if len(first) == known.width - 1 and not label:
        return None, False
    if len(first) == known.width and label:
        return _label_column(first, label)
    if len(first) == known.width and known.position is not None:
        return known.position, False
    unnamed = " without the names of those that were trained on" if known.names else ""
    which = " that --label names" if known.position is None else ""
    expected = f"expected {known.width - 1}, or {known.width} with the label{which}"
    raise ValueError(f"{len(first)} columns{unnamed}, {expected}")


def _is_text(cell: str, missing: Collection[str] = MISSING) -> bool:
    return as_number(cell) is None and cell.lower() not in missing and not has_decimal_comma(cell)


def _is_header(first: list[str], column: int | None, body: _Body) -> bool:
    features = [i for i in range(len(first)) if i != column]
    texts = [i for i in features if _is_text(first[i], body.missing)]
    number = any(as_number(first[i]) is not None for i in features)
    above_numbers = any(body.holds_numbers(i) for i in texts)
    recurs = any(first[i] in body.texts.get(i, {}).values() for i in texts)
    new = column is None or first[column] not in body.labels
    if texts and not number:
        return above_numbers or not (recurs or (column is not None and not new))
    if texts and above_numbers:  # a name among numbers, or a slip
        return new and not recurs and not any(first[i][0] in "+-.0123456789" for i in texts)
    if texts:
        measured = column is not None and as_number(first[column]) is not None
        return new and not recurs and not measured
    if column is None:
        return first == [str(i) for i in range(len(first))]
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
    columns = (body.values[i :: body.width] for i in range(body.width) if i != body.column)
    return any(value.is_integer() for values in columns for value in values)


def _counts_rows(x: npt.NDArray[np.float64]) -> bool:
    return len(x) > 0 and bool((x == x[0] + np.arange(len(x))).all()) and x[0] in (0, 1)
