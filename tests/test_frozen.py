"""Arrays that were writable when they were given and are frozen, resized or moved since.

NumPy lets their owner do that while others hold them. Every door refuses before it writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import nn, train

F32 = np.float32
OTHER = "other memory, size or dtype than when it was given, expected the same"
CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "frozen": (lambda a: a.setflags(write=False), "read-only, expected a writable array"),
    "shrunk": (lambda a: a.resize(3, refcheck=False), OTHER),
    "moved": (lambda a: a.resize(1 << 20, refcheck=False), OTHER),
}
DOORS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "step": lambda opt, grads, saved: opt.step(grads),
    "bound step": lambda opt, grads, saved: opt.step(),
    "reference_step": lambda opt, grads, saved: opt.reference_step(grads),
    "bind": lambda opt, grads, saved: opt.bind(grads),
    "load": lambda opt, grads, saved: opt.load_state_dict(saved[0]),
    "load with another kernel": lambda opt, grads, saved: opt.load_state_dict(saved[1]),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("door", DOORS)
def test_parameters(door: str, change: str) -> None:
    params, grads = [np.zeros(5, F32), np.zeros(5, F32)], [np.ones(5, F32), np.ones(5, F32)]
    opt = gs.Adam(params)
    opt.bind(grads)
    opt.step()
    saved = []
    for amsgrad in (False, True):
        other = gs.Adam([a.copy() for a in params], lr=0.5, amsgrad=amsgrad)
        other.step(grads)
        saved.append(other.state_dict())
    act, message = CHANGES[change]
    act(params[1])

    def all_of_it() -> Any:
        states = [(key, a.tobytes()) for own in opt._states for key, a in own.items()]
        groups = [dict(group) for group in opt.param_groups]
        return [a.tobytes() for a in params], states, opt.step_count, opt._plan.steps, groups

    before = all_of_it()
    with pytest.raises(ValueError) as caught:
        DOORS[door](opt, grads, saved)
    assert str(caught.value) == f"params[1]: {message}"
    assert all_of_it() == before


def test_copies_in_another_type() -> None:
    params, grads = [np.zeros(5, F32), np.zeros(5, F32)], [np.ones(5, F32), np.ones(5, F32)]
    copies = [np.zeros(5, np.float16), np.zeros(5, np.float16)]
    opt = gs.SGD(params, lr=1.0, copy_to=copies)
    opt.step(grads)
    assert (copies[1] == -1).all()
    copies[1].flags.writeable = False
    with pytest.raises(ValueError, match=r"^copy_to\[1\]: read-only, expected a writable array$"):
        opt.step(grads)
    assert all((a == -1).all() for a in (*params, *copies)) and opt.step_count == 1


def test_parameters_that_are_writable_again() -> None:
    w = np.zeros(5, F32)
    opt = gs.SGD(w, lr=1.0)
    w.flags.writeable = False
    with pytest.raises(ValueError, match=r"^params: read-only"):
        opt.step(np.ones(5, F32))
    w.flags.writeable = True
    opt.step(np.ones(5, F32))
    assert (w == -1).all()


@pytest.mark.parametrize("bad", [False, True])
def test_bound_gradients_that_are_to_be_zeroed(bad: bool) -> None:
    params, grads = [np.zeros(5, F32), np.zeros(5, F32)], [np.ones(5, F32), np.ones(5, F32)]
    opt = gs.SGD(params, lr=1.0, on_nonfinite="skip")
    opt.bind(grads)
    opt.step(zero_grads=True)
    grads[0][:] = np.nan if bad else 1
    grads[1].flags.writeable = False
    before = [a.tobytes() for a in (*params, *grads)]
    with pytest.raises(ValueError, match=r"^grads\[1\]: read-only, expected a writable array$"):
        opt.step(zero_grads=True)
    assert [a.tobytes() for a in (*params, *grads)] == before and opt.step_count == 1


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda a: gs.clip_norm_(a, 0.1), "grads"),
        (lambda a: gs.clip_value_(a, 0.1), "grads"),
        (lambda a: gs.ewma_(a, [x * 2 for x in a], 0.5), "average"),
        (lambda a: gs.ewma_([x * 2 for x in a], a, 0.5, step=1, out=a), "out"),
    ],
)
def test_trees_of_arrays(call: Any, name: str) -> None:
    arrays = [np.ones(5, F32), np.ones(5, F32)]
    arrays[1].flags.writeable = False
    with pytest.raises(ValueError, match=rf"^{name}\[1\]: read-only, expected a writable array$"):
        call(arrays)
    assert all((a == 1).all() for a in arrays)


@pytest.mark.parametrize("name", ["running_mean", "running_var", "num_batches_tracked"])
def test_running_statistics_of_a_layer(name: str) -> None:
    layer = nn.BatchNorm(3)
    x = np.linspace(0, 1, 12, dtype=F32).reshape(4, 3)
    layer.forward(x)
    layer.buffers[name].flags.writeable = False
    before = {key: a.tobytes() for key, a in layer.buffers.items()}
    with pytest.raises(ValueError, match=rf"^{name}: read-only, expected a writable array$"):
        layer.forward(x)
    assert {key: a.tobytes() for key, a in layer.buffers.items()} == before
    layer.forward(x, training=False)


def test_a_layer_that_takes_a_state() -> None:
    layer, other = nn.BatchNorm(3), nn.BatchNorm(3)
    other.forward(np.linspace(0, 1, 12, dtype=F32).reshape(4, 3))
    layer.buffers["running_var"].flags.writeable = False
    before = {key: a.tobytes() for key, a in layer.state_dict().items()}
    with pytest.raises(ValueError, match=r"^running_var: read-only, expected a writable array$"):
        layer.load_state_dict(other.state_dict())
    assert {key: a.tobytes() for key, a in layer.state_dict().items()} == before


def test_averages_that_are_swapped_in() -> None:
    weights = {"a": np.ones(3, F32), "b": np.ones(3, F32)}
    average = train.EMA(weights, 0.5)
    weights["a"][:] = 3
    average.update()
    weights["b"].flags.writeable = False
    with pytest.raises(ValueError, match=r"^b: read-only, expected a writable array$"):
        average.swap()
    assert (weights["a"] == 3).all() and (weights["b"] == 1).all()
