"""What normalisation promises: accuracy, gradients, edge cases, agreement with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep.spec import norm
from norm_cases import Norm


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def train(x: Any, **options: Any) -> Any:
    return gs.batch_norm(x, None, None, None, None, training=True, **options)


LAYOUTS = [((64, 3, 11, 13), 1), ((64, 11, 13, 3), -1), ((9000, 70), -1), ((2, 3, 5000), 1)]


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_a_mean_of_a_million_keeps_the_deviation(shape: Any, axis: int) -> None:
    x = (rng().standard_normal(shape) + 1e6).astype(np.float32)
    others = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    exact = x.astype(np.float64)
    centred = exact - exact.mean(others, keepdims=True)
    y, mean, invstd = train(x, axis=axis, eps=0)
    np.testing.assert_allclose(mean, exact.mean(others), rtol=1e-14)
    np.testing.assert_allclose(invstd, 1 / exact.std(others), rtol=1e-9)
    np.testing.assert_allclose(y, centred / exact.std(others, keepdims=True), atol=2e-6)
    dy = rng().standard_normal(shape).astype(np.float32)
    dx = gs.batch_norm_backward(dy, x, None, mean, invstd, axis=axis)[0]
    shifted = centred.astype(np.float32)
    _, mean, invstd = train(shifted, axis=axis, eps=0)
    expected = gs.batch_norm_backward(dy, shifted, None, mean, invstd, axis=axis)[0]
    np.testing.assert_allclose(dx, expected, atol=2e-5)


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_values_of_1e30_in_float32(shape: Any, axis: int) -> None:
    small = rng().standard_normal(shape).astype(np.float32)
    x = small * np.float32(1e30)
    y, mean, invstd = train(x, axis=axis, eps=0)
    expected, small_mean, small_invstd = train(small, axis=axis, eps=0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    dy = rng().standard_normal(shape).astype(np.float32)
    dx = gs.batch_norm_backward(dy, x, None, mean, invstd, axis=axis)[0]
    small_dx = gs.batch_norm_backward(dy, small, None, small_mean, small_invstd, axis=axis)[0]
    np.testing.assert_allclose(dx * np.float32(1e30), small_dx, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("value", [0.1, -1e30, 16_777_217.0, 3e38])
@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_a_constant_channel_gives_exactly_the_bias(
    shape: Any, axis: int, value: float, eps: float
) -> None:
    x = np.full(shape, value, np.float32)
    bias = rng().standard_normal(shape[axis]).astype(np.float32)
    weight = rng().standard_normal(shape[axis]).astype(np.float32)
    y, mean, _ = gs.batch_norm(x, weight, bias, None, None, training=True, axis=axis, eps=eps)
    assert (mean == np.float64(x.flat[0])).all()
    assert (np.moveaxis(y, axis, -1) == bias).all()


def test_one_outlier_first_in_its_tile_costs_no_accuracy() -> None:
    x = rng().standard_normal((1, 1, 4096))
    x[0, 0, 0] = 1e4
    mean, variance, _ = gs.batch_norm_stats(x)
    np.testing.assert_allclose(mean, x.mean(), rtol=1e-12)
    np.testing.assert_allclose(variance, x.var(), rtol=1e-10)


# A size per path of the sums: part of a block, whole blocks, tiles.
ROW_SIZES = [7, 300, 768, 9000]


@pytest.mark.parametrize("size", ROW_SIZES)
def test_rows_with_a_mean_of_a_million_keep_their_deviation(size: int) -> None:
    x = (rng().standard_normal((5, size)) + 1e6).astype(np.float32)
    exact = x.astype(np.float64)
    y, mean, invstd = gs.layer_norm(x, None, None, axes=1, eps=0)
    np.testing.assert_allclose(mean, exact.mean(1), rtol=2e-13)
    np.testing.assert_allclose(invstd, 1 / exact.std(1), rtol=5e-7)
    expected = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    np.testing.assert_allclose(y, expected, atol=3e-6)


@pytest.mark.parametrize("size", ROW_SIZES)
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_rows_whose_squares_leave_float32(size: int, scale: float) -> None:
    small = rng().standard_normal((5, size)).astype(np.float32)
    x = small * np.float32(scale)
    expected = gs.layer_norm(small, None, None, axes=1, eps=0)[0]
    found = gs.layer_norm(x, None, None, axes=1, eps=0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found[0], norm.layer_norm(x, None, None, axes=1, eps=0)[0])
    found = gs.rms_norm(x, None, axes=1, eps=0)
    assert np.array_equal(found[0], norm.rms_norm(x, None, axes=1, eps=0)[0])
    expected = gs.rms_norm(small, None, axes=1, eps=0)[0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", ROW_SIZES)
def test_one_outlier_costs_a_row_no_accuracy(size: int) -> None:
    x = rng().standard_normal((3, size)).astype(np.float32)
    x[:, 0] = 1e4
    exact = x.astype(np.float64)
    _, mean, invstd = gs.layer_norm(x, None, None, axes=1, eps=0)
    np.testing.assert_allclose(mean, exact.mean(1), rtol=1e-6)
    np.testing.assert_allclose(invstd, 1 / exact.std(1), rtol=5e-7)


@pytest.mark.parametrize("value", [0.1, -1e30, 16_777_217.0, 3e38, 1e-30])
@pytest.mark.parametrize("size", ROW_SIZES)
def test_a_constant_row_gives_exactly_the_bias(size: int, value: float) -> None:
    x = np.full((2, size), value, np.float32)
    weight, bias = rng().standard_normal((2, size)).astype(np.float32)
    y, mean, _ = gs.layer_norm(x, weight, bias, eps=0)
    assert (y == bias).all() and (mean == np.float64(x[0, 0])).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("running_dtype", [np.float32, np.float64])
def test_running_statistics(dtype: Any, running_dtype: Any) -> None:
    if dtype is np.float64 and running_dtype is np.float32:
        pytest.skip("refused: see test_norm_boundary")
    x = rng().standard_normal((30, 4)).astype(dtype)
    mean, var = np.full(4, 2, running_dtype), np.full(4, 3, running_dtype)
    gs.batch_norm(x, None, None, mean, var, training=True, momentum=0.25)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, 0.75 * 2 + 0.25 * exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, 0.75 * 3 + 0.25 * exact.var(0, ddof=1), rtol=1e-6)
    before = mean.copy(), var.copy()
    y, used, invstd = gs.batch_norm(x, None, None, mean, var, training=False)
    assert (mean == before[0]).all() and (var == before[1]).all()
    np.testing.assert_allclose(used, mean)
    np.testing.assert_allclose(invstd, 1 / np.sqrt(var.astype(np.float64) + 1e-5))
    np.testing.assert_allclose(y, (exact - used) * invstd, rtol=1e-4, atol=1e-6)


def test_momentum_none_averages_all_batches() -> None:
    mean, var = np.zeros(2), np.ones(2)
    batches = [rng().standard_normal((10, 2)) + k for k in range(5)]
    for count, x in enumerate(batches, 1):
        gs.batch_norm(
            x, None, None, mean, var, training=True, momentum=None, num_batches_tracked=count
        )
    np.testing.assert_allclose(mean, np.mean([x.mean(0) for x in batches], 0))
    np.testing.assert_allclose(var, np.mean([x.var(0, ddof=1) for x in batches], 0))


def test_an_empty_batch_leaves_the_running_statistics() -> None:
    mean, var = np.full(3, 5.0), np.full(3, 7.0)
    y, batch_mean, _ = gs.batch_norm(np.empty((0, 3, 4)), None, None, mean, var, training=True)
    assert y.shape == (0, 3, 4) and batch_mean.shape == (3,)
    assert (mean == 5).all() and (var == 7).all()
    dx, dweight, dbias = gs.batch_norm_backward(y, y, None, batch_mean, np.ones(3))
    assert dx.shape == (0, 3, 4) and not dweight.any() and not dbias.any()


@pytest.mark.parametrize("activation", [None, "relu"])
def test_one_value_per_channel_is_an_error_in_training_only(activation: Any) -> None:
    x = np.ones((1, 3, 1))
    with pytest.raises(ValueError, match=r"x: shape \(1, 3, 1\), expected more than one value"):
        train(x, activation=activation)
    zeros, ones = np.zeros(3), np.ones(3)
    gs.batch_norm(x, None, None, zeros, ones, training=False, activation=activation)
    with pytest.raises(ValueError, match="expected more than one value per channel of a sample"):
        gs.instance_norm(x)


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_relu_is_batch_norm_then_relu(shape: Any, axis: int) -> None:
    x, dy = rng().standard_normal((2, *shape)).astype(np.float32)
    weight, bias = rng().standard_normal((2, shape[axis])).astype(np.float32)
    plain, mean, invstd = gs.batch_norm(x, weight, bias, None, None, training=True, axis=axis)
    fused = gs.batch_norm(x, weight, bias, None, None, training=True, axis=axis, activation="relu")
    assert (fused[0] == np.maximum(plain, 0)).all()
    settings: Any = {"axis": axis}
    behind = np.where(plain > 0, dy, np.float32(0))
    expected = gs.batch_norm_backward(behind, x, weight, mean, invstd, **settings)
    found = gs.batch_norm_backward(
        dy, x, weight, mean, invstd, activation="relu", bias=bias, **settings
    )
    for a, b in zip(found, expected, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_channel(bad: float) -> None:
    x = rng().standard_normal((6, 3, 20)).astype(np.float32)
    clean = train(x)[0]
    x[2, 1, 7] = bad
    for activation in (None, "relu"):
        with np.errstate(invalid="ignore"):
            y = train(x, activation=activation)[0]
        assert np.isnan(y[:, 1]).all()
        assert not np.isnan(y[:, [0, 2]]).any()
    assert (train(x)[0][:, [0, 2]] == clean[:, [0, 2]]).all()


def test_statistics_merged_across_workers_are_those_of_one_batch() -> None:
    x = (rng().standard_normal((50, 6, 7)) + 1e6).astype(np.float32)
    parts = [gs.batch_norm_stats(part) for part in np.split(x, [0, 3, 30])]
    mean, variance, count = gs.merge_stats(parts)
    exact = x.astype(np.float64)
    assert count == 350
    np.testing.assert_allclose(mean, exact.mean((0, 2)), rtol=1e-15)
    np.testing.assert_allclose(variance, exact.var((0, 2)), rtol=1e-9)
    synchronised = gs.batch_norm(x[3:30], None, None, mean, variance, training=False)[0]
    np.testing.assert_allclose(synchronised, train(x)[0][3:30], atol=1e-6)
    with pytest.raises(ValueError, match="stats: none, expected"):
        gs.merge_stats([])


GRADIENTS = [
    Norm("batch", (3, 4, 5)),
    Norm("batch", (7, 3)),
    Norm("batch", (4, 5, 3), -1),
    Norm("batch", (3, 4, 5), activation="relu"),
    Norm("batch", (7, 3), -1, activation="relu"),
    Norm("batch", (3, 4, 5), training=False),
    Norm("batch", (3, 4, 5), training=False, activation="relu"),
    Norm("batch", (7, 3), -1, training=False),
    Norm("layer", (3, 7), 1),
    Norm("layer", (2, 3, 4), 2),
    Norm("rms", (3, 7), 1),
    Norm("group", (2, 6, 5), 3),
    Norm("group", (2, 4), 1),
    Norm("instance", (2, 3, 5)),
]


@pytest.mark.parametrize("case", GRADIENTS, ids=str)
def test_backward_is_the_derivative_of_forward(case: Norm) -> None:
    of = case.inputs(np.float64)
    names = ["x", "weight"] if case.kind == "rms" else ["x", "weight", "bias"]
    for name, gradient in zip(names, case.backward(of), strict=True):
        expected = np.zeros_like(of[name])
        for i in np.ndindex(of[name].shape):
            sides = []
            for step in (1e-5, -1e-5):
                moved = of[name].copy()
                moved[i] += step
                sides.append(float((case.forward({**of, name: moved})[0] * of["dy"]).sum()))
            expected[i] = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def torch_pair(case: Norm, torch: Any, of: dict[str, Any]) -> tuple[Any, list[Any]]:
    """torch's y and its gradients of the inputs."""
    functional = torch.nn.functional
    inputs = [torch.tensor(of[k], requires_grad=True) for k in ("x", "weight", "bias")]
    x, weight, bias = inputs
    calls: dict[str, Callable[[], Any]] = {
        "layer": lambda: functional.layer_norm(x, case.parameter_shape, weight, bias),
        "rms": lambda: functional.rms_norm(x, case.parameter_shape, weight, 1e-6),
        "group": lambda: functional.group_norm(x, case.axis, weight, bias),
        "instance": lambda: functional.instance_norm(x, weight=weight, bias=bias),
    }

    def batch() -> Any:
        channels = torch.movedim(x, case.axis, 1)
        running = torch.tensor(of["mean"]), torch.tensor(of["var"])
        y = functional.batch_norm(channels, *running, weight, bias, case.training)
        y = torch.movedim(torch.relu(y) if case.activation else y, 1, case.axis)
        return y

    y = calls.get(case.kind, batch)()
    y.backward(torch.tensor(of["dy"]))
    used = inputs[:2] if case.kind == "rms" else inputs
    return y.detach().numpy(), [t.grad.numpy() for t in used]


