"""A step whose gradients come in parts, as between processes: the bits of a step at once."""

from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

BLOCK = _core.SUM_BLOCK


def made(cls: Any, **hyper: Any) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    kind = hyper.pop("dtype", np.float32)
    w = {n: rng.standard_normal(n).astype(kind) for n in (3 * BLOCK + 5, 7, BLOCK)}
    grads = [rng.standard_normal(n).astype(np.float32) for n in w]
    return w, cls({str(n): p for n, p in w.items()}, lr=0.1, **hyper), grads


@pytest.mark.parametrize("name", gs.OPTIMIZERS)
def test_parts_give_the_bits_of_the_whole(name: str) -> None:
    for hyper in ({}, {"state_dtype": "int8"}, {"clip_value": 0.5, "l1": 0.1}):
        try:
            w, optimizer, grads = made(gs.OPTIMIZERS[name], **hyper)
        except (ImportError, ValueError):  # that keeps no such states
            continue
        expected, whole, _ = made(gs.OPTIMIZERS[name], **hyper)
        for step in range(3):
            given = [grads[0], None if step == 1 else grads[1], grads[2]]
            whole._plan.step(given, 0.5, 0.0, False, False)
            plan = optimizer._plan
            plan.begin(given, 0.5)
            parts = [(0, BLOCK, 3 * BLOCK), (2, 0, BLOCK), (0, 3 * BLOCK, 3 * BLOCK + 5)]
            for part in [*parts, (0, 0, BLOCK)] + [(1, 0, 7)] * (step != 1):
                plan.update_part(*part)
            assert plan.end() == step + 1
            assert plan.steps == whole._plan.steps
        for n, p in w.items():
            assert p.tobytes() == expected[n].tobytes(), (name, hyper, n)
        for own, other in zip(optimizer._states, whole._states, strict=True):
            assert all(own[key].tobytes() == other[key].tobytes() for key in own)


def test_parts_are_checked() -> None:
    w, optimizer, grads = made(gs.SGD)
    before = {n: p.copy() for n, p in w.items()}
    plan = optimizer._plan
    for call in (lambda: plan.update_part(0, 0, BLOCK), plan.end):
        with pytest.raises(RuntimeError, match="called before begin"):
            call()
    with pytest.raises(ValueError, match=r"grads: 2 arrays, expected 3"):
        plan.begin(grads[:2], 1.0)
    plan.begin([None, *grads[1:]], 1.0)
    for part, said in [
        ((0, 0, BLOCK), "tensor: 0, expected one with a gradient"),
        ((3, 0, 1), "tensor: 3, expected one with a gradient"),
        ((2, 1, BLOCK), "part: 1 to 4096, expected elements of 4096 from a multiple of 4096"),
        ((2, 0, BLOCK + 1), "part: 0 to 4097"),
        ((1, 0, -1), "part: 0 to -1"),
    ]:
        with pytest.raises(ValueError, match=said):
            plan.update_part(*part)
    plan.step(grads, 0.0, 0.0, False)  # another step ends it
    with pytest.raises(RuntimeError, match="called before begin"):
        plan.update_part(1, 0, 7)
    assert all((p == before[n]).all() for n, p in w.items())


def test_block_sums_are_those_that_a_norm_is_made_of() -> None:
    x = np.random.default_rng(0).standard_normal(3 * BLOCK + 5).astype(np.float32)
    sums = _core.block_sums(x, "x")
    assert sums.size == 4 and np.sqrt(np.add.accumulate(sums)[-1]) == gs.global_norm(x)


def test_numbers_of_steps_are_not_negative() -> None:
    plan = gs.Adam([np.zeros(2), np.zeros(2)])._plan
    plan.steps = [3, 4]
    for bad, message in (
        ([5, -1], r"^steps: -1, expected >= 0$"),
        ([1], r"^steps: 1, expected 2$"),
    ):
        with pytest.raises(ValueError, match=message):
            plan.steps = bad
    with pytest.raises(ValueError, match=r"^step_count: -1, expected >= 0$"):
        plan.step_count = -1
    assert (plan.steps, plan.step_count) == ([3, 4], 0)
