"""Columns of a table: which hold numbers, which categories, and where values are missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.train.labels import INTEGER, MOST_NUMBERS, as_number

__all__ = ["EVERY", "Cells", "Choices", "Column", "Frame", "arrange", "arrange_like", "numbered"]

Rows = npt.NDArray[Any]
MANY_TEXTS = 10
# Levels of a category that get a column each; the rarer ones have none.
MOST_LEVELS = 100


@dataclass(frozen=True)
class Column:
    """A column that is used.

    name: in the header, or its position. position: in the table. category: whether it is one.
    origin: what its integers are counted from, as they are beyond 2**53 and float64 is not exact.
    """

    name: str
    position: int
    category: bool = False
    origin: int = 0


@dataclass(frozen=True)
class Frame:
    """Rows by column: numbers (N, I), NaN where missing, and categories.

    columns: of the numbers and then of the categories. categories: for each its N texts, None where
    missing. notes: what was taken for what, a line each.
    """

    columns: tuple[Column, ...]
    numbers: Rows
    categories: tuple[list[str | None], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """Names of the columns, numbers first."""
        return [column.name for column in self.columns]


@dataclass(frozen=True)
class Choices:
    """What the user says about columns: names, or positions, to take as categories or leave out."""

    categories: Collection[str] = ()
    drop: Collection[str] = ()


EVERY = Choices()


@dataclass(frozen=True)
class Cells:
    """A table as it was read: numbers x (N, W), NaN for other cells.

    names: of the W columns. texts: column -> row -> what stands there instead of a number; neither
    number nor text is missing. digits: column -> row -> integers that float64 may not hold.
    where: says where a row stands. skip: columns that are not to be used.
    """

    x: npt.NDArray[Any]
    names: Sequence[str]
    texts: Mapping[int, Mapping[int, str]]
    digits: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    where: Callable[[int], str] = "row {}".format
    skip: Collection[int] = ()

    def name(self, i: int) -> str:
        """What errors call a column."""
        name = self.names[i]
        return f"{name} (number {i})" if list(self.names).count(name) > 1 else name or str(i)

    def all_texts(self, i: int) -> list[str | None]:
        """Cells of a category: numbers as Python writes them shortest, so that 1.0 is 1."""
        texts, digits = self.texts.get(i, {}), self.digits.get(i, {})
        numbers = self.x[:, i].tolist()
        return [texts.get(r) or digits.get(r) or _text(value) for r, value in enumerate(numbers)]


def numbered(x: Rows) -> Frame:
    """Return rows (N, I) of numbers without names as a frame.

    >>> numbered(np.eye(2)).names
    ['0', '1']
    """
    frame = Frame(tuple(Column(str(i), i) for i in range(x.shape[1])), x)
    return replace(frame, notes=tuple(_gaps(frame)))


def _text(value: float) -> str | None:
    if value != value:
        return None
    return str(int(value)) if value == int(value) else repr(value)


def arrange(cells: Cells, choices: Choices = EVERY) -> Frame:
    """Tell numbers from categories.

    A column is a category if it holds more texts than numbers, or at least a tenth and more than
    ten different ones; fewer are slips and an error. One without values is left out, and so is one
    whose texts are different in most rows, such as names.
    Raises ValueError naming row and column of a cell that does not fit, or a choice that is none.
    """
    dropped = {_position("--drop", name, cells) for name in choices.drop}
    chosen = {_position("--categories", name, cells) for name in choices.categories}
    usable = [i for i in range(len(cells.names)) if i not in cells.skip]
    numbers: list[Column] = []
    categories: list[Column] = []
    left_out: list[str] = []
    for i in usable:
        reason = "asked for" if i in dropped else None if i in chosen else _useless(cells, i)
        if reason:
            left_out.append(f"{cells.name(i)} ({reason})")
        elif i in chosen or cells.texts.get(i):
            categories.append(Column(cells.names[i], i, category=True))
        else:
            numbers.append(Column(cells.names[i], i))
    if not numbers and not categories:
        names = ", ".join(map(cells.name, usable)) or "none"
        raise ValueError(f"no column to learn from among {names}")
    frame = _frame(cells, numbers, categories)
    return replace(frame, notes=_notes(frame, left_out))


def _useless(cells: Cells, i: int) -> str | None:
    """Tell why a column teaches nothing. Raises ValueError for a slip among numbers."""
    if not cells.texts.get(i):
        return "no values" if np.isnan(cells.x[:, i]).all() else None
    if not _is_category(cells, i):
        raise ValueError(slip(cells, i))
    different = len(set(cells.all_texts(i)))
    if different > max(MOST_NUMBERS, len(cells.x) // 2):
        return f"{different:,} different texts"
    return None


def _position(option: str, name: str, cells: Cells) -> int:
    usable = [i for i in range(len(cells.names)) if i not in cells.skip]
    found = [i for i in usable if cells.names[i] == name]
    if not found and name.isdecimal() and int(name) in usable:
        found = [int(name)]
    if len(found) != 1:
        names = ", ".join(cells.name(i) for i in usable[:8]) + (", ..." if len(usable) > 8 else "")
        count = f"names {len(found)} columns" if found else "no such column"
        raise ValueError(f"{option}: {name!r}, {count}, expected one of {names}")
    return found[0]


def _is_category(cells: Cells, i: int) -> bool:
    texts = cells.texts[i]
    if all(has_decimal_comma(text) for text in texts.values()):
        return False
    numbers = len(cells.x) - int(np.isnan(cells.x[:, i]).sum())
    several = len(set(texts.values())) > MANY_TEXTS
    return len(texts) > numbers or (several and 10 * len(texts) >= len(texts) + numbers)


def slip(cells: Cells, i: int) -> str:
    """Say which cell of a column of numbers is none."""
    row, cell = min(cells.texts[i].items())
    if has_decimal_comma(cell):
        hint = "written with a point, not a comma"
    else:
        hint = (
            f"as in most of the column (--missing {cell!r} takes it for a missing value, "
            f"--categories {cells.name(i)} all for categories)"
        )
    return f"{cells.where(row)}, column {cells.name(i)}: {cell!r}, expected a finite number {hint}"


def has_decimal_comma(text: str) -> bool:
    """Tell whether the text is a number with a comma: 1,5."""
    return text.count(",") == 1 and as_number(text.replace(",", ".")) is not None


def _frame(cells: Cells, numbers: Iterable[Column], categories: Iterable[Column]) -> Frame:
    numbers, categories = list(numbers), list(categories)
    x = cells.x[:, [column.position for column in numbers]]
    counted = []
    for place, column in enumerate(numbers):
        digits = cells.digits.get(column.position, {})
        if digits or column.origin:
            x[:, place], column = _counted(x[:, place], digits, column)
        counted.append(column)
    texts = tuple(cells.all_texts(column.position) for column in categories)
    return Frame((*counted, *categories), x, texts)


def _counted(
    values: npt.NDArray[Any], digits: Mapping[int, str], column: Column
) -> tuple[npt.NDArray[Any], Column]:
    """Count integers beyond 2**53 from the smallest, unless the column has an origin already."""
    present = np.isfinite(values)
    whole = bool((values[present] == np.trunc(values[present])).all())
    if not whole or not all(map(INTEGER.fullmatch, digits.values())):
        return values - column.origin, column
    exact = {row: int(digits.get(row, value)) for row, value in enumerate(values) if present[row]}
    origin = column.origin or min(exact.values())
    out = values.copy()
    out[list(exact)] = [value - origin for value in exact.values()]
    return out, replace(column, origin=origin)


def _notes(frame: Frame, left_out: list[str]) -> tuple[str, ...]:
    notes = []
    count = frame.numbers.shape[1]
    if frame.categories:
        levels = [len({*texts} - {None}) for texts in frame.categories]
        few = f", the {MOST_LEVELS} most frequent have a column"
        pairs = zip(frame.names[count:], levels, strict=True)
        shown = [f"{name} ({n:,}{few if n > MOST_LEVELS else ''})" for name, n in pairs]
        notes.append(f"categories, with their levels, one-hot: {_some(shown)}")
    notes += _gaps(frame)
    for name, texts in zip(frame.names[count:], frame.categories, strict=True):
        if None in texts:
            notes.append(f"missing: {name} ({texts.count(None):,}), taken as a level")
    if left_out:
        notes.append(f"left out: {_some(left_out)}")
    return tuple(notes)


def _gaps(frame: Frame) -> list[str]:
    lacking = np.isnan(frame.numbers).sum(axis=0) if frame.numbers.dtype.kind == "f" else []
    flagged = [f"{name} ({n:,})" for name, n in zip(frame.names, lacking, strict=False) if n]
    if not flagged:
        return []
    return [f"missing: {_some(flagged)}, taken as the median, with a flag column"]


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:6]) + (f" and {len(items) - 6} more" if len(items) > 6 else "")


def arrange_like(cells: Cells, columns: Sequence[Column], named: bool) -> Frame:
    """Return the same columns of another table, by their names if `named`, else by position.

    Raises ValueError naming what is missing, or the first cell that does not fit.
    """
    found = [_find(cells, column) if named else column.position for column in columns]
    missing = [c.name for c, place in zip(columns, found, strict=True) if place is None]
    if missing:
        has = _some([cells.name(i) for i in range(len(cells.names))])
        raise ValueError(f"no column {_some(missing)}, expected all that was trained on, in {has}")
    placed = [
        replace(column, position=place)
        for column, place in zip(columns, found, strict=True)
        if place is not None
    ]
    for column in placed:
        if not column.category and cells.texts.get(column.position):
            raise ValueError(slip(cells, column.position))
    return _frame(cells, [c for c in placed if not c.category], [c for c in placed if c.category])


def _find(cells: Cells, column: Column) -> int | None:
    found = [i for i, name in enumerate(cells.names) if name == column.name]
    if len(found) > 1:
        if column.position in found:
            return column.position
        raise ValueError(f"header: {len(found)} columns are called {column.name!r}, expected one")
    return found[0] if found else None


def most_frequent(texts: Iterable[str | None], most: int) -> list[str | None]:
    """Return at most so many different texts, the most frequent, in order; None comes last.

    >>> most_frequent(["b", "a", "b", None, "c", None], 2)
    ['b', None]
    """
    counts = Counter(texts)
    chosen = sorted(counts, key=lambda text: (-counts[text], text is None, text or ""))[:most]
    return sorted(chosen, key=lambda text: (text is None, text or ""))
