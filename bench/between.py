"""One call between other work, which is where every real step stands: two threads against one.

    python -m bench.between [--quick] [--processes 3] [--output bench/results/between]

Each call follows 1 ms of Python, of sleep, of NumPy's products or of torch's, and for comparison
nothing (a tight loop). One process measures all contenders of a row in turn; there are several,
fresh ones, because a process keeps the places of its threads; the tables show the range of their
medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import gradstep as gs
import numpy as np

from .machine import describe
from .peers import load
from .report import duration, table

__all__ = ["main", "measure"]

Call: TypeAlias = Callable[[], object]

SIZES = (16_384, 65_536, 235_146, 1 << 20, 1 << 22)
QUICK_SIZES = (65_536, 235_146, 1 << 20)
PRODUCT = 180  # rows and columns of the matrices: some 60 us a product
COLUMNS = 2_048  # of what layer norm normalises, at most; sizes are cut to whole rows
ROUNDS, CALLS, TIGHT = 9, 10, 20
OTHER_WORK = 1e-3  # seconds
SETTLED = 0.1  # seconds after which OpenBLAS's threads no longer spin

OURS, ONE, LENT, TORCH = "gradstep", "gradstep, 1 thread", "gradstep, BLAS threads", "torch"


def others() -> dict[str, Call]:
    """What a call follows, by name: about 1 ms each, but for the tight loop."""
    a = np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT), np.float32)
    b = np.empty_like(a)
    found: dict[str, Call] = {
        "tight loop": lambda: None,
        "Python": lambda: repeat(lambda: sum(range(50))),
        "sleep": lambda: time.sleep(OTHER_WORK),
        "NumPy products": lambda: repeat(lambda: np.matmul(a, a, out=b)),
    }
    if find_spec("torch"):
        import torch

        c = torch.from_numpy(a)
        found["torch products"] = lambda: repeat(lambda: torch.mm(c, c))
    return found


def repeat(call: Call) -> None:
    """Calls until the time of the other work is over."""
    end = time.perf_counter() + OTHER_WORK
    while time.perf_counter() < end:
        call()


def adamw(n: int) -> Iterator[tuple[str, Call]]:
    params, grads = np.random.default_rng(n).standard_normal((2, n), np.float32)
    optimizer = gs.AdamW(params)
    optimizer.bind(grads)
    yield OURS, optimizer.step
    if find_spec("torch"):
        import torch

        parameter = torch.from_numpy(params.copy()).requires_grad_()
        parameter.grad = torch.from_numpy(grads.copy())
        yield f"{TORCH} fused", torch.optim.AdamW([parameter], fused=True).step


def dropout(n: int) -> Iterator[tuple[str, Call]]:
    x = np.random.default_rng(n).standard_normal(n, np.float32)
    y = np.empty_like(x)
    yield OURS, lambda: gs.dropout(x, 0.5, seed=1, out=y)
    if find_spec("torch"):
        import torch

        t = torch.from_numpy(x)
        yield TORCH, lambda: torch.nn.functional.dropout(t, 0.5)


def layer_norm(n: int) -> Iterator[tuple[str, Call]]:
    columns = min(COLUMNS, n // 32)
    x = np.random.default_rng(n).standard_normal((n // columns, columns), np.float32)
    weight, bias = np.ones(columns, np.float32), np.zeros(columns, np.float32)
    y = np.empty_like(x)
    yield OURS, lambda: gs.layer_norm(x, weight, bias, out=y)
    if find_spec("torch"):
        import torch

        t, w, b = map(torch.from_numpy, (x, weight, bias))
        yield TORCH, lambda: torch.nn.functional.layer_norm(t, (columns,), w, b)


def gelu(n: int) -> Iterator[tuple[str, Call]]:
    x = np.random.default_rng(n).standard_normal(n, np.float32)
    y = np.empty_like(x)
    yield OURS, lambda: gs.gelu(x, out=y)
    if find_spec("torch"):
        import torch

        t = torch.from_numpy(x)
        yield TORCH, lambda: torch.nn.functional.gelu(t)


WORKS = {"AdamW": adamw, "dropout": dropout, "layer norm": layer_norm, "gelu": gelu}


def measure(
    works: Sequence[str], sizes: Sequence[int], rounds: int = ROUNDS
) -> list[dict[str, Any]]:
    """Medians of one process: a row for each work, size, other work and contender."""
    threads = gs.get_num_threads()
    if find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
    rows = []
    for work in works:
        for size in sizes:
            calls = dict(WORKS[work](size))
            calls[ONE] = calls[OURS]
            for condition, other in others().items():
                # Threads that are lent go on to spin, beside the next contender too.
                lent = {LENT: calls[OURS]} if condition == "NumPy products" else {}
                often = CALLS * (TIGHT if condition == "tight loop" else 1)
                seconds = interleaved({**calls, **lent}, other, threads, rounds, often)
                rows += [
                    {"work": work, "size": size, "after": condition, "who": who, "seconds": median}
                    for who, median in seconds.items()
                ]
    return rows


def interleaved(
    contenders: dict[str, Call], other: Call, threads: int, rounds: int, often: int = CALLS
) -> dict[str, float]:
    """The median seconds of a call of each, in turns of so many calls."""
    time.sleep(SETTLED)
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(rounds + 1):
        for who, call in contenders.items():
            gs.use_blas_threads(who == LENT)
            with gs.threads(1 if who == ONE else threads):
                for _ in range(often):
                    other()
                    start = time.perf_counter()
                    call()
                    if turn > 0:
                        seconds[who].append(time.perf_counter() - start)
    gs.use_blas_threads(False)
    return {who: statistics.median(taken) for who, taken in seconds.items()}


def span(values: Sequence[float]) -> str:
    """The range of some ratios."""
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low}–{high}"


def report(processes: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Tables of one thread's time over that of the contenders, and of torch's over ours."""
    seconds: dict[tuple[str, int, str, str], list[float]] = defaultdict(list)
    for process in processes:
        for row in process:
            seconds[row["work"], row["size"], row["after"], row["who"]].append(row["seconds"])
    works, sizes, afters, _ = (list(dict.fromkeys(column)) for column in zip(*seconds, strict=True))
    header = describe(load(["torch_optim"]), ROUNDS, False, "python -m bench.between")
    header["threads"] = f"{gs.get_num_threads()} for gradstep, torch and NumPy"
    header["processes"] = (
        f"{len(processes)}; of each the medians, of which the tables show the range"
    )
    lines = [
        "# Between other work",
        "",
        *(f"- {key}: {value}" for key, value in header.items()),
        "",
    ]

    def ratios(key: tuple[str, int, str], over: str, under: str) -> str:
        if (*key, over) not in seconds:
            return "–"
        pairs = zip(seconds[*key, over], seconds[*key, under], strict=True)
        return span([a / b for a, b in pairs])

    for work in works:
        lines += [
            f"## {work}",
            "",
            "One thread's time over that of all threads, by what a call follows:",
            "",
        ]
        rows = []
        for size in sizes:
            alone = [statistics.median(seconds[work, size, after, ONE]) for after in afters]
            lent = ratios((work, size, "NumPy products"), ONE, LENT)
            cells = [ratios((work, size, after), ONE, OURS) for after in afters]
            rows.append([f"{size:,}".replace(",", " "), duration(min(alone)), *cells, lent])
        blas = "NumPy products, use_blas_threads()"
        lines += [*table(["elements", "one thread", *afters, blas], rows), ""]
        peers = [
            who for who in (f"{TORCH} fused", TORCH) if (work, sizes[0], afters[0], who) in seconds
        ]
        for peer in peers:
            lines += [f"Time of {peer} over ours, equal threads:", ""]
            rows = [
                [
                    f"{size:,}".replace(",", " "),
                    *(ratios((work, size, a), peer, OURS) for a in afters),
                ]
                for size in sizes
            ]
            lines += [*table(["elements", *afters], rows), ""]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures in fresh processes; prints the tables, writes them to a folder if one is given."""
    parser = argparse.ArgumentParser(prog="python -m bench.between", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer sizes and works")
    parser.add_argument("--processes", type=int, default=3, metavar="N", help="[3]")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where report.md and .json go")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    works = ["AdamW"] if arguments.quick else list(WORKS)
    sizes = QUICK_SIZES if arguments.quick else SIZES
    if arguments.child:
        json.dump(measure(works, sizes), sys.stdout)
        return 0
    command = [sys.executable, "-m", "bench.between", "--child", *["--quick"] * arguments.quick]
    processes = []
    for number in range(max(arguments.processes, 1)):
        print(f"process {number + 1} of {arguments.processes}", file=sys.stderr)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        processes.append(json.loads(done.stdout))
    text = report(processes)
    print(text)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "report.md").write_text(text + "\n", encoding="utf-8")
        (arguments.output / "report.json").write_text(json.dumps(processes), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
