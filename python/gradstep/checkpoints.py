"""Loading an optimizer's state: all of it is verified, then all of it is taken over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gradstep.hyperparameters import check_hyperparameter, is_schedule

if TYPE_CHECKING:
    from gradstep.optimizer import Optimizer

__all__ = ["load_state"]

MAX_STEP = 2**62


def _entry(mapping: Any, key: Any, where: str) -> Any:
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{where}: {type(mapping).__name__}, expected a mapping")
    if key not in mapping:
        raise ValueError(f"{where}: no {key!r}")
    return mapping[key]


def _step(mapping: Any, where: str) -> int:
    step = _entry(mapping, "step", where)
    if isinstance(step, bool) or not isinstance(step, (int, np.integer)):
        raise TypeError(f"{where}['step']: {type(step).__name__}, expected an integer")
    if not 0 <= step <= MAX_STEP:
        raise ValueError(f"{where}['step']: {step}, expected 0 to 2**62")
    return int(step)


def _check_array(found: Any, expected: np.ndarray[Any, Any], where: str) -> None:
    if not isinstance(found, np.ndarray):
        raise TypeError(f"{where}: {type(found).__name__}, expected a numpy.ndarray")
    if isinstance(found, np.ma.MaskedArray):
        raise TypeError(f"{where}: a masked array, expected a plain numpy.ndarray")
    if found.dtype != expected.dtype:
        raise TypeError(f"{where}: dtype {found.dtype}, expected {expected.dtype}")
    if found.shape != expected.shape:
        raise ValueError(f"{where}: shape {found.shape}, expected {expected.shape}")


def load_state(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Verifies and takes over what `Optimizer.state_dict` gave."""
    kind = _entry(state_dict, "optimizer", "state_dict")
    if kind != type(optimizer).__name__:
        raise ValueError(f"state_dict: of {kind}, expected {type(optimizer).__name__}")
    count = _step(state_dict, "state_dict")
    hyper = _checked_groups(optimizer, _entry(state_dict, "param_groups", "state_dict"))
    saved = _entry(state_dict, "state", "state_dict")
    arrays, steps = _checked_state(optimizer, saved, hyper)
    optimizer._plan.steps = steps  # first: it refuses inside the checks of a step
    optimizer._plan.step_count = count
    for group, values in zip(optimizer._groups, hyper, strict=True):
        group._values.update(values)
    for key in hyper[0] if hyper else ():
        optimizer._changed(key)
    for i, own in enumerate(arrays):
        optimizer._states[i] = {name: _target(optimizer, i, name) for name in own}
        for name, array in own.items():
            optimizer._states[i][name][...] = array
    optimizer._stale, optimizer._kernels = True, []  # the next step makes a plan of all this


def _target(optimizer: Optimizer, i: int, name: str) -> np.ndarray[Any, Any]:
    """The state array to load into; a new one where the present hyperparameters need none."""
    present = optimizer._states[i].get(name)
    return np.zeros_like(optimizer._arrays[i], subok=False) if present is None else present


def _checked_groups(optimizer: Optimizer, saved: Any) -> list[dict[str, Any]]:
    groups = optimizer._groups
    if not isinstance(saved, (list, tuple)) or len(saved) != len(groups):
        raise ValueError(f"state_dict['param_groups']: expected a list of {len(groups)}")
    checked = []
    for number, (group, entry) in enumerate(zip(groups, saved, strict=True)):
        where = f"state_dict['param_groups'][{number}]"
        names = _entry(entry, "params", where)
        if not isinstance(names, (list, tuple)) or list(names) != group["params"]:
            raise ValueError(f"{where}['params']: {names}, expected {group['params']}")
        values = {}
        for key, value in entry.items():
            if key == "params":
                continue
            if key not in group:
                raise ValueError(f"{where}: unknown hyperparameter {key!r}")
            if not is_schedule(group[key]):
                values[key] = check_hyperparameter(key, value, optimizer.default(key))
        optimizer.kernel({**group, **values})  # raises for what does not go together
        checked.append(values)
    return checked


def _checked_state(
    optimizer: Optimizer, saved: Any, hyper: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[int]]:
    arrays: list[dict[str, Any]] = []
    steps: list[int] = []
    if not isinstance(saved, Mapping):
        raise TypeError(f"state_dict['state']: {type(saved).__name__}, expected a mapping")
    keys = [optimizer._key(i) for i in range(len(optimizer._arrays))]
    known = set(keys)
    for key in saved:
        if key not in known:
            raise ValueError(f"state_dict['state']: unknown parameter {key!r}")
    for i, key in enumerate(keys):
        where = f"state_dict['state'][{key!r}]"
        entry = _entry(saved, key, "state_dict['state']")
        number = optimizer._group_of[i]
        kernel = optimizer.kernel({**optimizer._groups[number], **hyper[number]})
        own = {}
        for name in optimizer.KERNELS[kernel]:
            own[name] = _entry(entry, name, where)
            _check_array(own[name], optimizer._arrays[i], f"{where}[{name!r}]")
        arrays.append(own)
        steps.append(_step(entry, where))
    return arrays, steps
