"""What a layer is given has its shape and type, or is refused by name; nothing is broadcast."""

from __future__ import annotations

from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import nn

F4 = np.float32
RNG = np.random.default_rng(0)


def of(*shape: int, dtype: Any = F4) -> Any:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=dtype).reshape(shape)


# Layer, shape that fits, that of y, and (x, error, message).
CASES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...], list[tuple[Any, Any, str]]]] = {
    "Linear": (
        lambda: nn.Linear(6, 3, RNG),
        (4, 6),
        (4, 3),
        [
            (of(6), ValueError, r"x: shape \(6,\), expected \(N, 6\)"),
            (of(4, 5), ValueError, r"x: shape \(4, 5\), expected \(N, 6\)"),
            (of(2, 4, 6), ValueError, r"x: shape \(2, 4, 6\), expected \(N, 6\)"),
            (np.ones((4, 6), int), TypeError, "x: dtype int64, expected float32 or float64"),
            (np.ma.array(of(4, 6)), TypeError, "x: a masked array, expected a plain"),
            ([[1.0] * 6], TypeError, r"x: list, expected a numpy\.ndarray"),
        ],
    ),
    "BatchNorm": (
        lambda: nn.BatchNorm(6),
        (4, 6),
        (4, 6),
        [
            (of(4, 5), ValueError, r"x: shape \(4, 5\), expected \(N, 6, \.\.\.\)"),
            (of(4, 6, dtype="f8"), TypeError, "x: dtype float64, expected float32"),
            (of(1, 6), ValueError, r"x: shape \(1, 6\), expected more than one value per channel"),
        ],
    ),
    "BatchNorm, channels last": (
        lambda: nn.BatchNorm(6, axis=-1),
        (4, 6),
        (4, 6),
        [(of(6), ValueError, r"x: shape \(6,\), expected \(\.\.\., N, 6\)")],
    ),
    "LayerNorm": (
        lambda: nn.LayerNorm(6),
        (4, 6),
        (4, 6),
        [(of(6, 4), ValueError, r"x: shape \(6, 4\), expected \(\.\.\., 6\)")],
    ),
    "Maxout": (
        lambda: nn.Maxout(3),
        (4, 6),
        (4, 2),
        [
            (of(4, 5), ValueError, r"x: shape \(4, 5\), expected a multiple of k = 3 columns"),
            (of(6), ValueError, r"x: shape \(6,\), expected \(N, kO, \.\.\.\)"),
        ],
    ),
    "PReLU": (
        lambda: nn.PReLU(6),
        (4, 6),
        (4, 6),
        [(of(4, 6, dtype="f8"), TypeError, "x: dtype float64, expected float32")],
    ),
    "Dropout": (lambda: nn.Dropout(0.5, 1), (4, 6), (4, 6), []),
    **{
        kind.__name__: (kind, (4, 6), (4, 6), [])
        for kind in nn.ACTIVATIONS.values()
        if kind not in (nn.Maxout, nn.PReLU)
    },
}
ANYWHERE = [
    (None, TypeError, r"x: NoneType, expected a numpy\.ndarray"),
    (1.0, TypeError, r"x: float, expected a numpy\.ndarray"),
    (np.array(1.0, F4), ValueError, r"x: shape \(\), expected \(.*N?.*\)"),
    (np.full((4, 6), "a"), TypeError, "x: dtype <U1, expected float32"),
]


def changes(layer: Any) -> list[bytes]:
    kept = [*layer.params.values(), *layer.grads.values(), *layer.buffers.values()]
    return [array.tobytes() for array in kept]


@pytest.mark.parametrize("name", CASES)
def test_x_that_does_not_fit(name: str) -> None:
    make, shape, y_shape, wrong = CASES[name]
    layer = make()
    assert layer.forward(of(*shape)).shape == y_shape
    before = changes(layer)
    for x, kind, message in [*wrong, *ANYWHERE]:
        with pytest.raises(kind, match=f"^{message}"):
            layer.forward(x)
        assert changes(layer) == before
    with pytest.raises(TypeError, match=r"^training: str, expected True or False$"):
        layer.forward(of(*shape), "yes")


@pytest.mark.parametrize("name", CASES)
def test_dy_that_does_not_fit(name: str) -> None:
    make, shape, y_shape, _ = CASES[name]
    layer = make()
    layer.forward(of(*shape))
    assert layer.backward(of(*y_shape)).shape == shape
    before = changes(layer)
    for dy in (of(*y_shape[1:]), of(1, *y_shape[1:]), of(*y_shape, 1), of(4, 7), of(1, 1)):
        for method in (layer.backward, *([layer.parameter_gradients] if layer.grads else [])):
            with pytest.raises(ValueError, match=rf"^dy: shape \({dy.shape[0]},.*expected \(4, "):
                method(dy)
            assert changes(layer) == before
    for dy, kind in ((None, "NoneType"), ([1.0], "list"), (2, "int")):
        with pytest.raises(TypeError, match=rf"^dy: {kind}, expected a numpy\.ndarray$"):
            layer.backward(dy)


