"""Groups that join later: as if they had been there, with a state that begins now."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from cases import label, variants

Contents = Callable[[gs.Optimizer], Any]
Refused = Callable[..., Any]
F4 = np.float32


def good(shape: Any = (2, 3), seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(F4)


@pytest.mark.parametrize(("name", "options"), list(variants()), ids=label)
def test_an_added_group_is_like_one_from_the_start(
    name: str, options: Any, contents: Contents
) -> None:
    cls = gs.OPTIMIZERS[name]
    lr = 0.5
    both = cls([{"params": good()}, {"params": [good(5, 1)], "lr": lr}], **options)
    later = cls([{"params": good()}], **options)
    later.add_param_group({"params": [good(5, 1)], "lr": lr})
    for t in range(3):
        grads = [good(seed=10 + t), [good(5, seed=20 + t)]]
        assert both.step(grads) == later.step(grads)
    assert contents(both)[:2] == contents(later)[:2]
    assert both.state_dict()["param_groups"] == later.state_dict()["param_groups"]
    later.load_state_dict(both.state_dict())


def test_state_and_steps_of_the_others_stay(contents: Contents) -> None:
    alone, joined = gs.Adam(good(), lr=0.1), gs.Adam(good(), lr=0.1)
    for optimizer in (alone, joined):
        optimizer.step(good(seed=1))
    moments = joined.state[0]["exp_avg"]
    joined.add_param_group({"params": {"new": good(4)}})
    assert joined.state[0]["exp_avg"].ctypes.data == moments.ctypes.data
    assert [s["step"] for s in joined.state_dict()["state"].values()] == [1, 0]
    alone.step(good(seed=2))
    joined.step([good(seed=2), {"new": good(4, 3)}])
    assert contents(alone)[0][0] == contents(joined)[0][0]
    fresh = gs.Adam({"new": good(4)}, lr=0.1)
    fresh.step({"new": good(4, 3)})
    assert contents(fresh)[0] == contents(joined)[0][1:]  # its own step 1


def test_names_and_groups_held_before() -> None:
    optimizer = gs.SGD([good(), good(4)], lr=1.0)
    first = optimizer.param_groups[0]
    optimizer.lr = 0.25
    optimizer.add_param_group({"params": iter([good(5)])})
    optimizer.add_param_group({"params": {"head": good(6)}, "lr": 2.0})
    assert [g["params"] for g in optimizer.param_groups] == [[0, 1], [2], ["head"]]
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.25, 2.0]
    assert optimizer.param_groups[0] is first
    first["lr"] = 0.0
    assert optimizer.lr == 0.0 and optimizer.step([[None, None], [None], {"head": None}]).lr == 0.0


def test_buffers_are_bound_anew() -> None:
    w, g = good(), good(seed=1)
    optimizer = gs.SGD(w)
    optimizer.bind(g)
    optimizer.add_param_group({"params": good(4)})
    with pytest.raises(
        ValueError, match=r"^grads: None, expected arrays, or buffers given to bind"
    ):
        optimizer.step()
    optimizer.bind([g, good(4)])
    assert optimizer.step().step == 1
    assert copy.deepcopy(optimizer).step([g, good(4)]).step == 2


W = good()
BAD: list[tuple[Any, type[Exception], str]] = [
    (3, TypeError, "group: int, expected a mapping with 'params'"),
    ({"lr": 1}, ValueError, "group: no 'params'"),
    (
        {"params": good(4), "rate": 1},
        ValueError,
        "group: unknown hyperparameter 'rate', expected 'lr'",
    ),
    ({"params": good(4), "lr": -1}, ValueError, "lr: -1, expected a number in [0, inf)"),
    ({"params": [3]}, TypeError, "params[1]: int, expected a numpy.ndarray"),
    ({"params": W}, ValueError, "params[1]: the same memory as params['w']"),
    ({"params": {"w": good(4)}}, ValueError, "params['w']: two arrays of this name, expected one"),
    (
        {"params": good(4), "nesterov": True},
        ValueError,
        "nesterov: True, expected a momentum > 0 with it",
    ),
]


@pytest.mark.parametrize(("group", "kind", "message"), BAD)
def test_a_bad_group_changes_nothing(
    group: Any, kind: Any, message: str, contents: Contents
) -> None:
    optimizer = gs.SGD({"w": W})
    optimizer.bind({"w": good(seed=1)})
    before = contents(optimizer)
    with pytest.raises(kind) as caught:
        optimizer.add_param_group(group)
    assert str(caught.value).startswith(message)
    assert contents(optimizer) == before
    assert optimizer.step().step == 1
