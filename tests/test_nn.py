"""Layers: gradients by central differences, buffers that stay, state, initial weights."""

import doctest
import importlib
import pkgutil
import tracemalloc
from itertools import pairwise

import gradstep as gs
import numpy as np
import pytest
from gradstep import nn
from gradstep.nn import (
    ACTIVATIONS,
    INITIALISERS,
    BatchNorm,
    Dropout,
    LayerNorm,
    Linear,
    PReLU,
    ReLU,
    Residual,
    Sequential,
    mlp,
)

MODULES = [f"gradstep.nn.{module.name}" for module in pkgutil.iter_modules(nn.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


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


def residual_network(rng):
    """Everything at once: shortcuts, batch norm with and without ReLU, dropout inside and out."""
    branch = [Linear(6, 6, rng, np.float64, bias=False), BatchNorm(6, dtype=np.float64)]
    return Sequential(
        Linear(4, 6, rng, np.float64, bias=False),
        BatchNorm(6, activation="relu", dtype=np.float64),
        Residual(*branch, nn.Tanh(), Dropout(0.3, seed=5)),
        Dropout(0.25, seed=6),
        Residual(LayerNorm(6, dtype=np.float64), nn.GELU()),
        Linear(6, 3, rng, np.float64),
    )


def layers(rng):
    return {
        "linear": Linear(4, 3, rng, np.float64),
        "linear without bias": Linear(4, 3, rng, np.float64, bias=False),
        "batch norm": BatchNorm(4, dtype=np.float64),
        "batch norm and relu": BatchNorm(4, activation="relu", dtype=np.float64),
        "layer norm": LayerNorm(4, dtype=np.float64),
        "dropout": Dropout(0.5, seed=3),
        "no dropout": Dropout(0, seed=3),
        "prelu per channel": PReLU(4, dtype=np.float64),
        "gelu by tanh": nn.GELU("tanh"),
        "softmax over rows": nn.Softmax(axis=0),
        **{
            name: make(dtype=np.float64) if name == "prelu" else make()
            for name, make in ACTIVATIONS.items()
        },
        "residual": Residual(Linear(4, 4, rng, np.float64), ReLU()),
        "mlp": mlp([4, 6, 5, 3], seed=3, dtype=np.float64),
        "everything": residual_network(rng),
    }


def check_derivative(layer, x, training, rng):
    """All gradients against central differences, the dropout masks being those of call 4."""
    for p in layer.params.values():
        p += 0.3 * rng.standard_normal(p.shape)
    counters = {name: b for name, b in layer.buffers.items() if name.endswith("calls")}

    def forward():
        for counter in counters.values():
            counter[...] = 4
        return layer.forward(x, training)

    weights = rng.standard_normal(forward().shape)

    def scalar():
        return float(np.sum(forward() * weights))

    # The differences first: they must not disturb what backward relies on.
    expected = {name: central_difference(scalar, p) for name, p in layer.params.items()}
    expected_dx = central_difference(scalar, x)
    forward()
    untouched = weights.copy()
    dx = layer.backward(weights).copy()
    np.testing.assert_array_equal(weights, untouched)
    np.testing.assert_allclose(dx, expected_dx, rtol=2e-6, atol=2e-8)
    for name, g in expected.items():
        np.testing.assert_allclose(layer.grads[name], g, rtol=2e-6, atol=2e-8)


@pytest.mark.parametrize("name", layers(np.random.default_rng(0)))
def test_backward_is_the_derivative_of_forward_in_training(name, rng):
    check_derivative(layers(rng)[name], rng.standard_normal((5, 4)), True, rng)


@pytest.mark.parametrize("name", ["batch norm", "batch norm and relu", "dropout", "everything"])
def test_backward_is_the_derivative_of_forward_at_inference(name, rng):
    layer = layers(rng)[name]
    for _ in range(20):
        layer.forward(rng.standard_normal((9, 4)) + 1)
    check_derivative(layer, rng.standard_normal((5, 4)), False, rng)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: BatchNorm(3, dtype=np.float64), (4, 3, 2, 2)),
        (lambda: BatchNorm(3, axis=-1, activation="relu", dtype=np.float64), (4, 2, 2, 3)),
        (lambda: LayerNorm(3, dtype=np.float64), (4, 2, 3)),
        (lambda: PReLU(3, axis=-1, dtype=np.float64), (4, 2, 3)),
        (lambda: nn.Maxout(3), (2, 6, 3)),
        (lambda: Dropout(0.5, seed=1), (2, 3, 4)),
        (lambda: nn.SiLU(), (2, 3, 4)),
    ],
)
def test_layers_take_more_axes_than_two(make, shape, rng):
    check_derivative(make(), rng.standard_normal(shape), True, rng)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_the_function_of_its_name(name, rng):
    x = rng.standard_normal((5, 4)).astype(np.float32)
    function, extra = getattr(gs, name), {}
    if name == "prelu":
        extra = {"weight": np.array([0.25], np.float32)}
    if name == "maxout":
        extra = {"k": 2}
    np.testing.assert_array_equal(ACTIVATIONS[name]().forward(x), function(x, **extra))


