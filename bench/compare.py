"""What moved between two runs, each as `--json` wrote it.

Times drift with the machine, so the figures are ratios within one run: a peer's time over
gradstep's, and the limit's over gradstep's own. A figure has moved when the middle halves of its
rounds do not overlap between the runs; the smallest change that is shown is 3 %.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runner import BASE, LAYER, LIMIT

__all__ = ["Move", "changes", "load", "moves"]

LEAST = 0.03
OWN = (BASE, "gradstep bound step()", LAYER)
RATIO, SHARE, TIME, COUNT = "× gradstep", "of the limit", "seconds", "instructions"

Run = Mapping[str, Any]
Figures = dict[tuple[str, str, str, str], list[float]]


@dataclass(frozen=True)
class Move:
    """A figure by suite, work, peer and column. gain: above 0 where gradstep got better."""

    suite: str
    work: str
    peer: str
    column: str
    old: float
    new: float
    moved: bool

    @property
    def change(self) -> float:
        return self.new / self.old - 1

    @property
    def gain(self) -> float:
        change = math.log(self.new / self.old)
        return -change if self.column in (TIME, COUNT) else change


def load(file: Path) -> Run:
    """Raises ValueError for a file that `--json` did not write, OSError for one not readable."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"--compare: {file}: {error}; expected a file of --json") from None
    if not isinstance(found, dict) or not {"header", "results"} <= set(found):
        raise ValueError(f"--compare: {file}: no results in it, expected a file of --json")
    return found


def changes(old: Run, new: Run) -> tuple[list[Move], list[str]]:
    """All figures that both runs have, the worst change first, and the works that only one has."""
    before, after = _figures(old), _figures(new)
    found: list[Move] = []
    for key, rounds in after.items():
        if key in before:
            medians = statistics.median(before[key]), statistics.median(rounds)
            found.append(Move(*key, *medians, moved=_apart(before[key], rounds)))
    alone = {key[:2] for key in before} ^ {key[:2] for key in after}
    return sorted(found, key=lambda move: move.gain), [", ".join(key) for key in sorted(alone)]


def moves(old: Run, new: Run) -> list[Move]:
    """Those of `changes` that moved by more than the rounds differ."""
    return [move for move in changes(old, new)[0] if move.moved]


def _figures(run: Run) -> Figures:
    found = {key: rounds for result in run["results"] for key, rounds in _of_result(result)}
    for call, count in run.get("instructions", {}).items():
        found["calls", call, LAYER, COUNT] = [count]
    return found


def _of_result(
    result: Mapping[str, Any],
) -> Iterator[tuple[tuple[str, str, str, str], list[float]]]:
    place = result["suite"], result["work"]
    rounds = {row["peer"]: row["seconds"] for row in result["peers"] if row.get("seconds")}
    base = rounds.get(BASE) or rounds.get(LAYER)
    for peer, seconds in rounds.items():
        yield (*place, peer, TIME), seconds
        if peer in OWN and LIMIT in rounds:
            yield (*place, peer, SHARE), _ratios(rounds[LIMIT], seconds)
        elif base and peer not in (*OWN, LIMIT):
            yield (*place, peer, RATIO), _ratios(seconds, base)


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _middle(values: list[float]) -> tuple[float, float]:
    """The lowest and the highest without a quarter of the values at either end."""
    ordered, cut = sorted(values), len(values) // 4
    return ordered[cut], ordered[len(ordered) - 1 - cut]


def _apart(old: list[float], new: list[float]) -> bool:
    (low, high), (lowest, highest) = _middle(old), _middle(new)
    change = statistics.median(new) / statistics.median(old)
    return (lowest > high or highest < low) and abs(math.log(change)) >= math.log1p(LEAST)
