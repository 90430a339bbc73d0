"""A call that is refused leaves a network as it was, also where a later layer refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gradstep import nn

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)


def content(layer: nn.Layer) -> list[bytes]:
    return [
        a.tobytes() for kept in (layer.params, layer.grads, layer.buffers) for a in kept.values()
    ]


def frozen() -> nn.BatchNorm:
    norm = nn.BatchNorm(6)
    norm.buffers["running_var"].flags.writeable = False
    return norm


class Raising(nn.Layer):
    """Somebody's layer, whose error comes from anywhere."""

    def forward(self, x: Any, training: bool = True) -> Any:
        raise KeyError("x")

    def backward(self, dy: Any) -> Any:
        return dy


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, np.random.default_rng(0))


REFUSING = {
    "a product of other columns": (lambda: linear(5, 6), ValueError, r"^x: shape \(4, 6\)"),
    "running statistics that are read-only": (frozen, ValueError, "^running_var: .*read-only"),
    "a branch that changes the shape": (
        lambda: nn.Residual(linear(6, 3)),
        ValueError,
        "^layers: x of shape",
    ),
    "another type": (
        lambda: nn.BatchNorm(6, dtype=np.float64),
        TypeError,
        "^x: dtype float32, expected float64$",
    ),
    "somebody's layer": (Raising, KeyError, "x"),
}


@pytest.mark.parametrize("case", REFUSING)
@pytest.mark.parametrize("inside", [nn.Sequential, nn.Residual])
def test_what_earlier_layers_counted_is_taken_back(case: str, inside: Any) -> None:
    make, kind, message = REFUSING[case]
    first = inside(nn.Dropout(0.5, 1), nn.BatchNorm(6))
    net = nn.Sequential(first, nn.Dropout(0.5, 2), make())
    before = content(net)
    for _ in range(2):
        with pytest.raises(kind, match=message):
            net.forward(X)
        assert content(net) == before
    with pytest.raises(RuntimeError, match=r"^backward: .* or after one that was refused$"):
        net.backward(X)
    assert content(net) == before


def test_an_inner_shape_is_refused_by_the_branch_and_nothing_is_counted() -> None:
    net = nn.Residual(nn.Dropout(0.5, 1), nn.BatchNorm(6), linear(6, 3))
    before = content(net)
    with pytest.raises(ValueError, match=r"^layers: x of shape"):
        net.forward(X)
    assert content(net) == before


def test_after_a_call_that_the_first_layer_refused_backward_goes_through_the_one_before() -> None:
    results = []
    for refused in (False, True):
        net = nn.Sequential(linear(6, 5), nn.BatchNorm(5), nn.Sigmoid())
        y = net.forward(X)
        if refused:
            with pytest.raises(ValueError, match=r"^x: shape \(4, 5\)"):
                net.forward(X[:, :5])
        results.append((net.backward(np.ones_like(y)).tobytes(), content(net)))
    assert results[0] == results[1]


@pytest.mark.parametrize("call", ["backward", "parameter_gradients"])
def test_a_gradient_that_a_layer_in_the_middle_would_refuse_fills_no_grads(call: str) -> None:
    net = nn.Sequential(linear(6, 5), nn.ReLU(), linear(5, 3))
    y = net.forward(X)
    before = content(net)
    for dy, kind, message in (
        (np.ones_like(y, dtype=np.float64), TypeError, "^dy: dtype float64, expected float32$"),
        (y[:2], ValueError, r"^dy: shape \(2, 3\), expected \(4, 3\)$"),
        (y.tolist(), TypeError, "^dy: list, expected a numpy.ndarray$"),
    ):
        with pytest.raises(kind, match=message):
            getattr(net, call)(dy)
        assert content(net) == before
    getattr(net, call)(np.ones_like(y))
    assert content(net) != before


def test_a_setting_of_a_call_that_was_refused_is_not_that_of_backward() -> None:
    layer, dy = nn.Softmax(axis=0), X[::-1].copy()
    layer.forward(X)
    expected = layer.backward(dy).copy()
    layer.forward(X)
    layer.axis = 1
    with pytest.raises(ValueError, match=r"^x: "):
        layer.forward(X[:, ::2])
    layer.axis = 3
    with pytest.raises(ValueError, match=r"^axis: 3, "):
        layer.forward(X)
    assert np.array_equal(layer.backward(dy), expected)
