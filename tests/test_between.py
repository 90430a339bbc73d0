"""The command that measures calls between other work, on little of everything."""

from __future__ import annotations

import json

import gradstep as gs
import pytest

from bench import between


def test_every_contender_of_every_work_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between, "OTHER_WORK", 1e-5)
    monkeypatch.setattr(between, "CALLS", 1)
    monkeypatch.setattr(between, "SETTLED", 0)
    rows = between.measure(list(between.WORKS), [4096], rounds=1)
    assert {row["work"] for row in rows} == set(between.WORKS)
    assert {row["after"] for row in rows} == set(between.others())
    assert {between.OURS, between.ONE, between.LENT} <= {row["who"] for row in rows}
    assert all(row["seconds"] > 0 for row in rows)


def test_the_number_of_threads_and_their_loan_are_put_back() -> None:
    seen: list[int] = []
    before = gs.get_num_threads()
    calls = {between.OURS: lambda: seen.append(gs.get_num_threads())}
    calls[between.ONE] = calls[between.OURS]
    between.interleaved(calls, lambda: None, 3, 1)
    assert set(seen) == {1, 3}
    assert gs.get_num_threads() == before


def test_the_tables_show_the_range_over_the_processes() -> None:
    def rows(two: float) -> list[dict[str, object]]:
        seconds = {between.OURS: two, between.ONE: 4e-5, between.LENT: 2e-5, "torch": 8e-5}
        return [
            {"work": "gelu", "size": 65_536, "after": after, "who": who, "seconds": value}
            for after in ("tight loop", "NumPy products")
            for who, value in seconds.items()
        ]

    text = between.report([rows(2e-5), rows(4e-5)])
    columns = [
        cell.strip() for cell in next(x for x in text.splitlines() if "| 65 536" in x).split("|")
    ]
    assert columns[1:-1] == ["65 536", "40 µs", "1.00–2.00", "1.00–2.00", "2.00"]
    assert "| 65 536   | 2.00–4.00" in text


def test_each_process_is_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    class Done:
        stdout = json.dumps(
            [
                {"work": "AdamW", "size": 9, "after": "tight loop", "who": who, "seconds": 1e-6}
                for who in (between.OURS, between.ONE, between.LENT)
            ]
            + [
                {"work": "AdamW", "size": 9, "after": "NumPy products", "who": who, "seconds": 1e-6}
                for who in (between.OURS, between.ONE, between.LENT)
            ]
        )

    def run(command: list[str], **_: object) -> Done:
        started.append(command)
        return Done()

    monkeypatch.setattr(between.subprocess, "run", run)
    assert between.main(["--processes", "2", "--quick"]) == 0
    assert [command[1:] for command in started] == 2 * [
        ["-m", "bench.between", "--child", "--quick"]
    ]
    assert "processes: 2" in capsys.readouterr().out
