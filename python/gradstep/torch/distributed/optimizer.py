"""An optimizer for PyTorch whose states are divided among processes (ZeRO, stage 1)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import increment_version

from gradstep.distributed.agreement import agree_on, description
from gradstep.distributed.checkpoint import (
    PARAMETER,
    Held,
    State,
    check_tensors,
    load_pieces,
    read_index,
    save_shards,
    tensors_of,
)
from gradstep.distributed.checks import check_no_copies
from gradstep.distributed.exchange import Exchange, Squares
from gradstep.distributed.plan import Piece
from gradstep.distributed.transport import DistributedError, Transport
from gradstep.optim.storage import bfloat16
from gradstep.torch.distributed.checkpoint import divided, part_of_state
from gradstep.torch.distributed.gloo import GlooTransport
from gradstep.torch.optim.groups import KEPT
from gradstep.torch.optim.loading import check_state_dict
from gradstep.torch.optim.memory import array_of, check_gradient, check_parameter
from gradstep.torch.optim.optimizer import NativeOptimizer
from gradstep.torch.optim.shards import is_spread

__all__ = ["ShardedOptimizer", "unreduced"]

INCOMPLETE = 2  # flag: some tensors have no gradient


class ShardedOptimizer(torch.optim.Optimizer):
    """Steps as `optimizer` does, each process on its share of parameters and states (ZeRO stage 1).

    optimizer: a class of `gradstep.torch.OPTIMIZERS`. params: as for it, the same in all processes.
    group: of torch.distributed (gloo; None: all processes), or a `Transport`. timeout: seconds
    without a byte after which a process gives up. reduce: False where gradients are averaged
    already, as DistributedDataParallel leaves them; True where each process has its own: then they
    are summed in the order of ranks into the shards and divided by the number of processes, which
    moves half the bytes (under DDP together with its communication hook `unreduced`). grad_dtype:
    "float32", or "bfloat16" (with ml_dtypes) for gradients that are reduced here. hyper: what
    `optimizer` takes, except copy_to.

    What torch changes in `param_groups`, as its schedulers do, holds in all processes, where it
    must be the same. `save` and `load` are its checkpoints.

    All processes make one, and step, together. Raises TypeError or ValueError as `optimizer` does,
    DistributedError where processes bring different parameters, hyperparameters or versions, or do
    not answer. Rajbhandari et al. 2020 (arXiv:1910.02054).

    >>> import gradstep.torch as gt, gradstep.distributed as gd, torch
    >>> w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    >>> [alone] = gd.in_process(1)
    >>> opt = gt.distributed.ShardedOptimizer(gt.SGD, [w], group=alone, lr=0.5)
    >>> w.sum().backward()
    >>> opt.step()
    >>> w.data
    tensor([0.5000, 1.5000])
    """

    def __init__(
        self,
        optimizer: type[NativeOptimizer],
        params: Any,
        *,
        group: Any = None,
        timeout: float = 600.0,
        reduce: bool = False,
        grad_dtype: str = "float32",
        **hyper: Any,
    ) -> None:
        transport = group if isinstance(group, Transport) else GlooTransport(group, timeout=timeout)
        found: dict[str, Any] = {}
        error: Exception | None = None
        self._parameters: list[Any] = []
        self._ready = False
        try:
            if not (isinstance(optimizer, type) and issubclass(optimizer, NativeOptimizer)):
                raise TypeError("optimizer: expected a class of gradstep.torch.OPTIMIZERS")
            if grad_dtype not in ("float32", "bfloat16"):
                raise ValueError(f"grad_dtype: {grad_dtype!r}, expected 'float32' or 'bfloat16'")
            if grad_dtype == "bfloat16":
                bfloat16("grad_dtype='bfloat16'")  # all processes learn of it where one cannot
            check_no_copies(hyper)
            params = list(params)
            model = optimizer(params, **hyper)  # checks all arguments; has no states yet
            super().__init__(params, model.defaults)
            self._take(optimizer.__name__)
            found = description(
                optimizer.__name__,
                self._names,
                self._flat,
                list(self.param_groups),
                {**hyper, "reduce": reduce},
                grad_dtype,
            )
        except Exception as raised:
            error = raised
            self._parameters = []
        flat = [] if error else self._flat
        self._exchange = Exchange(
            transport,
            [array.size for array in flat],
            [array.itemsize for array in flat],
            [array.dtype for array in flat],
            grad_dtype == "bfloat16" and error is None,
        )
        agree_on(self._exchange, found, error)
        self._reduce = reduce
        self._own = self._make_own(optimizer, hyper)
        self._steps = 0
        self._torn, self._ready = False, True

    def _take(self, optimizer: str) -> None:
        self._parameters, self._names = [], []
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names")
            check_no_copies(group)
            if any(group.get(key, value) != value for key, value in KEPT.items() if key != "seed"):
                raise ValueError(
                    f"group {number}: kept in fewer bits, or with an average, expected neither; "
                    "gradstep.distributed shards those of NumPy arrays"
                )
            for i, p in enumerate(group["params"]):
                name = names[i] if names else f"group {number}, parameter {i}"
                if is_spread(p):
                    raise TypeError(
                        f"params[{name!r}]: a DTensor, expected a tensor that is whole; "
                        "gradstep.torch's own classes step on parts"
                    )
                check_parameter(p, f"params[{name!r}]", optimizer)
                if p.dtype not in (torch.float32, torch.float64):
                    raise TypeError(f"params[{name!r}]: {p.dtype}, expected float32 or float64")
                self._parameters.append(p)
                self._names.append(name)
        self._flat = [array_of(p).reshape(-1) for p in self._parameters]
        self._addresses = [p.data_ptr() for p in self._parameters]

    def _make_own(self, optimizer: type[NativeOptimizer], hyper: dict[str, Any]) -> Any:
        """The optimizer of the own pieces."""
        groups = [
            {**{k: v for k, v in group.items() if k != "param_names"}, "params": []}
            for group in self.param_groups
        ]
        number_of = [n for n, group in enumerate(self.param_groups) for _ in group["params"]]
        self._pieces: list[Any] = []
        for tensor, start, stop in self._exchange.pieces:
            memory = _flat(self._parameters[tensor].detach())[start:stop]
            self._pieces.append(torch.nn.Parameter(memory))
            groups[number_of[tensor]]["params"].append(self._pieces[-1])
        made = type(optimizer.__name__, (_OfShard, optimizer), {})
        own = made(groups, **hyper)
        own.whole = self
        return own

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once the shards are cut: raises ValueError."""
        if self._ready:
            raise ValueError("add_param_group: the shards are cut, expected all groups in params")
        super().add_param_group(param_group)

    @property
    def own(self) -> NativeOptimizer:
        """The optimizer of this process's pieces, whose `clip_norm` and `on_nonfinite` may be set,
        in all processes alike; its `step` is not to be called.
        """
        found: NativeOptimizer = self._own
        return found

    @property
    def grad_norm(self) -> float | None:
        """The L2 norm of the last step's gradients, where `clip_norm` or `on_nonfinite` need it."""
        return self.own.grad_norm

    @property
    def skipped(self) -> bool:
        """Whether the last step wrote nothing because its gradients were not finite."""
        return self.own.skipped

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters in all processes; returns what closure returns.

        closure: computes the loss and its gradients again. With `reduce`, gradients become the sum
        where this process's pieces are.

        Raises TypeError or ValueError for tensors that a step cannot take (in other processes
        DistributedError, which names the rank), and FloatingPointError with `on_nonfinite="raise"`;
        then nothing was written. Raises DistributedError if a process does not answer; then the
        parameters may be of two steps, and only a checkpoint helps.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._torn:
            raise DistributedError("a step ended halfway: load the last checkpoint")
        error: Exception | None = None
        grads: list[Any] = []
        digest = bytes(32)
        try:
            grads = self._read()
            digest = self._follow()
        except Exception as raised:
            error = raised
        own = [grad is not None for grad in grads]
        flags = self._exchange.agree(
            "step", self._steps + 1, digest, INCOMPLETE * (not all(own)), error
        )
        present = np.ones((len(flags), len(own)), np.bool_)
        if any(flag & INCOMPLETE for flag in flags):
            present = self._exchange.presence(own)
        self._give(grads, present)
        try:
            self._own.step()
        except (FloatingPointError, TypeError, ValueError):
            self._torn = False
            raise
        if not self._own.skipped:
            increment_version(self._parameters)
            self._steps += 1
        self._torn = False
        return loss

    def _read(self) -> list[Any]:
        """The gradients, flat. Raises TypeError or ValueError."""
        found: list[Any] = []
        for i, p in enumerate(self._parameters):
            what = f"params[{self._names[i]!r}]"
            if p.data_ptr() != self._addresses[i]:
                raise ValueError(f"{what}: moved in memory, expected it where the shards were cut")
            if p.grad is not None:
                check_gradient(p.grad, p, f"{what}.grad", "AdamW")
            found.append(None if p.grad is None else _flat(p.grad.detach()))
        return found

    def _follow(self) -> bytes:
        """Takes hyperparameters over from the groups that torch sees; gives their digest."""
        values = []
        for theirs, ours in zip(self._own.param_groups, self.param_groups, strict=True):
            new = {k: v for k, v in ours.items() if k not in ("params", "param_names")}
            theirs.update(new)
            values.append(sorted((k, _plain(v)) for k, v in new.items()))
        options = [self._own.clip_norm, self._own.on_nonfinite]
        return hashlib.sha256(repr((values, options)).encode()).digest()

    def _give(self, grads: list[Any], present: Any) -> None:
        """Gives the own pieces their gradients."""
        some = np.logical_or.reduce(present)
        self._present, self._summed = some, False
        pieces = list(zip(self._exchange.pieces, self._pieces, strict=True))
        if self._reduce:
            for piece, parameter in pieces:
                grad = grads[piece.tensor]
                if not some[piece.tensor]:
                    parameter.grad = None
                elif grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                else:
                    parameter.grad = grad[piece.start : piece.stop]
            own = [parameter.grad for _, parameter in pieces]
            self._given = (
                [None if grad is None else array_of(grad) for grad in grads],
                [None if grad is None else array_of(grad) for grad in own],
                present,
                [False] * len(own),
            )
            self._own.grad_scale = float(self._exchange.transport.size)  # it divides by that
            increment_version([grad for grad in grads if grad is not None])
            return
        ragged = np.flatnonzero(some != np.logical_and.reduce(present))
        if ragged.size:
            raise DistributedError(
                f"params[{self._names[ragged[0]]!r}].grad: None in some processes, expected "
                "averaged gradients in all; with reduce=True they are summed here"
            )
        for piece, parameter in pieces:
            grad = grads[piece.tensor]
            parameter.grad = None if grad is None else grad[piece.start : piece.stop]
        totals = [None if p.grad is None else array_of(p.grad) for _, p in pieces]
        self._given = [], totals, present, [False] * len(totals)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Refused: no process has the state of the whole. Raises RuntimeError."""
        raise RuntimeError(
            "state_dict: in parts over processes, expected save(folder), and to_state_dict(folder)"
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the share of this process from the state of an optimizer of one process.

        state_dict: what the optimizer's class gave, the same in all processes. Raises TypeError or
        ValueError where it does not fit, in other processes DistributedError, and then nothing has
        changed.
        """
        error: Exception | None = None
        found: list[State] = []
        groups: Any = ()
        try:
            check_state_dict(state_dict)
            groups = state_dict["param_groups"]
            sizes = [len(group["params"]) for group in groups]
            if sizes != (own := [len(group["params"]) for group in self.param_groups]):
                raise ValueError(f"state_dict: groups of {sizes} parameters, expected {own}")
            keys = [key for group in groups for key in group["params"]]
            for piece in self._exchange.pieces:
                key, parameter = keys[piece.tensor], self._parameters[piece.tensor]
                saved = state_dict["state"].get(key, {})
                where = f"state_dict['state'][{key!r}]"
                found.append(part_of_state(saved, self._own.NUMBERS, parameter, piece, where))
        except Exception as raised:
            error = raised
        self._exchange.agree("load", 0, bytes(32), 0, error)
        self._take_state(groups, found)

    def save(self, folder: str | os.PathLike[str], *, extra: Any = None) -> None:
        """Writes parameters and states into a folder that all processes see. Argument and errors as
        of `gradstep.distributed.ShardedOptimizer.save`.
        """
        at = iter(range(len(self._parameters)))
        groups = [
            {
                **{k: _plain(v) for k, v in group.items() if k not in ("params", "param_names")},
                "params": [next(at) for _ in group["params"]],
            }
            for group in self.param_groups
        ]
        held = []
        for piece, p in zip(self._exchange.pieces, self._pieces, strict=True):
            where = f"state[{self._names[piece.tensor]!r}]"
            arrays, numbers = divided(self._own.state.get(p, {}), self._own.NUMBERS, where)
            memory = {key: array_of(value).reshape(-1) for key, value in arrays.items()}
            held.append(Held(piece, {PARAMETER: array_of(p), **memory}, numbers))
        about = {
            "optimizer": type(self._own).__name__,
            "param_groups": groups,
            "tensors": tensors_of(self._names, self._shaped()),
            "extra": extra,
        }
        save_shards(self._exchange, folder, self._steps, about, held)

    def load(self, folder: str | os.PathLike[str]) -> Any:
        """Goes on where `save` was called, by whatever number of processes; returns its `extra`.
        Errors as of `gradstep.distributed.ShardedOptimizer.load`.
        """
        error: Exception | None = None
        try:
            index = read_index(folder)
            if index["optimizer"] != (expected := type(self._own).__name__):
                raise ValueError(f"the checkpoint: of {index['optimizer']}, expected {expected}")
            check_tensors(index, tensors_of(self._names, self._shaped()))
            found = load_pieces(folder, index, self._exchange.pieces)
            values = [arrays.pop(PARAMETER) for arrays, _ in found]
            self._check(index["param_groups"], found)
        except Exception as raised:
            error = raised
        self._exchange.agree("load", 0, bytes(32), 0, error)
        self._torn = True
        self._take_state(index["param_groups"], found)
        for p, own in zip(self._pieces, values, strict=True):
            array_of(p)[...] = own
        self._exchange.spread(self._flat)
        increment_version(self._parameters)
        self._steps = index["step"]
        self._torn = False
        return index["extra"]

    def _shaped(self) -> list[Any]:
        """What tells dtype and shape: the memory of a parameter that is not contiguous is flat."""
        return [array_of(p) for p in self._parameters]

    def _check(self, groups: Sequence[Any], found: Sequence[State]) -> None:
        """Raises ValueError for a state that does not fit."""
        if len(groups) != len(self.param_groups):
            raise ValueError(f"param_groups: {len(groups)}, expected {len(self.param_groups)}")
        for piece, p, (arrays, _) in zip(self._exchange.pieces, self._pieces, found, strict=True):
            for key, array in arrays.items():
                if array.size != piece.size or array.dtype != array_of(p).dtype:
                    what = f"state of {self._names[piece.tensor]!r}: {key!r}"
                    raise ValueError(f"{what} does not fit the parameter")

    def _take_state(self, groups: Sequence[Any], found: Sequence[State]) -> None:
        for own, saved in zip(self.param_groups, groups, strict=True):
            own.update({k: v for k, v in saved.items() if k not in ("params", "param_names")})
        self._own.state.clear()
        for p, (arrays, numbers) in zip(self._pieces, found, strict=True):
            state = {key: torch.from_numpy(array) for key, array in arrays.items()}
            state.update({key: torch.tensor(value) for key, value in numbers.items()})
            if state:
                self._own.state[p] = state
        self._own._participants = None


