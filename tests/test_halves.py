"""Functions on bfloat16 and float16 arrays give the bits of their specification, however run."""

from __future__ import annotations

from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import folded, in_all_pairs, in_turn
from gradstep import _core
from gradstep.spec import dropout as spec
from gradstep.spec import exact
from gradstep.spec.halves import of_halves, rounded, widened
from guarded import Guarded
from norm_cases import CASES, EMPTY, Norm
from test_activations import ELEMENTWISE, SHAPES, drawn
from test_dropout import ALL, SPATIAL

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = (BFLOAT16, np.dtype(np.float16))
SIZES = [*range(70), 2047, 2048, 2049, 8193, 20_011]
halves = folded("dtype", HALVES)


def same(found: Any, expected: Any, where: Any) -> None:
    assert len(found) == len(expected)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), (where, i)
        assert a.tobytes() == b.tobytes(), (where, i)


def hard(n: int, dtype: Any) -> Any:
    """Numbers of any bits, subnormal, infinite and the one NaN that results have among them."""
    bits = np.random.default_rng(n).integers(0, 1 << 16, n, dtype=np.uint16)
    x = bits.view(dtype)
    return np.where(np.isnan(x.astype(np.float32)), dtype.type(np.nan), x)


@halves
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations_equal_the_specification(name: str, dtype: Any) -> None:
    forward, _, backward, _, saved, _ = ELEMENTWISE[name]
    kind = {"approximate": "tanh"} if name == "gelu_tanh" else {}
    function = name.removesuffix("_tanh") if kind else name
    reference, slope = (
        of_halves()(exact.FUNCTIONS[each]) for each in (function, f"{function}_backward")
    )
    for x in (*(drawn(size, np.float32, 1).astype(dtype) for size in SIZES), hard(4099, dtype)):
        dy = drawn(x.size, np.float32, 2).astype(dtype)
        with np.errstate(all="ignore"):
            y = reference(x, **kind)
            dx = slope(dy, y if saved == "y" else x, **kind)
        for where in in_turn((1, 3)):
            same([forward(x)], [y], (where, x.size))
            same([backward(dy, y if saved == "y" else x)], [dx], (where, x.size))


@halves
@pytest.mark.parametrize("name", ("softmax", "log_softmax"))
def test_rows_equal_the_specification(name: str, dtype: Any) -> None:
    forward, backward = getattr(gs, name), getattr(gs, f"{name}_backward")
    reference, slope = (of_halves()(exact.FUNCTIONS[each]) for each in (name, f"{name}_backward"))
    cases = [(shape, -1) for shape in SHAPES if shape != (0,)]
    cases += [
        ((2, 3, 5), 1),
        ((3, 10, 17), 1),
        ((2, 4100, 5), 1),
        ((300, 7), -1),
        ((2, 70_001), -1),
    ]
    for shape, axis in cases:
        x, dy = (drawn(shape, np.float32, seed).astype(dtype) for seed in (1, 2))
        y = reference(x, axis)
        dx = slope(dy, y, axis)
        for where in in_turn((1, 3)):
            same([forward(x, axis)], [y], (where, shape))
            same([backward(dy, y, axis)], [dx], (where, shape))
        for over in (0, 1):
            pair = [dy.copy(), y.copy()]
            assert backward(*pair, axis, out=pair[over]) is pair[over]
            same([pair[over]], [dx], shape)


@halves
@pytest.mark.parametrize("name", ALL)
def test_dropouts_equal_the_specification(name: str, dtype: Any) -> None:
    native, reference = ALL[name]
    shapes = [(), *SPATIAL_SHAPES] if "spatial" not in name else SPATIAL_SHAPES
    for shape in shapes:
        if shape == () and "path" in name:
            continue
        x = np.asarray(drawn(shape, np.float32)).astype(dtype)
        for p in (0.0, 0.3, 1.0):
            expected = reference(x, p, seed=5, offset=7)
            for where in in_turn((1, 3)):
                same([native(x, p, seed=5, offset=7)], [expected], (where, shape, p))


SPATIAL_SHAPES = [shape for shape, axis in SPATIAL if axis == 1]


@pytest.mark.parametrize("case", [*CASES[::3], *EMPTY[::2]], ids=str)
@folded(("dtype", "parameters"), [(a, b) for a in HALVES for b in (np.dtype("f4"), a)])
def test_norms_equal_the_specification(case: Norm, dtype: Any, parameters: Any) -> None:
    of = case.inputs(np.float32)
    for name, value in of.items():
        if value is not None:
            of[name] = value.astype(dtype if name in ("x", "dy") else parameters)
    forward, backward = case.forward(of, native=False), case.backward(of, native=False)
    assert forward[0].dtype == backward[0].dtype == dtype
    if case.affine:
        assert backward[1].dtype == parameters
    for where in in_turn((1, 3)):
        same(case.forward(of), forward, f"forward, {where}")
        same(case.backward(of), backward, f"backward, {where}")
    of["x"], of["dy"] = of["x"].copy(), of["dy"].copy()
    statistics = forward[1:2] if case.kind == "rms" else forward[1:3]
    found = case.backward(of, statistics=statistics, out=of["dy"])
    same(found, backward, "in place")


