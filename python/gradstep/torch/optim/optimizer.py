"""What the optimizers for PyTorch share: one native step over the memory of torch's tensors.

A class here inherits from torch's class of the same name: arguments, checks, groups, hooks, and the
loading of checkpoints are torch's own. Only `step` is replaced. The classes are in `optimizers.py`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch.autograd.graph import increment_version
from torch.optim import optimizer as torch_optimizer

from gradstep import _core
from gradstep.arguments import mapping
from gradstep.optim.hyperparameters import EMA_DECAY, check_ema, check_range
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.optim.storage import check_own_values
from gradstep.spec.optim import clip_coefficient
from gradstep.torch.optim.arguments import EXTRA, signature_of
from gradstep.torch.optim.groups import (
    KEPT,
    Groups,
    Option,
    changes_in_place,
    check_flags,
    kept_as,
)
from gradstep.torch.optim.loading import adapted, copied
from gradstep.torch.optim.memory import array_of, fill_with_zeros, is_fake
from gradstep.torch.optim.participants import Member, Participants, raise_nonfinite, steps_taken
from gradstep.torch.optim.rows import Rows, check_sparse, is_sparse
from gradstep.torch.optim.shards import sum_over_parts
from gradstep.torch.optim.storage import (
    averages_in_place,
    copies_beside,
    copies_of,
    layout_for,
    reload_all_masters,
    without_copies,
)
from gradstep.torch.threads import on_team

__all__ = ["NativeOptimizer"]

OPTIONS = ("clip_norm", "on_nonfinite", "zero_grads")


class NativeOptimizer(torch.optim.Optimizer):
    """Base of the optimizers: see `gradstep.torch` for them."""

    FORMULA: ClassVar[type[Formula]]
    NUMBERS: ClassVar[tuple[str, ...]] = ("step",)  # states that are one number of a tensor
    SPARSE: ClassVar[bool] = False  # whether it takes sparse gradients
    OPTIONAL: ClassVar[tuple[str, ...]] = ()  # keys that torch's class does without
    __signature__: ClassVar[inspect.Signature]

    clip_norm: Any = Option(None)
    on_nonfinite: Any = Option("apply")
    zero_grads: Any = Option(False)

    _given: Mapping[str, Any] = MappingProxyType({})  # how arrays are kept, beside the defaults
    _participants: Participants | None = None
    _groups: Groups | None = None
    _values: list[tuple[Any, ...]] | None = None  # hyperparameters of each group, as the plan's
    _volatile = False  # one of them is a tensor or a list, which may change in place
    _known_norm: float | None = None  # of the gradients of a step that sees but a part of them
    _grad_norm: float | None = None
    _skipped = False
    _holds_averages = False
    _copies: Mapping[int, Any] = MappingProxyType({})  # by the place of the parameter
    _layout_for: Any = staticmethod(layout_for)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "FORMULA" not in cls.__dict__:
            return
        cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n{EXTRA}"
        cls.__signature__ = signature_of(cls, NativeOptimizer)

    def __init__(
        self,
        *args: Any,
        clip_norm: float | None = None,
        on_nonfinite: str = "apply",
        zero_grads: bool = False,
        master: str | None = None,
        state_dtype: str = "float32",
        ema: str | None = None,
        ema_decay: float = EMA_DECAY,
        seed: int = 0,
        copy_to: Any = None,
        **kwargs: Any,
    ) -> None:
        self.clip_norm = clip_norm
        self.on_nonfinite = on_nonfinite
        self.zero_grads = zero_grads
        given = {"master": master, "state_dtype": state_dtype, "ema": ema, "seed": seed}
        # Others are left out: a state dict of float32 alone has torch's keys.
        checked = {key: kept_as(given, key) for key in KEPT}
        self._given = {key: value for key, value in checked.items() if value != KEPT[key]}
        decay = check_range("ema_decay", ema_decay)
        if decay != EMA_DECAY:
            self._given["ema_decay"] = decay
        check_flags(kwargs, "")
        super().__init__(*args, **kwargs)
        check_flags(self.defaults, "")
        fallback = {"ema": None, "ema_decay": EMA_DECAY}
        check_ema([{**fallback, **group} for group in self.param_groups])
        self._copies = copies_beside(copy_to, self._members(), self._copies)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch's class does.

        param_group: also with `copy_to` for its parameters, and with what else differs for them.
        Raises TypeError or ValueError, and then nothing was added.
        """
        if isinstance(param_group, dict):
            check_flags(param_group, "param_group: ")
            Groups.kept([param_group])
        param_group, copy_to = without_copies(param_group)
        self.defaults.update(self._given)
        super().add_param_group(param_group)
        if copy_to is not None:
            try:
                own = copies_of(copy_to, self._members(), len(self.param_groups) - 1)
            except (TypeError, ValueError):
                del self.param_groups[-1]
                raise
            self._copies = {**self._copies, **own}

    @property
    def grad_norm(self) -> float | None:
        """The L2 norm of the last step's gradients, where `clip_norm` or `on_nonfinite` need it."""
        return self._grad_norm

    @property
    def skipped(self) -> bool:
        """Whether the last step wrote nothing because its gradients were not finite.

        A GradScaler calls the steps of `fused=True` with such gradients, and leaves out others'.
        """
        return self._skipped

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters that have a gradient, in place; returns what closure returns.

        closure: computes the loss and its gradients again.

        Raises TypeError or ValueError for tensors that a native step cannot take, and
        FloatingPointError with `on_nonfinite="raise"`; then nothing was written.
        """
        if not self._observed():
            return self._step(closure)
        return self._step_observed() if closure is None else self._step_observed(closure)

    # torch.compile leaves a step as it is, with one graph break.
    step = torch.compiler.disable(step)
    # torch would wrap `step` in its hooks and a profiler's record, which costs 6 µs each time;
    # `_step_observed` is so wrapped, and runs where anyone looks.
    step.hooked = True  # type: ignore[attr-defined]

    def _observed(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        )

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        params = [p for group in self.param_groups for p in group["params"]]
        grads = [p.grad for p in params]
        found_inf = self.__dict__.get("found_inf")
        if found_inf is not None and float(found_inf) != 0:
            self._skip(grads, None)
        elif self._participants is None and any(map(is_fake, params)):
            self._step_of_torch()
        else:
            self._step_natively(params, grads)
        return loss

    _step_observed = torch.optim.Optimizer.profile_hook_step(_step)

    def _step_natively(self, params: list[Any], grads: list[Any]) -> None:
        check_own_values("step", self._holds_averages)
        try:
            outcome = self._advance(params, grads)
        except (TypeError, ValueError):
            # A tensor may have another shape in the same memory: a new plan explains, or helps.
            self._participants = None
            outcome = self._advance(params, grads)
        participants, given, rows, norm, scale = outcome
        if scale is None:
            self._refuse(participants, given, rows)
            self._skip(grads, norm)
        else:
            for row in rows:
                row.step(scale)
                row.commit(self.state, bool(self.NUMBERS))
            self._finish(participants, grads, given, norm)

    @on_team
    def _advance(
        self, params: list[Any], grads: list[Any]
    ) -> tuple[Participants, list[Any], list[Rows], float | None, float | None]:
        """Steps on what is dense; gives the rows that are to follow, the norm, and the factor of
        the gradients: None where the step was skipped."""
        rows: list[Rows] = []
        if self.SPARSE and True in map(is_sparse, [g for g in grads if g is not None]):
            grads, rows = self._take_rows(params, grads)
        participants = self._current(params, grads)
        given = participants.gradients(participants.own(grads), self._zero_grads)
        factor = self.__dict__.get("grad_scale")
        scale = 1.0 if factor is None else 1.0 / float(factor)
        clip, checks = self._clip_norm or 0.0, self._on_nonfinite != "apply"
        norm = None
        if (rows or self._sees_a_part(participants)) and (clip or checks):
            norm = self._norm(participants, given, rows) * abs(scale)
            if checks and not math.isfinite(norm):
                return participants, given, rows, norm, None
            scale *= clip_coefficient(norm, clip)
            clip, checks = 0.0, False
        plan_step = self._step_of(participants)
        if self._known_norm is not None:
            plan_step = partial(participants.plan.step_with_norm, self._known_norm)
        _, own_norm, applied = plan_step(given, scale, clip, checks, self._zero_grads)
        norm = own_norm if norm is None else norm
        return participants, given, rows, norm, scale if applied else None

    def _step_of(self, participants: Participants) -> Callable[..., Any]:
        """What steps on all of them: arguments and results are those of the plan's step."""
        return participants.plan.step

    def _sees_a_part(self, participants: Participants) -> bool:
        """Whether other processes have gradients too that the norm is to include."""
        return participants.spread

    def _norm(self, participants: Participants, given: list[Any], rows: list[Rows]) -> float:
        """The norm of all gradients where the plan sees but a part of them."""
        gradients = [
            (parameter, grad if isinstance(grad, np.ndarray) else array_of(grad))
            for parameter, grad in zip(participants.parameters, given, strict=True)
            if grad is not None
        ]
        gradients += [(row.member.parameter, array_of(row.values)) for row in rows]
        squares = [(p, _core.global_norm([g], [None], "grads") ** 2) for p, g in gradients]
        return math.sqrt(sum_over_parts(squares))

    def _take_rows(self, params: list[Any], grads: list[Any]) -> tuple[list[Any], list[Rows]]:
        """Sparse gradients as rows, or dense where all of a parameter moves; the others as given.

        Raises TypeError or ValueError.
        """
        dense, rows = list(grads), []
        groups = self._read_groups()
        for member in self._members([g is not None and is_sparse(g) for g in grads]):
            grad, group = grads[member.position], groups[member.group]
            check_sparse(grad, member, type(self).__name__)
            kept = self.param_groups[member.group].get("state_dtype", "float32")
            if kept != "float32":
                raise ValueError(
                    f"param_groups[{member.group}]: state_dtype: {kept!r}, expected 'float32' with "
                    f"the sparse gradient of {member.label}"
                )
            for key in ("weight_decay", "l1"):
                if group.get(key):
                    raise ValueError(
                        f"param_groups[{member.group}]: {key}: {group[key]}, expected 0 with "
                        f"the sparse gradient of {member.label}"
                    )
            if self._moves_all(group):
                model = torch.empty_like(member.parameter.detach())
                dense[member.position] = model.copy_(grad.detach().to_dense())
                continue
            dense[member.position] = None
            t = 1 + steps_taken(self.state, member)
            made = Rows(member, grad, self.state, self.FORMULA, group, self.defaults)
            made.at_step(t, self._row_scalars(group, t))
            rows.append(made)
        return dense, rows

    @classmethod
    def _moves_all(cls, group: dict[str, Any]) -> bool:
        """Whether also those elements of a parameter move whose gradient is 0."""
        return False

    def _row_scalars(self, group: dict[str, Any], t: int) -> dict[str, float]:
        """The numbers of a group for the rows of a tensor at its step t."""
        return self.FORMULA._scalars(group, 1)

    def _finish(
        self, participants: Participants, grads: list[Any], given: list[Any], norm: float | None
    ) -> None:
        self._grad_norm, self._skipped = norm, False
        present = [i for i, grad in enumerate(given) if grad is not None]
        parameters = participants.parameters
        if len(present) == len(parameters):
            self._count(participants, None)
        else:
            self._count(participants, present)
            parameters = [parameters[i] for i in present]
        increment_version(parameters)
        if participants.copied:
            increment_version(participants.copies_of(present))
        if participants.spread:
            increment_version([participants.parts[i] for i in present])
        if self._zero_grads:
            left = [grad for grad in grads if grad is not None]
            if self.SPARSE:
                fill_with_zeros(filter(is_sparse, left))
            increment_version(left)

    def _count(self, participants: Participants, present: list[int] | None) -> None:
        """Advances the numbers that torch keeps of the parameters at these places, or of all."""
        participants.count(present)

    def _skip(self, grads: list[Any], norm: float | None) -> None:
        self._grad_norm, self._skipped = norm, True
        if self._zero_grads:
            fill_with_zeros(grad for grad in grads if grad is not None)

    def _refuse(self, participants: Participants, given: list[Any], rows: list[Rows]) -> None:
        if self._on_nonfinite == "raise":
            found = list(zip(participants.members, given, strict=True))
            found += [(row.member, row.values) for row in rows]
            raise_nonfinite(found, self._sees_a_part(participants))

    def _step_of_torch(self) -> None:
        """The step of torch's class, for tensors without memory."""
        order = type(self).__mro__
        theirs: Any = order[order.index(NativeOptimizer) + 1]
        if theirs is torch.optim.Optimizer:
            raise TypeError(f"{type(self).__name__}: FakeTensor parameters, expected memory")
        step = theirs.step
        (step.__wrapped__ if getattr(step, "hooked", False) else step)(self)

    # What the plan is made from

    def _hyperparameters(self) -> Groups:
        if self._groups is None:
            self._groups = Groups(self.FORMULA, self.defaults, self.OPTIONAL)
        return self._groups

    def _current(self, params: list[Any], grads: list[Any]) -> Participants:
        participants = self._participants
        if participants is None or not participants.fits(self.state, params, grads):
            participants = self._gather(params, grads, self._read_groups())
        elif self._volatile or self._differ():
            groups = self._read_groups()
            same = Groups.kept(self.param_groups) == participants.keeping
            if same and self._kernels(groups) == participants.kernels:
                self._set_hyper(participants, groups)
            else:
                participants = self._gather(params, grads, groups)
        return participants

    def _differ(self) -> bool:
        """Whether the hyperparameters are others than the plan's."""
        try:
            return self._hyperparameters().values(self.param_groups) != self._values
        except (RuntimeError, ValueError):  # a tensor or array of several, which has no truth
            return True

    def _read_groups(self) -> list[dict[str, Any]]:
        return list(map(self._effective, self._hyperparameters().read(self.param_groups)))

    @classmethod
    def _effective(cls, group: dict[str, Any]) -> dict[str, Any]:
        """The hyperparameters of a group as the native formula takes them."""
        return group

    def _kernels(self, groups: list[dict[str, Any]]) -> list[str]:
        return [self.FORMULA.kernel(group) for group in groups]

    def _set_hyper(self, participants: Participants, groups: list[dict[str, Any]]) -> None:
        scalars = [self.FORMULA._scalars(group, 1) for group in groups]
        for number, h in enumerate(scalars):
            participants.plan.set_hyper(number, list(h.values()))
        self._scalars = scalars
        self._values = self._hyperparameters().values(self.param_groups)
        self._volatile = changes_in_place(self._values)

    def _gather(
        self, params: list[Any], grads: list[Any], groups: list[dict[str, Any]]
    ) -> Participants:
        before = set(map(id, self._participants.parameters)) if self._participants else set()
        takes_part = [
            grad is not None or id(p) in before for p, grad in zip(params, grads, strict=True)
        ]
        participants = Participants(
            self._members(takes_part),
            params,
            self.state,
            self.FORMULA,
            self._kernels(groups),
            Groups.kept(self.param_groups),
            self.NUMBERS,
            self.defaults,
            type(self).__name__,
            self._copies,
            self._layout_for,
        )
        own = participants.own(grads)
        participants.check_gradients(own)
        participants.plan.check(participants.gradients(own, self._zero_grads))
        self._set_hyper(participants, groups)
        participants.commit(self.state)
        self._participants = participants
        return participants

    def _members(self, takes_part: list[bool] | None = None) -> list[Member]:
        """The parameters at these places, or all."""
        members: list[Member] = []
        position = 0
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names")
            for i, p in enumerate(group["params"]):
                if takes_part is None or takes_part[position]:
                    name = names[i] if names else f"group {number}, parameter {i}"
                    members.append(Member(p, position, number, name))
                position += 1
        return members

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In a `with` block parameters with `ema` hold their averages; then what they were before.

        So do their copies of `copy_to`. Those that have had no gradient stay as they are. Steps and
        `reload_masters` in it raise RuntimeError.
        """
        if self._holds_averages:
            raise RuntimeError("averaged: called in a block of it, expected one")
        copies = {m.parameter: self._copies.get(m.position) for m in self._members()}
        with averages_in_place(self.state, copies):
            self._holds_averages = True
            try:
                yield
            finally:
                self._holds_averages = False

    # Checkpoints

    def reload_masters(self) -> None:
        """Takes parameters that were changed outside, as by loading weights, into their masters.

        Where a parameter is the rounded master still, the master stays; a split one loses the bits
        below bfloat16. Without masters nothing happens.
        """
        check_own_values("reload_masters", self._holds_averages)
        reload_all_masters(self.state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict()` was taken, by a class of ours, torch's or bitsandbytes'.

        How arrays are kept stays as it is here: states of another type are converted, as they are
        not by torch. Raises TypeError or ValueError; then nothing has changed.
        """
        handle = self.register_load_state_dict_pre_hook(NativeOptimizer._adapt)
        try:
            super().load_state_dict(dict(mapping("state_dict", state_dict)))
        finally:
            handle.remove()

    def _adapt(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        return adapted(state_dict, self.param_groups, self._members(), self.FORMULA)

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: getattr(self, key) for key in (*OPTIONS, "_copies")}
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._participants = self._groups = None
        kept = dict(state)
        for key in OPTIONS:
            if key in kept:
                setattr(self, key, kept.pop(key))
        if kept.keys() == {"state", "param_groups"}:  # load_state_dict: the caller's tensors
            kept["state"] = copied(kept["state"])
        super().__setstate__(kept)
