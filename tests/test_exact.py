"""Native results equal the NumPy specification bit for bit, wherever and however they are run."""

from __future__ import annotations

import ctypes
from functools import cache, partial
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from cases import PREPARATIONS, label, variants
from folded import folded, in_all_pairs, in_turn
from gradstep import _core
from guarded import Guarded

LEVELS = gs.build_info()["simd_levels"]
DTYPES = (np.float32, np.float64)
# Every size to four vectors of the widest ISA, and the borders of a preparation block, a sum block
# and an item of work.
BORDERS = [1023, 1024, 1025, 4095, 4096, 4097, 8191, 8192, 8193, 16_385]
SIZES = [*range(66), *BORDERS]
# Around every number of values in a vector, and in four of them.
NEAR_VECTORS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65]
LARGE = 100_003

CASES = list(variants())


# Preparations are compiled for both types, or none of them: plain and all at once with both, and
# each one alone with one of them in turn.
def prepared(name: str, options: Any) -> list[tuple[Any, Any]]:
    """The preparations of one case, each with a type."""
    turn = CASES.index((name, options))
    return [
        (prep, dtype)
        for index, prep in enumerate([{}, *PREPARATIONS])
        for dtype in DTYPES
        if prep in ({}, PREPARATIONS[-1]) or dtype is DTYPES[(turn + index) % 2]
    ]


def values(rng: np.random.Generator, size: int, dtype: Any) -> Any:
    """Numbers of many magnitudes, some zeros of both signs among them."""
    x = rng.standard_normal(size) * 10.0 ** rng.integers(-6, 3, size)
    x[rng.random(size) < 0.05] = 0.0
    x[rng.random(size) < 0.02] = -0.0
    return x.astype(dtype)


def inputs(sizes: list[int], dtype: Any, steps: int, seed: int = 7) -> tuple[list[Any], Any]:
    """Parameters and gradients, of which only the gradients may be written to."""
    params, grads = drawn(tuple(sizes), dtype, steps, seed)
    return params, [[g.copy() for g in step] for step in grads]


@cache
def drawn(sizes: tuple[int, ...], dtype: Any, steps: int, seed: int) -> tuple[list[Any], Any]:
    rng = np.random.default_rng(seed)
    params = [values(rng, size, dtype) for size in sizes]
    return params, [[values(rng, size, dtype) for size in sizes] for _ in range(steps)]


def run(name: str, options: dict[str, Any], params: list[Any], grads: Any, method: str) -> Any:
    """Everything that steps leave behind: parameters, states, and what they returned."""
    params = [p.copy() for p in params]
    optimizer = gs.OPTIMIZERS[name](params, **options)
    infos = [getattr(optimizer, method)(g) for g in grads]
    states = [list(state.values()) for state in optimizer.state.values()]
    return params, states, infos


def assert_same_bits(found: Any, expected: Any, where: str) -> None:
    assert found[2] == expected[2], where
    for i, (p, q) in enumerate(zip(found[0], expected[0], strict=True)):
        assert p.tobytes() == q.tobytes(), f"{where}: parameter {i} of {p.size}"
    for i, (a, b) in enumerate(zip(found[1], expected[1], strict=True)):
        assert [s.tobytes() for s in a] == [s.tobytes() for s in b], f"{where}: state {i}"


def on_one_thread() -> Any:
    return in_all_pairs(threads=(1,))


def compare(name: str, options: Any, prep: Any, dtype: Any, places: Any, sizes: list[int]) -> None:
    params, grads = inputs(sizes, dtype, steps=3)
    settings = {**options, **prep}
    expected = run(name, settings, params, grads, "reference_step")
    assert any(p.tobytes() != q.tobytes() for p, q in zip(params, expected[0], strict=True))
    for where in places():
        assert_same_bits(run(name, settings, params, grads, "step"), expected, where)


@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
def test_same_bits_as_reference(name: str, options: Any) -> None:
    each = folded(("prep", "dtype"), prepared(name, options))
    each(partial(compare, name, options, places=in_turn, sizes=[0, *NEAR_VECTORS, *BORDERS]))()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
def test_same_bits_at_every_level_with_all_threads(name: str, options: Any) -> None:
    each = folded(("prep", "dtype"), prepared(name, options))
    each(partial(compare, name, options, places=in_all_pairs, sizes=SIZES))()


@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
@folded("dtype", DTYPES)
def test_same_bits_over_many_steps_of_a_large_tensor(name: str, options: Any, dtype: Any) -> None:
    params, grads = inputs([LARGE], dtype, steps=8)
    expected = run(name, options, params, grads, "reference_step")
    for where in in_turn((1, 3)):
        assert_same_bits(run(name, options, params, grads, "step"), expected, where)


