"""The state dict of an optimizer, verified: all of it, before anything is taken over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradstep.arguments import entry, integer, mapping
from gradstep.arrays import Array
from gradstep.optim.hyperparameters import check_hyperparameter, is_schedule

__all__ = ["Expected", "Loaded", "verify"]

MAX_STEP = 2**62


class Expected(NamedTuple):
    """What a state must fit.

    groups: hyperparameters and names. parameters: key, number of the group, array. kernel, default:
    those of the optimizer's class. kernels: names of the state arrays, by kernel.
    """

    optimizer: str
    groups: Sequence[Mapping[str, Any]]
    parameters: Sequence[tuple[str | int, int, Array]]
    kernel: Callable[[Mapping[str, Any]], str]
    default: Callable[[str], Any]
    kernels: Mapping[str, Sequence[str]]


class Loaded(NamedTuple):
    """A state that fits: steps taken, hyperparameters by group, state arrays and steps by array."""

    step: int
    groups: list[dict[str, Any]]
    arrays: list[dict[str, Array]]
    steps: list[int]


def verify(state_dict: Any, expected: Expected) -> Loaded:
    """What `Optimizer.state_dict` gave, checked. Raises TypeError or ValueError."""
    kind = entry(state_dict, "optimizer", "state_dict")
    if kind != expected.optimizer:
        raise ValueError(f"state_dict: of {kind}, expected {expected.optimizer}")
    count = _step(state_dict, "state_dict")
    groups = _groups(entry(state_dict, "param_groups", "state_dict"), expected)
    saved = entry(state_dict, "state", "state_dict")
    return Loaded(count, groups, *_state(saved, groups, expected))


def _step(of: Any, where: str) -> int:
    return integer(f"{where}['step']", entry(of, "step", where), 0, MAX_STEP)


def _check_array(found: Any, expected: np.ndarray[Any, Any], where: str) -> None:
    if not isinstance(found, np.ndarray):
        raise TypeError(f"{where}: {type(found).__name__}, expected a numpy.ndarray")
    if isinstance(found, np.ma.MaskedArray):
        raise TypeError(f"{where}: a masked array, expected a plain numpy.ndarray")
    if found.dtype != expected.dtype:
        raise TypeError(f"{where}: dtype {found.dtype}, expected {expected.dtype}")
    if found.shape != expected.shape:
        raise ValueError(f"{where}: shape {found.shape}, expected {expected.shape}")


def _groups(saved: Any, expected: Expected) -> list[dict[str, Any]]:
    groups = expected.groups
    if not isinstance(saved, (list, tuple)) or len(saved) != len(groups):
        raise ValueError(f"state_dict['param_groups']: expected a list of {len(groups)}")
    checked = []
    for number, (group, found) in enumerate(zip(groups, saved, strict=True)):
        where = f"state_dict['param_groups'][{number}]"
        names = entry(found, "params", where)
        if not isinstance(names, (list, tuple)) or list(names) != group["params"]:
            raise ValueError(f"{where}['params']: {names}, expected {group['params']}")
        values = {}
        for key, value in found.items():
            if key == "params":
                continue
            if key not in group:
                raise ValueError(f"{where}: unknown hyperparameter {key!r}")
            if not is_schedule(group[key]):
                values[key] = check_hyperparameter(key, value, expected.default(key))
        expected.kernel({**group, **values})  # raises for what does not go together
        checked.append(values)
    return checked


def _state(
    saved: Any, groups: list[dict[str, Any]], expected: Expected
) -> tuple[list[dict[str, Array]], list[int]]:
    arrays: list[dict[str, Array]] = []
    steps: list[int] = []
    mapping("state_dict['state']", saved)
    known = {key for key, _, _ in expected.parameters}
    for key in saved:
        if key not in known:
            raise ValueError(f"state_dict['state']: unknown parameter {key!r}")
    for key, number, array in expected.parameters:
        where = f"state_dict['state'][{key!r}]"
        found = entry(saved, key, "state_dict['state']")
        kernel = expected.kernel({**expected.groups[number], **groups[number]})
        own = {}
        for name in expected.kernels[kernel]:
            own[name] = entry(found, name, where)
            _check_array(own[name], array, f"{where}[{name!r}]")
        arrays.append(own)
        steps.append(_step(found, where))
    return arrays, steps
