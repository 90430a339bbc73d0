"""A native plan over the memory of torch's tensors, and whether it still fits them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from gradstep import _core
from gradstep.arrays import Array
from gradstep.optim.optimizer import OPTIONS
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.torch.optim.memory import (
    array_of,
    check_gradient,
    check_like,
    check_parameter,
    same_layout,
)

__all__ = ["Binding", "Member", "check_parameters", "keys_of"]

State = dict[str, Any]
NO_STATE: State = {}
# States that are one number of a tensor, and their first value.
NUMBERS = {"step": 0.0, "mu_product": 1.0}

is_neg = torch.Tensor.is_neg


@dataclass(frozen=True)
class Member:
    """A parameter that takes part in steps."""

    parameter: Any
    position: int  # among all parameters
    group: int
    name: str  # in messages

    @property
    def label(self) -> str:
        return f"params[{self.name!r}]"


class Binding:
    """The plan of some parameters: those that have had a gradient."""

    def __init__(
        self,
        members: Sequence[Member],
        params: list[Any],
        state: Mapping[Any, State],
        formula: type[Formula],
        kernels: list[str],
        numbers: Sequence[str],
        defaults: Mapping[str, Any],
    ) -> None:
        """Checks everything and changes nothing; `commit` enters new arrays into the state."""
        self.members, self.kernels = members, kernels
        self.parameters = [member.parameter for member in members]
        self.params, self.everyone = params, len(members) == len(params)
        self.positions = [member.position for member in members]
        self.group_of = np.array([member.group for member in members], dtype=np.intp)
        inside = set(self.positions)
        self.outside = [i for i in range(len(params)) if i not in inside]
        self.flat = any(not p.is_contiguous() for p in self.parameters)
        self._take_state(state, formula, numbers, defaults)
        scalars = formula._scalars({key: formula.default(key) for key in keys_of(formula)}, 1)
        groups = [(kernel, list(scalars)) for kernel in kernels]
        tensors = [
            (member.name, member.group, array_of(member.parameter), *map(array_of, own))
            for member, own in zip(members, self.arrays, strict=True)
        ]
        self.plan = _core.Plan(groups, tensors)
        self.plan.steps = self._first_steps(state)

    def _take_state(
        self,
        state: Mapping[Any, State],
        formula: type[Formula],
        numbers: Sequence[str],
        defaults: Mapping[str, Any],
    ) -> None:
        self.arrays: list[list[Any]] = []
        self.names = [formula.KERNELS[self.kernels[member.group]] for member in self.members]
        for member, names in zip(self.members, self.names, strict=True):
            own = state.get(member.parameter, NO_STATE)
            self.arrays.append(
                [state_array(own, name, member, formula, defaults) for name in names]
            )
        kind = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        self.numbers: dict[str, Any] = {}
        for name in numbers:
            values = [
                float(state.get(p, NO_STATE).get(name, NUMBERS[name])) for p in self.parameters
            ]
            self.numbers[name] = torch.tensor(values, dtype=kind)
        self.counts: Array | None = self.numbers["step"].numpy() if self.numbers else None

    def _first_steps(self, state: Mapping[Any, State]) -> list[int]:
        if self.counts is not None:
            return [int(count) for count in self.counts]
        # Only whether it is 0 matters: the first gradient enters a momentum buffer undampened.
        return [
            int(any(state.get(member.parameter, NO_STATE).get(name) is not None for name in names))
            for member, names in zip(self.members, self.names, strict=True)
        ]

    def commit(self, state: dict[Any, State]) -> None:
        """Enters the arrays into the state, and remembers what the plan was made for."""
        for i, member in enumerate(self.members):
            own = {name: values[i] for name, values in self.numbers.items()}
            own.update(zip(self.names[i], self.arrays[i], strict=True))
            if own:
                state.setdefault(member.parameter, {}).update(own)
        numbers = self.numbers.values()  # one tensor each, of which those in the state are parts
        moving = [*self.parameters, *chain.from_iterable(self.arrays), *numbers]
        self.watch = _core.TensorWatch(self.params, state, moving)
        self.remember_counts()

    def remember_counts(self) -> None:
        if self.counts is not None:
            self.count_bytes = self.counts.tobytes()

    def fits(self, state: dict[Any, State], params: list[Any], grads: list[Any]) -> bool:
        """Whether all tensors, and all memory, are those that the plan was made for."""
        return (
            self.watch.holds(params, state)
            and (self.counts is None or self.counts.tobytes() == self.count_bytes)
            and (self.everyone or all(grads[i] is None for i in self.outside))
        )

    def own(self, grads: list[Any]) -> list[Any]:
        """The gradients of the members."""
        return grads if self.everyone else [grads[i] for i in self.positions]

    def gradients(self, grads: list[Any], optimizer: str, writable: bool) -> list[Any]:
        """The members' gradients as the plan takes them: tensors, or else NumPy's views of them."""
        given = [g for g in grads if g is not None]
        if not self.flat and not writable and True not in map(is_neg, given):
            return grads
        self.check_gradients(grads, optimizer)
        return [None if g is None else array_of(g) for g in grads]

    def check_gradients(self, grads: list[Any], optimizer: str) -> None:
        for member, grad in zip(self.members, grads, strict=True):
            if grad is not None:
                check_gradient(grad, member.parameter, f"{member.label}.grad", optimizer)


def keys_of(formula: type[Formula]) -> list[str]:
    """The hyperparameters that a group has."""
    return [key for key in formula._defaults() if key not in ("params", *OPTIONS)]


def state_array(
    own: State, name: str, member: Member, formula: type[Formula], defaults: Mapping[str, Any]
) -> Any:
    """The state array, or one like the parameter where there is none yet."""
    parameter, array = member.parameter, own.get(name)
    if array is None:
        initial = formula.initial_state(name, defaults)
        return torch.full_like(parameter.detach(), initial, memory_format=torch.preserve_format)
    what = f"state[{member.name!r}][{name!r}]"
    if not isinstance(array, torch.Tensor):
        raise TypeError(f"{what}: {type(array).__name__}, expected a tensor")
    check_parameter(array, what, "")
    check_like(array, parameter, what)
    if same_layout(array, parameter):
        return array
    return torch.empty_like(parameter.detach()).copy_(array)


def check_parameters(members: Iterable[Member], optimizer: str) -> None:
    for member in members:
        check_parameter(member.parameter, member.label, optimizer)
