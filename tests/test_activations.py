"""Activations and losses: bits, bounds, gradients, memory, agreement with torch.

One list of functions runs through all of it: hence the length.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import folded, in_all_pairs, in_turn
from gradstep.spec import activations as spec
from gradstep.spec import losses
from test_exact import Guarded

LEVELS = gs.build_info()["simd_levels"]
DTYPES = (np.float32, np.float64)
SIZES = [*range(70), 1023, 4097, 8191, 8192, 8193, 20_011]
SHAPES = [(0,), (1,), (7,), (3, 10), (37, 10), (1, 64), (16, 64), (5, 65), (3, 130), (2, 5000)]
AXES = [((2, 3, 5), 1), ((3, 10, 17), 1), ((2, 70, 3), 1), ((2, 4100, 5), 1), ((9, 4), 0)]

# forward, its reference, backward, its reference, what backward takes, exact?
ELEMENTWISE: dict[str, tuple[Any, Any, Any, Any, str, bool]] = {
    name: (
        getattr(gs, name),
        getattr(spec, name),
        getattr(gs, f"{name}_backward"),
        getattr(spec, f"{name}_backward"),
        saved,
        exact,
    )
    for name, saved, exact in [
        ("relu", "y", True),
        ("leaky_relu", "y", True),
        ("sigmoid", "y", False),
        ("tanh", "y", False),
        ("silu", "x", False),
        ("gelu", "x", False),
        ("selu", "y", False),
        ("mish", "x", False),
    ]
}
ELEMENTWISE["gelu_tanh"] = (
    lambda x, out=None: gs.gelu(x, "tanh", out=out),
    lambda x: spec.gelu(x, "tanh"),
    lambda dy, x, out=None: gs.gelu_backward(dy, x, "tanh", out=out),
    lambda dy, x: spec.gelu_backward(dy, x, "tanh"),
    "x",
    False,
)
ROWS: dict[str, tuple[Any, Any, Any, Any]] = {
    name: (
        getattr(gs, name),
        getattr(spec, name),
        getattr(gs, f"{name}_backward"),
        getattr(spec, f"{name}_backward"),
    )
    for name in ("softmax", "log_softmax")
}
elementwise = pytest.mark.parametrize("name", ELEMENTWISE)
row_wise = pytest.mark.parametrize("name", ROWS)
dtypes = folded("dtype", DTYPES)


def drawn(shape: Any, dtype: Any, seed: int = 0) -> Any:
    """Numbers of many sizes, zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * 4.0 ** rng.integers(-3, 3, shape)
    x = np.where(rng.random(shape) < 0.05, 0.0, x)
    return np.where(rng.random(shape) < 0.03, -0.0, x).astype(dtype)


@cache
def large(dtype: Any) -> Any:
    """Past the cache, and read only."""
    x = drawn(2_200_003, dtype, 3)
    x.flags.writeable = False
    return x


def bits(result: Any) -> Any:
    parts = result if isinstance(result, tuple) else (result,)
    return [np.asarray(part).tobytes() for part in parts]


def same_everywhere(run: Callable[[], Any], threads: tuple[int, ...] = (1, 2, 3, 7)) -> Any:
    first = None
    for where in in_turn(threads):
        result = run()
        first = result if first is None else first
        assert bits(result) == bits(first), where
    return first