def test_one_sample_is_not_broadcast_over_a_batch() -> None:
    layer = nn.Linear(64, 10, RNG)
    with pytest.raises(ValueError, match=r"^x: shape \(64,\), expected \(N, 64\)$"):
        layer.forward(of(64))
    assert layer.forward(of(1, 64)).shape == (1, 10)


@pytest.mark.parametrize("view", [lambda a: a[:, ::2], np.asfortranarray, lambda a: a[::-1]])
def test_strides(view: Any) -> None:
    """A product takes any; kernels of ours say what they take."""
    x = view(of(4, 12)) if view(of(4, 12)).shape[1] == 6 else view(of(4, 6))
    linear = nn.Linear(6, 3, np.random.default_rng(0))
    found = linear.forward(x).copy()
    assert np.allclose(found, linear.forward(x.copy()), rtol=1e-6, atol=1e-7)
    message = r"^x: shape \(4, 6\) with strides .*, expected C order; numpy\.ascontiguousarray"
    for layer in (nn.ReLU(), nn.BatchNorm(6), nn.Dropout(0.5, 1), nn.Softmax()):
        with pytest.raises(ValueError, match=message):
            layer.forward(x)


def test_a_matrix_is_its_memory() -> None:
    with pytest.warns(PendingDeprecationWarning):
        x, dy = np.asmatrix(of(4, 6)), np.asmatrix(of(4, 3))
    twins = [nn.Linear(6, 3, np.random.default_rng(0)) for _ in range(2)]
    results = [
        (layer.forward(a).tobytes(), layer.backward(b).tobytes(), changes(layer))
        for layer, a, b in zip(twins, (x, of(4, 6)), (dy, of(4, 3)), strict=True)
    ]
    assert results[0] == results[1]


def test_what_a_constructor_takes_is_an_attribute_that_is_checked() -> None:
    norm = nn.BatchNorm(6)
    norm.momentum, norm.eps = 0.5, 1e-3
    norm.forward(of(4, 6))
    expected = 0.5 * of(4, 6).mean(axis=0)
    assert np.allclose(norm.buffers["running_mean"], expected, atol=1e-6)
    for layer, name, value, kind, message in (
        (norm, "momentum", 2, ValueError, "momentum: 2, expected None or a number from 0 to 1"),
        (norm, "eps", "a", TypeError, "eps: str, expected a finite number >= 0"),
        (norm, "axis", 2, ValueError, "axis: 2, expected 1 (channels first) or -1 (channels last)"),
        (norm, "activation", "elu", ValueError, "activation: 'elu', expected 'relu'"),
        (norm, "channels", 3, AttributeError, "BatchNorm.channels cannot change"),
        (nn.Linear(2, 3, RNG), "outputs", 4, AttributeError, "Linear.outputs cannot change"),
        (nn.LeakyReLU(), "slope", None, TypeError, "slope: NoneType, expected a number"),
        (nn.GELU(), "approximate", "erf", ValueError, "approximate: 'erf', expected 'none' or"),
        (nn.Softmax(), "axis", 1.0, TypeError, "axis: float, expected an integer"),
        (nn.Maxout(), "k", 0, ValueError, "k: 0, expected an integer >= 1"),
        (nn.Dropout(0.5, 1), "p", 2, ValueError, "p: 2, expected a number in [0, 1]"),
        (gs.SpatialDropout(0.5, 1), "axis", None, TypeError, "axis: NoneType, expected an int"),
    ):
        before = getattr(layer, name)
        with pytest.raises(kind) as caught:
            setattr(layer, name, value)
        assert str(caught.value).startswith(message)
        assert getattr(layer, name) == before
        with pytest.raises(AttributeError):
            delattr(layer, name)


def test_backward_uses_what_forward_did() -> None:
    layer = nn.LeakyReLU(0.5)
    layer.forward(-np.ones((1, 2)))
    layer.slope = 0.25
    assert layer.backward(np.ones((1, 2))).tolist() == [[0.5, 0.5]]
    assert layer.forward(-np.ones((1, 2))).tolist() == [[-0.25, -0.25]]


@pytest.mark.parametrize("kind", gs.DROPOUTS.values(), ids=gs.DROPOUTS)
def test_a_dropout_goes_back_through_the_shape_it_had(kind: type[gs.Dropout]) -> None:
    drop = kind(0.5, seed=1)
    for training in (True, False):
        drop.forward(of(4, 6), training)
        for dy in (of(6), of(4, 5), F4(1)):
            with pytest.raises(ValueError, match=r"^dy: shape .*, expected \(4, 6\) as in x$"):
                drop.backward(dy)
    for x in (None, "abc", [1.0], np.ones(2, int)):
        with pytest.raises(TypeError, match=r"^x: "):
            drop.forward(x, training=False)
    assert drop.calls == 1
