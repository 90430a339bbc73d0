"""Parameters in groups, each with hyperparameters of its own."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gradstep.arguments import kind
from gradstep.arrays import (
    Array,
    Name,
    Tree,
    as_array,
    check_names,
    flatten,
    is_branch,
    leaves_like,
    listed,
    skeleton,
)
from gradstep.optim.hyperparameters import FIXED, check_hyperparameter, likely

__all__ = ["Group", "Parameters", "arranged"]


class Owner(Protocol):
    """What a group needs of its optimizer."""

    def default(self, key: str) -> Any:
        """The default of a hyperparameter, which tells its kind."""

    def _changed(self, key: str) -> None:
        """Takes note of a change."""


class Group(MutableMapping[str, Any]):
    """The hyperparameters of some parameters, by name; a change holds from the next step on.

    "params" gives the names of the parameters and cannot be set. Setting raises KeyError for a name
    that is none of a hyperparameter, TypeError or ValueError for a value that cannot be, or for one
    that holds from when the optimizer was made on.
    """

    def __init__(self, values: Mapping[str, Any], names: Sequence[Name], owner: Owner) -> None:
        self._values: dict[str, Any] = {}
        self._names = tuple(names)
        self._optimizer = weakref.ref(owner)  # no cycle: arrays go when the optimizer goes
        for key, value in values.items():
            self._values[key] = check_hyperparameter(key, value, owner.default(key))

    def __getitem__(self, key: str) -> Any:
        return list(self._names) if key == "params" else self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in self._values:
            raise KeyError(f"{key!r}, expected one of {', '.join(self._values)}")
        if key in FIXED:
            raise ValueError(f"{key}: holds from when the optimizer was made on")
        owner = self._optimizer()
        if owner is None:
            raise ReferenceError("the optimizer of this group is gone")
        self._values[key] = check_hyperparameter(key, value, owner.default(key))
        owner._changed(key)

    def __delitem__(self, key: str) -> None:
        raise TypeError(f"{key!r}: a hyperparameter cannot be removed")

    def __iter__(self) -> Iterator[str]:
        yield "params"
        yield from self._values

    def __len__(self) -> int:
        return 1 + len(self._values)

    def __repr__(self) -> str:
        return repr(dict(self))


@dataclass(frozen=True)
class Parameters:
    """All arrays of an optimizer in order: name, array and number of the group of each.

    branches: how the params of each group branch; several: whether gradients come one per group.
    """

    names: list[Name]
    arrays: list[Array]
    group_of: list[int]
    branches: list[Tree]
    several: bool

    @property
    def shape(self) -> Tree:
        """How gradients are arranged."""
        return self.branches if self.several else self.branches[0]

    @property
    def flat(self) -> bool:
        """Whether gradients are a flat list."""
        return isinstance(self.shape, list) and not any(map(is_branch, self.shape))

    def of(self, group: int) -> list[Name]:
        """The names of a group's parameters."""
        return [name for name, g in zip(self.names, self.group_of, strict=True) if g == group]

    def copies(self, copy_to: Tree, own: Sequence[Tree]) -> list[Any]:
        """The array that gets a rounded copy of each parameter, None where there is none.

        copy_to: arranged like all params. own: those of the groups, each like the group's params.
        Raises TypeError or ValueError.
        """
        found: list[Any] = [None] * len(self.arrays)
        if copy_to is not None:
            found = leaves_like(self.shape, copy_to, "copy_to")
            found = [
                as_array(c, "copy_to", name) for c, name in zip(found, self.names, strict=True)
            ]
        for group, tree in enumerate(own):
            if tree is None:
                continue
            where = f"params[{group}]"
            places = [i for i, number in enumerate(self.group_of) if number == group]
            if any(found[i] is not None for i in places):
                raise ValueError(
                    f"{where}['copy_to']: given, and the optimizer's copy_to too, expected one of "
                    "them for a group"
                )
            for i, copy in zip(places, self.copies_of(group, tree, where), strict=True):
                found[i] = copy
        return found

    def copies_of(self, group: int, copy_to: Tree, where: str) -> list[Any]:
        """The same for the parameters of a group, which messages call `where`."""
        names = self.of(group)
        if copy_to is None:
            return [None] * len(names)
        argument, model = f"{where}['copy_to']", f"{where}['params']"
        found = leaves_like(self.branches[group], copy_to, argument, model)
        return [as_array(copy, "copy_to", name) for copy, name in zip(found, names, strict=True)]

    def added(self, params: Tree) -> Parameters:
        """These and those of one more group. Raises ValueError for a name that is there."""
        # Beside others an array needs a name; that of a lone one is its key in the state.
        before = [0 if name is None else name for name in self.names]
        params = listed(params)
        names, arrays = flatten(params, "params")
        if not isinstance(params, Mapping):
            names = list(range(len(before), len(before) + len(names)))
        check_names([*before, *names], "params")
        return Parameters(
            [*before, *names],
            [*self.arrays, *arrays],
            [*self.group_of, *[len(self.branches)] * len(arrays)],
            [*self.branches, skeleton(params)],
            several=True,
        )


def arranged(params: Tree, known: Sequence[str]) -> tuple[Parameters, list[dict[str, Any]]]:
    """The parameters, and the hyperparameters that their groups give; `known`: names of all.

    Raises TypeError or ValueError.
    """
    params = listed(params)
    grouped = (
        isinstance(params, (list, tuple))
        and len(params) > 0
        and all(isinstance(group, Mapping) and "params" in group for group in params)
    )
    if grouped:
        found = Parameters([], [], [], [], several=True)
        for entry in params:
            found = found.added(entry["params"])
        given = [given_by(entry, f"params[{i}]", known) for i, entry in enumerate(params)]
        return found, given
    names, arrays = flatten(params, "params")
    if not arrays:
        raise ValueError("params: no arrays, expected at least one")
    check_names(names, "params")
    return Parameters(names, arrays, [0] * len(arrays), [skeleton(params)], several=False), [{}]


def given_by(group: Any, where: str, known: Sequence[str]) -> dict[str, Any]:
    """The hyperparameters in a group's mapping. Raises TypeError or ValueError."""
    if not isinstance(group, Mapping):
        raise TypeError(f"{where}: {kind(group)}, expected a mapping with 'params'")
    if "params" not in group:
        raise ValueError(f"{where}: no 'params'")
    own = {key: value for key, value in group.items() if key != "params"}
    for key in own:
        if key not in known:
            what = f"{where}: unknown hyperparameter {key!r}"
            raise ValueError(f"{what}, expected {likely(key, known)}")
    return own
