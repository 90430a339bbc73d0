"""Initial weights have the deviation that their paper asks for."""

from __future__ import annotations

import math
from typing import Any

import gradstep as gs
import numpy as np
import pytest

SHAPES = [(784, 256), (300, 1000), (64, 32, 5, 5), (96, 48, 7)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_deviation_is_that_of_the_paper(shape: Any, dtype: Any) -> None:
    fan_in, fan_out = gs.init.fans(shape)
    expected = {
        gs.init.xavier_uniform: math.sqrt(2 / (fan_in + fan_out)),
        gs.init.xavier_normal: math.sqrt(2 / (fan_in + fan_out)),
        gs.init.he_uniform: math.sqrt(2 / fan_in),
        gs.init.he_normal: math.sqrt(2 / fan_in),
        gs.init.normal: 0.01,
    }
    for make, deviation in expected.items():
        w = make(shape, rng=3, dtype=dtype)
        assert w.shape == shape and w.dtype == dtype and w.flags.c_contiguous
        assert abs(w.std() / deviation - 1) < 5 / math.sqrt(w.size), make.__name__
        assert abs(w.mean()) < 5 * deviation / math.sqrt(w.size), make.__name__
        if "uniform" in make.__name__:
            assert abs(w).max() <= math.sqrt(3) * deviation * (1 + 1e-6)
            assert abs(w).max() > math.sqrt(3) * deviation * 0.999


def test_square_layers_keep_the_deviation_of_their_input() -> None:
    m = 1024
    assert abs(gs.init.xavier_normal((m, m), rng=0).std() * math.sqrt(m) - 1) < 0.01
    assert abs(gs.init.he_normal((m, m), rng=0).std() * math.sqrt(m / 2) - 1) < 0.01


def test_gain_and_slope_scale_the_deviation() -> None:
    plain, wide = (gs.init.xavier_uniform((50, 60), gain=g, rng=1) for g in (1, 2))
    assert np.allclose(2 * plain, wide)
    plain, leaky = (gs.init.he_normal((50, 60), slope=s, rng=1) for s in (0, 1))
    assert np.allclose(plain, leaky * math.sqrt(2))


def test_a_seed_repeats_and_a_generator_goes_on() -> None:
    rng = np.random.default_rng(5)
    first, second = (gs.init.normal((4, 4), rng=rng) for _ in range(2))
    assert (first == gs.init.normal((4, 4), rng=5)).all() and (first != second).any()


def test_constants_are_those_that_their_type_holds() -> None:
    for dtype, value in ((np.float32, -3e38), (np.float64, 1e300)):
        assert gs.init.constant((2,), value, dtype=dtype).tolist() == [float(dtype(value))] * 2


def test_fans() -> None:
    assert gs.init.fans((3, 7)) == (3, 7)
    assert gs.init.fans((8, 4, 3, 2)) == (24, 48)
    assert gs.init.he_normal((0, 5)).shape == (0, 5)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: gs.init.fans((3,)), ValueError, r"^shape: \(3,\), expected \(in, out\)"),
        (lambda: gs.init.zeros((3, -1)), ValueError, r"^shape: \(3, -1\), expected sizes >= 0"),
        (lambda: gs.init.zeros((3.0,)), TypeError, r"^shape: \(3.0,\), expected an integer or"),
        (lambda: gs.init.normal((2, 2), -1.0), ValueError, r"^std: -1.0, expected a number >= 0"),
        (lambda: gs.init.he_normal((2, 2), rng="x"), TypeError, r"^rng: str, expected"),
        (lambda: gs.init.he_normal((2, 2), rng=-1), ValueError, r"^rng: -1, expected a seed"),
        (lambda: gs.init.normal((2, 2), dtype=int), TypeError, r"^dtype: int64, expected float32"),
        (lambda: gs.init.xavier_normal((2, 2), gain="1"), TypeError, r"^gain: str, expected"),
        (
            lambda: gs.init.xavier_uniform((2, 2), gain=1e300),
            ValueError,
            r"^gain: 1e\+300, .*float32",
        ),
        (
            lambda: gs.init.normal((2, 2), 1e39),
            ValueError,
            r"^std: 1e\+39, expected a number that fl",
        ),
        (
            lambda: gs.init.constant(2, math.inf),
            ValueError,
            r"^value: inf, expected a finite number",
        ),
        (
            lambda: gs.init.constant(2, -1e300),
            ValueError,
            r"^value: -1e\+300, expected a number that",
        ),
    ],
)
def test_errors_name_the_argument(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