def test_every_activation_of_gradstep_is_a_layer():
    from gradstep.ops import activations

    names = {n for n in activations.__all__ if not n.endswith("_backward")}
    assert set(ACTIVATIONS) == names


def test_batch_norm_learns_its_statistics_in_training_and_uses_them_at_inference(rng):
    layer = BatchNorm(3, dtype=np.float64)
    x = rng.normal(5, 2, (64, 3))
    y = layer.forward(x)
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(layer.buffers["running_mean"], 0.1 * x.mean(axis=0))
    np.testing.assert_allclose(layer.buffers["running_var"], 0.9 + 0.1 * x.var(axis=0, ddof=1))
    for _ in range(300):
        layer.forward(x)
    assert layer.buffers["num_batches_tracked"] == 301
    before = layer.state_dict()
    one = layer.forward(x[:1], training=False)
    expected = (x[:1] - x.mean(axis=0)) / np.sqrt(x.var(axis=0, ddof=1) + 1e-5)
    np.testing.assert_allclose(one, expected, rtol=1e-9)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_batch_norm_without_momentum_averages_all_batches(rng):
    layer = BatchNorm(2, momentum=None, dtype=np.float64)
    batches = rng.standard_normal((5, 8, 2))
    for x in batches:
        layer.forward(x)
    np.testing.assert_allclose(layer.buffers["running_mean"], batches.mean(axis=(0, 1)))


