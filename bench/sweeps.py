"""The sizes that were chosen by measurement, varied: `python -m bench.sweeps [NAME ...]`.

They are in `cpp/engine/share_out.hpp` and vary in the running process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import gradstep as gs
import numpy as np
from gradstep import _core

from . import shapes
from .between import seconds_of, typical
from .measure import Rules, Task, Timing, interleave, ratio
from .report import duration, table

__all__ = ["SWEEPS", "Sweep", "main"]

Call: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Sweep:
    """values: to try. usual: the one in force. calls: title -> how to make what is timed."""

    values: tuple[int, ...]
    usual: int
    unit: str
    calls: Mapping[str, Callable[[], Call | After]]


def step(sizes: Sequence[tuple[int, ...]]) -> Call:
    """An AdamW step on float32 tensors of these shapes, gradients bound."""
    generator = np.random.default_rng(0)
    params = [generator.standard_normal(size, dtype=np.float32) for size in sizes]
    optimizer = gs.AdamW(params)
    optimizer.bind([p.copy() for p in params])
    return optimizer.step


def layer(function: Callable[..., object], size: int) -> Call:
    """An element-wise function on so many elements, out of place."""
    x = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    return partial(function, x, out=np.empty_like(x))


def after_pause(call: Call, microseconds: int) -> Call:
    """The call, after the caller was busy for a while with what needs one core."""

    def run() -> None:
        end = time.perf_counter() + microseconds * 1e-6
        while time.perf_counter() < end:
            pass
        call()

    return run


def after_product(call: Call) -> Call:
    """The call between products of matrices, which the threads of NumPy's BLAS share."""
    a = np.random.default_rng(0).standard_normal((400, 400), dtype=np.float32)
    out = np.empty_like(a)

    def run() -> None:
        np.matmul(a, a, out=out)
        call()

    return run


@dataclass(frozen=True)
class After:
    """A call of which each stands after other work; the size holds during both."""

    call: Call
    after: str

    def timed(self, name: str, value: int, calls: int) -> float:
        """So many times a typical call."""
        found: list[float] = []
        each = partial(seconds_of, self.call)
        tuned(name, value, lambda: found.append(typical(each, self.after)))
        return calls * found[0]


def between(sizes: Sequence[int], after: Sequence[str]) -> dict[str, Callable[[], Call | After]]:
    """AdamW after what the suite `between` has."""
    return {
        f"AdamW, {n:,}, after {other}": partial(
            lambda n, other: After(step([(n,)]), other), n, other
        )
        for n in sizes
        for other in after
    }


NEVER = 1 << 40
half = partial(gs.dropout, p=0.5, seed=1)
STEPS = {f"AdamW, {n:,}": partial(step, [(n,)]) for n in (65_536, 1 << 20, 1 << 24)} | {
    "AdamW, ResNet-50": partial(step, shapes.MODELS["ResNet-50"])
}

SWEEPS: dict[str, Sweep] = {
    "task": Sweep(
        (4096, 8192, 16384, 32768, 65536),
        8192,
        "elements",
        STEPS
        | {f"dropout, {1 << 20:,}": partial(layer, half, 1 << 20)}
        | {f"gelu, {1 << 20:,}": partial(layer, gs.gelu, 1 << 20)},
    ),
    "serial": Sweep(
        (0, NEVER),
        8192,
        "elements",
        {f"AdamW, {n:,}": partial(step, [(n,)]) for n in (4096, 8192, 12288, 16384, 24576, 32768)}
        | {f"dropout, {n:,}": partial(layer, half, n) for n in (4096, 8192, 16384, 32768)}
        | {f"gelu, {n:,}": partial(layer, gs.gelu, n) for n in (4096, 8192, 16384, 32768)},
    ),
    "spin": Sweep(
        (0, 20, 50, 100, 200, 1000),
        100,
        "µs",
        {
            f"AdamW, 262,144, after {pause} µs": partial(
                lambda pause: after_pause(step([(1 << 18,)]), pause), pause
            )
            for pause in (0, 20, 80, 300)
        }
        | {"AdamW, 262,144, and a product of 400×400": lambda: after_product(step([(1 << 18,)]))}
        | between((235_146,), ("Python", "sleep", "NumPy products")),
    ),
    "wake": Sweep(
        (0, 5, 20, 50, 100, 300, NEVER),
        0,
        "µs",
        between((65_536, 235_146, 1 << 20), ("Python", "sleep", "NumPy products")),
    ),
    "cache": Sweep(
        (0, 1 << 22, 1 << 24, 1 << 25, NEVER),
        1 << 25,
        "bytes",
        {
            f"{name} of {size >> 20} MiB": partial(layer, function, size // 4)
            for size in (1 << 22, 1 << 24, 1 << 25, 1 << 27)
            for name, function in (("relu", gs.relu), ("dropout", half))
        },
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a Markdown table for each sweep: the time of each call and value, as a share of the
    time with the usual value. Raises SystemExit for bad arguments."""
    parser = argparse.ArgumentParser(prog="python -m bench.sweeps", description=__doc__)
    names = tuple(SWEEPS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"[{' '.join(names)}]")
    parser.add_argument("--values", help="in place of the usual ones, separated by commas")
    parser.add_argument("--rounds", type=int, default=Rules.rounds, metavar="N")
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        if name not in SWEEPS:
            parser.error(f"{name!r}, expected some of {', '.join(names)}")
    for name in arguments.names or names:
        sweep = SWEEPS[name]
        if arguments.values:
            sweep = replace(sweep, values=tuple(map(int, arguments.values.split(","))))
        rules = Rules(rounds=arguments.rounds)
        print(f"\n`python -m bench.sweeps {name}`, {gs.get_num_threads()} threads\n")
        print("\n".join(running(name, sweep, rules)), flush=True)
    return 0


def running(name: str, sweep: Sweep, rules: Rules) -> list[str]:
    """The table of a size that varies in this process."""
    timings = {}
    for title, make in sweep.calls.items():
        call = make()
        calls = {  # a plan keeps the tasks that it was cut into
            value: make() if name == "task" else call for value in _with_usual(sweep)
        }
        tasks = {str(value): _task(name, value, call) for value, call in calls.items()}
        timings[title] = interleave(tasks, rules)
    return rows(sweep, timings)


def _task(name: str, value: int, call: Call | After) -> Task:
    if isinstance(call, After):
        return Task(call.call, timed=partial(call.timed, name, value))
    return Task(partial(tuned, name, value, call))


def tuned(name: str, value: int, call: Call) -> None:
    """One call with this size."""
    before = _core.tune(name, value)
    try:
        call()
    finally:
        _core.tune(name, before)


def _with_usual(sweep: Sweep) -> list[int]:
    return sorted({*sweep.values, sweep.usual})


def rows(sweep: Sweep, timings: Mapping[str, Mapping[str, Timing]]) -> list[str]:
    """A row for each call: its time with the usual value, then that of each as a share of it."""
    values = _with_usual(sweep)
    usual = str(sweep.usual)
    columns = ["work", f"{usual} {sweep.unit}", *map(_label, values)]
    found = []
    for title, by_value in timings.items():
        base = by_value[usual]
        shares = [f"{ratio(by_value[str(value)], base):.2f}" for value in values]
        found.append([title, duration(base.median), *shares])
    return table(columns, found)


def _label(value: int) -> str:
    return "never" if value == NEVER else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main())
