"""What an optimizer is made with may be assigned later, and is checked as it was then."""

from __future__ import annotations

from typing import Any

import gradstep as gs
import numpy as np
import pytest
from public_calls import argument
from wrong_values import wrong_values


def made(kind: type[gs.Optimizer]) -> gs.Optimizer:
    optimizer = kind([{"params": {"w": np.ones(3)}}, {"params": {"b": np.ones(2)}, "lr": 0.5}])
    optimizer.step([{"w": np.ones(3)}, {"b": np.ones(2)}])
    return optimizer


def keys_of(optimizer: gs.Optimizer) -> list[str]:
    fixed = ("params", "copy_to", "master", "state_dtype", "ema")  # hold from the constructor on
    return [key for key in type(optimizer)._defaults() if key not in fixed]


def test_wrong_values_of_attributes_and_groups(
    optimizer_class: type[gs.Optimizer], contents: Any
) -> None:
    optimizer = made(optimizer_class)
    for key in keys_of(optimizer):
        rule = argument(optimizer_class.__name__, key)
        wrong = [value for _, value in wrong_values(rule.make()) if not rule.takes(value)]
        assert len(wrong) > 50
        before = contents(optimizer)
        for value in wrong:
            with pytest.raises((TypeError, ValueError), match=f"^{key}: .*expected "):
                setattr(optimizer, key, value)
            if key in optimizer.param_groups[1]:
                with pytest.raises((TypeError, ValueError), match=f"^{key}: .*expected "):
                    optimizer.param_groups[1][key] = value
        assert contents(optimizer) == before


def test_a_right_value_holds_from_the_next_step_on(optimizer_class: type[gs.Optimizer]) -> None:
    optimizer = made(optimizer_class)
    optimizer.lr = 0.0
    before = [p.tobytes() for p in optimizer._arrays]
    assert optimizer.step([{"w": np.ones(3)}, {"b": np.ones(2)}]).lr == 0.0
    assert [p.tobytes() for p in optimizer._arrays] == before
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]


def test_attributes_are_not_deleted(optimizer_class: type[gs.Optimizer], contents: Any) -> None:
    optimizer = made(optimizer_class)
    before = contents(optimizer)
    for key in [*keys_of(optimizer), "state", "step_count", "unknown"]:
        with pytest.raises(AttributeError, match=rf"\.{key} cannot be deleted$"):
            delattr(optimizer, key)
    group = optimizer.param_groups[0]
    for change in (lambda: group.pop("lr"), lambda: group.clear(), lambda: group.popitem()):
        with pytest.raises(TypeError, match="a hyperparameter cannot be removed"):
            change()
    with pytest.raises(TypeError, match=r"^'lr': a hyperparameter cannot be removed$"):
        del group["lr"]
    assert contents(optimizer) == before


def test_unknown_names_are_told_what_was_meant(optimizer_class: type[gs.Optimizer]) -> None:
    optimizer = made(optimizer_class)
    name = optimizer_class.__name__
    for wrong, right in (
        ("learning_rate", "lr"),
        ("max_grad_norm", "clip_norm"),
        ("wd", "weight_decay"),
    ):
        with pytest.raises(
            AttributeError, match=f"^{name} has no attribute '{wrong}', .*'{right}'"
        ):
            setattr(optimizer, wrong, 1.0)
    with pytest.raises(KeyError, match="'learning_rate', expected one of maximize, l1"):
        optimizer.param_groups[0]["learning_rate"] = 1.0
    with pytest.raises(KeyError, match="'params', expected one of"):
        optimizer.param_groups[0]["params"] = []
    for read_only in ("state", "step_count", "param_groups"):
        with pytest.raises(AttributeError):
            setattr(optimizer, read_only, 1)


def test_a_change_of_several_groups_is_all_or_nothing() -> None:
    """A kernel that does not go with another hyperparameter is found when it is used."""
    optimizer = gs.SGD([np.ones(2)], momentum=0.9, nesterov=True)
    optimizer.dampening = 0.5
    before = optimizer._arrays[0].tobytes()
    with pytest.raises(ValueError, match="dampening"):
        optimizer.step([np.ones(2)])
    assert optimizer._arrays[0].tobytes() == before and optimizer.step_count == 0
    optimizer.dampening = 0.0
    assert optimizer.step([np.ones(2)]).step == 1