def close(found: Any, expected: Any, ulps: float = 16, least: float = 1e-3) -> None:
    """Within some units of the last place of the larger of the value and `least`."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    unit = np.finfo(found.dtype).eps * np.maximum(np.abs(expected.astype(float)), least)
    assert (np.abs(found.astype(float) - expected) <= ulps * unit).all()


@dtypes
@elementwise
def test_elementwise_equal_their_reference(name: str, dtype: Any) -> None:
    forward, reference, backward, backward_reference, saved, exact = ELEMENTWISE[name]
    for size in SIZES:
        x, dy = drawn(size, dtype, 1), drawn(size, dtype, 2)
        y = same_everywhere(lambda x=x: forward(x), (1, 3))
        s = y if saved == "y" else x
        dx = same_everywhere(lambda s=s, dy=dy: backward(dy, s), (1, 3))
        if exact:
            assert bits(y) == bits(reference(x)), size
        else:
            close(y, reference(x))
        if saved == "y":
            assert bits(dx) == bits(backward_reference(dy, s)), size
        else:
            close(dx, backward_reference(dy, x), 16, np.abs(dy).max(initial=1))


@dtypes
@elementwise
def test_same_bits_with_any_threads_and_past_the_cache(name: str, dtype: Any) -> None:
    forward, _, backward, _, _, _ = ELEMENTWISE[name]
    x = large(dtype)
    y = same_everywhere(lambda: forward(x), (3, 1)) if dtype is np.float32 else forward(x)
    part = slice(1_000_001, 1_004_000)
    assert bits(forward(x[part].copy())) == bits(y[part])
    dx = backward(x, y)
    assert bits(backward(x[part].copy(), y[part].copy())) == bits(dx[part])
    # An output that starts anywhere: it is the start of y that decides where vectors begin.
    for start in (1, 3):
        out = np.empty(x.size + start, dtype)[start:]
        assert bits(forward(x, out=out)) == bits(y)


@elementwise
def test_infinity_and_nan(name: str) -> None:
    forward, _, backward, _, saved, _ = ELEMENTWISE[name]
    limits = {
        "tanh": (-1, 1),
        "sigmoid": (0, 1),
        "leaky_relu": (-np.inf, np.inf),
        "selu": (-spec.SELU_BELOW, np.inf),
    }
    slopes = {"tanh": 0, "sigmoid": 0, "selu": spec.SELU_ABOVE}
    for dtype in DTYPES:
        low, high = map(dtype, limits.get(name, (0, np.inf)))
        for count in (1, 40):
            x = np.repeat(np.array([-np.inf, np.inf, np.nan, -0.0], dtype), count)
            y = forward(x)[::count]
            assert y[0] == low and y[1] == high and np.isnan(y[2]) and y[3] == forward(x[-1:])[0]
            dx = backward(np.ones_like(x), forward(x) if saved == "y" else x)[::count]
            slope = 0.01 if name == "leaky_relu" else 0
            assert dx[0] == dtype(slope), name
            assert dx[1] == dtype(slopes.get(name, 1))


@elementwise
def test_gradients_by_central_differences(name: str) -> None:
    forward, _, backward, _, saved, _ = ELEMENTWISE[name]
    x = np.concatenate([np.linspace(-6, 6, 60), [-20.0, 20.0]])
    h = 1e-6
    expected = (forward(x + h) - forward(x - h)) / (2 * h)
    found = backward(np.ones_like(x), forward(x) if saved == "y" else x)
    assert np.abs(found - expected).max() < 1e-8


@dtypes
@elementwise
def test_in_place_equals_out_of_place(name: str, dtype: Any) -> None:
    forward, _, backward, _, _, _ = ELEMENTWISE[name]
    x, dy = drawn(4099, dtype, 5), drawn(4099, dtype, 6)
    y, dx = forward(x), backward(dy, x)
    in_place = x.copy()
    assert forward(in_place, out=in_place) is in_place and bits(in_place) == bits(y)
    for over in (0, 1):
        pair = [dy.copy(), x.copy()]
        assert backward(*pair, out=pair[over]) is pair[over] and bits(pair[over]) == bits(dx)
    fortran = np.asfortranarray(x[:4096].reshape(64, 64))
    assert forward(fortran).flags.f_contiguous
    assert bits(forward(fortran).ravel("F")) == bits(forward(fortran.ravel("F")))


@pytest.fixture(scope="module")
def guarded() -> Any:
    return [Guarded() for _ in range(3)]


@dtypes
def test_no_byte_before_or_after_is_touched(dtype: Any, guarded: Any) -> None:
    for _ in in_all_pairs((1,)):
        for size in (*range(1, 40), 64, 65, 500):
            x, dy = drawn(size, dtype, 1), drawn(size, dtype, 2)
            for at_end in (False, True):
                a, b, out = (m.array(v, at_end) for m, v in zip(guarded, (x, dy, x), strict=True))
                for forward, _, backward, _, _, _ in ELEMENTWISE.values():
                    assert bits(forward(a, out=out)) == bits(forward(x))
                    assert bits(backward(b, a, out=out)) == bits(backward(dy, x))
                for shape in {(1, size), (size, 1), (size // 5 or 1, 5)} - {(0, 5)}:
                    if math.prod(shape) != size:
                        continue
                    rows = [v.reshape(shape) for v in (a, b, out)]
                    for forward, _, backward, _ in ROWS.values():
                        assert bits(forward(rows[0], out=rows[2])) == bits(forward(rows[0]))
                        backward(rows[1], rows[0], out=rows[2])
                        assert bits(rows[2]) == bits(backward(rows[1], rows[0]))
                    targets = np.zeros(shape[0], np.int64)
                    gs.cross_entropy(rows[0], targets, out=rows[2])
                    gs.prelu_backward(rows[1], rows[0], np.ones(1, dtype), out=rows[2])
                gs.mse(a, b, out=out)


@dtypes
@row_wise
def test_rows_equal_their_reference(name: str, dtype: Any) -> None:
    forward, reference, backward, backward_reference = ROWS[name]
    for shape, axis in [*((s, -1) for s in SHAPES), *AXES]:
        x, dy = drawn(shape, dtype, 1) * dtype(0.1), drawn(shape, dtype, 2)
        y = same_everywhere(lambda x=x, axis=axis: forward(x, axis))
        if x.size:
            close(y, reference(x, axis), 64)
        dx = same_everywhere(lambda y=y, dy=dy, axis=axis: backward(dy, y, axis))
        if name == "softmax":
            assert bits(dx) == bits(backward_reference(dy, y, axis)), shape
        else:
            size = np.abs(dy).sum(axis, keepdims=True)
            error = np.abs(dx - backward_reference(dy, y, axis))
            assert (error <= 8 * np.finfo(dtype).eps * (size + 1)).all()
        over = x.copy()
        assert forward(over, axis, out=over) is over and bits(over) == bits(y)
        for place in (0, 1):
            pair = [dy.copy(), y.copy()]
            assert bits(backward(*pair, axis, out=pair[place])) == bits(dx)


@row_wise
def test_rows_do_not_depend_on_how_they_are_walked(name: str) -> None:
    """Along memory, side by side, or turned: the order of the sum is the same."""
    forward, _, backward, _ = ROWS[name]
    for n in (3, 10, 16, 17, 64, 65, 100, 4097):
        x, dy = drawn((21, n), np.float32, n), drawn((21, n), np.float32, n + 1)
        for _ in in_all_pairs((1,)):
            y = forward(x)
            beside = forward(np.ascontiguousarray(x.T), 0)
            assert bits(np.ascontiguousarray(beside.T)) == bits(y)
            dx = backward(dy, y)
            beside = backward(np.ascontiguousarray(dy.T), np.ascontiguousarray(y.T), 0)
            assert bits(np.ascontiguousarray(beside.T)) == bits(dx)


@row_wise
def test_long_rows_are_cut_without_a_trace(name: str) -> None:
    forward, _, backward, _ = ROWS[name]
    x = drawn((2, 70_001), np.float32, 3)
    y = same_everywhere(lambda: forward(x))
    same_everywhere(lambda: backward(x, y))
    targets = np.array([70_000, 5])
    same_everywhere(lambda: gs.cross_entropy(x, targets, label_smoothing=0.1))


def test_softmax_of_infinities() -> None:
    inf = np.inf
    x = np.array([[0.0, -inf, 0.0], [-inf, -inf, -inf], [inf, 0, 0], [np.nan, 0, 0]])
    for n in (1, 40):
        y = gs.softmax(np.repeat(x, n, 1))
        assert (y[0, [0, -1]] == 0.5 / n).all() and y[0, n] == 0
        assert np.isnan(y[1]).all() and np.isnan(y[2, 0]) and np.isnan(y[3]).all()


@row_wise
def test_gradients_of_rows_by_central_differences(name: str) -> None:
    forward, _, backward, _ = ROWS[name]
    x, dy = drawn((3, 7), np.float64, 1), drawn((3, 7), np.float64, 2)
    found = backward(dy, forward(x))
    h = 1e-6
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        expected = ((forward(x + step) - forward(x - step)) * dy).sum() / (2 * h)
        assert abs(found[i] - expected) < 1e-7


LOSSES: list[dict[str, Any]] = [
    {},
    {"reduction": "sum"},
    {"reduction": "none"},
    {"label_smoothing": 0.1},
    {"weight": True},
    {"weight": True, "label_smoothing": 0.3, "reduction": "sum"},
    {"weight": True, "label_smoothing": 1.0, "ignore_index": 2},
    {"ignore_index": 0, "reduction": "none", "weight": True},
    {"sample_weight": True},
    {"sample_weight": True, "reduction": "sum", "label_smoothing": 0.2},
    {"sample_weight": True, "reduction": "none", "ignore_index": 1},
    {"sample_weight": True, "weight": True, "label_smoothing": 0.3, "ignore_index": 1},
]
LOGITS = [(5, 3), (1, 10), (70, 10), (33, 130), (3, 5000), (4, 10, 6), (3, 80, 5, 2), (7,), (0, 3)]


def loss_case(shape: Any, options: dict[str, Any], dtype: Any) -> Any:
    rng = np.random.default_rng(1)
    classes = shape[0] if len(shape) == 1 else shape[1]
    options = dict(options)
    if options.get("weight"):
        options["weight"] = rng.uniform(0.5, 2, classes).astype(dtype)
    rest = () if len(shape) == 1 else (shape[0], *shape[2:])
    if options.get("sample_weight"):
        options["sample_weight"] = np.asarray(rng.integers(0, 4, rest) / 3)
    targets = rng.integers(0, classes, rest).astype(rng.choice([np.int32, np.int64]))
    return drawn(shape, dtype, 4), np.asarray(targets), options


@dtypes
@pytest.mark.parametrize("options", LOSSES, ids=str)
def test_cross_entropy_equals_its_reference(options: dict[str, Any], dtype: Any) -> None:
    for shape in LOGITS:
        logits, targets, given = loss_case(shape, options, dtype)
        loss, d = same_everywhere(lambda: gs.cross_entropy(logits, targets, **given))  # noqa: B023
        expected, gradient = losses.cross_entropy(logits, targets, **given)
        eps = np.finfo(dtype).eps
        assert np.allclose(loss, expected, rtol=64 * eps, atol=64 * eps, equal_nan=True), shape
        assert np.abs(d - gradient).max(initial=0) <= 16 * eps
        over = logits.copy()
        again, place = gs.cross_entropy(over, targets, **given, out=over)
        assert place is over and bits((again, over)) == bits((loss, d))


@pytest.mark.parametrize("options", LOSSES, ids=str)
def test_gradient_of_cross_entropy_by_central_differences(options: dict[str, Any]) -> None:
    logits, targets, given = loss_case((4, 3), options, np.float64)
    _, found = gs.cross_entropy(logits, targets, **given)
    h = 1e-6
    for i in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[i] = h
        high, low = (gs.cross_entropy(logits + s, targets, **given)[0] for s in (step, -step))
        assert abs(found[i] - np.sum(high - low) / (2 * h)) < 1e-8


def test_no_target_that_takes_part() -> None:
    loss, d = gs.cross_entropy(np.ones((3, 4), np.float32), np.full(3, -100))
    assert math.isnan(loss) and (d == 0).all()


@dtypes
def test_mse_equals_its_reference(dtype: Any) -> None:
    for size in (*range(1, 40), 4095, 4097, 30_001):
        p, t = drawn(size, dtype, 1), drawn(size, dtype, 2)
        loss, gradient = same_everywhere(lambda p=p, t=t: gs.mse(p, t))
        expected = losses.mse(p, t)
        assert loss == expected[0] and bits(gradient) == bits(expected[1])
        over = p.copy()
        assert gs.mse(over, t, out=over)[0] == loss and bits(over) == bits(gradient)
    assert math.isnan(gs.mse(np.empty(0), np.empty(0))[0])
    h = 1e-6
    p, t = drawn(5, np.float64, 1), drawn(5, np.float64, 2)
    for i, g in enumerate(gs.mse(p, t)[1]):
        step = np.eye(5)[i] * h
        assert abs((gs.mse(p + step, t)[0] - gs.mse(p - step, t)[0]) / (2 * h) - g) < 1e-7


CHANNELS = [
    ((3, 4), 1, 4),
    ((700, 70), -1, 70),
    ((2, 3, 5), 1, 3),
    ((2, 2, 5000), 1, 2),
    ((2, 5, 3), -1, 3),
    ((300, 3), 1, 1),
    ((2, 9), 0, 2),
    ((0, 3), 1, 3),
    ((1, 1), 1, 1),
]


@dtypes
def test_prelu_equals_its_reference(dtype: Any) -> None:
    for shape, axis, count in CHANNELS:
        x, dy = drawn(shape, dtype, 1), drawn(shape, dtype, 2)
        weight = drawn(count, dtype, 3)
        y = same_everywhere(lambda: gs.prelu(x, weight, axis))  # noqa: B023
        assert bits(y) == bits(spec.prelu(x, weight, axis))
        found = same_everywhere(lambda: gs.prelu_backward(dy, x, weight, axis))  # noqa: B023
        expected = spec.prelu_backward(dy, x, weight, axis)
        assert bits(found) == bits(expected), shape
        over = x.copy()
        dx, dweight = gs.prelu_backward(dy, over, weight, axis, out=over)
        assert dx is over and bits((dx, dweight)) == bits(found)


def test_gradient_of_prelu_by_central_differences() -> None:
    x, dy = drawn((4, 3, 2), np.float64, 1), drawn((4, 3, 2), np.float64, 2)
    weight, h = np.array([0.1, -0.5, 2.0]), 1e-6
    x[x == 0] = 0.5
    dx, dweight = gs.prelu_backward(dy, x, weight)
    for c in range(3):
        step = np.eye(3)[c] * h
        high, low = gs.prelu(x, weight + step), gs.prelu(x, weight - step)
        assert abs(((high - low) * dy).sum() / (2 * h) - dweight[c]) < 1e-7
    difference = (gs.prelu(x + h, weight) - gs.prelu(x - h, weight)) / (2 * h)
    assert np.abs(difference * dy - dx).max() < 1e-7


@dtypes
def test_maxout_equals_its_reference(dtype: Any) -> None:
    for shape, axis, k in [((5, 12), 1, 3), ((3, 4, 37), 1, 2), ((0, 4), 1, 2), ((7, 8), -1, 1)]:
        x = drawn(shape, dtype, 1).round(0)
        if x.size:
            x.flat[3] = np.nan
        y = same_everywhere(lambda: gs.maxout(x, k, axis))  # noqa: B023
        assert bits(y) == bits(spec.maxout(x, k, axis))
        dy = drawn(y.shape, dtype, 2)
        dx = same_everywhere(lambda: gs.maxout_backward(dy, x, k, axis))  # noqa: B023
        assert (dx == spec.maxout_backward(dy, x, k, axis)).all()
        over = x.copy()
        assert bits(gs.maxout_backward(dy, over, k, axis, out=over)) == bits(dx)


ROW = np.ones((2, 4), np.float32)
ERRORS: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda out: gs.relu([1.0], out=out), TypeError, "^x: list, expected a numpy.ndarray"),
    (lambda out: gs.relu(np.ones(3, int), out=out), TypeError, "^x: dtype .* expected native"),
    (lambda out: gs.relu(np.ones(8)[::2], out=out), ValueError, "^x: .*contiguous"),
    (lambda out: gs.tanh(np.ones(3), out=out), TypeError, "^out: dtype float32, expected float64"),
    (lambda out: gs.tanh(ROW[:1], out=out), ValueError, r"^out: shape \(2, 4\), expected \(1, 4\)"),
    (lambda out: gs.leaky_relu(ROW, math.nan, out=out), ValueError, "^slope: nan"),
    (lambda out: gs.leaky_relu(ROW, "1", out=out), TypeError, "^slope: str, expected a number"),
    (lambda out: gs.gelu(ROW, "erf", out=out), ValueError, "^approximate: 'erf', expected"),
    (lambda out: gs.relu_backward(ROW[:1], ROW, out=out), ValueError, "^dy: shape .* as in y"),
    (lambda out: gs.silu_backward(np.ones(2), ROW, out=out), TypeError, "^dy: dtype .* as in x"),
    (lambda out: gs.softmax(ROW, 2, out=out), ValueError, "^axis: 2, expected an axis of x, shape"),
    (lambda out: gs.softmax(ROW, 1.0, out=out), TypeError, "^axis: float, expected an integer"),
    (lambda out: gs.softmax(np.asfortranarray(ROW), out=out), ValueError, "^x: F order"),
    (lambda out: gs.log_softmax_backward(ROW, ROW[:1], out=out), ValueError, "^dy: shape"),
    (lambda out: gs.maxout(ROW, 3), ValueError, "^k: 3, expected a divisor of 4"),
    (lambda out: gs.maxout(ROW, 2, out=out), ValueError, r"^out: shape .*, expected \(2, 2\)"),
    (lambda out: gs.maxout_backward(ROW, ROW, 2, out=out), ValueError, r"^dy: shape .*\(2, 2\)"),
    (lambda out: gs.prelu(ROW, np.ones(3, np.float32), out=out), ValueError, "^weight: shape"),
    (lambda out: gs.prelu(ROW, np.ones(4), out=out), TypeError, "^weight: dtype float64"),
    (lambda out: gs.cross_entropy(ROW, [0, 1], out=out), TypeError, "^targets: list, expected"),
    (lambda out: gs.cross_entropy(ROW, np.ones(2), out=out), TypeError, "^targets: dtype float64"),
    (lambda out: gs.cross_entropy(ROW, np.arange(3), out=out), ValueError, "^targets: shape"),
    (lambda out: gs.cross_entropy(ROW, np.array([0, 4]), out=out), ValueError, "^targets: 4 at 1"),
    (lambda out: gs.cross_entropy(ROW, np.array([-1, 0]), out=out), ValueError, "^targets: -1 at"),
    (
        lambda out: gs.cross_entropy(ROW, np.arange(2), label_smoothing=2, out=out),
        ValueError,
        "^label_smoothing: 2, expected a number in \\[0, 1\\]",
    ),
    (
        lambda out: gs.cross_entropy(ROW, np.arange(2), reduction="max", out=out),
        ValueError,
        "^reduction: 'max', expected",
    ),
    (
        lambda out: gs.cross_entropy(ROW, np.arange(2), weight=np.ones(4), out=out),
        TypeError,
        "^weight: dtype float64, expected float32 as in logits",
    ),
    (
        lambda out: gs.cross_entropy(ROW, np.arange(2), weight=ROW[0, :3], out=out),
        ValueError,
        r"^weight: shape \(3,\), expected \(4,\)",
    ),
    (lambda out: gs.mse(ROW, ROW[:1], out=out), ValueError, "^target: shape .* as in prediction"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS)
def test_errors_say_what_was_expected_and_write_nothing(
    call: Callable[[Any], Any], kind: type[Exception], message: str
) -> None:
    out = np.full((2, 4), 7.0, np.float32)
    with pytest.raises(kind, match=message):
        call(out)
    assert (out == 7).all() and (ROW == 1).all()


def test_outputs_that_overlap_or_may_not_be_written() -> None:
    memory = np.arange(20.0)
    before = memory.copy()
    x, shifted = memory[:16], memory[2:18]
    for call in (gs.relu, gs.softmax, lambda x, out: gs.mse(x, x, out=out)):
        with pytest.raises(
            ValueError,
            match=r"^out: overlaps (x|prediction), expected memory of its own or exactly",
        ):
            call(x, out=shifted)
    frozen = np.ones(16)
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match=r"^out: read-only"):
        gs.relu(x, out=frozen)
    with pytest.raises(ValueError, match=r"^out: overlaps x"):
        gs.maxout(memory[:16].reshape(2, 8), 2, out=memory[8:16].reshape(2, 4))
    assert (memory == before).all() and (frozen == 1).all()


def test_every_activation_of_the_kernels_is_tested() -> None:
    assert set(ELEMENTWISE) == set(gs._core.ACTIVATIONS)
