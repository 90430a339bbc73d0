"""The parameters that take part in steps: a native plan over their memory, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch

from gradstep import _core
from gradstep.arguments import number
from gradstep.optim.gradients import nonfinite
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.optim.state import MAX_STEP
from gradstep.optim.storage import SCALE, Layout, tiles_of_sizes
from gradstep.spec.storage import SCALE_BLOCK
from gradstep.torch.optim.groups import keys_of, plain
from gradstep.torch.optim.memory import (
    WHOLE,
    array_of,
    check_gradient,
    check_like,
    check_parameter,
    same_layout,
)
from gradstep.torch.optim.shards import check_placement, is_spread, part_of
from gradstep.torch.optim.storage import MASTERS, check_copy, check_kept
from gradstep.torch.tensors import refusal

__all__ = ["Member", "Participants", "raise_nonfinite", "state_array", "step_of", "steps_taken"]

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
        keeping: list[dict[str, Any]],
        numbers: Sequence[str],
        defaults: Mapping[str, Any],
        optimizer: str,
        copies: Mapping[int, Any],
        layout_for: Callable[..., Layout | None],
    ) -> None:
        """Checks everything and changes nothing; `commit` enters new arrays into the state.

        keeping: how each group keeps its arrays. numbers: names of states that are one number.
        optimizer: its name, for messages. copies: of parameters, rounded, by their places.
        layout_for: as in `storage`.
        """
        self.members: Sequence[Member] = members
        self.kernels: list[str] = kernels
        self.optimizer: str = optimizer
        self.keeping = keeping
        self.parameters: list[Any] = [member.parameter for member in members]
        self.params: list[Any] = params
        self.everyone: bool = len(members) == len(params)
        self.positions: list[int] = [member.position for member in members]
        self.group_of: np.ndarray[Any, np.dtype[np.intp]] = np.array(
            [member.group for member in members], dtype=np.intp
        )
        inside = set(self.positions)
        self.outside: list[int] = [i for i in range(len(params)) if i not in inside]
        self.copies: list[Any] = [copies.get(member.position) for member in members]
        for member, copy in zip(members, self.copies, strict=True):
            if copy is not None:
                check_copy(copy, member)
        self.copied = any(copy is not None for copy in self.copies)
        self.spread: bool = any(map(is_spread, self.parameters))
        self.parts: list[Any] = [part_of(p) for p in self.parameters]
        for member, part in zip(members, self.parts, strict=True):
            check_placement(member.parameter, member.parameter, member.label)
            check_parameter(part, member.label, optimizer)
        self.flat: bool = any(not part.is_contiguous() for part in self.parts)
        self._lay_out(formula, layout_for)
        self._take_state(state, formula, numbers, defaults)
        scalars = formula._scalars({key: formula.default(key) for key in keys_of(formula)}, 1)
        groups = [(kernel, list(scalars)) for kernel in kernels]
        self.plan: _core.Plan = _core.Plan(groups, list(map(self._given, range(len(members)))))
        self.plan.steps = self._first_steps(state)

    def _lay_out(self, formula: type[Formula], layout_for: Callable[..., Layout | None]) -> None:
        self.states: list[tuple[str, ...]] = [
            formula.KERNELS[self.kernels[member.group]] for member in self.members
        ]
        # By the place among all parameters: the bits do not depend on which of them take part.
        tiles = tiles_of_sizes(part_of(p).numel() for p in self.params)
        self.layouts: list[Layout | None] = [
            layout_for(m, formula, self.keeping[m.group], tiles[m.position], copy)
            for m, copy in zip(self.members, self.copies, strict=True)
        ]
        self.names: list[list[str]] = [
            list(layout.specs(names)) if layout else list(names)
            for layout, names in zip(self.layouts, self.states, strict=True)
        ]

    def _given(self, i: int) -> tuple[Any, ...]:
        """The arguments of a plan for one member."""
        member, layout = self.members[i], self.layouts[i]
        arrays = [array_of(part_of(array)) for array in self.arrays[i]]
        given: tuple[Any, ...] = (array_of(self.parts[i]), *arrays)
        if layout is not None:
            given = layout.native(self.states[i], dict(zip(self.names[i], arrays, strict=True)))
        return member.name, member.group, *given

    def _take_state(
        self,
        state: Mapping[Any, State],
        formula: type[Formula],
        numbers: Sequence[str],
        defaults: Mapping[str, Any],
    ) -> None:
        for member, part, layout in zip(self.members, self.parts, self.layouts, strict=True):
            own = state.get(member.parameter, NO_STATE)
            check_kept(own, layout, part.dtype in WHOLE, f"state[{member.name!r}]")
        begun = self._begun(state)
        first = {name: [value] * len(begun) for name, value in NUMBERS.items()}
        if not numbers and any(self.layouts):  # whose random bits are by the number of the step
            numbers, first["step"] = ("step",), begun
        self.arrays: list[list[Any]] = [
            [state_array(state, name, member, formula, defaults, layout) for name in names]
            for member, names, layout in zip(self.members, self.names, self.layouts, strict=True)
        ]
        self.scalars: dict[str, list[Any]] = {
            name: numbers_of(state, name, self.members, first[name]) for name in numbers
        }
        # Of their own: these keep the memory where the numbers are counted.
        kept = {name: [t.detach() for t in tensors] for name, tensors in self.scalars.items()}
        self.numbers: dict[str, _core.TensorNumbers] = {
            name: _core.TensorNumbers(tensors) for name, tensors in kept.items()
        }
        self.kept = kept

    def _first_steps(self, state: Mapping[Any, State]) -> list[int]:
        if self.numbers:
            counts = self.numbers["step"].values
            names = [f"state[{member.name!r}]['step']" for member in self.members]
            return list(map(step_of, names, counts))
        # Only whether it is 0 matters: the first gradient enters a momentum buffer undampened.
        return list(map(int, self._begun(state)))

    def _begun(self, state: Mapping[Any, State]) -> list[float]:
        """1 for each member that has a state array, else 0."""
        return [
            float(any(state.get(m.parameter, NO_STATE).get(name) is not None for name in names))
            for m, names in zip(self.members, self.names, strict=True)
        ]

    def commit(self, state: dict[Any, State]) -> None:
        """Enters the arrays into the state, and remembers what the plan was made for."""
        for i, member in enumerate(self.members):
            own = {name: tensors[i] for name, tensors in self.scalars.items()}
            own.update(zip(self.names[i], self.arrays[i], strict=True))
            if own:
                kept = state.setdefault(member.parameter, {})
                kept.update(own)
                for name in MASTERS.values():
                    if name not in own:
                        kept.pop(name, None)
        self.entered: list[Any] = [array for own in self.arrays for array in own]
        moving = [*self.parts, *map(part_of, self.entered)]
        for tensors in self.scalars.values():
            moving += tensors
        moving += self.copies_of(None)
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

    def copies_of(self, present: list[int] | None) -> list[Any]:
        """The rounded copies of the members at these places, or of all."""
        if not self.copied:
            return []
        chosen = self.copies if present is None else [self.copies[i] for i in present]
        return [copy for copy in chosen if copy is not None]

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


def raise_nonfinite(grads: Iterable[tuple[Member, Any]], part: bool) -> NoReturn:
    """Raises FloatingPointError for gradients, some None, whose norm is not finite.

    part: whether other processes have some too.
    """
    for member, grad in grads:
        if grad is None:
            continue
        array = array_of(grad) if isinstance(grad, torch.Tensor) else grad
        bad = nonfinite(array).get(None, 0)
        if bad:
            raise FloatingPointError(
                f"{member.label}.grad: {bad} of {array.size} elements are not finite"
            )
    elsewhere = "not finite on another process, or " if part else ""
    raise FloatingPointError(f"gradients: {elsewhere}the sum of their squares overflows float64")


def step_of(what: str, count: Any) -> int:
    """The steps taken, as a state tells. Raises TypeError or ValueError, calling it `what`."""
    expected = f"a number from 0 to 2**{MAX_STEP.bit_length() - 1}"
    return int(number(what, plain(what, count, 0.0), expected, lambda n: 0 <= n <= MAX_STEP))


def steps_taken(state: Mapping[Any, State], member: Member) -> int:
    """Those of a parameter. Raises TypeError or ValueError."""
    count = state.get(member.parameter, NO_STATE).get("step", 0.0)
    return step_of(f"state[{member.name!r}]['step']", count)


def numbers_of(
    state: Mapping[Any, State], name: str, members: Sequence[Member], first: Sequence[float]
) -> list[Any]:
    """The state `name` of each as a tensor with memory of its own, new ones where need be.

    first: their values there. Raises TypeError or ValueError.
    """
    found: list[Any] = []
    taken: set[int] = set()
    kind = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    for member, initial in zip(members, first, strict=True):
        value = state.get(member.parameter, NO_STATE).get(name, initial)
        if not is_number(value) or value.data_ptr() in taken:
            value = torch.tensor(plain(f"state[{member.name!r}][{name!r}]", value, 0.0), dtype=kind)
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
    layout: Layout | None = None,
) -> Any:
    """The state array, or one like the parameter where there is none yet.

    layout: of what is not of the parameter's own type.
    """
    parameter = member.parameter
    array = state.get(parameter, NO_STATE).get(name)
    what = f"state[{member.name!r}][{name!r}]"
    if array is not None and not isinstance(array, torch.Tensor):
        raise TypeError(f"{what}: {type(array).__name__}, expected a tensor")
    dtype = parameter.dtype
    if layout is not None:
        dtype = getattr(torch, layout.specs(layout.states)[name][0].name)
        if name.endswith(SCALE):
            return _scale(array, parameter, what)
    if array is None and name in ("master", "ema"):
        return torch.empty_like(parameter.detach(), dtype=dtype).copy_(parameter.detach())
    initial = formula.initial_state(name, defaults) if dtype.is_floating_point else 0
    if array is None:
        return torch.full_like(parameter.detach(), initial, dtype=dtype)
    if array.layout is torch.sparse_coo:  # the momentum that torch keeps of sparse gradients
        array = array.to_dense()
    if layout is not None and array.dtype == parameter.dtype != dtype == torch.float32:
        # As torch's Adagrad makes it at once: what it begins with is rounded there, and not here.
        begun = not torch.equal(array, torch.full_like(array, initial))
        array = array.to(dtype) if begun else torch.full_like(array, initial, dtype=dtype)
    check_placement(array, parameter, what)
    part, model = part_of(array), part_of(parameter)
    check_like(part, model, what, dtype)
    check_parameter(part, what, "", (dtype,))
    if same_layout(part, model):
        return array
    return torch.empty_like(parameter.detach(), dtype=dtype).copy_(array)


def _scale(array: Any, parameter: Any, what: str) -> Any:
    """The scales of an 8-bit state, or new ones."""
    blocks = -(-parameter.numel() // SCALE_BLOCK)
    if array is None:
        return torch.zeros(blocks, dtype=torch.float32)
    if array.dtype != torch.float32 or array.shape != (blocks,) or not array.is_contiguous():
        found = f"{array.dtype} of shape {tuple(array.shape)}"
        raise ValueError(f"{what}: {found}, expected {blocks} contiguous torch.float32")
    check_parameter(array, what, "", (torch.float32,))
    return array
