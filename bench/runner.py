"""Runs a work on all peers: check each, then time those that are right against each other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from .measure import Rules, Task, Timing, interleave, ratio
from .peers import Peer
from .steps import copied, spaced
from .work import TOLERANCE, Contender, Inputs, Ready, Work, largest_error

__all__ = ["BASE", "LAYER", "LIMIT", "Result", "Row", "run", "threads_of_blas"]

BASE = "gradstep step(grads)"
LAYER = "gradstep"
LIMIT = "limit"


@dataclass(frozen=True)
class Row:
    """One contender: its timing, or the remark why there is none.

    broken: whether it gave a wrong result or failed. error: the largest relative error found.
    """

    name: str
    timing: Timing | None = None
    remark: str = ""
    broken: bool = False
    error: float | None = None


@dataclass(frozen=True)
class Result:
    """What was measured of one work, the fastest contender first."""

    suite: str
    work: Work
    rows: list[Row] = field(default_factory=list)

    def timing(self, name: str) -> Timing | None:
        """That of the contender of this name, if it was measured."""
        return next((row.timing for row in self.rows if row.name == name), None)

    def fastest_peer(self) -> tuple[str, Timing] | None:
        """Of those that are neither gradstep nor the limit."""
        others = [row for row in self.rows if not row.name.startswith((LAYER, LIMIT))]
        timed = ((row.name, row.timing) for row in others if row.timing)
        return min(timed, key=lambda peer: peer[1].median, default=None)

    def bandwidth(self, timing: Timing) -> float:
        """GB/s of the ideal bytes."""
        return self.work.ideal_bytes / timing.median / 1e9

    def times_base(self, timing: Timing) -> float | None:
        """How many times as long as gradstep."""
        base = self.timing(BASE) or self.timing(LAYER)
        return None if base is None else ratio(timing, base)

    def share_of_limit(self, timing: Timing) -> float | None:
        """The time of the limit as a share of this time."""
        limit = self.timing(LIMIT)
        return None if limit is None else ratio(limit, timing)


def run(
    suite: str, work: Work, peers: Iterable[Peer], rules: Rules, without: Container[str] = ()
) -> Result:
    """Checks and times all contenders for the work, but for those named in `without`."""
    rows: list[Row] = []
    right: dict[str, tuple[Contender, float | None]] = {}
    for contender in _contenders(peers, work):
        if contender.name in without:
            continue
        row = _refusal(contender, work)
        if row.remark:
            rows.append(row)
        else:
            right[contender.name] = contender, row.error
    rows += _timed(work, right, rules)
    gc.collect()  # optimizers refer to themselves, and their arrays must go before the next work
    rows.sort(key=lambda row: row.timing.median if row.timing else float("inf"))
    return Result(suite, work, rows)


def _contenders(peers: Iterable[Peer], work: Work) -> Iterator[Contender]:
    for peer in peers:
        if not peer.missing:
            yield from peer.contenders(work)


def _refusal(contender: Contender, work: Work) -> Row:
    """A row that says why the contender is not timed, or one without a remark."""
    if contender.untimed:
        return Row(contender.name, remark=f"not timed: {contender.untimed}")
    if contender.most is not None and work.elements > contender.most:
        return Row(contender.name, remark=f"not timed above {spaced(contender.most)} elements")
    if not contender.checked:
        return Row(contender.name)
    try:
        error = largest_error(contender, work)
    except Exception as problem:  # a peer may raise anything; the others are still of interest
        return _failed(contender.name, problem)
    if not error <= TOLERANCE:
        remark = f"wrong: relative error {error:.1e}, allowed {TOLERANCE:.0e}; not timed"
        return Row(contender.name, remark=remark, broken=True, error=error)
    return Row(contender.name, error=error)


def _failed(name: str, problem: Exception) -> Row:
    message = " ".join(str(problem).split())
    remark = f"failed: {type(problem).__name__}: {message[:120]}"
    return Row(name, remark=remark, broken=True)


def _timed(
    work: Work, contenders: dict[str, tuple[Contender, float | None]], rules: Rules
) -> list[Row]:
    inputs = work.inputs(0)
    rows: list[Row] = []
    tasks: dict[str, Task] = {}
    source = Inputs(copied(inputs.arrays) if work.consumes_inputs else [])
    for name, (contender, _) in contenders.items():
        try:
            tasks[name] = _task(contender.make(work, inputs), work, source)
        except Exception as problem:  # out of memory, above all
            rows.append(_failed(name, problem))
    timings = interleave(tasks, rules)
    slow = f"not timed: a call takes more than {rules.patience:g} s"
    for name in tasks:
        remark = "" if name in timings else slow
        rows.append(Row(name, timings.get(name), remark, error=contenders[name][1]))
    return rows


def _task(ready: Ready, work: Work, source: Inputs) -> Task:
    before = partial(ready.feed, source.arrays) if work.consumes_inputs else None
    return Task(ready.run, before, ready.timed, ready.begin)


@contextmanager
def threads_of_blas(threads: int) -> Iterator[bool]:
    """Gives NumPy's BLAS as many threads, if threadpoolctl is installed; tells whether it is."""
    if find_spec("threadpoolctl") is None:
        yield False
        return
    limits: Callable[..., Any] = import_module("threadpoolctl").threadpool_limits
    with limits(threads, user_api="blas"):
        yield True