SHAPES = [
    *(Norm("batch", s) for s in ((5, 3), (5, 3, 4), (2, 3, 4, 5), (2, 3, 2, 3, 2), (1, 3, 4, 4))),
    Norm("batch", (3, 5, 6, 4), -1),
    Norm("batch", (5, 3, 4), training=False),
    Norm("batch", (5, 3, 4), training=False, activation="relu"),
    Norm("batch", (5, 40, 9), activation="relu"),
    *(Norm("layer", (4, 5, 6), axes) for axes in (1, 2, 3)),
    Norm("rms", (4, 50), 1),
    Norm("group", (2, 6, 4, 4), 3),
    Norm("instance", (2, 3, 5, 5)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_agrees_with_torch(case: Norm, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    of = case.inputs(dtype)
    y, gradients = torch_pair(case, torch, of)
    tolerance = 2e-4 if dtype is np.float32 else 1e-10
    forward = case.forward(of)
    np.testing.assert_allclose(forward[0], y, rtol=tolerance, atol=tolerance)
    statistics = forward[1:2] if case.kind == "rms" else forward[1:3]
    for a, b in zip(case.backward(of, statistics=statistics), gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_running_statistics_agree_with_torch() -> None:
    torch = pytest.importorskip("torch")
    x = rng().standard_normal((6, 3, 5)).astype(np.float32)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    layer = torch.nn.BatchNorm1d(3, momentum=None)
    for count in (1, 2, 3):
        layer(torch.tensor(x * count))
        options: Any = {"momentum": None, "num_batches_tracked": count}
        gs.batch_norm(x * np.float32(count), None, None, mean, var, training=True, **options)
    np.testing.assert_allclose(mean, layer.running_mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(var, layer.running_var.numpy(), rtol=1e-5)