@halves
def test_conversion_rounds_to_nearest_even_and_keeps_subnormals(dtype: Any) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    wide = widened(every)
    number = ~np.isnan(wide)
    for where in in_turn((1,)):
        found = gs.dropout(every, 2.0**-17, seed=1)  # keeps all, and is rounded to p = 0
        assert found.tobytes() == every.tobytes(), where
        # A slope of 1 leaves each number as it is, through float32 and back.
        found = gs.leaky_relu(every, 1.0)
        assert found[number].tobytes() == every[number].tobytes(), where
        assert np.isnan(found[~number].astype(np.float32)).all(), where
    # Halves of neighbours: to the even one.
    finite = np.isfinite(wide)
    with np.errstate(all="ignore"):
        expected = rounded(np.where(wide > 0, wide, wide * np.float32(0.37)), every.dtype)
    for where in in_turn((1,)):
        found = gs.leaky_relu(every, 0.37)
        assert found[finite].tobytes() == expected[finite].tobytes(), where


@halves
def test_arrays_that_travel_are_rounded_once_and_added(dtype: Any) -> None:
    for size in SIZES:
        x, total = drawn(size, np.float32, 1), drawn(size, np.float32, 2)
        x[: size // 3] *= np.float32(1e-40)
        half = rounded(x, dtype)
        with np.errstate(all="ignore"):
            wide = widened(half)
            added = total + wide
        for where in in_turn((1, 3)):
            out, into, summed = np.full(size, 7, dtype), np.full(size, 7, np.float32), total.copy()
            _core.narrow(x, out)
            _core.widen(half, into, False)
            _core.widen(half, summed, True)
            same([out, into, summed], [half, wide, added], (where, size))


@halves
def test_travelling_arrays_that_do_not_fit_are_refused(dtype: Any) -> None:
    x, half = np.ones(4, np.float32), np.ones(4, dtype)
    fixed = half.copy()
    fixed.flags.writeable = False
    for call, error, message in (
        (lambda: _core.narrow(x.astype(np.float64), half), TypeError, r"^x: dtype .*float64"),
        (lambda: _core.narrow(x, x.copy()), TypeError, r"^out: dtype .*float32"),
        (lambda: _core.narrow(x, half[:3]), ValueError, r"out: shape \(3,\), expected \(4,\)"),
        (lambda: _core.narrow(x, fixed), ValueError, "out: .*read-only"),
        (lambda: _core.narrow(x, x.view(dtype)[:4]), ValueError, "out: overlaps x"),
        (lambda: _core.widen(x, x.copy(), True), TypeError, r"^x: dtype .*float32"),
        (lambda: _core.widen(half, half.copy(), True), TypeError, r"^into: dtype"),
        (lambda: _core.widen(half, x[:2], False), ValueError, r"into: shape \(2,\)"),
    ):
        with pytest.raises(error, match=message):
            call()
        assert (x == 1).all() and (half == dtype.type(1)).all()


def test_past_the_cache_and_from_any_start() -> None:
    n = (36 << 20) // 2 + 5
    x = np.tile(drawn(4001, np.float32).astype(BFLOAT16), n // 4001 + 1)[:n]
    part = slice(n - 70_001, n)
    dropped = gs.dropout(x, 0.5, seed=3)
    for where in in_turn((3, 1)):
        for start in (0, 1, 3):
            memory = np.full(n + 8, 3.5, BFLOAT16)
            out = memory[start : start + n]
            gs.silu(x, out=out)
            assert out[part].tobytes() == gs.silu(x[part].copy()).tobytes(), where
            assert (memory[:start] == 3.5).all() and (memory[start + n :] == 3.5).all()
        assert gs.dropout(x, 0.5, seed=3, out=out).tobytes() == dropped.tobytes()


@halves
def test_no_byte_before_or_after_is_touched(dtype: Any) -> None:
    memory = [Guarded() for _ in range(3)]
    for _ in in_all_pairs((1,)):
        for size in (*range(1, 40), 64, 65, 130):
            x, dy = (drawn(size, np.float32, seed).astype(dtype) for seed in (1, 2))
            for at_end in (False, True):
                a, b, out = (m.array(v, at_end) for m, v in zip(memory, (x, dy, x), strict=True))
                same([gs.gelu(a, out=out)], [gs.gelu(x)], size)
                same([gs.gelu_backward(b, a, out=out)], [gs.gelu_backward(dy, x)], size)
                same([gs.dropout(a, 0.5, seed=1, out=out)], [spec.dropout(x, 0.5, seed=1)], size)
                y = gs.softmax(a, out=out)
                same([y], [gs.softmax(x)], size)
                found = gs.layer_norm(a.reshape(1, -1), None, None, out=out.reshape(1, -1))
                same(found[:1], gs.layer_norm(x.reshape(1, -1), None, None)[:1], size)


def test_types_that_do_not_fit() -> None:
    x, f4 = np.ones((2, 8), BFLOAT16), np.ones(8, np.float32)
    with pytest.raises(TypeError, match="weight: dtype float64, expected bfloat16 as in x, or f"):
        gs.layer_norm(x, np.ones(8), None)
    with pytest.raises(TypeError, match="bias: dtype float32, expected bfloat16 as in weight"):
        gs.layer_norm(x, f4.astype(BFLOAT16), f4)
    with pytest.raises(TypeError, match=r"weight: dtype .* expected native float32 or float64"):
        gs.rms_norm(x.astype(np.float32), f4.astype(BFLOAT16))
    with pytest.raises(TypeError, match=r"dy: dtype .*float16.*, expected .*bfloat16"):
        gs.gelu_backward(x.astype(np.float16), x)
    with pytest.raises(TypeError, match="out: dtype float32, expected bfloat16 as in x"):
        gs.dropout(x, 0.5, seed=1, out=np.empty((2, 8), np.float32))
