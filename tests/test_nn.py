"""Layers: gradients by central differences in float64, buffers that stay, initial weights."""

import numpy as np
import pytest
from gradstep.nn import (
    Linear,
    ReLU,
    Sequential,
    balanced_class_weights,
    mlp,
    softmax_cross_entropy,
)


def central_difference(function, x, h=1e-6):
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + h
        above = function()
        x[i] = kept - h
        gradient[i] = (above - function()) / (2 * h)
        x[i] = kept
    return gradient


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def layers(rng):
    return {
        "linear": Linear(4, 3, rng, np.float64),
        "relu": ReLU(),
        "sequential": mlp([4, 6, 5, 3], seed=3, dtype=np.float64),
    }


@pytest.mark.parametrize("name", layers(np.random.default_rng(0)))
def test_backward_is_the_derivative_of_forward(name, rng):
    layer, x = layers(rng)[name], rng.standard_normal((5, 4))
    weights = rng.standard_normal(layer.forward(x).shape)

    def scalar():
        return float(np.sum(layer.forward(x) * weights))

    scalar()
    dx = layer.backward(weights.copy()).copy()
    np.testing.assert_allclose(dx, central_difference(scalar, x), rtol=1e-6, atol=1e-8)
    for key, p in layer.params.items():
        expected = central_difference(scalar, p)
        np.testing.assert_allclose(layer.grads[key], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("class_weights", [None, np.array([0.5, 2.0, 1.0])])
def test_cross_entropy_gradient_is_its_derivative(rng, class_weights):
    logits, labels = 3 * rng.standard_normal((6, 3)), np.array([0, 1, 2, 2, 1, 1])
    _, gradient = softmax_cross_entropy(logits.copy(), labels, class_weights)
    expected = central_difference(
        lambda: softmax_cross_entropy(logits.copy(), labels, class_weights)[0], logits
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-9)


def test_cross_entropy_is_the_weighted_mean_of_minus_log_probability():
    logits, labels = np.log([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]]), np.array([0, 1, 1])
    loss, _ = softmax_cross_entropy(logits, labels, np.array([1.0, 3.0]))
    expected = -(np.log(0.2) + 3 * np.log(0.5) + 3 * np.log(0.1)) / 7
    assert loss == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_does_not_overflow():
    logits = np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32)
    loss, gradient = softmax_cross_entropy(logits, np.array([1, 1]))
    assert loss == 5e3
    np.testing.assert_array_equal(gradient, [[0.5, -0.5], [0, 0]])


def test_cross_entropy_refuses_labels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"labels: shape \(2,\), expected one per row of \(3, 4\)"):
        softmax_cross_entropy(np.zeros((3, 4)), np.array([0, 1]))


def test_params_grads_and_outputs_stay_the_same_memory(rng):
    model = mlp([8, 16, 4])
    x = rng.standard_normal((10, 8)).astype(np.float32)
    arrays = [*model.params.values(), *model.grads.values()]
    addresses = [a.ctypes.data for a in arrays]
    first = model.forward(x)
    for rows in (10, 3, 10):
        y = model.forward(x[:rows])
        model.backward(np.ones_like(y))
        assert y.ctypes.data == first.ctypes.data and y.shape == (rows, 4)
    assert [a.ctypes.data for a in [*model.params.values(), *model.grads.values()]] == addresses
    assert all(a is b for a, b in zip(model.params.values(), arrays, strict=False))


def test_smaller_batch_gives_the_rows_of_the_larger_one(rng):
    model = mlp([8, 16, 4], dtype=np.float64)
    x = rng.standard_normal((10, 8))
    expected = model.forward(x).copy()
    np.testing.assert_allclose(model.forward(x[:3]), expected[:3], rtol=1e-12)


def test_parameter_gradients_are_those_of_backward(rng):
    model = mlp([8, 16, 4], dtype=np.float64)
    dy = rng.standard_normal((5, 4))
    model.forward(rng.standard_normal((5, 8)))
    model.backward(dy)
    expected = {name: g.copy() for name, g in model.grads.items()}
    for g in model.grads.values():
        g.fill(np.nan)
    model.parameter_gradients(dy)
    for name, g in model.grads.items():
        np.testing.assert_array_equal(g, expected[name])


def test_initial_weights_have_the_deviation_of_he_and_zero_bias():
    model = mlp([400, 300, 10])
    assert model.params["0.weight"].dtype == np.float32
    assert model.params["0.weight"].std() == pytest.approx(np.sqrt(2 / 400), rel=0.01)
    assert abs(model.params["0.weight"].mean()) < 1e-3
    assert not model.params["0.bias"].any() and not model.params["2.bias"].any()


def test_same_seed_gives_the_same_weights_in_both_precisions():
    single, double, other = mlp([5, 4]), mlp([5, 4], dtype=np.float64), mlp([5, 4], seed=1)
    weight = double.params["0.weight"].astype(np.float32)
    np.testing.assert_array_equal(single.params["0.weight"], weight)
    assert (single.params["0.weight"] != other.params["0.weight"]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp([3]), r"sizes: \[3\], expected inputs and outputs at least"),
        (lambda: mlp([3, 0, 2]), r"outputs: 0, expected at least 1"),
        (lambda: Sequential(), r"layers: none, expected at least one"),
    ],
)
def test_impossible_networks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_backward_before_forward_is_refused():
    for layer in (ReLU(), Linear(2, 2, np.random.default_rng(0))):
        with pytest.raises(RuntimeError, match="backward: called before forward"):
            layer.backward(np.zeros((1, 2), np.float32))


def test_balanced_weights_let_classes_count_alike():
    y = np.array([0] * 90 + [1] * 9 + [3])
    weights = balanced_class_weights(y, 4)
    totals = np.bincount(y, weights=weights[y], minlength=4)
    np.testing.assert_allclose(totals[[0, 1, 3]], 25)
    assert weights[2] == 0
