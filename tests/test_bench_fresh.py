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
    with gs.threads(2):
        assert fresh.main(["64"]) == 0
        assert fresh.main(["64", "128"]) == 1
        assert fresh.main(["64", "128", "--goal", "1.7"]) == 0
    assert "| 128        | 1.79  |" in capsys.readouterr().out


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
