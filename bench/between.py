"""The work of the suite `between`: another work, one call at a time, each after something else.

A real step stands between other work, where workers have gone to sleep and other libraries' threads
hold the CPUs. A process keeps the places of its threads, so every contender runs in several fresh
ones: round r of a measurement is made in process r modulo their number, by all contenders.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

import gradstep as gs
import numpy as np

from .layers import Layer
from .measure import Timing, ratio
from .remote import there
from .scaling import ONE
from .steps import Step
from .work import Contender, Inputs, Ready

__all__ = [
    "AFTER",
    "LENT",
    "PROCESSES",
    "TEAM",
    "TIGHT",
    "Between",
    "apart",
    "by_process",
    "ours",
    "seconds_of",
    "span",
    "typical",
]

Call = Callable[[], object]
Make = Callable[[Any, Inputs], Ready]

PROCESSES = 3
OTHER_WORK = 1e-3  # seconds of it before every call
PRODUCT = 180  # rows and columns of the matrices: some 60 µs a product
CALLS, TIGHT_CALLS = 20, 200  # of which the median is taken, a tenth before them as a warm-up
SETTLED = 0.03  # seconds after which threads of BLAS and OpenMP no longer spin
LENT = "gradstep, BLAS threads"
TEAM = "gradstep.torch"  # on the threads of torch's OpenMP
TIGHT = "tight loop"
AFTER = (TIGHT, "Python", "sleep", "NumPy products", "torch products")


@dataclass(frozen=True)
class Between:
    """work: one that leaves its inputs alone. after: what a call follows, one of AFTER."""

    work: Step | Layer
    after: str

    @property
    def name(self) -> str:
        return f"{self.work.name}, {'' if self.after == TIGHT else 'after '}{self.after}"

    @property
    def elements(self) -> int:
        return self.work.elements

    @property
    def ideal_bytes(self) -> int:
        return self.work.ideal_bytes

    @property
    def consumes_inputs(self) -> bool:
        return False

    @property
    def own(self) -> bool:
        """Whether torch, which shares threads with nobody well, has no part in it."""
        return self.after != "torch products"

    def small(self) -> Between:
        return replace(self, work=self.work.small())

    def inputs(self, seed: int) -> Inputs:
        return self.work.inputs(seed)

    def reference(self, inputs: Inputs) -> Ready:
        return self.work.reference(inputs)


def ours(work: Between, make: Make) -> list[Contender]:
    """gradstep with all threads, with one, and after NumPy's products on those of its BLAS."""
    if work.after == "torch products" and find_spec("torch") is None:
        return []
    found = [apart("gradstep", Contender("gradstep", make))]
    if gs.get_num_threads() > 1:
        found.append(apart("gradstep", Contender(f"gradstep, {ONE}", make), threads=1))
    if work.after == "NumPy products":
        found.append(apart("gradstep", Contender(LENT, make), lent=True))
    return found


def apart(
    library: str,
    contender: Contender,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> Contender:
    """The contender, whose `make` works in this process, in fresh ones of the library."""
    make = partial(_here, contender.make, settings)
    return replace(contender, make=partial(_several, library, environment or {}, make))


def _several(
    library: str, environment: Mapping[str, str], make: Make, work: Between, inputs: Inputs
) -> Ready:
    readies = [
        there(f"{library} {number} between", environment, make, work, inputs)
        for number in range(PROCESSES)
    ]
    current = readies[0]

    def begin(turn: int) -> None:
        nonlocal current
        current = readies[turn % PROCESSES]

    def timed(calls: int) -> float:
        assert current.timed is not None
        return current.timed(calls)

    first = readies[0]
    return Ready(first.run, first.feed, first.outputs, timed, begin)


def _here(make: Make, settings: Mapping[str, Any], work: Between, inputs: Inputs) -> Ready:
    ready = make(work.work, inputs)
    return replace(ready, timed=partial(_seconds, ready, work.after, **settings))


def _seconds(
    ready: Ready, after: str, calls: int, threads: int | None = None, lent: bool = False
) -> float:
    """One call; of more, so many times the median of some, because the rest takes far longer."""
    gs.use_blas_threads(lent)
    try:
        with gs.threads(threads or gs.get_num_threads()):
            return calls * typical(partial(_once, ready), after, 1 if calls == 1 else None)
    finally:
        gs.use_blas_threads(False)
        if "products" in after and calls > 1:
            time.sleep(SETTLED)


def _once(ready: Ready) -> float:
    # A call may return before its result is there; then it times itself.
    return ready.timed(1) if ready.timed is not None else seconds_of(ready.run)


def seconds_of(call: Call) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def typical(timed: Callable[[], float], after: str, often: int | None = None) -> float:
    """The median of some calls that time themselves, each after other work."""
    other = others()[after]
    often = often or (TIGHT_CALLS if after == TIGHT else CALLS)
    seconds: list[float] = []
    for _ in repeat(None, often + often // 10):  # a tenth to warm up
        other()
        seconds.append(timed())
    return median(seconds[-often:])


@cache
def others() -> dict[str, Call]:
    """What a call follows, by name."""
    a = np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT), np.float32)
    b = np.empty_like(a)
    return {
        TIGHT: lambda: None,
        "Python": partial(_repeated, lambda: sum(range(50))),
        "sleep": partial(time.sleep, OTHER_WORK),
        "NumPy products": partial(_repeated, lambda: np.matmul(a, a, out=b)),
        "torch products": lambda: _repeated(torch_product()),
    }


@cache
def torch_product() -> Call:
    """On torch's own team, of as many threads."""
    torch: Any = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    matrix = torch.ones(PRODUCT, PRODUCT)
    return partial(torch.mm, matrix, matrix)


def _repeated(call: Call) -> None:
    """Calls until the time of the other work is over."""
    end = time.perf_counter() + OTHER_WORK
    while time.perf_counter() < end:
        call()


def by_process(a: Timing, b: Timing) -> list[float]:
    """How many times as long a takes as b, in each of the processes."""
    return [
        ratio(Timing(a.seconds[first::PROCESSES], 1), Timing(b.seconds[first::PROCESSES], 1))
        for first in range(min(PROCESSES, len(a.seconds)))
    ]


def span(values: Sequence[float]) -> str:
    """The range of some ratios.

    >>> span([1.512, 1.4]), span([1.0])
    ('1.40–1.51×', '1.00×')
    """
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return f"{low}×" if low == high else f"{low}–{high}×"


if __name__ == "__main__":  # python -m bench.between: this suite, with the options of all
    command: Any = import_module("bench.__main__")
    results = Path(__file__).parent / "results" / "between"
    sys.exit(command.main(["--suite", "between", "--output", str(results), *sys.argv[1:]]))