class _OfShard(NativeOptimizer):
    """Mixed into an optimizer of pieces: its step sums gradients, and spreads parameters."""

    whole: ShardedOptimizer

    def _sees_a_part(self, participants: Any) -> bool:
        return True

    def _norm(self, participants: Any, given: list[Any], rows: list[Any]) -> float:
        whole = self.whole
        flat, totals, present, begun = whole._given
        squares = Squares(whole._exchange, totals)
        if whole._reduce:
            whole._exchange.reduce(flat, totals, present, begun, squares.add)
        else:
            squares.add_all(totals)
        whole._summed = True
        return squares.norm(whole._present)

    def _step_of(self, participants: Any) -> Callable[..., tuple[int, float | None, bool]]:
        """The plan's step in parts, each of which goes to all processes once it is made."""
        whole, plan = self.whole, participants.plan
        exchange = whole._exchange
        place = {position: i for i, position in enumerate(participants.positions)}

        def update(number: int, part: Piece, total: Any) -> None:
            start = exchange.pieces[number].start
            plan.update_part(place[number], part.start - start, part.stop - start)

        def step(
            given: list[Any], scale: float, clip: float, checks: bool, zero_grads: bool
        ) -> tuple[int, float | None, bool]:
            flat, totals, present, begun = whole._given
            plan.begin(given, scale, zero_grads)
            whole._torn = True
            if whole._reduce and not whole._summed:
                exchange.reduce(flat, totals, present, begun, update, whole._flat)
            else:
                exchange.spread(whole._flat, totals, update)
            return plan.end(), None, True

        return step


def unreduced(state: Any, bucket: Any) -> Any:
    """A communication hook for DistributedDataParallel that leaves gradients as each process has
    them, for `ShardedOptimizer(..., reduce=True)`: `model.register_comm_hook(None, unreduced)`.
    """
    done = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


unreduced.__annotations__.clear()  # torch wants its own classes there, or nothing, and no names


def _flat(tensor: Any) -> Any:
    """The memory of a dense tensor."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, torch.Tensor) else value
