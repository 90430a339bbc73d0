"""Whether the second thread helps in every process: `python -m bench.fresh [SIZE ...]`.

A process keeps the places of its threads, good or bad, so one process says nothing about the next.
Each of N fresh ones steps a bound AdamW in a tight loop, with one thread and with all in turn, from
0.2 s after the import on. Exit code 1 if a ratio of any process misses --goal.

No pool can do more than the CPUs do: two that are threads of one core are not two. So the same
steps are also taken by separate processes of one thread each, one on every CPU, at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
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

__all__ = ["SIZES", "given", "in_this_process", "main", "rows", "several", "steps_from"]

SIZES = (131_072, 262_144, 1 << 20)
SETTLED = 0.2  # seconds after which NumPy's BLAS no longer spins
RULES = Rules(rounds=5, seconds=0.01, pause=0.002)
ALL = "all threads"
WINDOW = 0.3  # seconds of steps of each size
START_UP = 2.0  # seconds that the import may take


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


def given(threads: int, sizes: Sequence[int], runs: int = 3) -> dict[int, float]:
    """The steps that as many processes of one thread take at once, over those that one takes."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    alone = [_together(cpus[:1], sizes) for _ in range(runs)]
    at_once = [_together(cpus, sizes) for _ in range(runs)]
    return {
        size: median(run[k] for run in at_once) / median(run[k] for run in alone)
        for k, size in enumerate(sizes)
    }


def _together(cpus: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """The steps of each size that processes take in the same time, one on each CPU."""
    start = str(time.monotonic() + START_UP)  # one clock for all
    command = [sys.executable, "-m", f"{__package__}.fresh", *map(str, sizes), "--from", start]
    processes = [
        subprocess.Popen([*command, "--cpu", str(cpu)], stdout=subprocess.PIPE) for cpu in cpus
    ]
    printed = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("a process that steps beside others failed")
    return [sum(steps) for steps in zip(*map(json.loads, printed), strict=True)]


def steps_from(start: float, sizes: Sequence[int], window: float = WINDOW) -> list[int]:
    """The steps of one thread in a window of time for each size, the first from `start` on."""
    calls, found = [step([(size,)]) for size in sizes], []
    with gs.threads(1):
        for call in calls:
            call()
        if time.monotonic() > start:
            raise RuntimeError("started too late")
        for number, call in enumerate(calls):
            begin = start + number * window
            time.sleep(max(0.0, begin - time.monotonic()))
            steps = 0
            while time.monotonic() < begin + window:
                call()
                steps += 1
            found.append(steps)
    return found


def rows(found: Mapping[int, Sequence[float]], goal: float, most: Mapping[int, float]) -> list[str]:
    """A Markdown table of the ratios; most: what the CPUs give.

    >>> print("\\n".join(rows({1024: [1.5, 1.9, 2.0]}, 1.8, {1024: 1.98})))
    | parameters | worst | median | best | ≥ 1.8 | separate processes |
    |------------|-------|--------|------|-------|--------------------|
    | 1,024      | 1.50  | 1.90   | 2.00 | 2/3   | 1.98               |
    """
    lines = [
        [
            f"{size:,}",
            *(f"{value:.2f}" for value in (min(times), median(times), max(times))),
            f"{sum(value >= goal for value in times)}/{len(times)}",
            f"{most[size]:.2f}" if size in most else "–",
        ]
        for size, times in found.items()
    ]
    titles = ["parameters", "worst", "median", "best", f"≥ {goal:g}", "separate processes"]
    return table(titles, lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table. Raises SystemExit for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench.fresh", description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES, metavar="SIZE")
    parser.add_argument("--processes", type=int, default=20, metavar="N", help="[%(default)s]")
    parser.add_argument("--goal", type=float, default=1.8, metavar="RATIO", help="[%(default)s]")
    parser.add_argument("--here", action="store_true", help="one, and in this process: as JSON")
    parser.add_argument("--from", type=float, dest="start", help=argparse.SUPPRESS)
    parser.add_argument("--cpu", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if min(arguments.sizes) < 1 or arguments.processes < 1:
        parser.error("sizes and --processes must be at least 1")
    if arguments.here:
        time.sleep(SETTLED)
        print(json.dumps(in_this_process(arguments.sizes)))
        return 0
    if arguments.start is not None:
        os.sched_setaffinity(0, [arguments.cpu])
        print(json.dumps(steps_from(arguments.start, arguments.sizes)))
        return 0
    if gs.get_num_threads() < 2:
        parser.error("there is one thread only: nothing to compare")
    found = several(arguments.processes, arguments.sizes)
    threads = gs.get_num_threads()
    most = given(threads, arguments.sizes) if hasattr(os, "sched_setaffinity") else {}
    print(f"`python -m bench.fresh`, {threads} threads, {gs.simd_level()}\n")
    print("\n".join(rows(found, arguments.goal, most)))
    return int(any(min(times) < arguments.goal for times in found.values()))


if __name__ == "__main__":
    sys.exit(main())
