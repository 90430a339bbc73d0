"""The parameters that take part in steps: a native plan over their memory, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gradstep import _core
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.torch.optim.groups import keys_of
from gradstep.torch.optim.memory import (
    array_of,
    check_gradient,
    check_like,
    check_parameter,
    same_layout,
)
from gradstep.torch.optim.shards import check_placement, is_spread, part_of
from gradstep.torch.tensors import refusal

__all__ = ["Member", "Participants", "state_array"]

State = dict[str, Any]
NO_STATE: State = {}
# States that are one number of a tensor, and their first value.
NUMBERS = {"step": 0.0, "mu_product": 1.0}


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


class Participants:
    """The parameters that have had a gradient: their memory, their states and the native plan."""

    def __init__(
        self,
        members: Sequence[Member],
        params: list[Any],
        state: Mapping[Any, State],
        formula: type[Formula],
        kernels: list[str],
        numbers: Sequence[str],
        defaults: Mapping[str, Any],
        optimizer: str,
    ) -> None:
        """Checks everything and changes nothing; `commit` enters new arrays into the state.

        optimizer: its name, for messages.
        """
        self.members, self.kernels, self.optimizer = members, kernels, optimizer
        self.parameters = [member.parameter for member in members]
        self.params, self.everyone = params, len(members) == len(params)
        self.positions = [member.position for member in members]
        self.group_of = np.array([member.group for member in members], dtype=np.intp)
        inside = set(self.positions)
        self.outside = [i for i in range(len(params)) if i not in inside]
        self.spread = any(map(is_spread, self.parameters))
        self.parts = [part_of(p) for p in self.parameters]
        for member, part in zip(members, self.parts, strict=True):
            check_placement(member.parameter, member.parameter, member.label)
            check_parameter(part, member.label, optimizer)
        self.flat = any(not part.is_contiguous() for part in self.parts)
        self._take_state(state, formula, numbers, defaults)
        scalars = formula._scalars({key: formula.default(key) for key in keys_of(formula)}, 1)
        groups = [(kernel, list(scalars)) for kernel in kernels]
        tensors = [
            (member.name, member.group, array_of(part), *(array_of(part_of(a)) for a in own))
            for member, part, own in zip(members, self.parts, self.arrays, strict=True)
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
        self.names = [formula.KERNELS[self.kernels[member.group]] for member in self.members]
        self.arrays = [
            [state_array(state, name, member, formula, defaults) for name in names]
            for member, names in zip(self.members, self.names, strict=True)
        ]
        self.scalars = {name: numbers_of(state, name, self.parameters) for name in numbers}
        # Of their own: these keep the memory where the numbers are counted.
        kept = {name: [t.detach() for t in tensors] for name, tensors in self.scalars.items()}
        self.numbers = {name: _core.TensorNumbers(tensors) for name, tensors in kept.items()}
        self.kept = kept

    def _first_steps(self, state: Mapping[Any, State]) -> list[int]:
        if self.numbers:
            return [int(count) for count in self.numbers["step"].values]
        # Only whether it is 0 matters: the first gradient enters a momentum buffer undampened.
        return [
            int(any(state.get(member.parameter, NO_STATE).get(name) is not None for name in names))
            for member, names in zip(self.members, self.names, strict=True)
        ]

    def commit(self, state: dict[Any, State]) -> None:
        """Enters the arrays into the state, and remembers what the plan was made for."""
        for i, member in enumerate(self.members):
            own = {name: tensors[i] for name, tensors in self.scalars.items()}
            own.update(zip(self.names[i], self.arrays[i], strict=True))
            if own:
                state.setdefault(member.parameter, {}).update(own)
        self.entered = [array for own in self.arrays for array in own]
        moving = [*self.parts, *map(part_of, self.entered)]
        for tensors in self.scalars.values():
            moving += tensors
        self.watch = _core.TensorWatch(self.params, state, moving)
        self.moving = moving

    def fits(self, state: dict[Any, State], params: list[Any], grads: list[Any]) -> bool:
        """Whether all tensors, and all memory, are those that the plan was made for."""
        return (
            self.watch.holds(params, state)
            and all(numbers.unchanged() for numbers in self.numbers.values())
            and (self.everyone or all(grads[i] is None for i in self.outside))
            and not (self.spread and self._has_other_parts())
        )

    def _has_other_parts(self) -> bool:
        parts = map(part_of, (*self.parameters, *self.entered))
        return any(part is not before for part, before in zip(parts, self.moving, strict=False))

    def own(self, grads: list[Any]) -> list[Any]:
        """The gradients of the members."""
        return grads if self.everyone else [grads[i] for i in self.positions]

    def gradients(self, grads: list[Any], writable: bool) -> list[Any]:
        """The members' gradients as the plan takes them: tensors, or else NumPy's views of them.

        writable: whether the step fills them with zeros. Raises TypeError or ValueError.
        """
        if not (self.flat or writable or self.spread):
            return grads  # checked as they are read
        self.check_gradients(grads)
        return [None if g is None else array_of(part_of(g)) for g in grads]

    def check_gradients(self, grads: list[Any]) -> None:
        for member, part, grad in zip(self.members, self.parts, grads, strict=True):
            if grad is not None:
                what = f"{member.label}.grad"
                check_placement(grad, member.parameter, what)
                check_gradient(part_of(grad), part, what, self.optimizer)

    def count(self, present: list[int] | None) -> None:
        """Counts a step of the members at these places, or of all."""
        if self.numbers:
            self.numbers["step"].count(present)


def numbers_of(state: Mapping[Any, State], name: str, parameters: list[Any]) -> list[Any]:
    """The state `name` of each as a tensor with memory of its own, new ones where need be."""
    found: list[Any] = []
    taken: set[int] = set()
    kind = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    for parameter in parameters:
        value = state.get(parameter, NO_STATE).get(name, NUMBERS[name])
        if not is_number(value) or value.data_ptr() in taken:
            value = torch.tensor(float(value), dtype=kind)
        taken.add(value.data_ptr())
        found.append(value)
    return found


def is_number(value: Any) -> bool:
    """Whether this is a tensor of one number, alone in its memory."""
    return (
        refusal(value) is None
        and value.dim() == 0
        and value.untyped_storage().nbytes() == value.element_size()
    )


def state_array(
    state: Mapping[Any, State],
    name: str,
    member: Member,
    formula: type[Formula],
    defaults: Mapping[str, Any],
) -> Any:
    """The state array, or one like the parameter where there is none yet."""
    parameter = member.parameter
    array = state.get(parameter, NO_STATE).get(name)
    if array is None:
        initial = formula.initial_state(name, defaults)
        return torch.full_like(parameter.detach(), initial, memory_format=torch.preserve_format)
    what = f"state[{member.name!r}][{name!r}]"
    if not isinstance(array, torch.Tensor):
        raise TypeError(f"{what}: {type(array).__name__}, expected a tensor")
    if array.layout is torch.sparse_coo:  # the momentum that torch keeps of sparse gradients
        array = array.to_dense()
    check_placement(array, parameter, what)
    part, model = part_of(array), part_of(parameter)
    check_parameter(part, what, "")
    check_like(part, model, what)
    if same_layout(part, model):
        return array
    return torch.empty_like(parameter.detach()).copy_(array)
