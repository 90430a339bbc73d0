"""Gradients of several batches in one pass each: the specification's bits everywhere, and the sums
with which a step needs no pass for its norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradstep as gs
import ml_dtypes
import numpy as np
import pytest
from gradstep import _core
from gradstep.optim.storage import values_of
from gradstep.spec import optim as spec
from gradstep.spec import sums as spec_sums

BF16 = ml_dtypes.bfloat16
F4 = np.float32
SIZES = [0, 1, 15, 17, 1023, 4095, 4096, 4097, 8193, 40_003]
TYPES = [(F4, F4), (BF16, F4), (np.float16, F4), (np.float64, np.float64)]


def drawn(sizes: list[int], dtype: Any, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(n) * 10.0 ** rng.integers(-4, 3)).astype(dtype) for n in sizes]


def everywhere() -> Iterator[None]:
    for level in gs.build_info()["simd_levels"]:
        gs.use_simd(level)
        for threads, task in ((1, 32_768), (2, 1000), (7, 4097)):
            before = _core.tune("task", task)
            try:
                with gs.threads(threads):
                    yield
            finally:
                _core.tune("task", before)


def same(found: list[Any], expected: list[Any]) -> bool:
    return [a.tobytes() for a in found] == [a.tobytes() for a in expected]


@pytest.mark.parametrize(("of", "dtype"), TYPES, ids=str)
def test_totals_and_sums_have_the_bits_of_the_specification_everywhere(of: Any, dtype: Any) -> None:
    batches = [drawn(SIZES, of, seed) for seed in range(3)]
    totals: list[Any] = [np.zeros(n, dtype) for n in SIZES]
    blocks: list[Any] = []
    for grads in batches:
        pairs = [spec.accumulate(t, values_of(g)) for t, g in zip(totals, grads, strict=True)]
        totals, blocks = [p[0] for p in pairs], [p[1] for p in pairs]
    for _ in everywhere():
        into = [np.zeros(n, dtype) for n in SIZES]
        for grads in batches:
            found = gs.accumulate(grads, into=into)
        assert same(into, totals) and same(found, blocks)


def test_sums_are_added_one_after_the_other() -> None:
    blocks = [np.random.default_rng(i).standard_normal(n) ** 2 for i, n in enumerate((5, 0, 900))]
    expected = 0.0
    for block in np.concatenate(blocks):
        expected += float(block)
    assert spec_sums.total(blocks) == expected and spec_sums.total([]) == 0.0


@pytest.mark.parametrize("name", gs.OPTIMIZERS)
def test_a_step_with_sums_is_the_step_without(name: str) -> None:
    """Native and by the specification, also where some gradients are left out."""
    for left_out in (None, 3):
        runs = []
        for method, given in (("step", 1), ("step", 0), ("reference_step", 1)):
            params, into = drawn(SIZES, F4, 9), [np.zeros(n, F4) for n in SIZES]
            made = gs.OPTIMIZERS[name](params, clip_norm=1.0, grad_scale=0.5)
            for seed in range(2):
                sums = gs.accumulate(drawn(SIZES, BF16, seed), into=into)
            grads = [None if i == left_out else g for i, g in enumerate(into)]
            info = getattr(made, method)(grads, sums=sums if given else None)
            assert info.grad_norm > 1
            runs.append((info, [p.tobytes() for p in params]))
        assert runs[0] == runs[1] == runs[2]


def test_no_gradient_is_read_for_its_norm() -> None:
    made = gs.SGD(np.zeros(5000, F4), lr=1.0, clip_norm=1.0)
    assert made.step(np.ones(5000, F4), sums=np.float64([9.0, 16.0])).grad_norm == 5.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_refused_writes_nothing(bad: float) -> None:
    params, into = drawn([5000, 3], F4, 0), [np.zeros(5000, F4), np.zeros(3, F4)]
    made = gs.AdamW(params, on_nonfinite="skip")
    grads = drawn([5000, 3], BF16, 1)
    grads[0][4999] = bad
    sums = gs.accumulate(grads, into=into)
    before = [a.tobytes() for a in (*params, *made.state[0].values())]
    made.on_nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"^grads\[0\]: 1 of 5000 elements"):
        made.step(into, sums=sums)
    made.on_nonfinite = "skip"
    assert made.step(into, sums=sums, zero_grads=True).skipped
    assert [a.tobytes() for a in (*params, *made.state[0].values())] == before
    assert not any(total.any() for total in into), "cleared for the next batches"


def test_trees_and_groups_keep_their_arrangement() -> None:
    head, body = {"b": np.zeros(3, F4), "w": np.zeros((70, 80), F4)}, np.zeros((2, 3), F4, "F")
    made = gs.SGD([{"params": head}, {"params": {"body": body}}], clip_norm=1.0)
    grads = [
        {"w": np.ones((70, 80), BF16), "b": np.ones(3, F4)},
        {"body": np.asfortranarray(np.ones((2, 3), np.float16))},
    ]
    into = [
        {"w": np.zeros((70, 80), F4), "b": np.zeros(3, F4)},
        {"body": np.zeros((2, 3), F4, "F")},
    ]
    found = gs.accumulate(grads, into=into)
    assert [list(group) for group in found] == [["w", "b"], ["body"]]
    assert made.step(into, sums=found).grad_norm == np.sqrt(5600 + 3 + 6)
    made.bind(into)
    assert made.step(sums=gs.accumulate(grads, into=into)).grad_norm == 2 * np.sqrt(5609)


def test_what_does_not_fit_is_refused_and_nothing_written() -> None:
    into = [np.zeros(3, F4), np.zeros(4, F4)]
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        ([np.ones(3, F4), np.ones(5, F4)], into, ValueError, r"^grads\[1\]: shape \(5,\)"),
        ([np.ones(3, F4), None], into, TypeError, r"^grads\[1\]: NoneType"),
        ([np.ones(3, F4), np.ones(4)], into, TypeError, r"^grads\[1\]: dtype float64"),
        ([np.ones(3, F4)], into, ValueError, "^grads: 1 entries, expected 2 as in into"),
        (np.ones(3, BF16), np.zeros(3, BF16), TypeError, "^into: dtype"),
        (np.ones(3, F4), np.zeros(3, F4)[::-1], ValueError, "^into: shape"),
        ([np.ones(3, F4), into[1]], [into[0], into[0]], ValueError, r"^into\[1\]: the same memory"),
    ]
    for grads, to, kind, message in cases:
        with pytest.raises(kind, match=message):
            gs.accumulate(grads, into=to)
    assert not any(total.any() for total in into)


def test_sums_of_others_are_refused() -> None:
    w = np.zeros(5000, F4)
    made = gs.SGD({"w": w}, lr=1.0, clip_norm=1.0)
    grads = {"w": np.ones(5000, F4)}
    cases: list[tuple[Any, type[Exception], str]] = [
        ({"w": np.ones(3)}, ValueError, r"^sums\['w'\]: shape \(3,\), expected \(2,\)"),
        ({"w": np.ones(2, F4)}, TypeError, r"^sums\['w'\]: dtype float32, expected"),
        ({"w": [1.0, 2.0]}, TypeError, r"^sums\['w'\]: list, expected a numpy.ndarray"),
        ({"v": np.ones(2)}, ValueError, "^sums: no 'w'"),
        ([np.ones(2)], TypeError, "^sums: list, expected a mapping like params"),
        ({"w": -np.ones(2)}, ValueError, "^sums: -2 in all, expected sums of squares"),
    ]
    for sums, kind, message in cases:
        for call in (made.step, made.reference_step):
            with pytest.raises(kind, match=message):
                call(grads, sums=sums)
    assert made.step_count == 0 and not w.any()
