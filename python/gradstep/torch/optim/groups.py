"""The hyperparameters in torch's groups as a formula takes them: numbers, pairs, flags."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Real
from operator import itemgetter
from typing import Any

import numpy as np
import torch

from gradstep.arguments import shown
from gradstep.optim.hyperparameters import RANGES, check_hyperparameter, check_range
from gradstep.optim.optimizer import OPTIONS
from gradstep.optim.optimizer import Optimizer as Formula

__all__ = [
    "KEPT",
    "Groups",
    "Option",
    "changes_in_place",
    "check_flags",
    "kept_as",
    "keys_of",
    "plain",
]

Group = Mapping[str, Any]
REFUSED = {
    "differentiable": "gradients through a step",
    "capturable": "capture into a CUDA graph",
}
FLAGS = ("foreach", "fused", *REFUSED)
CONSTANTS = (float, int, bool, str, type(None), np.number)
# How a group keeps its numbers: name -> what it is where the group does not tell.
KEPT: Group = {"master": None, "state_dtype": "float32", "ema": None, "seed": 0}


class Option:
    """An attribute of an optimizer that is checked whenever it is assigned."""

    def __init__(self, default: Any) -> None:
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name: str = name
        self.kept_as: str = f"_{name}"
        setattr(owner, self.kept_as, self.default)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else getattr(instance, self.kept_as)

    def __set__(self, instance: Any, value: Any) -> None:
        if callable(value):
            raise TypeError(f"{self.name}: a function, expected a value; assign it between steps")
        checked = check_hyperparameter(self.name, value, self.default)
        instance.__dict__[self.kept_as] = checked


class Groups:
    """Reads groups for a formula, and tells whether one has changed since."""

    def __init__(self, formula: type[Formula], torchs: Group, optional: Collection[str]) -> None:
        """torchs: the defaults of torch's class. What is among them every group must have, as torch
        would raise KeyError, but for `optional`; what only gradstep knows (`l1`, `clip_value`) may
        be missing.
        """
        keys = keys_of(formula)
        self.formula: type[Formula] = formula
        self.keys: list[str] = keys
        self.needed: list[str] = [key for key in keys if key in torchs and key not in optional]
        extra = [key for key in keys if key not in self.needed]
        self.extra: list[str] = [*extra, *KEPT]
        # Checked whenever they are read; torch's own only by its constructor, as in torch.
        self.own: Group = {key: formula.default(key) for key in extra if key in RANGES}
        self.fallbacks: list[Any] = [*map(formula.default, extra), *KEPT.values()]
        self._get: Callable[[Group], Any] = itemgetter(*self.needed)

    def values(self, groups: Sequence[Group]) -> list[tuple[Any, ...]]:
        """What the groups hold now. Raises KeyError for a key that torch's class needs too."""
        return [
            (*self._get(group), *map(group.get, self.extra, self.fallbacks)) for group in groups
        ]

    def read(self, groups: Sequence[Group]) -> list[dict[str, Any]]:
        """The hyperparameters of each. Raises KeyError, TypeError or ValueError."""
        keys = [*self.needed, *self.extra]
        found = []
        for number, (group, own) in enumerate(zip(groups, self.values(groups), strict=True)):
            where = f"param_groups[{number}]: "
            check_flags(group, where)
            given = dict(zip(keys, own, strict=True))
            default = self.formula.default
            values = {key: plain(f"{where}{key}", given[key], default(key)) for key in self.keys}
            for key, usual in self.own.items():
                if values[key] != usual and values[key] is not None:
                    check_range(key, values[key], f"{where}{key}")
            found.append(values)
        return found

    @staticmethod
    def kept(groups: Sequence[Group]) -> list[dict[str, Any]]:
        """How each keeps its arrays: `master`, `state_dtype`, `ema`, `seed`. Raises as `read`."""
        return [{key: kept_as(group, key) for key in KEPT} for group in groups]


def plain(name: str, value: Any, default: Any) -> Any:
    """A hyperparameter as numbers and flags of Python. Raises TypeError or ValueError."""
    if isinstance(default, bool):
        return _flag(name, value)
    if isinstance(default, tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(default):
            raise TypeError(f"{name}: {shown(value)}, expected {len(default)} numbers")
        return tuple(_number(v, name) for v in value)
    return None if value is None and default is None else _number(value, name)


def _flag(name: str, value: Any) -> bool:
    """As a truth value, which None and 0 are in torch's classes too."""
    if value is None or isinstance(value, (bool, int, np.bool_)):
        return bool(value)
    raise TypeError(f"{name}: {type(value).__name__}, expected True or False")


def kept_as(group: Group, key: str) -> Any:
    """One of `KEPT` as a group has it. Raises TypeError or ValueError."""
    return check_hyperparameter(key, group.get(key, KEPT[key]), KEPT[key])


def keys_of(formula: type[Formula]) -> list[str]:
    """The hyperparameters that a group has."""
    left_out = ("params", *OPTIONS, *KEPT)
    return [key for key in formula._defaults() if key not in left_out]


def check_flags(group: Group, where: str) -> None:
    for key in FLAGS:
        _flag(f"{where}{key}", group.get(key))
    for key, what in REFUSED.items():
        if group.get(key):
            raise ValueError(f"{where}{key}: True, expected False; for {what} use torch.optim")


def changes_in_place(values: Sequence[tuple[Any, ...]]) -> bool:
    """Whether one of the values can change and stay the same object, as tensors and lists do."""
    return any(not _is_constant(value) for own in values for value in own)


def _is_constant(value: Any) -> bool:
    return isinstance(value, CONSTANTS) or (
        isinstance(value, tuple) and all(map(_is_constant, value))
    )


def _number(value: Any, what: str) -> float:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        if int(np.prod(value.shape)) != 1:
            raise ValueError(f"{what}: shape {tuple(value.shape)}, expected one number")
        value = value.reshape(()).item()
    if isinstance(value, Real) and not isinstance(value, np.timedelta64):
        try:
            return float(value)
        except OverflowError:
            expected = "expected a number that floats can hold"
            raise ValueError(f"{what}: {shown(value)}, {expected}") from None
    if callable(value):
        raise TypeError(
            f"{what}: a function, expected a number; change it between steps, for instance by "
            "torch.optim.lr_scheduler.LambdaLR"
        )
    raise TypeError(f"{what}: {type(value).__name__}, expected a number")
