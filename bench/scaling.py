"""The work of the suite `threads`: another work, done by one thread and by all."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import gradstep as gs

from .layers import Layer
from .steps import Step
from .work import Contender, Inputs, Ready, Work

__all__ = ["ONE", "Threaded", "by_threads"]

ONE = "1 thread"


@dataclass(frozen=True)
class Threaded:
    """The work of which both are timed; one that leaves its inputs alone."""

    work: Step | Layer

    @property
    def name(self) -> str:
        return f"{self.work.name}, by threads"

    @property
    def elements(self) -> int:
        return self.work.elements

    @property
    def ideal_bytes(self) -> int:
        return self.work.ideal_bytes

    @property
    def consumes_inputs(self) -> bool:
        return False

    def small(self) -> Threaded:
        return Threaded(self.work.small())

    def inputs(self, seed: int) -> Inputs:
        return self.work.inputs(seed)

    def reference(self, inputs: Inputs) -> Ready:
        return self.work.reference(inputs)


def by_threads(name: str, contender: Contender) -> list[Contender]:
    """The contender with as many threads as are set, under this name, and with one."""
    count = gs.get_num_threads()
    names = {name: count, f"{name}, {ONE}": 1}
    return [
        replace(contender, name=label, make=partial(_make, contender, threads))
        for label, threads in names.items()
        if label == name or count > 1
    ]


def _make(contender: Contender, threads: int, work: Work, inputs: Inputs) -> Ready:
    assert isinstance(work, Threaded)
    ready = contender.make(work.work, inputs)
    return replace(ready, timed=partial(_seconds, threads, ready.run))


def _seconds(threads: int, run: Callable[[], object], calls: int) -> float:
    with gs.threads(threads):
        run()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return time.perf_counter() - start