def test_batch_norm_with_relu_is_batch_norm_and_relu(rng):
    x, dy = rng.standard_normal((2, 9, 4)).astype(np.float32)
    fused, apart = BatchNorm(4, activation="relu"), Sequential(BatchNorm(4), ReLU())
    np.testing.assert_array_equal(fused.forward(x), apart.forward(x))
    np.testing.assert_array_equal(fused.backward(dy), apart.backward(dy))
    for a, b in zip(fused.grads.values(), apart.grads.values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_never_repeats_a_mask_in_training_and_does_nothing_at_inference():
    layer, x = Dropout(0.5, seed=9), np.ones((4, 64), np.float32)
    masks = []
    for n in range(20):
        masks.append(layer.forward(x).tobytes())
        expected = gs.dropout(x, 0.5, seed=9, offset=n)
        np.testing.assert_array_equal(layer.backward(x), expected)
        assert layer.forward(x, training=False) is x
    assert len(set(masks)) == 20 and layer.buffers["calls"] == 20
    assert layer.backward(x) is x


def test_dropout_layers_of_a_network_have_masks_of_their_own():
    seeds = [
        int(layer.buffers["seed"])
        for seed in (0, 1)
        for layer in mlp([4, 4, 4, 4, 2], dropout=0.5, input_dropout=0.1, seed=seed).layers
        if isinstance(layer, Dropout)
    ]
    assert len(set(seeds)) == len(seeds) == 8


def test_residual_with_a_branch_of_zeros_is_the_identity(rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    layer = Residual(Linear(4, 4, rng, init="zeros"))
    np.testing.assert_array_equal(layer.forward(x), x)
    np.testing.assert_array_equal(layer.backward(x), x)
    assert list(layer.params) == ["0.weight", "0.bias"]


def test_residual_refuses_a_change_of_shape(rng):
    layer = Residual(Linear(4, 1, rng))
    with pytest.raises(ValueError, match=r"layers: x of shape \(2, 4\) became \(2, 1\), expected"):
        layer.forward(np.zeros((2, 4), np.float32))


def full_network(seed=0):
    rng = np.random.default_rng(seed)
    return Sequential(
        Linear(32, 64, rng),
        BatchNorm(64, activation="relu"),
        Residual(Linear(64, 64, rng), LayerNorm(64), nn.SiLU(), Dropout(0.2, seed=1)),
        PReLU(64),
        Dropout(0.2, seed=2),
        nn.Maxout(2),
        Linear(32, 4, rng),
    )


def test_params_grads_buffers_and_outputs_stay_the_same_memory(rng):
    model = full_network()
    x = rng.standard_normal((200, 32)).astype(np.float32)
    live = [*model.params.values(), *model.grads.values(), *model.buffers.values()]
    addresses = [a.ctypes.data for a in live]
    y = model.forward(x)
    dx = model.backward(np.ones_like(y))
    for rows in (200, 30, 200):
        again = model.forward(x[:rows])
        assert again.ctypes.data == y.ctypes.data and again.shape == (rows, 4)
        assert model.backward(np.ones_like(again)).ctypes.data == dx.ctypes.data
    now = [*model.params.values(), *model.grads.values(), *model.buffers.values()]
    assert [a.ctypes.data for a in now] == addresses
    assert all(a is b for a, b in zip(now, live, strict=True))


def test_steps_allocate_less_than_one_activation_and_keep_nothing(rng):
    model = full_network()
    x, dy = rng.standard_normal((2000, 32)).astype(np.float32), np.ones((2000, 4), np.float32)
    for _ in range(3):
        model.forward(x)
        model.backward(dy)
    tracemalloc.start()
    try:
        for _ in range(20):
            model.forward(x)
            model.backward(dy)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # An activation has 512,000 bytes; what is new are statistics, 16 bytes for each row, twice.
    assert peak < 150_000 and kept < 100_000


def test_smaller_batch_gives_the_rows_of_the_larger_one(rng):
    model = full_network()
    x = rng.standard_normal((10, 32)).astype(np.float32)
    expected = model.forward(x, training=False).copy()
    np.testing.assert_allclose(model.forward(x[:3], training=False), expected[:3], rtol=1e-4)


def test_parameter_gradients_are_those_of_backward(rng):
    for model in (full_network(), Sequential(full_network(), nn.Tanh()), Residual(ReLU())):
        x = rng.standard_normal((5, 32)).astype(np.float32)
        dy = np.ones_like(model.forward(x))
        model.backward(dy)
        expected = {name: g.copy() for name, g in model.grads.items()}
        for g in model.grads.values():
            g.fill(np.nan)
        model.parameter_gradients(dy)
        for name, g in model.grads.items():
            np.testing.assert_array_equal(g, expected[name])


def steps(model, count, seed):
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(count):
        x, labels = rng.standard_normal((16, 32), np.float32), rng.integers(0, 4, 16)
        loss, gradient = gs.cross_entropy(model.forward(x), labels)
        model.parameter_gradients(gradient)
        for name, p in model.params.items():
            p -= np.float32(0.1) * model.grads[name]
        results.append(loss)
    return [*results, model.forward(x, training=False).tobytes()]


def test_same_seed_same_result_and_another_seed_another():
    assert steps(full_network(), 5, 1) == steps(full_network(), 5, 1)
    assert steps(full_network(1), 5, 1) != steps(full_network(), 5, 1)


def test_a_loaded_network_goes_on_to_the_bit(tmp_path):
    model = full_network()
    steps(model, 5, 1)
    np.savez(tmp_path / "state.npz", **model.state_dict())
    expected = steps(model, 5, 2)
    other = full_network(9)
    steps(other, 2, 3)
    with np.load(tmp_path / "state.npz") as saved:
        other.load_state_dict(dict(saved))
    assert steps(other, 5, 2) == expected


def test_state_has_every_array_by_name_and_is_a_copy():
    model = Sequential(
        Linear(2, 3, np.random.default_rng(0)), Residual(BatchNorm(3)), Dropout(0, 7)
    )
    state = model.state_dict()
    assert list(state) == [
        *("0.weight", "0.bias", "1.0.weight", "1.0.bias"),
        *("1.0.running_mean", "1.0.running_var", "1.0.num_batches_tracked", "2.seed", "2.calls"),
    ]
    assert state["2.seed"] == 7
    model.forward(np.ones((4, 2), np.float32))
    assert state["2.calls"] == 0 and state["1.0.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda s: 3, TypeError, "state_dict: int, expected a mapping"),
        (lambda s: s.pop("1.calls"), ValueError, "state_dict: no '1.calls'"),
        (lambda s: s.update(x=1), ValueError, "state_dict: 'x', expected one of 0.weight, 0.bias,"),
        (
            lambda s: s.update({"1.calls": 3}),
            TypeError,
            r"state_dict\['1.calls'\]: int, expected a numpy.ndarray",
        ),
        (
            lambda s: s.update({"1.calls": np.array(3)}),
            TypeError,
            r"state_dict\['1.calls'\]: dtype int64, expected uint64",
        ),
        (
            lambda s: s.update({"0.running_var": np.ones(4, np.float32)}),
            ValueError,
            r"state_dict\['0.running_var'\]: shape \(4,\), expected \(3,\)",
        ),
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(change, kind, message):
    model = Sequential(BatchNorm(3), Dropout(0.5, seed=1))
    state = {name: array + array.dtype.type(1) for name, array in model.state_dict().items()}
    state = {name: np.asarray(array) for name, array in state.items()}
    before = model.state_dict()
    found = change(state)
    with pytest.raises(kind, match=message):
        model.load_state_dict(found if found == 3 else state)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_time_is_counted_by_kind_of_layer_inside_networks_too(rng):
    model = Sequential(Residual(Linear(32, 32, rng), LayerNorm(32), nn.SiLU(), Dropout(0.2, 1)))
    x = rng.standard_normal((50, 32)).astype(np.float32)
    model.backward(np.ones_like(model.forward(x)))
    kinds = {"products", "normalisation", "dropout", "activations"}
    assert set(model.seconds) == {*kinds, "networks"}
    assert sum(model.seconds[kind] for kind in kinds) <= model.seconds["networks"]


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("he_normal", np.sqrt(2 / 400)),
        ("he_uniform", np.sqrt(2 / 400)),
        ("xavier_normal", np.sqrt(2 / 700)),
        ("xavier_uniform", np.sqrt(2 / 700)),
        ("normal", 0.01),
        ("zeros", 0),
    ],
)
def test_initial_weights_have_the_deviation_of_their_name_and_zero_bias(name, deviation):
    layer = Linear(400, 300, np.random.default_rng(0), init=name)
    weight, bias = layer.params["weight"], layer.params["bias"]
    assert weight.dtype == np.float32 and weight.shape == (300, 400) and not bias.any()
    assert weight.std() == pytest.approx(deviation, rel=0.01)
    assert abs(weight.mean()) < 1e-3
    uniform = np.abs(weight).max() < 1.8 * deviation
    assert uniform == name.endswith("uniform")


def test_initialisers_are_all_tested():
    mark = test_initial_weights_have_the_deviation_of_their_name_and_zero_bias.pytestmark[0]
    assert [name for name, _ in mark.args[1]] == list(INITIALISERS)


def test_same_seed_gives_the_same_weights_in_both_precisions():
    single, double, other = mlp([5, 4]), mlp([5, 4], dtype=np.float64), mlp([5, 4], seed=1)
    weight = double.params["0.weight"].astype(np.float32)
    np.testing.assert_array_equal(single.params["0.weight"], weight)
    assert (single.params["0.weight"] != other.params["0.weight"]).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_perceptron_of_any_activation_learns_two_halves(activation, batch_norm):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4)).astype(np.float32)
    labels = (x[:, 0] > x[:, 1]).astype(np.intp)
    model = mlp([4, 16, 8, 2], activation=activation, batch_norm=batch_norm, dropout=0.1)
    assert [p.shape[0] for p in model.params.values() if p.ndim == 2] == (
        [32, 16, 2] if activation == "maxout" else [16, 8, 2]
    )
    optimizer = gs.Adam(model.params, lr=0.02)
    optimizer.bind(model.grads)
    for _ in range(100):
        _, gradient = gs.cross_entropy(model.forward(x), labels)
        model.parameter_gradients(gradient)
        optimizer.step()
    assert np.mean(model.forward(x, training=False).argmax(axis=1) == labels) > 0.9


