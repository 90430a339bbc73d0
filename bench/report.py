"""The report: Markdown tables, and the same as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from .runner import Result, Row
from .targets import CALLS, Reached, Verdict

__all__ = ["as_json", "duration", "markdown"]

COLUMNS = ("work", "peer", "median", "min", "spread", "× gradstep", "GB/s", "of the limit")


def duration(seconds: float) -> str:
    """Three digits and a unit.

    >>> duration(1.234e-05), duration(0.0786)
    ('12.3 µs', '78.6 ms')
    """
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds * 1e9)} ns"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _optional(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, its columns padded so that it can be read as text too."""
    cells = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in cells
    ]
    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return [lines[0], rule, *lines[1:]]


def markdown(
    header: Mapping[str, str],
    results: Sequence[Result],
    verdicts: Sequence[Verdict],
    plots: Mapping[str, str],
) -> str:
    """The whole report. plots: title -> file."""
    lines = ["# Benchmark", "", *(f"- {key}: {value}" for key, value in header.items()), ""]
    for suite, group in groupby(results, key=lambda result: result.suite):
        lines += [f"## {suite}", "", *table(COLUMNS, _rows(list(group))), ""]
    lines += ["## Targets", "", *_targets(verdicts), ""]
    for title, file in plots.items():
        lines += [f"![{title}]({file})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _rows(results: Sequence[Result]) -> Iterable[list[str]]:
    for result in results:
        for number, row in enumerate(result.rows):
            yield [result.work.name if number == 0 else "", row.name, *_figures(result, row)]


def _figures(result: Result, row: Row) -> list[str]:
    timing = row.timing
    if timing is None:
        return [row.remark, *[""] * (len(COLUMNS) - 3)]
    return [
        duration(timing.median),
        duration(timing.best),
        f"{timing.spread:.0%}",
        _optional(result.times_base(timing)),
        _digits(result.bandwidth(timing)),
        _optional(result.share_of_limit(timing)),
    ]


def _targets(verdicts: Sequence[Verdict]) -> list[str]:
    columns = ("work", "target", "compared with", *CALLS)
    return table(
        columns, ([v.work, v.goal, v.basis, *(_reached(r) for r in v.reached)] for v in verdicts)
    )


def _reached(reached: Reached | None) -> str:
    if reached is None:
        return "–"
    verdict = "met" if reached.excess <= 0 else f"missed by {reached.excess:.1%}"
    return f"{reached.value}, {verdict}"


def as_json(
    header: Mapping[str, str], results: Sequence[Result], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """All that was measured, every round of it, as plain data."""
    return {
        "header": dict(header),
        "results": [
            {
                "suite": result.suite,
                "work": result.work.name,
                "elements": result.work.elements,
                "ideal_bytes": result.work.ideal_bytes,
                "peers": [_json_row(result, row) for row in result.rows],
            }
            for result in results
        ],
        "targets": [
            {
                "work": v.work,
                "target": v.goal,
                "compared with": v.basis,
                **{call: _reached(r) for call, r in zip(CALLS, v.reached, strict=True)},
            }
            for v in verdicts
        ],
    }


def _json_row(result: Result, row: Row) -> dict[str, Any]:
    known: dict[str, Any] = {"peer": row.name, "remark": row.remark, "error": row.error}
    if row.timing is None:
        return known
    return {
        **known,
        "seconds": list(row.timing.seconds),
        "calls": row.timing.calls,
        "times_gradstep": result.times_base(row.timing),
        "gigabytes_per_second": result.bandwidth(row.timing),
        "share_of_limit": result.share_of_limit(row.timing),
    }
