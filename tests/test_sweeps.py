"""Sizes that `bench/sweeps.py` varies change speed and nothing else."""

from __future__ import annotations

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

from bench import sweeps
from bench.measure import Rules


def in_force(name: str, probe: int = 8192) -> int:
    value = _core.tune(name, probe)
    _core.tune(name, value)
    return value


@pytest.mark.parametrize("name", sweeps.SWEEPS)
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


def results() -> list[bytes]:
    """Of calls that are cut for threads, and whose results may go past the cache."""
    params = np.linspace(-1, 1, 100_003, dtype=np.float32)
    optimizer = gs.AdamW(params, clip_norm=0.5)
    info = optimizer.step(np.cos(params))
    # Not aligned to a vector, as few large arrays of NumPy are.
    x, y = (np.resize(params, 2 * 40 * 3 * 167 + 1)[1:].reshape(2, 40, 3, 167) for _ in range(2))
    weight = np.linspace(0.5, 2, 40, dtype=np.float32)
    last, rows = np.moveaxis(x, 1, -1).copy(), x.reshape(-1, 501)
    _, mean, invstd = gs.batch_norm(x, weight, None, None, None, training=True)
    arrays = [
        params,
        gs.dropout(params, 0.3, seed=7),
        gs.gelu(x, out=y).copy(),
        gs.gelu_backward(x, x, out=y).copy(),
        *gs.batch_norm(x, weight, None, None, None, training=True, out=y),
        *gs.batch_norm_backward(x, x, weight, mean, invstd, out=y),
        *gs.batch_norm(last, weight, None, None, None, training=True, axis=-1),
        *gs.layer_norm(rows, None, None),
        *gs.group_norm(x, 8, weight, None),
    ]
    return [array.tobytes() for array in arrays] + [str(info.grad_norm).encode()]


@pytest.mark.parametrize(
    ("name", "value"),
    [("task", 1000), ("task", 65536), ("serial", 0), ("serial", 1 << 40), ("cache", 0)],
)
def test_results_do_not_depend_on_sizes(name: str, value: int) -> None:
    expected = results()
    found: list[list[bytes]] = []
    with gs.threads(3):
        sweeps.tuned(name, value, lambda: found.append(results()))
    assert found == [expected]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tusk", 1, "name: tusk, expected task, serial, spin, wake or cache"),
        ("spin", -1, "value: -1, expected >= 0"),
        ("task", 0, "value: 0, expected > 0"),
    ],
)
def test_a_bad_size_is_refused(name: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.tune(name, value)


def test_a_table_has_a_row_for_each_work_and_a_column_for_each_value() -> None:
    sweep = sweeps.Sweep((0, 1 << 40), 8192, "elements", {"relu": lambda: lambda: None})
    lines = sweeps.running("serial", sweep, Rules(rounds=1, seconds=0, pause=0))
    columns = [cell.strip() for cell in lines[0].split("|")[2:-1]]
    assert columns == ["8192 elements", "0", "8,192", "never"]
    assert lines[2].startswith("| relu")


def test_an_unknown_sweep_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sweeps.main(["spun"])
    assert "'spun', expected some of task, serial, spin, wake, cache" in capsys.readouterr().err