@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
def test_many_tensors_in_one_step_equal_one_by_one(name: str, options: Any) -> None:
    sizes = [0, 3, 8193, 0, 17, 4096, 1, 30_000, 64]
    params, grads = inputs(sizes, np.float32, steps=3)
    together = run(name, options, params, grads, "step")
    for i in range(len(sizes)):
        alone = run(name, options, [params[i]], [[g[i]] for g in grads], "step")
        assert alone[0][0].tobytes() == together[0][i].tobytes(), sizes[i]


@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
@folded("prep", [{}, PREPARATIONS[-1]])
def test_any_start_of_an_array_and_nothing_beside_it(name: str, options: Any, prep: Any) -> None:
    settings = {**options, **prep, "clip_norm": None}
    for start in range(17):
        size = 40 + start
        (p,), ((g,),) = inputs([size], np.float32, steps=1, seed=start)
        expected = run(name, settings, [p], [[g]], "reference_step")
        for where in on_one_thread():
            memory = np.full(start + size + 32, 12.25, np.float32)
            memory[start : start + size] = p
            gradient = np.full(start + size + 3, np.nan, np.float32)[3 + start :]
            gradient[:] = g
            gs.OPTIMIZERS[name](memory[start : start + size], **settings).step(gradient)
            assert memory[start : start + size].tobytes() == expected[0][0].tobytes(), where
            assert (memory[:start] == 12.25).all() and (memory[start + size :] == 12.25).all()


@pytest.fixture(scope="module")
def guarded() -> Any:
    if not hasattr(ctypes.CDLL(None), "mprotect"):
        pytest.skip("no mprotect here")
    return [Guarded() for _ in range(5)]


@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
@folded(("prep", "dtype"), [({}, np.float32), (PREPARATIONS[-1], np.float64)])
def test_no_byte_before_or_after_is_touched(
    name: str, options: Any, prep: Any, dtype: Any, guarded: Any
) -> None:
    settings = {**options, **prep}
    for size in (*NEAR_VECTORS, 1023 if dtype is np.float32 else 1000):
        (p,), ((g,),) = inputs([size], dtype, steps=1, seed=size)
        expected = run(name, settings, [p], [[g]], "reference_step")
        for where in on_one_thread():
            for at_end in (False, True):
                param, grad = (m.array(a, at_end) for m, a in zip(guarded, (p, g), strict=False))
                optimizer = gs.OPTIMIZERS[name]([param], **settings)
                states = {
                    key: memory.array(state, at_end)
                    for memory, (key, state) in zip(
                        guarded[2:], optimizer._states[0].items(), strict=False
                    )
                }
                optimizer._plan = optimizer._make_plan([states])
                optimizer._stale = True
                optimizer.step([grad])
                assert param.tobytes() == expected[0][0].tobytes(), (where, size)


def test_every_kernel_is_compared() -> None:
    used = {gs.OPTIMIZERS[n].kernel({**defaults(n), **o}) for n, o in CASES}
    assert used == set(_core.optimizer_kernels())


def defaults(name: str) -> dict[str, Any]:
    return {key: value for key, value in gs.OPTIMIZERS[name]._defaults().items() if key != "params"}


def test_levels_of_this_machine(record_testsuite_property: Any, capsys: Any) -> None:
    """Says which levels the exactness tests ran: `pytest -rA` and the closing line of conftest."""
    record_testsuite_property("simd_levels", ", ".join(LEVELS))
    assert LEVELS[0] == "baseline"
    assert set(LEVELS) <= set(_core.compiled_simd_levels())


@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
@folded("prep", [{}, PREPARATIONS[-1]])
def test_zeroing_gradients_changes_nothing_else(name: str, options: Any, prep: Any) -> None:
    params, (grads,) = inputs([0, 1, 37, 8193, 30_000], np.float32, steps=1)
    settings = {**options, **prep}
    expected = run(name, settings, params, [grads], "reference_step")
    optimizer = gs.OPTIMIZERS[name](params, **settings)
    optimizer.step(grads, zero_grads=True)
    assert [p.tobytes() for p in params] == [p.tobytes() for p in expected[0]]
    assert all(g.tobytes() == bytes(g.nbytes) for g in grads)


def test_gradients_that_cannot_be_zeroed_are_refused_and_kept() -> None:
    p, q, g = np.ones(4), np.ones(4), np.ones(8)
    optimizer = gs.SGD([p, q])
    fixed = np.ones(4)
    fixed.flags.writeable = False
    for grads, message in [
        ([g[:4], g[:4]], r"grads\[1\]: the same memory as grads\[0\]"),
        ([g[:4], g[2:6]], r"grads\[1\]: overlaps grads\[0\]"),
        ([p, g[:4]], r"grads\[0\]: the same memory as params\[0\]"),
        ([g[:4], fixed], r"grads\[1\]: read-only"),
    ]:
        with pytest.raises(ValueError, match=message):
            optimizer.step(grads, zero_grads=True)
        assert (p == 1).all() and (q == 1).all() and (g == 1).all()
    optimizer.bind([g[:4], g[4:]])
    optimizer.step(zero_grads=True)
    assert (g == 0).all() and (p == 0.999).all()
