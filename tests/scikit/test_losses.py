"""Every loss on every network against central differences, in float64."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gradstep.arrays import Array
from gradstep.sklearn.fitting import Rows, fit_lbfgs
from gradstep.sklearn.losses import REGRESSION, Binary, Custom, MultiClass, Objective
from gradstep.sklearn.network import ACTIVATIONS, Layer, Network, Norm, NormedLayer

RNG = np.random.default_rng(0)
ROWS, INPUTS, HIDDEN, OUTPUTS = 9, 4, 5, 3


def cubed(y: Array, raw: Array) -> tuple[Array, Array]:
    d = raw - y
    return np.sum(np.abs(d) ** 3, axis=1), 3 * d * np.abs(d)


OBJECTIVES: dict[str, Objective] = {
    "multi-class": MultiClass(),
    "multi-class, smoothed": MultiClass(0.2),
    "binary": Binary(),
    "binary, smoothed": Binary(0.2),
    **{name: make(0.3, 0.8) for name, make in REGRESSION.items()},
    "custom": Custom(cubed, MultiClass()),
}


def network(activation: str, kind: str | None) -> Network:
    rng = np.random.default_rng(1)
    sizes = (INPUTS, HIDDEN, HIDDEN, OUTPUTS)
    layers: list[Layer] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weight, bias = rng.standard_normal((fan_in, fan_out)), rng.standard_normal(fan_out)
        function = None if i == 2 else ACTIVATIONS[activation]
        if kind is None or i == 2:
            layers.append(Layer(weight, bias, function))
        else:
            norm = Norm.new(kind, fan_out, np.float64)
            layers.append(NormedLayer(weight, bias, norm, function))
    return Network(layers)


def compare(net: Network, objective: Objective, weight: Array | None) -> None:
    y = RNG.integers(0, 2, (ROWS, OUTPUTS)).astype(np.float64)
    rows = Rows(
        RNG.standard_normal((ROWS, INPUTS)), objective.targets(y, np.dtype(np.float64)), weight
    )
    seen: list[tuple[Array, float, Array]] = []

    def look(function: Any, start: Array) -> Any:
        loss, gradient = function(start)
        # Central differences of fourth order: steps that are large beside the rounding.
        step = 1e-3 if objective.output != "identity" else 1e-4
        found = np.empty_like(gradient)
        for i in range(len(start)):
            moved = np.zeros_like(start)
            moved[i] = step
            near = function(start + moved)[0] - function(start - moved)[0]
            far = function(start + 2 * moved)[0] - function(start - 2 * moved)[0]
            found[i] = (8 * near - far) / (12 * step)
        seen.append((gradient, loss, found))
        return SimpleNamespace(x=start)

    fit_lbfgs(net, objective, rows, 0.5, look)
    ((gradient, loss, found),) = seen
    assert np.isfinite(loss)
    # Losses over several outputs are means where the gradient is that of the sum: see Residual.
    means = type(objective).__name__ in ("Residual", "Squared")
    if means:
        penalty = 0.5 / rows.total * np.concatenate([_decay(layer) for layer in net.layers])
        gradient = (gradient - penalty) / OUTPUTS + penalty
    np.testing.assert_allclose(gradient, found, rtol=1e-5, atol=1e-7)


def _decay(layer: Layer) -> Array:
    rest = [np.zeros_like(p).reshape(-1) for p in layer.params[1:]]
    return np.concatenate([layer.weight.reshape(-1), *rest])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_gradients_of_losses(objective: Objective, weighted: bool) -> None:
    weight = RNG.random(ROWS) if weighted else None
    compare(network("tanh", None), objective, weight)


@pytest.mark.parametrize("kind", [None, "batch", "layer"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_of_networks(activation: str, kind: str | None) -> None:
    compare(network(activation, kind), OBJECTIVES["multi-class"], None)


def test_losses_by_hand() -> None:
    raw, target = np.array([[1.0], [-2.0]]), np.array([[0.0], [0.0]])
    expected = {"squared_error": 1.25, "absolute_error": 1.5, "huber": 0.405, "quantile": 0.9}
    for name, loss in expected.items():
        objective = OBJECTIVES[name]
        assert objective(raw.copy(), target, None, 2) == pytest.approx(loss), name
        weight = np.array([1.0, 0.0])
        alone = objective(raw[:1].copy(), target[:1], None, 1)
        assert objective(raw.copy(), target, weight, 1.0) == pytest.approx(alone), name


def test_binary_loss_of_large_outputs_is_finite() -> None:
    raw = np.array([[1000.0], [-1000.0]], np.float32)
    target = np.array([[0], [0]])
    assert Binary()(raw, target, None, 2) == 500
    np.testing.assert_array_equal(raw, [[0.5], [0.0]])


@pytest.mark.parametrize(
    ("result", "kind", "message"),
    [
        (1.0, TypeError, "loss: the function gave float, expected (losses, gradient)"),
        (
            (np.zeros(2), np.zeros((2, 2))),
            ValueError,
            "loss: losses of shape (2,) from the function, expected (3,)",
        ),
        (
            (np.zeros(3), np.zeros(3)),
            ValueError,
            "loss: gradient of shape (3,) from the function, expected (3, 2)",
        ),
    ],
)
def test_a_wrong_loss_function_is_named(result: Any, kind: type[Exception], message: str) -> None:
    objective = Custom(lambda y, raw: result, MultiClass())
    with pytest.raises(kind) as caught:
        objective(np.zeros((3, 2)), np.zeros((3, 2)), None, 3)
    assert str(caught.value) == message
