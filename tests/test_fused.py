"""Bias, activation and dropout in one pass: the bits of the functions one after the other."""

from __future__ import annotations

import re
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import each_level, folded
from gradstep.arrays import Array
from gradstep.ops.fused import BIASED, bias_activation, bias_activation_backward
from gradstep.spec import fused as spec

# Rows over several chunks of a sum; columns in strips, tails of vectors, alone and none.
SHAPES = ((0, 5), (3, 0), (1, 1), (7, 16), (300, 33), (513, 100), (5, 64, 7), (40, 2100))
DROPOUTS = (0.0, 0.3, 1.0)


def numbers(shape: tuple[int, ...], seed: int, dtype: Any) -> Array:
    x: Array = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    if x.size > 20:
        x.flat[3], x.flat[7], x.flat[11] = 0, np.inf, np.nan
    return x


def one_after_the_other(x: Array, bias: Array, dy: Array, name: str, drop: Any) -> Any:
    """(y, dx, dbias) by the functions of gradstep and the specification of the sum."""
    u = x + bias
    f, backward = getattr(gs, name), getattr(gs, f"{name}_backward")
    y = f(u)
    with np.errstate(invalid="ignore"):
        dropped = gs.dropout_backward(dy, **drop)
        dx = backward(dropped, u if name in spec.READS_X else y)
        return gs.dropout(y, **drop), dx, spec.column_sums(dx)


@pytest.mark.parametrize("name", BIASED)
@folded("shape", SHAPES)
@folded("dtype", [np.float32, np.float64])
@each_level
def test_the_bits_of_the_functions_one_after_the_other(
    name: str, shape: tuple[int, ...], dtype: Any, level: str
) -> None:
    x, dy = numbers(shape, 0, dtype), numbers(shape, 1, dtype)
    bias = np.random.default_rng(2).standard_normal(shape[-1]).astype(dtype)
    for p in DROPOUTS:
        drop: Any = {"p": p, "seed": 5, "offset": 2}
        with np.errstate(invalid="ignore"):
            expected = one_after_the_other(x, bias, dy, name, drop)
        for threads in (1, 2, 5):
            gs.set_num_threads(threads)
            y = bias_activation(x, bias, name, **drop)
            np.testing.assert_array_equal(y, expected[0])
            found = [bias_activation_backward(dy, x, name, bias=bias, **drop)]
            if name in ("relu", "leaky_relu") or (p == 0 and name not in spec.READS_X):
                found.append(bias_activation_backward(dy, y, name, **drop))
            for dx, dbias in found:
                np.testing.assert_array_equal(dx, expected[1])
                np.testing.assert_array_equal(dbias, expected[2])


@pytest.mark.parametrize("p", DROPOUTS)
def test_the_specification(p: float) -> None:
    x, bias, dy = numbers((300, 9), 0, np.float32), np.ones(9, np.float32), np.ones((300, 9))
    drop: Any = {"p": p, "seed": 5}
    dy = dy.astype(np.float32)
    for name in ("relu", "leaky_relu"):
        y = spec.bias_activation(x, bias, name, **drop)
        np.testing.assert_array_equal(bias_activation(x, bias, name, **drop), y)
        for saved, given in ((y, None), (x, bias)):
            expected = spec.bias_activation_backward(dy, saved, name, bias=given, **drop)
            found = bias_activation_backward(dy, saved, name, bias=given, **drop)
            for a, b in zip(expected, found, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", BIASED)
def test_in_place(name: str) -> None:
    x, bias, dy = numbers((50, 33), 0, np.float32), np.ones(33, np.float32), np.ones((50, 33))
    dy = dy.astype(np.float32)
    y = bias_activation(x, bias, name, p=0.4, seed=1)
    kept = x.copy()
    assert bias_activation(kept, bias, name, p=0.4, seed=1, out=kept) is kept
    np.testing.assert_array_equal(kept, y)
    dx, dbias = bias_activation_backward(dy, x, name, bias=bias, p=0.4, seed=1)
    into, sums = bias_activation_backward(dy, x, name, bias=bias, p=0.4, seed=1, out=dy)
    assert into is dy
    np.testing.assert_array_equal(into, dx)
    np.testing.assert_array_equal(sums, dbias)


X, BIAS = np.ones((4, 3), np.float32), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: bias_activation(X, np.ones(4, np.float32), "relu"),
            ValueError,
            "bias: shape (4,), expected (3,)",
        ),
        (lambda: bias_activation(X, np.ones(3), "relu"), TypeError, "bias: dtype float64"),
        (lambda: bias_activation("x", BIAS, "relu"), TypeError, "x: str"),
        (
            lambda: bias_activation(np.ones((), np.float32), BIAS, "relu"),
            ValueError,
            "x: shape (), expected (..., C), a value for each column",
        ),
        (lambda: bias_activation(X.T, BIAS, "relu"), ValueError, "x: "),
        (lambda: bias_activation(X, BIAS, "softmax"), ValueError, "activation: 'softmax'"),
        (lambda: bias_activation(X, BIAS, "relu", p=1.5), ValueError, "p: 1.5, expected"),
        (lambda: bias_activation(X, BIAS, "relu", seed=-1), ValueError, "seed: -1"),
        (lambda: bias_activation(X, BIAS, "relu", out=X[1:]), ValueError, "out: shape (3, 3)"),
        (
            lambda: bias_activation_backward(X, X[1:], "relu"),
            ValueError,
            "dy: shape (4, 3), expected (3, 3) as in saved",
        ),
        (
            lambda: bias_activation_backward(X, X, "gelu"),
            ValueError,
            "bias: None, expected an array, and saved to be x, for gelu",
        ),
        (
            lambda: bias_activation_backward(X, X, "tanh", p=0.5),
            ValueError,
            "bias: None, expected an array, and saved to be x, for tanh after dropout",
        ),
        (
            lambda: bias_activation_backward(X, X, "relu", bias=X[0], out=X),
            ValueError,
            "out: overlaps bias",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    call: Any, kind: type[Exception], message: str
) -> None:
    before = X.copy()
    with pytest.raises(kind, match=re.escape(message)):
        call()
    np.testing.assert_array_equal(X, before)
