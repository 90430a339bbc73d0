"""`python -m bench.fresh` compares one thread with all, in processes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gradstep as gs
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench is run in place, never installed

from bench import fresh
from bench.measure import Rules, Task, Timing


def test_the_ratio_is_of_one_thread_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def timed(tasks: dict[str, Task], rules: Rules) -> dict[str, Timing]:
        for task in tasks.values():
            assert task.timed is not None
            task.timed(2)
        return {fresh.ONE: Timing((6.0,), 1), fresh.ALL: Timing((4.0,), 1)}

    def step(sizes: list[tuple[int, ...]]) -> object:
        assert sizes == [(64,)]
        return lambda: seen.append(gs.get_num_threads())

    monkeypatch.setattr(fresh, "interleave", timed)
    monkeypatch.setattr(fresh, "step", step)
    with gs.threads(3):
        assert fresh.in_this_process([64]) == [1.5]
    assert seen == [1, 1, 3, 3]


def test_one_bad_process_is_enough_to_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {64: [1.9, 1.8], 128: [2.0, 1.79]}
    monkeypatch.setattr(fresh, "several", lambda processes, sizes: {n: found[n] for n in sizes})
    monkeypatch.setattr(fresh, "given", lambda threads, sizes: {64: 1.25 * threads})
    with gs.threads(2):
        assert fresh.main(["64"]) == 0
        assert fresh.main(["64", "128"]) == 1
        assert fresh.main(["64", "128", "--goal", "1.7"]) == 0
    printed = capsys.readouterr().out
    assert "| 64         | 1.80  | 1.85   | 1.90 | 2/2   | 2.50               |" in printed
    assert "| 128        | 1.79  |" in printed


@pytest.mark.parametrize(
    ("arguments", "threads", "message"),
    [
        (["0"], 2, "at least 1"),
        (["--processes", "0"], 2, "at least 1"),
        (["--goal", "x"], 2, "invalid float value"),
        ([], 1, "one thread only"),
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: list[str], threads: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with gs.threads(threads), pytest.raises(SystemExit):
        fresh.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_every_process_is_fresh_and_gives_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    run = fresh.subprocess.run

    def counted(*arguments: object, **keywords: object) -> object:
        started.append(os.getpid())
        return run(*arguments, **keywords)  # type: ignore[call-overload]

    monkeypatch.chdir(Path(__file__).parents[1])
    monkeypatch.setattr(fresh.subprocess, "run", counted)
    found = fresh.several(2, [64, 256])
    assert len(started) == 2
    assert [len(times) for times in found.values()] == [2, 2]
    assert all(times > 0 for both in found.values() for times in both)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process is put on a CPU here")
def test_separate_processes_step_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    found = fresh.given(2, [64, 256], runs=1)
    assert list(found) == [64, 256]
    assert all(value > 0 for value in found.values())


def test_steps_are_counted_in_the_time_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    begun: dict[int, list[float]] = {1: [], 2: []}

    def step(sizes: list[tuple[int, ...]]) -> object:
        [[size]] = sizes

        def call() -> None:
            begun[size].append(now[0])
            now[0] += size / 8

        return call

    def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(fresh, "step", step)
    monkeypatch.setattr(fresh.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(fresh.time, "sleep", sleep)
    assert fresh.steps_from(20.0, [1, 2], window=1.0) == [8, 4]
    assert [begun[1][1], begun[2][1]] == [20.0, 21.0]  # the first is before
    with pytest.raises(RuntimeError, match="too late"):
        fresh.steps_from(now[0], [1])
