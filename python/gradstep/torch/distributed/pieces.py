"""The optimizer of a process's pieces: its step sums gradients, and spreads parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.autograd.graph import increment_version

from gradstep.arrays import Array
from gradstep.distributed.exchange import Exchange, Squares
from gradstep.distributed.plan import Piece
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.optim.storage import Layout
from gradstep.torch.optim.memory import array_of, flat_of
from gradstep.torch.optim.optimizer import NativeOptimizer
from gradstep.torch.optim.participants import Member, Participants
from gradstep.torch.optim.storage import layout_for

__all__ = ["OfPieces", "Whole", "of_pieces"]


class Whole(NamedTuple):
    """What the pieces are of.

    parameters: all of them. flat: their memory. tiles: where the random bits of each begin. reduce:
    whether gradients are summed here.
    """

    exchange: Exchange
    parameters: Sequence[Any]
    flat: Sequence[Array]
    tiles: Sequence[int]
    reduce: bool


class Given(NamedTuple):
    """The gradients of a step.

    own: of the pieces, or where their sums go; totals: the same as arrays. flat: of all tensors,
    where they are to be summed. present: (processes, tensors), who has one of what.
    """

    own: list[Any]
    totals: list[Array | None]
    flat: list[Array | None]
    present: NDArray[np.bool_]


def of_pieces(
    optimizer: type[NativeOptimizer],
    groups: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    whole: Whole,
    hyper: Mapping[str, Any],
) -> OfPieces:
    """An optimizer of the pieces of this process; names: of the whole parameters."""
    number_of = [n for n, group in enumerate(groups) for _ in group["params"]]
    left_out = ("params", "param_names")
    own: list[dict[str, Any]] = [
        {**{k: v for k, v in group.items() if k not in left_out}, "params": []} for group in groups
    ]
    said: list[list[str]] = [[] for _ in groups]
    for tensor, start, stop in whole.exchange.pieces:
        memory = flat_of(whole.parameters[tensor].detach())[start:stop]
        own[number_of[tensor]]["params"].append(torch.nn.Parameter(memory))
        said[number_of[tensor]].append(names[tensor])
    made: Any = type(optimizer.__name__, (OfPieces, optimizer), {})(own, **hyper)
    # torch refuses names of some groups alone, as where another has no piece here.
    for group, of_group in zip(made.param_groups, said, strict=True):
        group["param_names"] = of_group
    made.take(whole)
    return made  # type: ignore[no-any-return]


class OfPieces(NativeOptimizer):
    """Mixed into the class of an optimizer of pieces, in the order of the pieces."""

    torn: bool = False  # a step began to write, and did not end

    def take(self, whole: Whole) -> None:
        """What the pieces are of; before the first step."""
        self._whole = whole
        self._turn: Given | None = None
        self._summed = False
        self._sums: dict[int, Any] = {}

    @property
    def members(self) -> list[Member]:
        """The pieces."""
        return self._members()

    def layout_for(self, member: Member, kept: Mapping[str, Any]) -> Layout | None:
        """How the arrays of a piece are kept, where a group keeps them so."""
        return self._layout_for(member, self.FORMULA, kept)

    def _layout_for(
        self,
        member: Member,
        formula: type[Formula],
        group: Mapping[str, Any],
        tile: int = 0,
        copy: Any = None,
    ) -> Layout | None:
        """As of the whole: its random bits, and whether it is large enough for 8-bit states."""
        whole = self._whole
        piece = whole.exchange.pieces[member.position]
        of = replace(member, parameter=whole.parameters[piece.tensor])
        layout = layout_for(of, formula, group, whole.tiles[piece.tensor] + piece.start // 64)
        return layout and layout._replace(parameter=array_of(member.parameter))

    # Steps

    def give(self, grads: Sequence[Any], present: NDArray[np.bool_], scale: float) -> None:
        """Takes the gradients of all tensors, flat, for the step that follows.

        present: (processes, tensors), who has one of what. scale: what they are divided by, beside
        the number of processes.
        """
        whole = self._whole
        some = np.logical_or.reduce(present)
        own = [
            self._place(number, piece, grads[piece.tensor]) if some[piece.tensor] else None
            for number, piece in enumerate(whole.exchange.pieces)
        ]
        flat: list[Array | None] = []
        if whole.reduce:
            flat = [None if grad is None else array_of(grad) for grad in grads]
            increment_version([grad for grad in own if grad is not None])
            scale *= whole.exchange.transport.size
        self.grad_scale = scale
        totals = [None if grad is None else array_of(grad) for grad in own]
        self._turn, self._summed = Given(own, totals, flat, present), False

    def _place(self, number: int, piece: Piece, grad: Any) -> Any:
        """The gradient of a piece, or where the sum of all processes' goes: over the own one, or
        into float32 where gradients have 16 bits.
        """
        dtype = self._whole.parameters[piece.tensor].dtype
        widened = self._whole.reduce and dtype.itemsize == 2
        if grad is not None and not widened:
            return grad[piece.start : piece.stop]
        if number not in self._sums:  # kept from step to step: new memory is cleared each time
            self._sums[number] = torch.empty(piece.size, dtype=torch.float32 if widened else dtype)
        return self._sums[number]

    def release(self) -> None:
        """Lets go of the gradients, once the step has ended somehow."""
        self._turn = None

    def _step_natively(self, params: list[Any], grads: list[Any]) -> None:
        """With the gradients that were given, whose type need not be that of the pieces."""
        assert self._turn is not None
        super()._step_natively(params, self._turn.own)

    def _sees_a_part(self, participants: Any) -> bool:
        return True

    def _norm(self, participants: Any, given: list[Any], rows: list[Any]) -> float:
        assert self._turn is not None
        _, totals, flat, present = self._turn
        exchange = self._whole.exchange
        squares = Squares(exchange, totals)
        if self._whole.reduce:
            exchange.reduce(flat, totals, present, [False] * len(totals), squares.add)
        else:
            squares.add_all(totals)
        self._summed = True
        return squares.norm(np.logical_or.reduce(present))

    def _step_of(self, participants: Participants) -> Callable[..., tuple[int, float | None, bool]]:
        """The plan's step in parts, each of which goes to all processes once it is made."""
        plan, whole = participants.plan, self._whole
        exchange = whole.exchange
        place = {position: i for i, position in enumerate(participants.positions)}

        def update(number: int, part: Piece, total: Any) -> None:
            start = exchange.pieces[number].start
            plan.update_part(place[number], part.start - start, part.stop - start)

        def step(
            given: list[Any], scale: float, clip: float, checks: bool, zero_grads: bool
        ) -> tuple[int, float | None, bool]:
            assert self._turn is not None
            _, totals, flat, present = self._turn
            plan.begin(given, scale, zero_grads)
            self.torn = True
            if whole.reduce and not self._summed:
                begun = [False] * len(totals)
                exchange.reduce(flat, totals, present, begun, update, whole.flat)
            else:
                exchange.spread(whole.flat, totals, update)
            return plan.end(), None, True

        return step
