"""The sizes that were chosen by measurement, varied: `python -m bench.sweeps [NAME ...]`.

`task`, `serial` and `spin` are in `cpp/engine/share_out.hpp` and vary in the running process.
`prefetch` is compiled in: every value is built in a temporary folder and timed in a process of its
own, in turn with the others.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import gradstep as gs
import numpy as np
from gradstep import _core

from . import shapes
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
    calls: Mapping[str, Callable[[], Call]]


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


NEVER = 1 << 40  # elements
SOURCE = Path(__file__).parent.parent
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
        | {"AdamW, 262,144, and a product of 400×400": lambda: after_product(step([(1 << 18,)]))},
    ),
    "prefetch": Sweep((0, 256, 512, 1024, 2048), 0, "bytes", STEPS),
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
        measure = compiled if name == "prefetch" else running
        print(f"\n`python -m bench.sweeps {name}`, {gs.get_num_threads()} threads\n")
        print("\n".join(measure(name, sweep, rules)), flush=True)
    return 0


def running(name: str, sweep: Sweep, rules: Rules) -> list[str]:
    """The table of a size that varies in this process."""
    timings = {}
    for title, make in sweep.calls.items():
        call = make()
        calls = {  # a plan keeps the tasks that it was cut into
            value: make() if name == "task" else call for value in _with_usual(sweep)
        }
        tasks = {str(v): Task(partial(tuned, name, v, call)) for v, call in calls.items()}
        timings[title] = interleave(tasks, rules)
    return rows(sweep, timings)


def tuned(name: str, value: int, call: Call) -> None:
    """One call with this size."""
    before = _core.tune(name, value)
    try:
        call()
    finally:
        _core.tune(name, before)


def compiled(name: str, sweep: Sweep, rules: Rules) -> list[str]:
    """The table of a size that is compiled in."""
    with tempfile.TemporaryDirectory() as folder:
        pythons = {str(v): built(name, v, Path(folder)) for v in _with_usual(sweep)}
        timings: dict[str, dict[str, Timing]] = {}
        for title in sweep.calls:
            with started(pythons, title) as tasks:
                timings[title] = interleave(tasks, rules)
    return rows(sweep, timings)


def built(name: str, value: int, folder: Path) -> Path:
    """A folder with gradstep compiled with this value."""
    target = folder / f"{name}-{value}"
    option = f"cmake.define.GRADSTEP_{name.upper()}={value}"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    command = [*pip, "-C", option, "-C", f"build-dir={folder / 'build'}", str(SOURCE)]
    print(f"building with {name} {value}", file=sys.stderr)
    subprocess.run(command, check=True)
    return target


# Answers a number of calls with the seconds they took.
SERVER = """\
import sys, time
sys.path[:0] = sys.argv[1:3]
from bench.sweeps import SWEEPS
call = SWEEPS["prefetch"].calls[sys.argv[3]]()
for line in sys.stdin:
    start = time.perf_counter()
    for _ in range(int(line)):
        call()
    print(time.perf_counter() - start, flush=True)
"""


@contextmanager
def started(folders: Mapping[str, Path], title: str) -> Iterator[dict[str, Task]]:
    """A task for each folder, in a process that imports gradstep from there."""
    processes = {
        value: subprocess.Popen(
            [sys.executable, "-S", "-c", _without_site(), str(folder), str(SOURCE), title],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for value, folder in folders.items()
    }

    def timed(process: subprocess.Popen[str], calls: int) -> float:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{calls}\n")
        return float(process.stdout.readline())

    try:
        yield {
            value: Task(partial(timed, process, 1), timed=partial(timed, process))
            for value, process in processes.items()
        }
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _without_site() -> str:
    """The server, with this process's packages behind the folder: an installed gradstep loses."""
    others = [path for path in sys.path if path]
    return f"import sys\nsys.path += {others!r}\n{SERVER}"


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
    return "never parallel" if value == NEVER else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main())