def test_weights_do_not_depend_on_dropout():
    plain, dropped = mlp([5, 4, 4, 2]), mlp([5, 4, 4, 2], dropout=0.5)
    for a, b in zip(plain.params.values(), dropped.params.values(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: mlp([3]), ValueError, r"sizes: \[3\], expected inputs and outputs at least"),
        (lambda: mlp([3, 0, 2]), ValueError, r"sizes\[1\]: 0, expected an integer >= 1"),
        (lambda: mlp([3, 2.5, 2]), TypeError, r"sizes\[1\]: float, expected an integer"),
        (lambda: mlp([3, 2], dtype=int), TypeError, r"dtype: int64, expected float32 or float64"),
        (lambda: mlp([3, 2], dropout=1), ValueError, r"dropout: 1, expected a number from 0 to "),
        (lambda: mlp([3, 2], init="hi"), ValueError, r"init: 'hi', expected 'he_normal', "),
        (
            lambda: mlp([3, 2], activation="elu"),
            ValueError,
            r"activation: 'elu', expected one of relu, leaky_relu, ",
        ),
        (lambda: Sequential(), ValueError, r"layers: none, expected at least one"),
        (lambda: BatchNorm(0), ValueError, r"channels: 0, expected an integer >= 1"),
        (lambda: BatchNorm(2, momentum=2), ValueError, r"momentum: 2, expected None or a number"),
        (lambda: BatchNorm(2, eps=-1), ValueError, r"eps: -1, expected a finite number >= 0"),
        (lambda: BatchNorm(2, activation="tanh"), ValueError, r"activation: .*tanh"),
        (lambda: LayerNorm(2, eps=-1), ValueError, r"eps: -1, expected a finite number >= 0"),
        (lambda: Dropout(2, seed=1), ValueError, r"p: 2, expected a number in \[0, 1\]"),
        (lambda: Dropout(0.5, seed=-1), ValueError, r"seed: -1, expected"),
        (lambda: nn.LeakyReLU("x"), TypeError, r"slope: str, expected a number"),
        (lambda: nn.GELU("erf"), ValueError, r"approximate: 'erf', expected"),
        (lambda: nn.Maxout(0), ValueError, r"k: 0, expected an integer >= 1"),
    ],
)
def test_impossible_layers_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


def test_a_layer_in_two_places_is_refused():
    layer = ReLU()
    for make in (lambda: Sequential(layer, layer), lambda: Sequential(Residual(layer), layer)):
        with pytest.raises(ValueError, match="layers: one occurs twice, expected another one"):
            make()


@pytest.mark.parametrize("name", layers(np.random.default_rng(0)))
def test_backward_before_forward_is_refused(name, rng):
    with pytest.raises(RuntimeError, match="backward: called before forward"):
        layers(rng)[name].backward(np.zeros((2, 3)))


def test_smallest_batch_is_two_with_batch_norm_anywhere():
    sizes = [model.smallest_batch for model in (mlp([2, 2, 2]), full_network())]
    assert sizes == [1, 2]
    assert all(a != b for a, b in pairwise(sizes))
