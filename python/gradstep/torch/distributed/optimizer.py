"""An optimizer for PyTorch whose states are divided among processes (ZeRO, stage 1)."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import increment_version

from gradstep.distributed.agreement import agree_on, description
from gradstep.distributed.averages import averaged_on_all, check_no_averages
from gradstep.distributed.checkpoint import (
    PARAMETER,
    Held,
    check_tensors,
    load_pieces,
    read_index,
    save_shards,
)
from gradstep.distributed.checks import check_no_copies, sum_type, wire_types
from gradstep.distributed.exchange import Exchange
from gradstep.distributed.transport import DistributedError, Transport
from gradstep.optim.hyperparameters import FIXED
from gradstep.optim.storage import check_own_values, tiles_of_sizes
from gradstep.torch.distributed.gloo import GlooTransport
from gradstep.torch.distributed.pieces import OfPieces, Whole, of_pieces
from gradstep.torch.distributed.states import (
    check_groups,
    cut,
    described,
    divided,
    read_pieces,
)
from gradstep.torch.optim.groups import Groups, plain
from gradstep.torch.optim.loading import kept_here
from gradstep.torch.optim.memory import (
    array_of,
    check_gradient,
    check_parameter,
    fill_with_zeros,
    flat_of,
)
from gradstep.torch.optim.optimizer import NativeOptimizer
from gradstep.torch.optim.participants import Member
from gradstep.torch.optim.shards import is_spread
from gradstep.torch.optim.storage import layout_for

__all__ = ["ShardedOptimizer", "unreduced"]

INCOMPLETE = 2  # flag: some tensors have no gradient


class ShardedOptimizer(torch.optim.Optimizer):
    """Steps as `optimizer` does, each process on its share of parameters and states (ZeRO stage 1).

    optimizer: a class of `gradstep.torch.OPTIMIZERS`. params: as for it, the same in all processes.
    group: of torch.distributed (gloo; None: all processes), or a `Transport`. timeout: seconds
    without a byte after which a process gives up. reduce: False where gradients are averaged
    already, as DistributedDataParallel leaves them; True where each process has its own: then they
    are summed in the order of ranks into the shards and divided by the number of processes, which
    moves half the bytes (under DDP together with its communication hook `unreduced`). Gradients of
    16 bits travel so and are added up in float32, which needs 4 bytes for each element of a share.
    grad_dtype: "float32", or "bfloat16" (with ml_dtypes) for float32 gradients that are reduced
    here. hyper: what `optimizer` takes, except copy_to.

    The bits are those of `optimizer` in one process on averaged gradients, or on that sum with the
    number of processes as `grad_scale`, whatever the layout of parameters and states.

    What torch changes in `param_groups`, as its schedulers do, holds in all processes, where it
    must be the same, and so must `grad_scale`, an attribute that may be set: a number by which
    gradients are divided, as those of float16 whose loss was multiplied by it. `save` and `load`
    are its checkpoints.

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

    grad_scale: Any = None

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
        self._own: OfPieces
        self._ready = False
        try:
            if not (isinstance(optimizer, type) and issubclass(optimizer, NativeOptimizer)):
                raise TypeError("optimizer: expected a class of gradstep.torch.OPTIMIZERS")
            if grad_dtype not in ("float32", "bfloat16"):
                raise ValueError(f"grad_dtype: {grad_dtype!r}, expected 'float32' or 'bfloat16'")
            check_no_copies(hyper)
            params = list(params)
            model = optimizer(params, **hyper)  # checks all arguments; has no states yet
            super().__init__(params, model.defaults)
            self._zero_grads = model.zero_grads
            self._reduce = reduce
            self._take(optimizer)
            found = description(
                optimizer.__name__,
                self._names,
                self._flat,
                list(self.param_groups),
                {**hyper, "reduce": reduce},
                grad_dtype,
            )
            travels = wire_types([array.dtype for array in self._flat], grad_dtype)
        except Exception as raised:
            error = raised
            self._parameters, travels = [], []
        flat = [] if error else self._flat
        self._exchange = Exchange(
            transport,
            [array.size for array in flat],
            [array.itemsize for array in flat],
            [sum_type(array) for array in flat],
            travels,
        )
        agree_on(self._exchange, found, error)
        tiles = tiles_of_sizes(array.size for array in flat)
        whole = Whole(self._exchange, self._parameters, self._flat, tiles, reduce)
        hyper = {key: value for key, value in hyper.items() if key != "zero_grads"}
        self._own = of_pieces(optimizer, self.param_groups, self._names, whole, hyper)
        self._steps = 0
        self._ready = True

    def _take(self, optimizer: type[NativeOptimizer]) -> None:
        self._parameters, self._names = [], []
        self._members: list[Member] = []
        self._kept = Groups.kept(self.param_groups)
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names")
            check_no_copies(group)
            for i, p in enumerate(group["params"]):
                name = names[i] if names else f"group {number}, parameter {i}"
                if is_spread(p):
                    raise TypeError(
                        f"params[{name!r}]: a DTensor, expected a tensor that is whole; "
                        "gradstep.torch's own classes step on parts"
                    )
                check_parameter(p, f"params[{name!r}]", optimizer.__name__)
                member = Member(p, len(self._members), number, name)
                layout_for(member, optimizer.FORMULA, self._kept[number])  # may refuse it
                self._parameters.append(p)
                self._names.append(name)
                self._members.append(member)
        self._flat = [array_of(p).reshape(-1) for p in self._parameters]
        self._addresses = [p.data_ptr() for p in self._parameters]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once the shards are cut: raises ValueError."""
        if self._ready:
            raise ValueError("add_param_group: the shards are cut, expected all groups in params")
        super().add_param_group(param_group)

    @property
    def own(self) -> NativeOptimizer:
        """The optimizer of this process's pieces, whose `clip_norm` and `on_nonfinite` may be set
        and `reload_masters` called, in all processes alike; its `step` is not to be called.
        """
        return self._own

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

        closure: computes the loss and its gradients again. With `reduce`, gradients of 32 and 64
        bits become the sum where this process's pieces are.

        Raises TypeError or ValueError for tensors that a step cannot take (in other processes
        DistributedError, which names the rank), and FloatingPointError with `on_nonfinite="raise"`;
        then nothing was written. Raises DistributedError if a process does not answer; then the
        parameters may be of two steps, and only a checkpoint helps.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._check_whole()
        error: Exception | None = None
        grads: list[Any] = []
        digest = bytes(32)
        try:
            check_own_values("step", self._own._holds_averages)
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
        if not self._reduce:
            self._check_averaged(present)
        try:
            self._own.give(grads, present, self._scale())
            self._own.step()
        except (FloatingPointError, TypeError, ValueError):
            self._own.torn = False
            raise
        finally:
            self._own.release()
        if not self._own.skipped:
            increment_version(self._parameters)
            self._steps += 1
        self._own.torn = False
        if self._zero_grads:
            fill_with_zeros(grad for grad in grads if grad is not None)
        return loss

    def _read(self) -> list[Any]:
        """The gradients, flat. Raises TypeError or ValueError."""
        self._check_memory()
        found: list[Any] = []
        for name, p in zip(self._names, self._parameters, strict=True):
            what = f"params[{name!r}].grad"
            if p.grad is not None:
                check_gradient(p.grad, p, what, "AdamW")
                if self._reduce and p.grad.dtype != p.dtype:
                    as_in = "as in the parameter: so it travels with reduce=True"
                    raise TypeError(f"{what}: {p.grad.dtype}, expected {p.dtype} {as_in}")
            found.append(None if p.grad is None else flat_of(p.grad.detach()))
        return found

    def _scale(self) -> float:
        scale = 1.0 if self.grad_scale is None else plain("grad_scale", self.grad_scale, 1.0)
        if not 0 < scale < math.inf:
            raise ValueError(f"grad_scale: {scale:g}, expected a finite number above 0")
        return float(scale)

    def _check_memory(self) -> None:
        for name, p, address in zip(self._names, self._parameters, self._addresses, strict=True):
            if p.data_ptr() != address:
                where = "expected it where the shards were cut"
                raise ValueError(f"params[{name!r}]: moved in memory, {where}")

    def _check_whole(self) -> None:
        if self._own.torn:
            raise DistributedError("a step ended halfway: load the last checkpoint")
        self._exchange.alive()

    def _check_averaged(self, present: Any) -> None:
        """Raises DistributedError, in all processes, where only some have a gradient."""
        some = np.logical_or.reduce(present)
        ragged = np.flatnonzero(some != np.logical_and.reduce(present))
        if ragged.size:
            raise DistributedError(
                f"params[{self._names[ragged[0]]!r}].grad: None in some processes, expected "
                "averaged gradients in all; with reduce=True they are summed here"
            )

    def _follow(self) -> bytes:
        """Takes hyperparameters over from the groups that torch sees; gives their digest."""
        values = []
        for number, kept in enumerate(Groups.kept(self.param_groups)):
            for key in FIXED:
                if kept[key] != self._kept[number][key]:
                    said = f"{kept[key]!r}, expected {self._kept[number][key]!r} as at first"
                    raise ValueError(f"param_groups[{number}]: {key}: {said}")
        for theirs, ours in zip(self._own.param_groups, self.param_groups, strict=True):
            new = {k: v for k, v in ours.items() if k not in ("params", "param_names")}
            theirs.update(new)
            values.append(sorted((k, _plain(v)) for k, v in new.items()))
        options = [self._own.clip_norm, self._own.on_nonfinite, self._scale()]
        return hashlib.sha256(repr((values, options)).encode()).digest()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In a `with` block, which all processes enter together, parameters with `ema` hold their
        averages; then what they were before, to the bit. Needs memory for a copy of them.

        Steps, `save`, `load` and a block in it raise RuntimeError. Raises DistributedError, and
        ValueError for parameters that have moved in memory.
        """
        self._check_whole()
        exchange, own, flat = self._exchange, self._own, self._flat
        try:
            with averaged_on_all(exchange, own, flat, self._steps, self._check_memory):
                increment_version(self._parameters)
                yield
        finally:
            increment_version(self._parameters)

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Refused: no process has the state of the whole. Raises RuntimeError."""
        raise RuntimeError(
            "state_dict: in parts over processes, expected save(folder), and to_state_dict(folder)"
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the share of this process from the state of an optimizer of one process.

        state_dict: what the optimizer's class gave, the same in all processes; it takes what the
        class takes, and converts it as that does. Raises TypeError or ValueError (in the other
        processes DistributedError) where it does not fit, and then nothing has changed.
        """
        error: Exception | None = None
        groups: list[Any] = []
        found: list[Any] = []
        try:
            pieces, formula = self._exchange.pieces, self._own.FORMULA
            groups, found = cut(state_dict, self.param_groups, self._members, pieces, formula)
        except Exception as raised:
            error = raised
        self._exchange.agree("load", 0, bytes(32), 0, error)
        self._take_state(groups, found)

    def save(self, folder: str | os.PathLike[str], *, extra: Any = None) -> None:
        """Writes parameters and states into a folder that all processes see. Argument and errors as
        of `gradstep.distributed.ShardedOptimizer.save`.
        """
        self._check_whole()
        check_no_averages(self._exchange, "save", self._steps, self._own)
        at = iter(range(len(self._parameters)))
        groups = [
            {
                **{k: _plain(v) for k, v in group.items() if k not in ("params", "param_names")},
                "params": [next(at) for _ in group["params"]],
            }
            for group in self.param_groups
        ]
        held = []
        for piece, member in zip(self._exchange.pieces, self._own.members, strict=True):
            arrays, numbers = divided(self._own.state.get(member.parameter, {}))
            held.append(Held(piece, {PARAMETER: array_of(member.parameter), **arrays}, numbers))
        about = {
            "optimizer": type(self._own).__name__,
            "param_groups": groups,
            "tensors": described(self._names, self._parameters),
            "extra": extra,
        }
        save_shards(self._exchange, folder, self._steps, about, held)

    def load(self, folder: str | os.PathLike[str]) -> Any:
        """Goes on where `save` was called, by whatever number of processes; returns its `extra`.
        Errors as of `gradstep.distributed.ShardedOptimizer.load`, but states of another layout are
        converted as in `load_state_dict`.
        """
        error: Exception | None = None
        try:
            check_own_values("load", self._own._holds_averages)
            self._check_memory()
            index = read_index(folder)
            if index["optimizer"] != (expected := type(self._own).__name__):
                raise ValueError(f"the checkpoint: of {index['optimizer']}, expected {expected}")
            check_tensors(index, described(self._names, self._parameters))
            check_groups(self.param_groups, index["param_groups"], "the checkpoint")
            found = load_pieces(folder, index, self._exchange.pieces)
            values = [arrays.pop(PARAMETER) for arrays, _ in found]
            states = read_pieces(found, self._own, self.param_groups)
            groups = list(map(kept_here, self.param_groups, index["param_groups"]))
        except Exception as raised:
            error = raised
        self._exchange.agree("load", 0, bytes(32), 0, error)
        self._own.torn = True
        self._take_state(groups, states)
        for member, own in zip(self._own.members, values, strict=True):
            array_of(member.parameter)[...] = own
        self._exchange.spread(self._flat)
        increment_version(self._parameters)
        self._steps = index["step"]
        self._own.torn = False
        return index["extra"]

    def _take_state(self, groups: list[Any], states: list[Any]) -> None:
        for own, saved in zip(self.param_groups, groups, strict=True):
            own.update({k: v for k, v in saved.items() if k not in ("params", "param_names")})
        self._own.state.clear()
        for member, state in zip(self._own.members, states, strict=True):
            if state:
                self._own.state[member.parameter] = state
        self._own._participants = None


def unreduced(state: Any, bucket: Any) -> Any:
    """A communication hook for DistributedDataParallel that leaves gradients as each process has
    them, for `ShardedOptimizer(..., reduce=True)`: `model.register_comm_hook(None, unreduced)`.
    """
    done = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


unreduced.__annotations__.clear()  # torch wants its own classes there, or nothing, and no names


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, torch.Tensor) else value
