"""Sizes that `bench/sweeps.py` varies change speed and nothing else."""

from __future__ import annotations

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

from bench import sweeps
from bench.measure import Rules

RUNNING = [name for name in sweeps.SWEEPS if name != "prefetch"]


def in_force(name: str, probe: int = 8192) -> int:
    value = _core.tune(name, probe)
    _core.tune(name, value)
    return value


@pytest.mark.parametrize("name", RUNNING)
def test_the_usual_value_of_a_sweep_is_the_one_in_force(name: str) -> None:
    assert in_force(name) == sweeps.SWEEPS[name].usual


def test_a_value_holds_for_one_call_even_if_it_fails() -> None:
    seen: list[int] = []

    def call() -> None:
        seen.append(in_force("task"))
        raise KeyError

    before = in_force("task")
    with pytest.raises(KeyError):
        sweeps.tuned("task", 4096, call)
    assert seen == [4096]
    assert in_force("task") == before


def step_and_dropout() -> tuple[np.ndarray, np.ndarray, float | None]:
    params = np.linspace(-1, 1, 100_003, dtype=np.float32)
    optimizer = gs.AdamW(params, clip_norm=0.5)
    info = optimizer.step(np.cos(params))
    return params, gs.dropout(params, 0.3, seed=7), info.grad_norm


@pytest.mark.parametrize(
    ("name", "value"), [("task", 4096), ("task", 65536), ("serial", 0), ("serial", 1 << 40)]
)
def test_results_do_not_depend_on_sizes(name: str, value: int) -> None:
    expected = step_and_dropout()
    found: list[tuple[np.ndarray, np.ndarray, float | None]] = []
    with gs.threads(3):
        sweeps.tuned(name, value, lambda: found.append(step_and_dropout()))
    for a, b in zip(found[0][:2], expected[:2], strict=True):
        assert a.tobytes() == b.tobytes()
    assert found[0][2] == expected[2]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tusk", 1, "name: tusk, expected task, serial or spin"),
        ("spin", -1, "value: -1, expected >= 0"),
        ("task", 5000, "value: 5000, expected a multiple of 4096"),
        ("task", 0, "value: 0, expected a multiple of 4096"),
    ],
)
def test_a_bad_size_is_refused(name: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.tune(name, value)


def test_a_table_has_a_row_for_each_work_and_a_column_for_each_value() -> None:
    sweep = sweeps.Sweep((0, 1 << 40), 8192, "elements", {"relu": lambda: lambda: None})
    lines = sweeps.running("serial", sweep, Rules(rounds=1, seconds=0, pause=0))
    assert lines[0].split("|")[2:-1] == [
        " 8192 elements ",
        " 0    ",
        " 8,192 ",
        " never parallel ",
    ]
    assert lines[2].startswith("| relu")


def test_an_unknown_sweep_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sweeps.main(["spun"])
    assert "'spun', expected some of task, serial, spin, prefetch" in capsys.readouterr().err
