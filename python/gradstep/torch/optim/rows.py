"""A step on those rows of a parameter that a sparse gradient has, as an embedding gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from gradstep import _core
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.torch.optim.memory import WHOLE, array_of, check_parameter
from gradstep.torch.optim.participants import Member, State, state_array
from gradstep.torch.optim.shards import is_spread
from gradstep.torch.tensors import refusal

__all__ = ["Rows", "check_sparse", "is_sparse"]

is_sparse: Callable[[Any], bool] = torch.Tensor.is_sparse.__get__


class Rows:
    """The rows of one parameter and of its states, gathered for a kernel.

    Everything is checked and gathered when this is made; `step` computes, `commit` writes.
    """

    def __init__(
        self,
        member: Member,
        grad: Any,
        state: Mapping[Any, State],
        formula: type[Formula],
        group: dict[str, Any],
        defaults: Mapping[str, Any],
    ) -> None:
        self.member = member
        merged = grad.detach().coalesce()  # an index that came twice has one row, their sum
        self.values: Any = merged.values().contiguous()
        self.index: tuple[Any, ...] = tuple(merged.indices())
        self.kernel: str = formula.kernel(group)
        self.names: tuple[str, ...] = formula.KERNELS[self.kernel]
        self.arrays: list[Any] = [
            state_array(state, name, member, formula, defaults) for name in self.names
        ]
        whole = [member.parameter.detach(), *self.arrays]
        self.gathered: list[Any] = [tensor[self.index].contiguous() for tensor in whole]

    def at_step(self, t: int, scalars: dict[str, float]) -> None:
        """Makes the plan for step number t of the parameter, with these hyperparameters."""
        self.t = t
        self.plan: _core.Plan = _core.Plan(
            [(self.kernel, list(scalars))],
            [(self.member.name, 0, *map(array_of, self.gathered))],
        )
        self.plan.set_hyper(0, list(scalars.values()))
        self.plan.steps = [t - 1]

    def step(self, scale: float) -> None:
        """Computes the rows, which stay apart."""
        self.plan.step([array_of(self.values)], scale, 0.0, False, False)

    def commit(self, state: dict[Any, State], counts: bool) -> None:
        """Writes what was computed, and the number of the step where the optimizer counts."""
        own = state.setdefault(self.member.parameter, {})
        with torch.no_grad():
            whole = (self.member.parameter, *self.arrays)
            for tensor, rows in zip(whole, self.gathered, strict=True):
                tensor.index_put_(self.index, rows)
        if isinstance(own.get("step"), torch.Tensor):
            own["step"].fill_(self.t)
        elif counts:
            own["step"] = self.t
        own.update(zip(self.names, self.arrays, strict=True))


def check_sparse(grad: Any, member: Member, optimizer: str) -> None:
    """Raises TypeError or ValueError for a sparse gradient that does not fit its parameter."""
    parameter, what = member.parameter, f"{member.label}.grad"
    if is_spread(parameter) or is_spread(grad):
        raise TypeError(f"{what}: a sparse gradient of a DTensor, expected a dense one")
    check_parameter(parameter, member.label, optimizer, WHOLE)
    if grad.dtype != parameter.dtype:
        raise TypeError(f"{what}: {grad.dtype}, expected {parameter.dtype} as in the parameter")
    if grad.shape != parameter.shape:
        shapes = f"shape {tuple(grad.shape)}, expected {tuple(parameter.shape)}"
        raise ValueError(f"{what}: {shapes} as in the parameter")
    reason = refusal(grad._values())
    if reason is not None:
        raise TypeError(f"{what}: values {reason}")
