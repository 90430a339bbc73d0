"""An optimizer whose states are divided among ranks (ZeRO, stage 1)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradstep.arrays import Array, Tree, as_array, label, leaves_like
from gradstep.distributed.agreement import (
    agree_on,
    description,
    digest_of,
    digest_of_values,
    flat_view,
)
from gradstep.distributed.averages import averaged_on_all, check_no_averages
from gradstep.distributed.checkpoint import (
    PARAMETER,
    Held,
    State,
    check_tensors,
    gather_whole,
    load_pieces,
    pieces_of,
    read_index,
    save_shards,
    tensors_of,
)
from gradstep.distributed.checks import (
    check_arguments,
    check_gradient,
    check_no_copies,
    check_parameter,
    sum_type,
    wire_types,
)
from gradstep.distributed.exchange import Exchange, Squares
from gradstep.distributed.mpi import connect
from gradstep.distributed.plan import Piece
from gradstep.distributed.transport import DistributedError
from gradstep.optim.gradients import nonfinite
from gradstep.optim.groups import arranged
from gradstep.optim.hyperparameters import is_schedule
from gradstep.optim.optimizer import OPTIONS, Optimizer, StepInfo
from gradstep.optim.state import verify
from gradstep.optim.storage import Layout, check_own_values, first_tiles, layout_of, saved_state
from gradstep.spec.optim import clip_coefficient

__all__ = ["ShardedOptimizer"]

BRINGS, INCOMPLETE = 2, 4  # flags: has gradients; has none of some tensors


class ShardedOptimizer:
    """Steps as `optimizer` does, each of several ranks on its share of parameters and states.

    optimizer: a class of `gradstep.OPTIMIZERS`. params: as for it, the same on all ranks; C- or
    F-contiguous arrays. comm: a communicator of mpi4py (None: COMM_WORLD), or a `Transport`.
    timeout: seconds without a byte after which a rank gives up (a `Transport` has its own).
    reduction: "mean" or "sum" of the gradients of all micro-batches. grad_dtype: "float32", in
    which gradients are exact, or "bfloat16" (with ml_dtypes), to which each is rounded once, as it
    travels. hyper: what `optimizer` takes, except copy_to.

    A step sums gradients into the shards (every rank receives those of its share), updates the
    shard, and gives every rank the new parameters. Gradients are added up in the order of their
    micro-batches, ((g0 + g1) + g2) + ..., where rank r brings number r, then r + ranks, and so on:
    the same micro-batches give the same bits on any number of ranks, and the bits of `optimizer`
    on that sum with `grad_scale` divided by their number. The clipped norm is the same too.

    All ranks make one, and call its methods, together. Raises TypeError or ValueError as
    `optimizer` does, DistributedError where ranks bring different parameters, hyperparameters or
    versions, or do not answer. Rajbhandari et al. 2020 (arXiv:1910.02054).

    >>> import threading, numpy as np, gradstep as gs, gradstep.distributed as gd
    >>> def work(transport):
    ...     w = np.zeros(3, np.float32)
    ...     opt = gd.ShardedOptimizer(gs.SGD, {"w": w}, lr=1.0, comm=transport)
    ...     opt.step({"w": np.full(3, transport.rank, np.float32)})
    ...     weights.append(w.tolist())
    >>> weights = []
    >>> ranks = [threading.Thread(target=work, args=[each]) for each in gd.in_process(2)]
    >>> for rank in ranks: rank.start()
    >>> for rank in ranks: rank.join()
    >>> weights
    [[-0.5, -0.5, -0.5], [-0.5, -0.5, -0.5]]
    """

    def __init__(
        self,
        optimizer: type[Optimizer],
        params: Tree,
        *,
        comm: Any = None,
        timeout: float = 600.0,
        reduction: Literal["mean", "sum"] = "mean",
        grad_dtype: Literal["float32", "bfloat16"] = "float32",
        **hyper: Any,
    ) -> None:
        transport = connect(comm, timeout)
        found: dict[str, Any] = {}
        error: Exception | None = None
        self._arrays: list[Array] = []
        try:
            check_arguments(optimizer, reduction, grad_dtype, hyper)
            self._take(optimizer, params, hyper)
            given = {**hyper, "reduction": reduction}
            found = description(
                optimizer.__name__, self._names, self._arrays, self._groups, given, grad_dtype
            )
            travels = wire_types(list(map(sum_type, self._arrays)), grad_dtype)
        except Exception as raised:
            error = raised
            self._arrays, travels = [], []
        self._exchange = Exchange(
            transport,
            [array.size for array in self._arrays],
            [array.itemsize for array in self._arrays],
            [sum_type(array) for array in self._arrays],
            travels,
        )
        agree_on(self._exchange, found, error)
        error = None
        try:
            self._own = self._make_own(optimizer, hyper)
        except Exception as raised:
            error = raised
        self._exchange.agree("make", 0, bytes(32), 0, error)
        self._mean, self._torn = reduction == "mean", False
        self._totals: list[Array | None]
        self._reset()

    def _take(self, optimizer: type[Optimizer], params: Tree, hyper: Mapping[str, Any]) -> None:
        known = [key for key in optimizer._defaults() if key not in OPTIONS]
        parameters, self._groups = arranged(params, [*known, "copy_to"])
        for group in self._groups:
            check_no_copies(group)
        self._names = [0 if name is None else name for name in parameters.names]
        self._arrays, self._group_of = parameters.arrays, parameters.group_of
        self._shape = parameters.shape
        for name, array in zip(self._names, self._arrays, strict=True):
            check_parameter(label("params", name), array)
        self._flat = [flat_view(array) for array in self._arrays]

    def _make_own(self, optimizer: type[Optimizer], hyper: Mapping[str, Any]) -> Optimizer:
        """The optimizer of the own pieces, which knows what they are pieces of."""
        groups: list[dict[str, Any]] = [{**given, "params": {}} for given in self._groups]
        for piece in self.pieces:
            memory = self._flat[piece.tensor][piece.start : piece.stop]
            group = groups[self._group_of[piece.tensor]]
            group["params"][self._names[piece.tensor]] = memory
        return _of_pieces(optimizer, self._arrays, self.pieces)(groups, **hyper)

    @property
    def pieces(self) -> list[Piece]:
        """What this rank steps on: (tensor, start, stop), in elements as they lie in memory."""
        return self._exchange.pieces

    @property
    def own(self) -> Optimizer:
        """The optimizer of this rank's pieces. Hyperparameters may be set on it, on all ranks alike
        (`opt.own.lr = 0.1`, `opt.own.param_groups[0]["lr"] = 0.1`); its `step` is not to be called.
        """
        return self._own

    @property
    def step_count(self) -> int:
        """The number of steps taken."""
        return self._own.step_count

    # Steps

    def accumulate(self, grads: Tree) -> None:
        """Adds gradients that the next `step` is to use: one micro-batch more of every rank.

        grads: as for `step`. Takes the memory of a shard's gradients until then. Raises as it does.
        """
        self._contribute("accumulate", grads)

    def step(self, grads: Tree = None) -> StepInfo:
        """Updates the parameters of all ranks from the gradients of all ranks.

        grads: of one micro-batch, arranged like params, of their shape, order and type (float32 for
        bfloat16 and float16); None for a tensor that has none, or for a rank that brings none.
        Gradients that can be written are used up: where this rank's pieces are, they become the
        sum, and no other memory is needed.

        Raises TypeError or ValueError for gradients that do not fit (on other ranks
        DistributedError, which names the rank), FloatingPointError with `on_nonfinite="raise"` for
        those that are not finite: then nothing was written. Raises DistributedError if a rank does
        not answer; then the parameters may be of two steps, and only a checkpoint helps.
        """
        info = self._contribute("step", grads)
        assert info is not None
        return info

    def _contribute(self, what: str, grads: Tree) -> StepInfo | None:
        self._check_whole()
        error: Exception | None = None
        flat: list[Array | None] = [None] * len(self._arrays)
        t, digest, own = self.step_count + 1, bytes(32), self._own
        try:
            flat = self._read(grads)
            with own._lock:
                own._refresh(t)
                digest = digest_of_values(own)
        except Exception as raised:
            error = raised
        has = [each is not None for each in flat]
        flags = self._exchange.agree(
            what, t, digest, BRINGS * any(has) | INCOMPLETE * (not all(has)), error
        )
        present = np.ones((len(flags), len(has)), np.bool_)
        if any(flag & INCOMPLETE for flag in flags):
            present = self._exchange.presence(has)
        self._totals, begun = self._places(what, flat, present)
        self._micro_batches += sum(bool(flag & BRINGS) for flag in flags)
        self._present |= present.any(axis=0)
        given = flat, self._totals, present, begun
        if what == "accumulate":
            self._exchange.reduce(*given)
            return None
        if self._micro_batches == 0:
            self._reset()
            raise ValueError("grads: None on every rank, expected arrays on one of them")
        with own._lock:
            return self._apply(*given)

    def _read(self, grads: Tree) -> list[Array | None]:
        """The gradients, flat. Raises TypeError or ValueError."""
        if grads is None:
            return [None] * len(self._arrays)
        found: list[Array | None] = []
        leaves = leaves_like(self._shape, grads, "grads")
        for name, array, leaf in zip(self._names, self._arrays, leaves, strict=True):
            gradient = as_array(leaf, "grads", name)
            if gradient is not None:
                check_gradient(label("grads", name), gradient, array)
                gradient = flat_view(gradient)
            found.append(gradient)
        return found

    def _places(
        self, what: str, flat: Sequence[Array | None], present: NDArray[np.bool_]
    ) -> tuple[list[Array | None], list[bool]]:
        """Where the sum of each own piece goes, and whether one is there already."""
        some: NDArray[np.bool_] = np.logical_or.reduce(present)
        totals: list[Array | None] = []
        begun: list[bool] = []
        for number, piece in enumerate(self.pieces):
            total = self._totals[number] if self._totals else None
            begun.append(total is not None)
            gradient = flat[piece.tensor]
            if total is None and some[piece.tensor]:
                if what == "step" and gradient is not None and gradient.flags.writeable:
                    total = gradient[piece.start : piece.stop]
                else:
                    total = np.empty(piece.size, sum_type(self._arrays[piece.tensor]))
            totals.append(total)
        return totals, begun

    def _apply(
        self,
        flat: Sequence[Array | None],
        totals: list[Array | None],
        present: NDArray[np.bool_],
        begun: list[bool],
    ) -> StepInfo:
        """Sums, steps and spreads: part by part while caches hold it, if no norm comes before."""
        own, exchange, plan = self._own, self._exchange, self._own._plan
        scale = own._scale * (1.0 / self._micro_batches if self._mean else 1.0)
        some = self._present
        self._reset()
        if not (own._clip > 0 or own._checks):
            plan.begin(totals, scale)
            self._torn = True
            exchange.reduce(flat, totals, present, begun, self._update, self._flat)
            return self._counted(None)
        squares = Squares(exchange, totals)
        exchange.reduce(flat, totals, present, begun, squares.add)
        norm = squares.norm(some) * abs(scale)
        if own._checks and not math.isfinite(norm):
            return self._refuse(totals, norm)
        plan.begin(totals, scale * clip_coefficient(norm, own._clip))
        self._torn = True
        exchange.spread(self._flat, totals, self._update)
        return self._counted(norm)

    def _update(self, number: int, part: Piece, total: Array) -> None:
        start = self.pieces[number].start
        self._own._plan.update_part(number, part.start - start, part.stop - start)

    def _counted(self, norm: float | None) -> StepInfo:
        t = self._own._plan.end()
        self._torn = False
        return StepInfo(t, self._own._lr, norm, False)

    def _refuse(self, totals: Sequence[Array | None], norm: float) -> StepInfo:
        if self._own.on_nonfinite == "skip":
            return StepInfo(self.step_count, self._own._lr, norm, True)
        text = b""
        for piece, total in zip(self.pieces, totals, strict=True):
            bad = 0 if total is None else nonfinite(total).get(None, 0)
            if bad and not text:
                where = label("grads", self._names[piece.tensor])
                span = f"elements {piece.start} to {piece.stop}"
                text = f"{where}: {bad} of {span} are not finite in the sum of all ranks".encode()
        found = [each.decode() for each in self._exchange.gather(text) if each]
        what = found[0] if found else "grads: the sum of their squares overflows float64"
        raise FloatingPointError(what)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In a `with` block, which all ranks enter together, parameters with `ema` hold their
        averages; then what they were before, to the bit. Needs memory for a copy of them.

        Steps, `save`, `load` and a block in it raise RuntimeError. Raises DistributedError.
        """
        self._check_whole()
        with averaged_on_all(self._exchange, self._own, self._flat, self.step_count):
            yield

    # Checkpoints

    def save(self, folder: str | os.PathLike[str], *, extra: Any = None) -> None:
        """Writes parameters and states into a folder that all ranks see, each rank its shard.

        extra: plain values and texts, the same on all ranks, which `load` returns. The folder's
        checkpoint is replaced as a whole or not at all, whenever a rank ends. Needs the extra
        `checkpoint`. Raises OSError, TypeError, ValueError or ImportError (on other ranks
        DistributedError, which names the rank); then it is the one before.
        """
        self._check_whole()
        own = self._own
        check_no_averages(self._exchange, "save", own.step_count, own)
        with own._lock:
            about = {
                **self._about(),
                "tensors": tensors_of(self._names, self._arrays),
                "arrangement": self._shape,
                "extra": extra,
            }
            held = self._held()
            save_shards(self._exchange, folder, own.step_count, about, held)

    def state_dict(self) -> dict[str, Any]:
        """The state of the whole on rank 0, which needs its memory; a part of it on the others.

        On rank 0 it is what `optimizer` would give in one process, for `gradstep.save` and the
        `load_state_dict` of either. All ranks call it together. Raises DistributedError.
        """
        self._check_whole()
        with self._own._lock:
            about, held = self._about(), self._held()
            found = gather_whole(self._exchange, tensors_of(self._names, self._arrays), held)
        state: dict[Any, Any] = {}
        for name, (arrays, numbers) in zip(self._names, found, strict=False):
            del arrays[PARAMETER]
            state[name] = saved_state(int(numbers["step"]), arrays)
        return {**about, "step": self.step_count, "state": state}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the share of this rank from the state of the whole, the same on all ranks.

        state_dict: of `optimizer` in one process, or of `state_dict` on rank 0. Parameters are not
        in it. Raises TypeError or ValueError (on other ranks DistributedError) where it does not
        fit, and then nothing has changed.
        """
        self._exchange.alive()
        error: Exception | None = None
        state: dict[str, Any] = {}
        try:
            tensors = tensors_of(self._names, self._arrays)
            found = pieces_of(state_dict["state"], tensors, self.pieces)
            state = self._share_of(state_dict, found)
        except Exception as raised:
            lacks = isinstance(raised, KeyError)
            error = ValueError(f"state_dict: lacks {raised}") if lacks else raised
        agree_on(self._exchange, {"state_dict": digest_of(state_dict)}, error)
        self._own.load_state_dict(state)
        self._reset()

    def sums(self, grads: Tree) -> None:
        """Completes `grads`, given to the latest `step`: every rank gets the sums of all pieces.

        grads: writable arrays like params, float32 or float64, on all ranks; on each the pieces of
        its share hold the sum already, as `step` left them. Raises TypeError or ValueError for
        others, DistributedError if a rank does not answer.
        """
        flat = self._read(grads)
        self._exchange.spread([each for each in flat if each is not None])

    def load(self, folder: str | os.PathLike[str]) -> Any:
        """Goes on where `save` was called, by whatever number of ranks; returns its `extra`.

        Puts parameters and states back. A rank holds its shard, and of the files one at a time.
        Everything is verified on all ranks before anything changes. Raises OSError, TypeError or
        ValueError (on other ranks DistributedError) where the checkpoint is damaged, or of another
        optimizer or other parameters; then nothing has changed.
        """
        self._exchange.alive()
        error: Exception | None = None
        own = self._own
        try:
            check_own_values("load", own._holds_averages)
            index = read_index(folder)
            check_tensors(index, tensors_of(self._names, self._arrays))
            found = load_pieces(folder, index, self.pieces)
            new = [arrays.pop(PARAMETER) for arrays, _ in found]
            state = self._share_of(index, found)
        except Exception as raised:
            error = raised
        self._exchange.agree("load", 0, bytes(32), 0, error)
        self._torn = True
        own.load_state_dict(state)
        for memory, values in zip(own._arrays, new, strict=True):
            memory[...] = values
        self._exchange.spread(self._flat)
        self._torn = False
        self._reset()
        return index["extra"]

    def _about(self) -> dict[str, Any]:
        """What a state says of the whole."""
        groups: list[dict[str, Any]] = [
            {**{k: v for k, v in group.items() if not is_schedule(v)}, "params": []}
            for group in self._own.param_groups
        ]
        for name, number in zip(self._names, self._group_of, strict=True):
            groups[number]["params"].append(name)
        options = self._own._state_dict()["options"]
        return {"optimizer": type(self._own).__name__, "options": options, "param_groups": groups}

    def _held(self) -> list[Held]:
        own = self._own
        return [
            Held(piece, {PARAMETER: memory, **states}, {"step": step})
            for piece, memory, states, step in zip(
                self.pieces, own._arrays, own._states, own._plan.steps, strict=True
            )
        ]

    def _share_of(self, whole: Mapping[str, Any], found: Sequence[State]) -> dict[str, Any]:
        """The state of the own pieces. Raises TypeError or ValueError where it does not fit."""
        names = [self._names[piece.tensor] for piece in self.pieces]
        mine = {
            name: {"step": int(numbers["step"]), **arrays}
            for name, (arrays, numbers) in zip(names, found, strict=True)
        }
        groups = [dict(group) for group in whole["param_groups"]]
        for group in groups:
            group["params"] = [name for name in group["params"] if name in mine]
        state = {key: whole[key] for key in ("optimizer", "step", "options")}
        state |= {"param_groups": groups, "state": mine}
        with self._own._lock:
            verify(state, self._own._expected())
        return state

    def _reset(self) -> None:
        """No gradients are held."""
        self._totals = []
        self._micro_batches = 0
        self._present: NDArray[np.bool_] = np.zeros(len(self._arrays), np.bool_)

    def _check_whole(self) -> None:
        if self._torn:
            raise DistributedError(
                f"step {self.step_count}: it ended halfway, so parameters may be of two steps; "
                "load the last checkpoint"
            )
        self._exchange.alive()

    def __repr__(self) -> str:
        transport = self._exchange.transport
        return f"ShardedOptimizer({self._own!r}, rank {transport.rank} of {transport.size})"


def _of_pieces(
    optimizer: type[Optimizer], arrays: Sequence[Array], pieces: Sequence[Piece]
) -> type[Optimizer]:
    """The class, for pieces of arrays: storage and random bits are as they are of the whole."""
    tiles = first_tiles(arrays)

    def layouts(self: Any, kernels: Sequence[str]) -> list[Layout | None]:
        names = list(dict.fromkeys(name for own in self.KERNELS.values() for name in own))
        found: list[Layout | None] = []
        for number, (name, group) in enumerate(zip(self._names, self._group_of, strict=True)):
            piece = pieces[number]
            whole, tile = arrays[piece.tensor], tiles[piece.tensor] + piece.start // 64
            layout = layout_of(name, whole, None, self._groups[group], names, tile)
            found.append(layout and layout._replace(parameter=self._arrays[number]))
        return found

    made: type[Optimizer] = type(optimizer.__name__, (optimizer,), {"_make_layouts": layouts})
    return made
