"""The report: Markdown tables, and the same as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from .between import AFTER, LENT, PROCESSES, TEAM, Between, by_process, span
from .compare import COUNT, TIME, Move
from .instructions import Counts
from .runner import BASE, LAYER, Result, Row
from .scaling import ONE
from .targets import CALLS, Reached, Verdict

__all__ = ["Picture", "Report", "as_json", "brief", "comparison", "duration", "markdown", "summary"]

COLUMNS = ("work", "peer", "median", "min", "spread", "× gradstep", "GB/s", "of the limit")


@dataclass(frozen=True)
class Picture:
    """A plot. file: in the folder of the report. suite: whose figures it shows, "" for several."""

    title: str
    file: str
    suite: str


@dataclass(frozen=True)
class Report:
    """All that a run found out. commands: by suite, what measures it again."""

    header: Mapping[str, str]
    results: Sequence[Result]
    verdicts: Sequence[Verdict]
    commands: Mapping[str, str] = field(default_factory=dict)
    counts: Counts | None = None
    pictures: Sequence[Picture] = ()


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


def markdown(report: Report) -> str:
    """The whole report."""
    lines = ["# Benchmark", "", *_header(report), ""]
    lines += ["## Summary", "", *summary(report.results), "", *_pictures(report, "")]
    for suite, group in groupby(report.results, key=lambda result: result.suite):
        lines += [f"## {suite}", "", *_command(report, suite)]
        own = list(group)
        lines += _between(own)
        lines += [*table(COLUMNS, _rows(own)), "", *_pictures(report, suite)]
    if report.counts is not None:
        lines += ["## calls", "", *_command(report, "calls"), *_counts(report.counts), ""]
    lines += ["## Targets", "", *_targets(report.verdicts)]
    return "\n".join(lines) + "\n"


def _between(results: Sequence[Result]) -> list[str]:
    """What a second thread and gradstep bring by what a call follows; nothing of other works."""
    by_work: dict[str, dict[str, Result]] = {}
    for result in results:
        if isinstance(result.work, Between):
            by_work.setdefault(result.work.work.name, {})[result.work.after] = result
    if not by_work:
        return []
    peers = dict.fromkeys(r.name for result in results for r in result.rows if r.timing)
    lines = [
        f"Each call stands after 1 ms of other work, but for those in a tight loop. Of {PROCESSES} "
        "fresh processes, the range of their medians.",
        "",
    ]
    alone = f"{LAYER}, {ONE}"
    for who in peers:
        over, under = (alone, who) if who in (LAYER, LENT) else (who, LAYER)
        if who == TEAM:
            over, under = f"{TEAM}, {ONE}", TEAM
        if who.endswith(ONE):
            continue
        cells = [
            [work, *(_ratio(found.get(after), over, under) for after in AFTER)]
            for work, found in by_work.items()
        ]
        lines += [f"Time of {over} over that of {under}:", "", *table(("work", *AFTER), cells), ""]
    return lines


def _ratio(result: Result | None, over: str, under: str) -> str:
    a, b = (result.timing(name) if result else None for name in (over, under))
    return span(by_process(a, b)) if a and b else "–"


def brief(report: Report) -> str:
    """Header, wrong peers, instruction counts, and last a line for each work."""
    broken = [
        f"{result.work.name}: {row.name}: {row.remark}"
        for result in report.results
        for row in result.rows
        if row.broken
    ]
    lines = [*_header(report), "", *broken, *_between(report.results)]
    if report.counts is not None:
        lines += [*_counts(report.counts), ""]
    return "\n".join([*lines, *summary(report.results)]) + "\n"


def _header(report: Report) -> list[str]:
    return [f"- {key}: {value}" for key, value in report.header.items()]


def _command(report: Report, suite: str) -> list[str]:
    command = report.commands.get(suite)
    return [f"command: `{command}`", ""] if command else []


def _pictures(report: Report, suite: str) -> list[str]:
    own = [picture for picture in report.pictures if picture.suite == suite]
    return [line for picture in own for line in (f"![{picture.title}]({picture.file})", "")]


def summary(results: Sequence[Result]) -> list[str]:
    """A table of one line for each work: gradstep, the fastest of the others, the limit."""
    columns = ("suite", "work", "gradstep", "spread", "fastest peer", "takes", *COLUMNS[5:6])
    return table((*columns, COLUMNS[-1]), filter(None, map(_summary, results)))


def _summary(result: Result) -> list[str] | None:
    own = result.timing(BASE) or result.timing(LAYER)
    if own is None:
        return None
    line = [result.suite, result.work.name, duration(own.median), f"{own.spread:.0%}"]
    best = result.fastest_peer()
    if best is None:
        line += ["none", "", ""]
    else:
        line += [best[0], duration(best[1].median), _optional(result.times_base(best[1]))]
    return [*line, _optional(result.share_of_limit(own))]


def _counts(counts: Counts) -> list[str]:
    if not counts.by_call:
        return [counts.how]
    rows = ([call, f"{count:,.0f}".replace(",", " ")] for call, count in counts.by_call.items())
    return [f"{counts.how}.", "", *table(("call", "instructions"), rows)]


def comparison(moves: Sequence[Move], alone: Sequence[str], old: str) -> str:
    """What moved since `old`, the figures that drift apart from those that do not."""
    drifting = [move for move in moves if move.column == TIME]
    steady = [move for move in moves if move.column != TIME]
    lines = [f"## Since {old}", "", *_moved(steady, "ratios and counts"), ""]
    lines += [*_moved(drifting, "times, which drift with the machine"), ""]
    if alone:
        lines += [f"In one of the runs only: {'; '.join(alone)}.", ""]
    return "\n".join(lines)


def _moved(moves: Sequence[Move], kind: str) -> list[str]:
    moved = [move for move in moves if move.moved]
    lines = [f"{len(moved)} of {len(moves)} {kind} moved by more than their rounds differ."]
    if not moved:
        return lines
    columns = ("work", "peer", "figure", "old", "new", "change", "")
    return [*lines, "", *table(columns, map(_move, moved))]


def _move(move: Move) -> list[str]:
    shown = {TIME: duration, COUNT: "{:.0f}".format}.get(move.column, "{:.2f}".format)
    name = "time" if move.column == TIME else move.column
    figures = [shown(move.old), shown(move.new), f"{move.change:+.0%}"]
    return [f"{move.suite}: {move.work}", move.peer, name, *figures, _verdict(move)]


def _verdict(move: Move) -> str:
    """The time of a peer is better or worse for nobody."""
    if move.column == TIME and not move.peer.startswith(LAYER):
        return ""
    return "better" if move.gain > 0 else "worse"


def _rows(results: Sequence[Result]) -> Iterable[list[str]]:
    for result in results:
        if not result.rows:
            remark = "not measured: no installed library does this work"
            yield [result.work.name, "–", remark, *[""] * (len(COLUMNS) - 3)]
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
        _digits(result.bandwidth(timing)) if result.work.ideal_bytes else "–",
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


def as_json(report: Report) -> dict[str, Any]:
    """All that was measured, every round of it, as plain data."""
    counts = report.counts
    return {
        "header": dict(report.header),
        "commands": dict(report.commands),
        "instructions": dict(counts.by_call) if counts else {},
        "counted": counts.how if counts else "",
        "results": [
            {
                "suite": result.suite,
                "work": result.work.name,
                "elements": result.work.elements,
                "ideal_bytes": result.work.ideal_bytes,
                "peers": [_json_row(result, row) for row in result.rows],
            }
            for result in report.results
        ],
        "targets": [
            {
                "work": v.work,
                "target": v.goal,
                "compared with": v.basis,
                **{call: _reached(r) for call, r in zip(CALLS, v.reached, strict=True)},
            }
            for v in report.verdicts
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
