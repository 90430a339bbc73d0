"""Numbers stand for arrays without axes where arrays are only read, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest

F4 = np.float32
KINDS = "expected native float32, float64, bfloat16 or float16"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ["step", "reference_step"])
def test_the_gradient_of_a_parameter_without_axes_may_be_a_number(
    optimizer_class: type[gs.Optimizer], method: str, dtype: Any, contents: Any
) -> None:
    twins = [
        optimizer_class({"scale": np.array(1.5, dtype), "w": np.ones(3, dtype)}, clip_norm=1.0)
        for _ in range(2)
    ]
    w = np.linspace(-1, 1, 3, dtype=dtype)
    for number in (w.sum() + dtype(0.3), 0.3, dtype("-0.0")):
        array = np.array(number, dtype)
        info = getattr(twins[0], method)({"scale": number, "w": w})
        assert info == twins[1].step({"scale": array, "w": w})
    assert contents(twins[0])[:2] == contents(twins[1])[:2]


def test_a_number_of_another_width_or_kind_is_refused(refused: Any) -> None:
    optimizer = gs.Adam([np.array(1.0, F4), np.ones(2, F4)])
    w = np.ones(2, F4)
    for number, kind, message in (
        (np.float64(1), TypeError, "dtype float64, expected float32 as in params"),
        (np.int64(1), TypeError, f"dtype <i8 (int64), {KINDS}"),
        (1, TypeError, "int, expected a numpy.ndarray"),
        (True, TypeError, "bool, expected a numpy.ndarray"),
    ):
        for method in ("step", "reference_step"):
            with refused(optimizer, kind, f"grads[0]: {message}"):
                getattr(optimizer, method)([number, w])
    # What has axes has no number for a gradient.
    with refused(optimizer, TypeError, "grads[1]: float32, expected a numpy.ndarray"):
        optimizer.step([np.array(1.0, F4), F4(1)])


def test_a_number_is_no_buffer(refused: Any) -> None:
    optimizer = gs.Adam(np.array(1.0, F4))
    for number in (F4(1), 1.0):
        message = f"grads: {type(number).__name__}, expected a numpy.ndarray"
        with refused(optimizer, TypeError, message):
            optimizer.bind(number)
        with refused(optimizer, TypeError, message):
            optimizer.step(number, zero_grads=True)


def test_a_number_that_is_not_finite_is_seen() -> None:
    p = np.array(1.0, F4)
    assert gs.SGD(p, on_nonfinite="skip").step(F4("nan")).skipped and p == 1
    with pytest.raises(FloatingPointError, match=r"^grads: 1 of 1 elements are not finite$"):
        gs.SGD(p, on_nonfinite="raise").step(float("inf"))


def test_parameters_are_written_and_so_no_numbers() -> None:
    for number in (1.0, F4(1)):
        expected = f"{type(number).__name__}, expected a numpy.ndarray$"
        with pytest.raises(TypeError, match=f"^params: {expected}"):
            gs.SGD(number)
        with pytest.raises(TypeError, match=f"^grads: {expected}"):
            gs.clip_value_(number, 1.0)
        with pytest.raises(TypeError, match=f"^average: {expected}"):
            gs.ewma_(number, np.array(1.0), 0.5)
        with pytest.raises(TypeError, match=f"^out: {expected}"):
            gs.relu(np.array(1.0), out=number)


def test_trees_that_are_only_read_may_hold_numbers() -> None:
    assert gs.global_norm({"w": np.array([3.0, 0.0], F4), "b": F4(4)}) == 5.0
    assert gs.global_norm([3.0, 4.0]) == 5.0
    assert gs.describe(F4(2))[None] == gs.Summary(2, 2, 2, 2, 0, 1)
    assert gs.nonfinite({"loss": float("nan"), "w": np.ones(2)}) == {"loss": 1}
    average = np.array(1.0, F4)
    gs.ewma_(average, F4(2), 0.5)
    gs.ewma_(average, 3.5, 0.5)
    assert average == 2.5


READS: dict[str, Callable[[Any], Any]] = {
    "relu": gs.relu,
    "gelu": gs.gelu,
    "relu_backward": lambda x: gs.relu_backward(x, np.asarray(x)),
    "silu_backward": lambda x: gs.silu_backward(np.asarray(x), x),
    "dropout": lambda x: gs.dropout(x, 0.5, seed=3),
    "mse": lambda x: gs.mse(x, x),
    "target of mse": lambda x: gs.mse(np.asarray(x), x),
}


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("number", [F4(-1.5), np.float64(0.25), 0.75])
def test_functions_read_a_number_as_an_array(name: str, number: Any) -> None:
    found, expected = READS[name](number), READS[name](np.asarray(number))
    for one, other in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
        assert np.array_equal(one, other, equal_nan=True) and np.shape(one) == np.shape(other)
        assert np.asarray(one).dtype == np.asarray(other).dtype


def test_a_lone_target_may_be_an_integer() -> None:
    logits = np.linspace(0, 1, 3)
    loss, gradient = gs.cross_entropy(logits, np.array(2))
    for target in (2, np.int32(2), np.int64(2)):
        found = gs.cross_entropy(logits, target)  # type: ignore[arg-type]
        assert found[0] == loss and found[1].tobytes() == gradient.tobytes()
    for target, error in ((True, "bool"), (2.0, "dtype float64"), (2**70, "dtype object")):
        with pytest.raises(TypeError, match=f"^targets: {error}, expected .*int32 or int64$"):
            gs.cross_entropy(logits, target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^targets: 3 at 0, expected 0 to 2 or ignore_index"):
        gs.cross_entropy(logits, 3)  # type: ignore[arg-type]
