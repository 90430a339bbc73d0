"""Loading a state: by name where there are names, options too, and all of it or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest

Contents = Callable[[gs.Optimizer], Any]
F4 = np.float32


def params(order: str = "ab") -> dict[str, Any]:
    shapes = {"a": (3, 2), "b": (4,)}
    rng = np.random.default_rng(0)
    drawn = {key: rng.standard_normal(shape).astype(F4) for key, shape in shapes.items()}
    return {key: drawn[key] for key in order}


def grads(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {key: rng.standard_normal(p.shape).astype(F4) for key, p in params().items()}


@pytest.mark.parametrize("saved_order", ["ab", "ba"])
@pytest.mark.parametrize("own_order", ["ab", "ba"])
def test_names_find_each_other(saved_order: str, own_order: str) -> None:
    first = gs.AdamW(params(saved_order))
    first.step(grads(1))
    weights = params(own_order)
    for key, array in zip(saved_order, first._arrays, strict=True):
        weights[key][...] = array
    other = gs.AdamW(weights)
    other.load_state_dict(first.state_dict())
    assert other.step(grads(2)) == first.step(grads(2))
    found = dict(zip(own_order, other._arrays, strict=True))
    for key, array in zip(saved_order, first._arrays, strict=True):
        assert found[key].tobytes() == array.tobytes()


def test_other_names_are_shown_in_short() -> None:
    many = {f"layer{i}.weight": np.zeros(2) for i in range(400)}
    first = gs.Adam(many)
    other = gs.Adam({**{f"block{i}": np.zeros(2) for i in range(300)}, **dict([*many.items()][:5])})
    with pytest.raises(ValueError) as caught:
        first.load_state_dict(other.state_dict())
    assert str(caught.value) == (
        "state_dict['param_groups'][0]['params']: no 'layer5.weight', 'layer6.weight', "
        "'layer7.weight' and 392 more, unknown 'block0', 'block1', 'block2' and 297 more, expected "
        "the 400 of this optimizer"
    )


def test_options_are_part_of_the_state() -> None:
    first = gs.SGD(np.zeros(2), clip_norm=2.0, grad_scale=0.5, on_nonfinite="skip")
    saved = first.state_dict()
    given = {"clip_norm": 2.0, "grad_scale": 0.5, "on_nonfinite": "skip"}
    assert saved["options"] == given
    other = gs.SGD(np.zeros(2))
    other.load_state_dict(saved)
    assert (other.clip_norm, other.grad_scale, other.on_nonfinite) == (2.0, 0.5, "skip")
    assert other.step(np.array([3.0, 4.0])).grad_norm == 2.5
    scheduled = gs.SGD(np.zeros(2), clip_norm=gs.constant(3.0))
    scheduled.load_state_dict(saved)
    assert scheduled.clip_norm == gs.constant(3.0) and scheduled.grad_scale == 0.5
    assert "clip_norm" not in scheduled.state_dict()["options"]
    del saved["options"]  # as saved before there were any
    kept = gs.SGD(np.zeros(2), clip_norm=7.0)
    kept.load_state_dict(saved)
    assert kept.clip_norm == 7.0


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (3, TypeError, "state_dict['options']: int, expected a mapping"),
        ({"lr": 1}, ValueError, "state_dict['options']: unknown hyperparameter 'lr'"),
        ({"clip_norm": -1}, ValueError, "clip_norm: -1, expected a number in (0, inf]"),
    ],
)
def test_bad_options_change_nothing(
    options: Any, kind: Any, message: str, contents: Contents
) -> None:
    optimizer = gs.SGD(np.zeros(2), clip_norm=2.0)
    before = contents(optimizer)
    with pytest.raises(kind) as caught:
        optimizer.load_state_dict({**optimizer.state_dict(), "options": options})
    assert str(caught.value) == message
    assert contents(optimizer) == before


def loaded_from(**options: Any) -> dict[str, Any]:
    other = gs.Adam(params(), lr=0.5, **options)
    for t in range(3):
        other.step(grads(t))
    return other.state_dict()


@pytest.mark.parametrize("number", range(2))
def test_without_memory_for_an_array_nothing_is_loaded(
    number: int, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = gs.Adam(params(), clip_norm=1.0)  # two new arrays: those of amsgrad
    optimizer.step(grads(1))
    saved, before, calls = loaded_from(amsgrad=True), contents(optimizer), []
    make = np.zeros_like

    def scarce(*arguments: Any, **keywords: Any) -> Any:
        calls.append(arguments)
        if len(calls) > number:
            raise MemoryError
        return make(*arguments, **keywords)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(np, "zeros_like", scarce)
        optimizer.load_state_dict(saved)
    assert len(calls) == number + 1 and contents(optimizer) == before
    optimizer.step(grads(2))


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="CPython's allocators")
def test_the_nth_request_for_memory_fails(contents: Contents) -> None:
    testing = pytest.importorskip("_testcapi")
    saved = loaded_from()
    failures = successes = number = 0
    while successes < 3:  # a failure in a place that copes with it is a success
        optimizer = gs.Adam(params(), clip_norm=1.0)
        optimizer.step(grads(1))
        before, failed = contents(optimizer), False
        testing.set_nomemory(number, number + 1)
        try:
            optimizer.load_state_dict(saved)
        except (MemoryError, RuntimeError):  # pybind11 says RuntimeError
            failed = True
        finally:
            testing.remove_mem_hooks()
        assert (contents(optimizer) == before) == failed, number
        failures, successes = failures + failed, 0 if failed else successes + 1
        number += 1
    assert failures > 100
