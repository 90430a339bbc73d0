"""Whether the second thread helps in every process: `python -m bench.fresh [SIZE ...]`.

A process keeps the places of its threads, good or bad, so one process says nothing about the next.
Each of N fresh ones steps a bound AdamW in a tight loop, with one thread and with all in turn, from
0.2 s after the import on. Exit code 1 if a ratio of any process misses --goal.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

import gradstep as gs

from .measure import Rules, Task, interleave, ratio
from .report import table
from .scaling import ONE
from .sweeps import step

__all__ = ["SIZES", "in_this_process", "main", "rows", "several"]

SIZES = (131_072, 262_144, 1 << 20)
SETTLED = 0.2  # seconds after which NumPy's BLAS no longer spins
RULES = Rules(rounds=5, seconds=0.01, pause=0.002)
ALL = "all threads"


def in_this_process(sizes: Sequence[int], rules: Rules = RULES) -> list[float]:
    """The time of one thread over that of all, for each size."""
    found = []
    for size in sizes:
        call = step([(size,)])
        tasks = {
            ONE: Task(call, timed=partial(_seconds, call, 1)),
            ALL: Task(call, timed=partial(_seconds, call, gs.get_num_threads())),
        }
        times = interleave(tasks, rules)
        found.append(ratio(times[ONE], times[ALL]))
    return found


def _seconds(call: Callable[[], object], threads: int, calls: int) -> float:
    with gs.threads(threads):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - start


def several(processes: int, sizes: Sequence[int]) -> dict[int, list[float]]:
    """The ratios of each size, one a process, which run one after the other."""
    command = [sys.executable, "-m", f"{__package__}.fresh", "--here", *map(str, sizes)]
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(processes):
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for size, times in zip(sizes, json.loads(printed), strict=True):
            found[size].append(times)
    return found


def rows(found: Mapping[int, Sequence[float]], goal: float) -> list[str]:
    """A Markdown table of the ratios.

    >>> print("\\n".join(rows({1024: [1.5, 1.9, 2.0]}, 1.8)))
    | parameters | worst | median | best | ≥ 1.8 |
    |------------|-------|--------|------|-------|
    | 1,024      | 1.50  | 1.90   | 2.00 | 2/3   |
    """
    lines = [
        [
            f"{size:,}",
            *(f"{value:.2f}" for value in (min(times), median(times), max(times))),
            f"{sum(value >= goal for value in times)}/{len(times)}",
        ]
        for size, times in found.items()
    ]
    return table(["parameters", "worst", "median", "best", f"≥ {goal:g}"], lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table. Raises SystemExit for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench.fresh", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="SIZE")
    parser.add_argument("--processes", type=int, default=20, metavar="N", help="[%(default)s]")
    parser.add_argument("--goal", type=float, default=1.8, metavar="RATIO", help="[%(default)s]")
    parser.add_argument("--here", action="store_true", help="one, and in this process: as JSON")
    arguments = parser.parse_args(argv)
    if min(arguments.sizes) < 1 or arguments.processes < 1:
        parser.error("sizes and --processes must be at least 1")
    if arguments.here:
        time.sleep(SETTLED)
        print(json.dumps(in_this_process(arguments.sizes)))
        return 0
    if gs.get_num_threads() < 2:
        parser.error("there is one thread only: nothing to compare")
    found = several(arguments.processes, arguments.sizes)
    print(f"`python -m bench.fresh`, {gs.get_num_threads()} threads, {gs.simd_level()}\n")
    print("\n".join(rows(found, arguments.goal)))
    return int(any(min(times) < arguments.goal for times in found.values()))


if __name__ == "__main__":
    sys.exit(main())
