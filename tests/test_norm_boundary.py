"""Bad input to normalisation: a message that names it, and not one byte changed."""

from __future__ import annotations

from typing import Any

import gradstep as gs
import numpy as np
import pytest

F32 = np.float32


def arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"x": rng.standard_normal((4, 3, 5)).astype(F32)}
    found["dy"] = rng.standard_normal((4, 3, 5)).astype(F32)
    found["out"] = np.full((4, 3, 5), 12.25, F32)
    for name in ("weight", "bias", "running_mean", "running_var"):
        found[name] = rng.random(3).astype(F32)
    found["mean"], found["invstd"] = rng.random(3), rng.random(3)
    return found


def frozen(a: Any) -> Any:
    a = a.copy()
    a.flags.writeable = False
    return a


def strided(a: Any) -> Any:
    return np.repeat(a, 2, axis=-1)[..., ::2]


def forward(of: dict[str, Any], training: bool = True, **options: Any) -> Any:
    names = ("x", "weight", "bias", "running_mean", "running_var")
    return gs.batch_norm(
        *(of[name] for name in names), training=training, **{"out": of["out"], **options}
    )


def backward(of: dict[str, Any], **options: Any) -> Any:
    names = ("dy", "x", "weight", "mean", "invstd")
    return gs.batch_norm_backward(*(of[name] for name in names), **{"out": of["out"], **options})


BAD_ARRAYS = [
    (forward, "x", [1.0], TypeError, r"x: list, expected a numpy\.ndarray"),
    (forward, "x", np.ones((4, 3, 5), int), TypeError, r"x: dtype <i8 \(int64\), expected native"),
    (forward, "x", np.ones((4, 3, 5), np.int8), TypeError, "x: dtype .i1"),
    (forward, "x", np.ones(4, F32), ValueError, r"x: shape \(4,\), expected 2 axes or more"),
    (forward, "x", strided(np.ones((4, 3, 5), F32)), ValueError, "x: shape .* with strides"),
    (forward, "x", np.ones((4, 3, 5), F32, order="F"), ValueError, "x: F order, expected C order"),
    (forward, "weight", np.ones(4, F32), ValueError, r"weight: shape \(4,\), expected \(3,\)"),
    (forward, "weight", np.ones(3), TypeError, "weight: dtype float64, expected float32 as in x"),
    (forward, "bias", np.ones((3, 1), F32), ValueError, r"bias: shape \(3, 1\), expected \(3,\)"),
    (forward, "running_mean", None, ValueError, "running_mean: None, expected an array as the"),
    (forward, "running_var", None, ValueError, "running_var: None, expected an array as the"),
    (forward, "running_mean", frozen(np.ones(3, F32)), ValueError, "running_mean: read-only"),
    (forward, "running_var", np.ones(5, F32), ValueError, r"running_var: shape \(5,\)"),
    (forward, "out", frozen(np.ones((4, 3, 5), F32)), ValueError, "out: read-only"),
    (forward, "out", np.ones((4, 3, 4), F32), ValueError, r"out: shape \(4, 3, 4\), expected"),
    (forward, "out", np.ones((4, 3, 5)), TypeError, "out: dtype float64, expected float32"),
    (forward, "out", strided(np.ones((4, 3, 5), F32)), ValueError, "out: shape .* with strides"),
    (backward, "dy", np.ones((4, 3, 4), F32), ValueError, r"dy: shape \(4, 3, 4\), expected"),
    (backward, "dy", np.ones((4, 3, 5)), TypeError, "dy: dtype float64, expected float32 as in x"),
    (backward, "dy", None, TypeError, r"dy: NoneType, expected a numpy\.ndarray"),
    (backward, "mean", np.ones(3, F32), TypeError, "mean: dtype float32, expected float64"),
    (backward, "mean", None, TypeError, "mean: None, expected the array that the forward call"),
    (backward, "invstd", np.ones(4), ValueError, r"invstd: shape \(4,\), expected \(3,\)"),
    (backward, "out", frozen(np.ones((4, 3, 5), F32)), ValueError, "out: read-only"),
]

BAD_OPTIONS = [
    (forward, {"eps": -1e-5}, ValueError, "eps: -1e-05, expected a finite number >= 0"),
    (forward, {"eps": np.nan}, ValueError, "eps: nan, expected"),
    (forward, {"momentum": 1.5}, ValueError, "momentum: 1.5, expected None or a number from 0 to"),
    (forward, {"momentum": None}, ValueError, "num_batches_tracked: None, expected the number"),
    (
        forward,
        {"momentum": None, "num_batches_tracked": 0},
        ValueError,
        "num_batches_tracked: 0, expected 1 or more",
    ),
    (forward, {"axis": 0}, ValueError, r"axis: 0, expected 1 \(channels first\) or -1"),
    (forward, {"axis": 3}, ValueError, "axis: 3, expected"),
    (forward, {"activation": "tanh"}, ValueError, "activation: 'tanh', expected None or 'relu'"),
    (backward, {"activation": 1}, ValueError, "activation: 1, expected None or 'relu'"),
    (backward, {"axis": -2}, ValueError, "axis: -2, expected"),
]


def check(call: Any, of: Any, error: Any, message: str, **options: Any) -> None:
    before = {key: a.tobytes() for key, a in of.items() if isinstance(a, np.ndarray)}
    with pytest.raises(error, match=message):
        call(of, **options)
    for key, data in before.items():
        assert of[key].tobytes() == data, key


