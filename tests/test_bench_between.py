"""The suite `between` times the call and not what it follows, in fresh processes, by turns."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench is run in place, never installed

from bench import between, remote, report, sweeps
from bench.between import AFTER, LENT, PROCESSES, TIGHT, Between, apart, by_process, ours, span
from bench.layers import Layer
from bench.measure import Rules, Task, Timing, interleave
from bench.peers import load
from bench.runner import LAYER, Result, Row
from bench.scaling import ONE
from bench.steps import single
from bench.suites import SUITES, Choice
from bench.targets import verdicts
from bench.work import Contender, Inputs, Ready, largest_error

WORK = Between(single("AdamW", 64), "sleep")


@pytest.fixture(autouse=True)
def processes_of_one_test() -> Iterator[None]:
    remote._processes.clear()  # of tests of other files
    yield
    if remote._processes:
        remote._processes.clear()
        gc.collect()


def process_of(work: Any, inputs: Inputs) -> Ready:
    """Gives back in which process it is."""
    found = np.array([os.getpid()], np.float64)
    return Ready(lambda: None, lambda values: None, lambda: [found])


@pytest.mark.slow
def test_every_round_has_its_process_and_none_is_ours() -> None:
    ready = apart("test", Contender("process", process_of)).make(WORK, WORK.inputs(0))
    pids = {process.process.pid for process in remote._processes.values()}
    assert len(pids) == PROCESSES and os.getpid() not in pids
    (first,) = ready.outputs()
    assert first[0] in pids
    asked: list[int] = []
    for process in remote._processes.values():
        ask, pid = process.ask, process.process.pid
        process.ask = lambda *a, ask=ask, pid=pid, **k: asked.append(pid) or ask(*a, **k)  # type: ignore[method-assign]
    assert ready.begin is not None and ready.timed is not None
    for turn in range(PROCESSES + 1):
        ready.begin(turn)
        ready.timed(1)
    assert len(set(asked[:PROCESSES])) == PROCESSES and asked[PROCESSES] == asked[0]


def test_all_contenders_are_told_the_round_that_begins() -> None:
    told: list[Any] = []

    def task(name: str) -> Task:
        return Task(lambda: None, begin=lambda turn: told.append((name, turn)))

    interleave({name: task(name) for name in "AB"}, Rules(3, 0.0, 0.0))
    assert told == [(name, turn) for turn in range(3) for name in "AB"]


def test_what_a_call_follows_takes_its_turn_and_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(between, "others", lambda: {"sleep": lambda: order.append("other")})

    def call() -> float:
        order.append("call")
        return 0.25

    assert between.typical(call, "sleep", 3) == 0.25
    assert order == ["other", "call"] * 3


def test_what_a_call_follows_takes_no_less_than_its_time() -> None:
    for after, other in between.others().items():
        if after in (TIGHT, "torch products"):
            continue
        assert min(between.seconds_of(other) for _ in range(3)) >= between.OTHER_WORK


def test_one_thread_is_one_and_threads_are_lent_to_one_contender_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lent: list[bool] = []
    seen: set[tuple[int, bool]] = set()
    monkeypatch.setattr(gs, "use_blas_threads", lambda on=True: lent.append(on))

    def spy(work: Any, inputs: Inputs) -> Ready:
        return Ready(
            lambda: seen.add((gs.get_num_threads(), lent[-1])), lambda values: None, lambda: []
        )

    with gs.threads(3):
        for settings in ({}, {"threads": 1}, {"lent": True}):
            ready = between._here(spy, settings, WORK, Inputs([]))
            assert ready.timed is not None and ready.timed(1) > 0
        assert seen == {(3, False), (1, False), (3, True)}
        assert lent[-1] is False and gs.get_num_threads() == 3


@pytest.mark.parametrize("after", AFTER[:-1])
def test_gradstep_is_measured_with_all_threads_with_one_and_on_those_of_blas(after: str) -> None:
    with gs.threads(2):
        names = [c.name for p in load(()) for c in p.contenders(Between(WORK.work, after))]
    assert names == [LAYER, f"{LAYER}, {ONE}", *([LENT] if after == "NumPy products" else [])]


@pytest.mark.parametrize(
    "work",
    [
        WORK,
        pytest.param(
            Between(Layer("layer_norm", (8, 16)), "NumPy products"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda w: w.name,
)
def test_in_another_process_the_values_are_those_of_the_reference(work: Between) -> None:
    make = [c for p in load(()) for c in p.contenders(work)]
    assert make and all(largest_error(contender, work) <= 1e-5 for contender in make)


def test_a_work_has_its_place_in_its_name() -> None:
    names = {work.name for work in SUITES["between"](Choice())}
    assert "AdamW, 235 146, after sleep" in names and "gelu, 16 384, tight loop" in names
    assert len(names) == 4 * 5 * len(AFTER)


def test_ranges_are_of_processes_and_ratios_of_rounds() -> None:
    a, b = Timing((2.0, 9.0, 4.0, 6.0), 1), Timing((1.0, 3.0, 4.0, 2.0), 1)
    assert by_process(a, b) == [2.5, 3.0, 1.0]  # the first process has two rounds: 2 and 3
    assert by_process(Timing((3.0,), 1), Timing((2.0,), 1)) == [1.5]
    assert span([2.5, 3.0, 1.0]) == "1.00–3.00×" and span([1.5, 1.5]) == "1.50×"


def found(after: str, lent: float | None = None, **seconds: float) -> Result:
    names = {"own": LAYER, "one": f"{LAYER}, {ONE}"}
    rows = [Row(names.get(k, k), Timing((v,) * 3, 1)) for k, v in seconds.items()]
    rows += [Row(LENT, Timing((lent,) * 3, 1))] if lent else []
    return Result("between", Between(single("AdamW", 1 << 20), after), rows)


def test_the_report_tells_tight_loops_and_places_between_other_work_apart() -> None:
    results = [found(TIGHT, own=1.0, one=1.9), found("NumPy products", 1.0, own=2.0, one=1.8)]
    text = report.markdown(report.Report({}, results, verdicts(results)))
    lines = [" ".join(line.replace("|", " ").split()) for line in text.splitlines()]
    assert f"work {' '.join(AFTER)}" in lines
    assert "AdamW, 1 048 576 1.90× – – 0.90× –" in lines
    start = lines.index(f"Time of {LAYER}, {ONE} over that of {LENT}:")
    assert "AdamW, 1 048 576 – – – 1.80× –" in lines[start:]


def judged(result: Result) -> list[str]:
    return [
        verdict.reached[2].value
        for verdict in verdicts([result])
        if verdict.work == result.work.name and verdict.reached[2] and verdict.reached[2].excess > 0
    ]


def test_the_worst_process_is_judged() -> None:
    result = found("sleep", own=1.0, one=1.7)
    assert judged(result) == []
    slow = Row(LAYER, Timing((1.0, 1.5, 1.0), 1))
    assert judged(Result("between", result.work, [slow, result.rows[1]])) == ["1.13–1.70×"]
    assert judged(found("NumPy products", 1.0, own=1.0, one=1.0)) == ["1.00×"]  # of those lent


def test_a_size_holds_while_the_call_and_what_it_follows_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_force() -> int:
        value = _core.tune("wake", 0)
        _core.tune("wake", value)
        return value

    seen: list[int] = []
    monkeypatch.setattr(between, "others", lambda: {"sleep": lambda: seen.append(in_force())})
    before = in_force()
    after = sweeps.After(lambda: seen.append(in_force()), "sleep")
    assert after.timed("wake", 77, 4) > 0
    assert set(seen) == {77} and in_force() == before


def test_ours_is_silent_where_torch_would_have_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "find_spec", lambda name: None)
    assert ours(Between(single("AdamW", 64), "torch products"), process_of) == []
