"""What dropout refuses: by name, before a byte is written. What its layers count and keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import folded

F4 = np.float32
SHAPE = (4, 3, 5)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(gs, name)
    for layer in ("dropout", "drop_connect", "spatial_dropout", "drop_path", "alpha_dropout")
    for name in (layer, f"{layer}_backward")
}


def argument(name: str) -> str:
    return "dy" if name.endswith("_backward") else "weight" if name == "drop_connect" else "x"


def good() -> Any:
    return np.arange(60, dtype=F4).reshape(SHAPE)


def read_only() -> Any:
    array = good()
    array.flags.writeable = False
    return array


ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([1.0], TypeError, "list, expected a numpy.ndarray"),
    "integers": (
        np.ones(SHAPE, np.int32),
        TypeError,
        "dtype <i4 (int32), expected native float32, float64, bfloat16 or float16",
    ),
    "strided": (
        np.ones((4, 3, 10), F4)[:, :, ::2],
        ValueError,
        "shape (4, 3, 5) with strides (120, 40, 8), expected a contiguous array in C order",
    ),
    "F order": (
        np.asfortranarray(good()),
        ValueError,
        "F order, expected C order",
    ),
    "masked": (
        np.ma.array(good()),
        TypeError,
        "a masked array, expected a plain numpy.ndarray",
    ),
}
OUTS: dict[str, tuple[Any, type[Exception], str]] = {
    "list": ([1.0], TypeError, "list, expected a numpy.ndarray"),
    "read-only": (read_only(), ValueError, "read-only, expected a writable array"),
    "other type": (np.ones(SHAPE), TypeError, "dtype float64, expected float32 as in {}"),
    "other shape": (
        np.ones((4, 5, 3), F4),
        ValueError,
        "shape (4, 5, 3), expected (4, 3, 5) as in {}",
    ),
    "F order": (
        np.asfortranarray(good()),
        ValueError,
        "F order, expected C order as in {}",
    ),
}
NUMBER = "p: {}, expected a number in [0, 1]"
WORD = "{}: {}, expected an integer from 0 to 2**64 - 1"
NUMBERS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"p": -0.1}, ValueError, NUMBER.format(-0.1)),
    ({"p": 1.5}, ValueError, NUMBER.format(1.5)),
    ({"p": float("nan")}, ValueError, NUMBER.format("nan")),
    ({"p": 10**400}, ValueError, NUMBER.format(10**400)),
    ({"p": "0.5"}, TypeError, "p: str, expected a number"),
    ({"p": True}, TypeError, "p: bool, expected a number"),
    ({"p": None}, TypeError, "p: NoneType, expected a number"),
    ({"p": np.ones(1)}, TypeError, "p: ndarray, expected a number"),
    ({"seed": -1}, ValueError, WORD.format("seed", -1)),
    ({"seed": 2**64}, ValueError, WORD.format("seed", 2**64)),
    ({"seed": 1.0}, TypeError, "seed: float, expected an integer"),
    ({"seed": None}, TypeError, "seed: NoneType, expected an integer"),
    ({"seed": True}, TypeError, "seed: bool, expected an integer"),
    ({"offset": -(2**70)}, ValueError, WORD.format("offset", -(2**70))),
    ({"offset": 2**64}, ValueError, WORD.format("offset", 2**64)),
    ({"offset": "1"}, TypeError, "offset: str, expected an integer"),
]


def refused(kind: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    assert str(caught.value) == message


@folded("case", ARRAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_that_do_not_fit(name: str, case: str) -> None:
    array, kind, message = ARRAYS[case]
    out = good()
    refused(
        kind,
        f"{argument(name)}: {message}",
        lambda: FUNCTIONS[name](array, 0.5, seed=1, out=out),
    )
    assert out.tobytes() == good().tobytes()


@folded("case", OUTS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_results_that_do_not_fit(name: str, case: str) -> None:
    out, kind, message = OUTS[case]
    before = np.array(out).tobytes()
    refused(
        kind,
        f"out: {message.format(argument(name))}",
        lambda: FUNCTIONS[name](good(), 0.5, seed=1, out=out),
    )
    assert np.array(out).tobytes() == before


@pytest.mark.parametrize("name", FUNCTIONS)
def test_partial_overlap(name: str) -> None:
    memory = np.ones(200, F4)
    x, out = memory[:60].reshape(SHAPE), memory[30:90].reshape(SHAPE)
    message = "out: overlaps {0}, expected memory of its own or exactly {0}".format(argument(name))
    refused(ValueError, message, lambda: FUNCTIONS[name](x, 0.5, seed=1, out=out))
    assert (memory == 1).all()


@folded(("bad", "kind", "message"), NUMBERS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_out_of_range(name: str, bad: Any, kind: Any, message: str) -> None:
    x = good()
    numbers = {"p": 0.5, "seed": 1, "offset": 0} | bad
    refused(kind, message, lambda: FUNCTIONS[name](x, **numbers, out=x))
    assert x.tobytes() == good().tobytes()
    refused(kind, message, lambda: gs.dropout_mask(3, **numbers))


def test_numpy_numbers_are_numbers() -> None:
    x = good()
    plain = gs.dropout(x, 0.5, seed=7, offset=2**63)
    found = gs.dropout(x, np.float32(0.5), seed=np.int32(7), offset=np.uint64(2**63))
    assert plain.tobytes() == found.tobytes()


@pytest.mark.parametrize("function", [gs.spatial_dropout, gs.spatial_dropout_backward])
def test_axis_of_the_channels(function: Any) -> None:
    x = good()
    for axis in (0, -3, 3, -4, 10**30):
        message = (
            f"axis: {axis}, expected the axis of the channels, 1 to 2 or negative, not that of the "
            "samples"
        )
        refused(ValueError, message, lambda axis=axis: function(x, 0.5, seed=1, axis=axis, out=x))
    for axis in (1.0, "1", True):
        message = f"axis: {type(axis).__name__}, expected an integer"
        refused(TypeError, message, lambda axis=axis: function(x, 0.5, seed=1, axis=axis, out=x))
    assert x.tobytes() == good().tobytes()


def test_too_few_dimensions() -> None:
    message = "x: shape (60,), expected at least 2 dimensions (samples, channels)"
    refused(ValueError, message, lambda: gs.spatial_dropout(np.ones(60), 0.5, seed=1))
    message = "dy: shape (), expected at least 1 dimension (samples)"
    refused(ValueError, message, lambda: gs.drop_path_backward(np.ones(()), 0.5, seed=1))
    assert gs.dropout(np.ones(()), 0.0, seed=1) == 1


def test_shapes_of_masks() -> None:
    for shape in ("a", 1.5, (2, 1.5), None):
        message = f"shape: {shape!r}, expected an integer or a tuple of integers"
        refused(TypeError, message, lambda shape=shape: gs.dropout_mask(shape, 0.5, seed=1))
    for shape in (-1, (2, -3)):
        message = f"shape: {shape!r}, expected sizes >= 0"
        refused(ValueError, message, lambda shape=shape: gs.dropout_mask(shape, 0.5, seed=1))
    message = "packed: int, expected True or False"
    refused(TypeError, message, lambda: gs.dropout_mask(3, 0.5, seed=1, packed=1))  # type: ignore


@pytest.fixture(params=gs.DROPOUTS)
def layer(request: Any) -> gs.Dropout:
    return gs.DROPOUTS[request.param](0.5, 12)


def function_of(layer: gs.Dropout) -> tuple[Callable[..., Any], Callable[..., Any]]:
    names = {
        "Dropout": "dropout",
        "DropConnect": "drop_connect",
        "SpatialDropout": "spatial_dropout",
        "DropPath": "drop_path",
        "AlphaDropout": "alpha_dropout",
    }
    name = names[type(layer).__name__]
    return FUNCTIONS[name], FUNCTIONS[f"{name}_backward"]


def test_call_n_uses_offset_n_and_backward_follows_it(layer: gs.Dropout) -> None:
    forward, backward = function_of(layer)
    for call in range(5):
        assert layer.calls == call
        assert (layer(good()) == forward(good(), 0.5, seed=12, offset=call)).all()
        assert (layer.backward(good()) == backward(good(), 0.5, seed=12, offset=call)).all()
    out = np.empty(SHAPE, F4)
    assert layer.forward(good(), out=out) is out and layer.backward(good(), out=out) is out
    assert (out == backward(good(), 0.5, seed=12, offset=5)).all()


def test_nothing_happens_at_inference(layer: gs.Dropout) -> None:
    x, out = good(), np.empty(SHAPE, F4)
    assert layer(x, training=False) is x and layer.backward(x) is x
    assert layer(x, training=False, out=out) is out
    assert out.tobytes() == x.tobytes() == good().tobytes()
    assert layer.backward(x + 1, out=out) is out and (out == x + 1).all()
    assert layer.calls == 0


def test_a_refused_call_is_not_counted(layer: gs.Dropout) -> None:
    layer(good())
    expected = layer.backward(good())
    with pytest.raises(TypeError, match=r"list, expected a numpy\.ndarray"):
        layer([1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="training: int, expected True or False"):
        layer(good(), 1)  # type: ignore[arg-type]
    assert layer.calls == 1 and (layer.backward(good()) == expected).all()


def test_a_new_p_counts_from_the_next_forward_call(layer: gs.Dropout) -> None:
    layer(good())
    expected = layer.backward(good())
    layer.p = 0.0
    assert (layer.backward(good()) == expected).all()
    assert layer(good()).tobytes() == good().tobytes()
    refused(ValueError, NUMBER.format(2), lambda: setattr(layer, "p", 2))
    assert layer.p == 0.0


def test_backward_needs_a_forward_call(layer: gs.Dropout) -> None:
    refused(
        RuntimeError,
        "backward: called before forward",
        lambda: layer.backward(good()),
    )


def test_state_goes_on_where_it_was(layer: gs.Dropout) -> None:
    for _ in range(3):
        layer(good())
    other = type(layer)(0.1, 0)
    other.load_state_dict(layer.state_dict())
    assert repr(other) == repr(layer) == f"{type(layer).__name__}(p=0.5, seed=12, calls=3)"
    assert (other(good()) == layer(good())).all()
    assert other.state_dict() == layer.state_dict()


STATE_ERRORS: list[tuple[Any, type[Exception], str]] = [
    ({"layer": "Other"}, ValueError, "state_dict['layer']: 'Other', expected '{}'"),
    ({"stream": 2}, ValueError, "state_dict['stream']: 2, expected 1"),
    ({"p": 3}, ValueError, NUMBER.format(3)),
    ({"seed": -1}, ValueError, WORD.format("seed", -1)),
    ({"calls": -1}, ValueError, "calls: -1, expected an integer >= 0"),
    ({"calls": 1.0}, TypeError, "calls: float, expected an integer"),
    ({"calls": True}, TypeError, "calls: bool, expected an integer"),
]


@pytest.mark.parametrize(("bad", "kind", "message"), STATE_ERRORS)
def test_bad_state_changes_nothing(layer: gs.Dropout, bad: Any, kind: Any, message: str) -> None:
    layer(good())
    before, expected = layer.state_dict(), layer.backward(good())
    state = type(layer)(0.25, 99).state_dict() | bad
    refused(kind, message.format(type(layer).__name__), lambda: layer.load_state_dict(state))
    assert layer.state_dict() == before and (layer.backward(good()) == expected).all()


def test_incomplete_state() -> None:
    layer = gs.Dropout(0.5, 1)
    for key in layer.state_dict():
        state = {k: v for k, v in layer.state_dict().items() if k != key}
        refused(
            ValueError, f"state_dict: no {key!r}", lambda state=state: layer.load_state_dict(state)
        )
    refused(
        TypeError,
        "state_dict: list, expected a mapping",
        lambda: layer.load_state_dict([]),  # type: ignore[arg-type]
    )


def test_the_last_call_of_all() -> None:
    layer = gs.Dropout(0.5, 1)
    layer.load_state_dict(layer.state_dict() | {"calls": 2**64 - 1})
    assert (layer(good()) == gs.dropout(good(), 0.5, seed=1, offset=2**64 - 1)).all()
    refused(ValueError, f"calls: {2**64}, expected at most 2**64 - 1", lambda: layer(good()))


def test_layers_check_their_numbers(layer: gs.Dropout) -> None:
    for bad, kind, message in NUMBERS:
        if "offset" not in bad:
            numbers = {"p": 0.5, "seed": 1} | bad
            refused(kind, message, lambda numbers=numbers: type(layer)(**numbers))