@pytest.mark.parametrize(("call", "name", "value", "error", "message"), BAD_ARRAYS)
def test_bad_array(call: Any, name: str, value: Any, error: Any, message: str) -> None:
    check(call, {**arrays(), name: value}, error, message)


@pytest.mark.parametrize(("call", "options", "error", "message"), BAD_OPTIONS)
def test_bad_option(call: Any, options: Any, error: Any, message: str) -> None:
    check(call, arrays(), error, message, **options)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_inference_needs_running_statistics(name: str) -> None:
    of = {**arrays(), name: None}
    check(forward, of, ValueError, f"{name}: None, expected an array when", training=False)


def test_overlapping_memory() -> None:
    of, memory = arrays(), np.zeros(100, F32)
    of["x"] = memory[:60].reshape(4, 3, 5)
    of["out"] = memory[7:67].reshape(4, 3, 5)
    check(forward, of, ValueError, "out: overlaps x, expected memory of its own or exactly x")
    check(backward, of, ValueError, "out: overlaps x, expected memory of its own or exactly x")
    of = arrays()
    of["running_var"] = of["running_mean"]
    check(forward, of, ValueError, "running_var: the same memory as running_mean")
    of = arrays()
    of["weight"] = of["running_mean"]
    check(
        forward,
        of,
        ValueError,
        "running_mean: the same memory as weight, expected memory of its own",
    )
    of = arrays()
    of["bias"] = of["out"].reshape(-1)[3:6]
    check(forward, of, ValueError, "out: overlaps bias, expected memory of its own")


def test_an_option_that_has_no_effect_is_checked_too() -> None:
    check(forward, arrays(), ValueError, "momentum: 2.0, expected None", training=False, momentum=2)
    message = "num_batches_tracked: 0, expected 1 or more"
    check(forward, arrays(), ValueError, message, num_batches_tracked=0)


def test_group_norm_is_no_instance_norm_by_mistake() -> None:
    for call in (
        lambda: gs.group_norm(X, None),  # type: ignore[arg-type]
        lambda: gs.group_norm_backward(X, X, None, None, X, X),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"^groups: NoneType, expected an integer$"):
            call()


def test_read_only_running_statistics_serve_inference() -> None:
    of = arrays()
    of["running_mean"], of["running_var"] = frozen(of["running_mean"]), frozen(of["running_var"])
    forward(of, training=False)


X = np.ones((4, 6, 5), F32)
SIBLINGS = [
    (lambda: gs.layer_norm(X, np.ones(4, F32)), r"weight: shape \(4,\), expected \(5,\)"),
    (lambda: gs.layer_norm(X, np.ones((6, 4), F32)), r"weight: shape \(6, 4\), expected \(6, 5\)"),
    (lambda: gs.layer_norm(X, axes=4), "axes: 4 trailing axes, expected 1 to 3 for x of shape"),
    (lambda: gs.layer_norm(X, axes=0), "axes: 0 trailing axes"),
    (lambda: gs.layer_norm(X, eps=-1.0), r"eps: -1\.0, expected a finite"),
    (lambda: gs.rms_norm(X, eps=np.inf), "eps: inf, expected a finite"),
    (lambda: gs.group_norm(X, 4), "groups: 4, expected a divisor of 6, the channels of x"),
    (lambda: gs.group_norm(X, 0), "groups: 0, expected a divisor"),
    (
        lambda: gs.group_norm(X[:, :, 0].copy(), 6),
        r"x: shape \(4, 6\), expected more than one value",
    ),
    (lambda: gs.instance_norm(X[:, :, :1].copy()), r"x: shape \(4, 6, 1\), expected more than one"),
    (lambda: gs.layer_norm(X, np.ones((), F32)), r"weight: shape \(\), expected that of the trail"),
    (lambda: gs.layer_norm(F32(1)), r"x: shape \(\), expected 1 axis or more"),
    (
        lambda: gs.group_norm_backward(X, X, 30, None, np.ones((4, 30)), np.ones((4, 30))),
        "groups: 30, expected a divisor of 6",
    ),
    (
        lambda: gs.group_norm_backward(
            X[..., 0].copy(), X[..., 0].copy(), 6, None, np.ones((4, 6)), np.ones((4, 6))
        ),
        r"x: shape \(4, 6\), expected more than one value per group of a sample",
    ),
    (lambda: gs.group_norm(X, 3, np.ones(3, F32)), r"weight: shape \(3,\), expected \(6,\)"),
    (lambda: gs.instance_norm(X[0, 0]), r"x: shape \(5,\), expected 2 axes or more"),
    (
        lambda: gs.layer_norm_backward(X, X, None, np.ones((4, 5)), np.ones((4, 6))),
        r"mean: shape \(4, 5\), expected \(4, 6\)",
    ),
    (
        lambda: gs.group_norm_backward(X, X, 3, None, np.ones((4, 6)), np.ones((4, 3))),
        r"mean: shape \(4, 6\), expected \(4, 3\)",
    ),
    (lambda: gs.batch_norm_stats(X, axis=0), "axis: 0, expected 1"),
]


@pytest.mark.parametrize(("call", "message"), SIBLINGS)
def test_bad_input_to_the_siblings(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
