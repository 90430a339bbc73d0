"""Timing of several calls against each other: A B C A B C ..., never A A A B B B.

The speed of a machine drifts by more than the differences that matter. Calls that are timed in
turn see the same drift, so the ratio of their times within a round holds although the times do not.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

__all__ = ["Rules", "Task", "Timing", "interleave", "ratio"]

Clock = Callable[[], float]

MUCH = 10
WARM_UP = 8  # timed calls for each one before them


@dataclass(frozen=True)
class Task:
    """A call to time.

    before: runs ahead of every call and is not timed. timed: makes that many calls elsewhere and
    returns their seconds, in place of both. begin: is told the number of each round before it.
    """

    run: Callable[[], object]
    before: Callable[[], object] | None = None
    timed: Callable[[int], float] | None = None
    begin: Callable[[int], None] | None = None


@dataclass(frozen=True)
class Rules:
    """How to measure.

    rounds: timings of each task. seconds: the least length of a timing; short calls are repeated
    to fill it. pause: seconds of sleep before a timing, in which the worker threads of the task
    before (those of OpenMP spin for some 8 ms after their work) go to sleep. patience: the seconds
    of a call above which its task is left out, if it also takes ten times as long as the fastest.
    """

    rounds: int = 7
    seconds: float = 0.02
    pause: float = 0.015
    patience: float = math.inf


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, by round. calls: how many were timed together in the last round."""

    seconds: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """From the fastest to the slowest round, as a share of the median."""
        return (max(self.seconds) - self.best) / self.median


def ratio(a: Timing, b: Timing) -> float:
    """How many times as long a takes as b: the median over the rounds.

    >>> ratio(Timing((2.0, 4.0, 9.0), 1), Timing((1.0, 2.0, 3.0), 1))
    2.0
    """
    return statistics.median(x / y for x, y in zip(a.seconds, b.seconds, strict=True))


def interleave(
    tasks: Mapping[str, Task],
    rules: Rules,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, Timing]:
    """Times the tasks in turn, `rules.rounds` times each, after a warm-up of each.

    Tasks for which the rules have no patience are missing in what it returns.
    """
    with _no_garbage_collection():
        tried = {name: _enough_calls(task, rules.seconds, clock) for name, task in tasks.items()}
        fastest = min((once for _, once in tried.values()), default=0.0)
        patience = max(rules.patience, MUCH * fastest)
        calls = {name: n for name, (n, once) in tried.items() if once <= patience}
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(rules.rounds):
            for name in calls:
                if (begin := tasks[name].begin) is not None:
                    begin(turn)
                sleep(rules.pause)
                if calls[name] > 1:
                    # Brings the data of this task back to the caches. One call does not: of data
                    # that all but fill the last cache, every call brings back some.
                    _elapsed(tasks[name], 1 + calls[name] // WARM_UP, clock)
                calls[name], once = _timed(tasks[name], calls[name], rules.seconds, clock)
                seconds[name].append(once)
    return {name: Timing(tuple(seconds[name]), calls[name]) for name in calls}


def _enough_calls(task: Task, seconds: float, clock: Clock) -> tuple[int, float]:
    _elapsed(task, 1, clock)
    return _timed(task, 1, seconds, clock)


def _timed(task: Task, calls: int, seconds: float, clock: Clock) -> tuple[int, float]:
    """The number of calls that filled `seconds`, from `calls` up, and the seconds of one."""
    while True:
        elapsed = _elapsed(task, calls, clock)
        if elapsed >= seconds:
            return calls, elapsed / calls
        needed = calls * seconds / elapsed if elapsed > 0 else 0
        calls = max(2 * calls, math.ceil(1.2 * needed))


def _elapsed(task: Task, calls: int, clock: Clock) -> float:
    run, before = task.run, task.before
    if task.timed is not None:
        return task.timed(calls)
    if before is None:
        start = clock()
        for _ in repeat(None, calls):
            run()
        return clock() - start
    total = 0.0
    for _ in repeat(None, calls):
        before()
        start = clock()
        run()
        total += clock() - start
    return total


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
