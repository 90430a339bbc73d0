"""What every optimizer does: groups, binding, the step, its specification, checkpoints.

The optimizers themselves, with their formulas, are in `optimizers.py`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import InitVar, dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np

from gradstep import _core
from gradstep.arrays import (
    Array,
    Name,
    Tree,
    as_array,
    check_names,
    flatten,
    is_branch,
    leaves_like,
    skeleton,
)
from gradstep.optim.gradients import nonfinite
from gradstep.optim.hyperparameters import Number, at_step, check_hyperparameter, is_schedule
from gradstep.optim.state import Expected, Loaded, verify
from gradstep.spec import optim as spec
from gradstep.spec import sums
from gradstep.spec.optim import Round, Scalars

OnNonfinite: TypeAlias = Literal["apply", "skip", "raise"]

__all__ = ["Group", "OnNonfinite", "Optimizer", "StepInfo"]

# Keywords that hold for the whole optimizer; all others belong to a group.
OPTIONS = ("clip_norm", "grad_scale", "on_nonfinite")

# One call at a time works on an optimizer; those of other threads wait. A forked child must not
# wait for a thread that only its parent has.
_LOCKED: weakref.WeakValueDictionary[int, Optimizer] = weakref.WeakValueDictionary()


def _new_lock(optimizer: Optimizer) -> Any:
    _LOCKED[id(optimizer)] = optimizer
    return threading.RLock()


def _renew_locks() -> None:
    for optimizer in list(_LOCKED.values()):
        optimizer.__dict__["_lock"] = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)
FLOATS = (np.float32, np.float64)


class StepInfo(NamedTuple):
    """What a step did.

    step: its number, from 1 (of the last step taken, if this one was skipped). lr: the rate of the
    first group. grad_norm: global L2 norm of the scaled gradients, or None where neither
    `clip_norm` nor `on_nonfinite` asked for it. skipped: whether nothing was written.
    """

    step: int
    lr: float
    grad_norm: float | None
    skipped: bool


class Group(MutableMapping[str, Any]):
    """The hyperparameters of some parameters, by name; a change holds from the next step on.

    "params" gives the names of the parameters and cannot be set.
    """

    def __init__(self, values: Mapping[str, Any], names: Sequence[Name], owner: Optimizer) -> None:
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


@dataclass(eq=False, repr=False)
class Optimizer:
    """Base of all optimizers: see `gradstep.OPTIMIZERS` for them.

    A subclass is a dataclass whose fields are its hyperparameters. It names its native kernels in
    `KERNELS`, picks one in `kernel`, and gives the same formula for NumPy in `formula`.
    """

    # Native kernels this class may use -> their state arrays, in the order of the formula.
    KERNELS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    params: InitVar[Tree]
    maximize: bool = field(default=False, kw_only=True)
    l1: Number = field(default=0.0, kw_only=True)
    clip_value: Number | None = field(default=None, kw_only=True)
    clip_norm: Number | None = field(default=None, kw_only=True)
    grad_scale: Number = field(default=1.0, kw_only=True)
    on_nonfinite: OnNonfinite = field(default="apply", kw_only=True)

    @classmethod
    def kernel(cls, group: Mapping[str, Any]) -> str:
        """The kernel for a group's hyperparameters."""
        return next(iter(cls.KERNELS))

    @classmethod
    def decoupled(cls, group: Mapping[str, Any]) -> bool:
        """Whether weight decay shrinks the parameter rather than adding to the gradient."""
        return bool(group.get("decoupled_weight_decay", False))

    @classmethod
    def initial_state(cls, name: str, group: Mapping[str, Any]) -> float:
        """What a state array is filled with at first."""
        return 0.0

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        """The step in NumPy: new p and new state arrays from the prepared gradient g.

        f rounds a double to the arrays' type, h holds the scalars, t is the step (1, 2, ...).
        """
        raise NotImplementedError

    @classmethod
    @cache
    def _defaults(cls) -> dict[str, Any]:
        return {f.name: f.default for f in fields(cls)}

    @classmethod
    def default(cls, key: str) -> Any:
        """The default of a hyperparameter."""
        return cls._defaults()[key]

    def __post_init__(self, params: Tree) -> None:
        if not self.KERNELS:
            raise TypeError(f"{type(self).__name__}: has no formula, expected one of OPTIMIZERS")
        self._lock = _new_lock(self)
        hyper = {key: getattr(self, key) for key in self._defaults() if key not in OPTIONS}
        self._take_params(params, hyper)
        self.__dict__.update((key, self._groups[0][key]) for key in hyper)
        for option in OPTIONS:
            setattr(self, option, getattr(self, option))
        self._plan = self._make_plan([{} for _ in self._arrays])
        self._refresh(1)

    # Parameters and groups

    def _take_params(self, params: Tree, hyper: Mapping[str, Any]) -> None:
        grouped = (
            isinstance(params, (list, tuple))
            and len(params) > 0
            and all(isinstance(group, Mapping) and "params" in group for group in params)
        )
        entries: Sequence[Mapping[str, Any]] = params if grouped else [{"params": params}]
        self._names: list[Name] = []
        self._arrays: list[Array] = []
        self._group_of: list[int] = []
        groups: list[Group] = []
        for number, entry in enumerate(entries):
            own = {key: value for key, value in entry.items() if key != "params"}
            for key in own:
                if key not in hyper:
                    what = f"params[{number}]: unknown hyperparameter {key!r}"
                    raise ValueError(f"{what}, expected one of {', '.join(hyper)}")
            names, arrays = flatten(entry["params"], "params")
            if grouped and not isinstance(entry["params"], Mapping):
                names = list(range(len(self._names), len(self._names) + len(names)))
            groups.append(Group({**hyper, **own}, names, self))
            self._names += names
            self._arrays += arrays
            self._group_of += [number] * len(arrays)
        check_names(self._names, "params")
        branches = [skeleton(entry["params"]) for entry in entries]
        self._shape: Tree = branches if grouped else branches[0]
        self._flat = isinstance(self._shape, list) and not any(map(is_branch, self._shape))
        self._groups = groups
        self._stale = True
        self._bound: list[Array | None] | None = None

    @property
    def param_groups(self) -> tuple[Group, ...]:
        """The groups, as mappings of hyperparameters that may be changed between steps."""
        return tuple(self._groups)

    @property
    def step_count(self) -> int:
        """The number of steps taken."""
        return self._plan.step_count

    @property
    def state(self) -> dict[str | int, dict[str, Array]]:
        """The state arrays themselves, by name of the parameter, then of the state."""
        return {self._key(i): dict(state) for i, state in enumerate(self._states)}

    def _key(self, i: int) -> str | int:
        name = self._names[i]
        return 0 if name is None else name

    def __setattr__(self, key: str, value: Any) -> None:
        if "_groups" in self.__dict__ and key in self._defaults():
            if key in OPTIONS:
                value = check_hyperparameter(key, value, self.default(key))
                self._stale = True
            else:
                value = check_hyperparameter(key, value, self.default(key))
                for group in self._groups:
                    group[key] = value
        object.__setattr__(self, key, value)

    def _changed(self, key: str) -> None:
        self.__dict__[key] = self._groups[0][key]
        self._stale = True

    # The native plan

    def _make_plan(self, states: Sequence[Mapping[str, Array]]) -> _core.Plan:
        """A plan over the parameters with the given state arrays, and new ones where missing."""
        kernels = [self.kernel(group) for group in self._groups]
        kept: list[dict[str, Array]] = []
        tensors: list[tuple[Any, ...]] = []
        for i, array in enumerate(self._arrays):
            group = self._groups[self._group_of[i]]
            own: dict[str, Array] = {}
            for name in self.KERNELS[kernels[self._group_of[i]]]:
                if name in states[i]:
                    own[name] = states[i][name]
                elif getattr(array, "dtype", None) in FLOATS:  # else the plan names the error
                    own[name] = np.zeros_like(array, subok=False)
                    initial = self.initial_state(name, group)
                    if initial:
                        own[name].fill(initial)
                else:
                    own[name] = array
            kept.append(own)
            tensors.append((self._names[i], self._group_of[i], array, *own.values()))
        defaults = {k: v for k, v in self._defaults().items() if k not in (*OPTIONS, "params")}
        names = list(self._scalars(defaults, 1))
        plan = _core.Plan([(kernel, names) for kernel in kernels], tensors)
        self._kernels = kernels
        self._states = kept
        return plan

    @classmethod
    def _scalars(cls, group: Mapping[str, Any], t: int) -> dict[str, float]:
        """All numbers of a group at step t, under the names that formulas ask for."""
        h: dict[str, float] = {}
        for key, value in group.items():
            if key == "betas":
                h["beta1"], h["beta2"] = (at_step(key, beta, t) for beta in value)
            elif key == "clip_value":
                h[key] = np.inf if value is None else at_step(key, value, t)
            elif key != "params":
                h[key] = at_step(key, value, t)
        decay = h.pop("weight_decay", 0.0)
        h["l2"], h["decay"] = (0.0, decay) if cls.decoupled(group) else (decay, 0.0)
        return h

    def _refresh(self, t: int) -> None:
        """Takes over what changed since the last step, and the values of schedules at step t."""
        self._stale = False  # first: what another thread changes meanwhile counts for the next step
        try:
            self._take_over(t)
        except BaseException:
            self._stale = True
            raise

    def _take_over(self, t: int) -> None:
        scalars = [self._scalars(group, t) for group in self._groups]
        scale = at_step("grad_scale", self.grad_scale, t)
        clip = 0.0 if self.clip_norm is None else at_step("clip_norm", self.clip_norm, t)
        if [self.kernel(group) for group in self._groups] != self._kernels:
            self._replace_plan(self._plan.steps, self._plan.step_count)
        for number, h in enumerate(scalars):
            self._plan.set_hyper(number, list(h.values()))
        self._current = scalars
        self._scale, self._clip = scale, clip
        self._checks = self.on_nonfinite != "apply"
        values = [value for group in self._groups for value in group.values()]
        if any(map(is_schedule, [*values, self.grad_scale, self.clip_norm])):
            self._stale = True
        self._lr = scalars[0]["lr"] if scalars else 0.0

    def _replace_plan(self, steps: list[int], step_count: int) -> None:
        kernels, states = self._kernels, self._states
        try:
            plan = self._make_plan(states)
            plan.steps = steps
            plan.step_count = step_count
            if self._bound is not None:
                plan.bind(self._bound)
            self.__dict__["_plan"] = plan
        except BaseException:  # Ctrl-C: the plan before stays in force
            self._kernels, self._states = kernels, states
            raise

    # Steps

    def bind(self, grads: Tree) -> None:
        """Fixes the gradient buffers, so that `step()` needs no argument and does no checks.

        grads: arrays shaped like params; they are read at every step and must stay in place.
        Raises TypeError or ValueError as `step` does.
        """
        leaves = self._leaves(grads)
        names = dict(enumerate(self._names))  # the plan refuses too many leaves
        arrays = [as_array(leaf, "grads", names.get(i)) for i, leaf in enumerate(leaves)]
        with self._lock:
            self._plan.bind(arrays)
            self._bound = arrays

    def step(self, grads: Tree = None, *, zero_grads: bool = False) -> StepInfo:
        """Updates the parameters and the state in place, all of them or, on an error, none.

        grads: arrays of the dtype, shape and order of the parameters, arranged like params (a list,
        a mapping, one array, or one of these per group); None for a tensor leaves it alone. Without
        argument, the buffers given to `bind`. zero_grads: fill the gradients with zeros once they
        are read, while they are in cache; they must then be writable and share no memory.

        Raises TypeError or ValueError for gradients that do not fit, FloatingPointError with
        `on_nonfinite="raise"` for those that are not finite. Then nothing was written.
        """
        if grads is not None and not (self._flat and type(grads) is list):
            grads = self._leaves(grads)
        with self._lock:
            if self._stale:
                self._refresh(self._plan.step_count + 1)
            count, norm, applied = self._plan.step(
                grads, self._scale, self._clip, self._checks, zero_grads
            )
            if not applied:
                return self._refuse(grads, norm)
            return StepInfo(count, self._lr, norm, False)

    def _leaves(self, grads: Tree) -> list[Any]:
        if self._flat and isinstance(grads, (list, tuple)):
            return list(grads)
        return leaves_like(self._shape, grads, "grads")

    def _refuse(self, grads: list[Any] | None, norm: float | None) -> StepInfo:
        if self.on_nonfinite == "skip":
            return StepInfo(self.step_count, self._lr, norm, True)
        leaves = (self._bound or []) if grads is None else grads
        for name, leaf in zip(self._names, leaves, strict=True):
            if leaf is None:
                continue
            bad = nonfinite(leaf).get(None, 0)
            if bad:
                label = "grads" if name is None else f"grads[{name!r}]"
                size = as_array(leaf).size
                raise FloatingPointError(f"{label}: {bad} of {size} elements are not finite")
        raise FloatingPointError("grads: the sum of their squares overflows float64")

    def reference_step(self, grads: Tree = None) -> StepInfo:
        """The same step by the NumPy specification: same checks, same bits, slowly.

        Takes, returns and raises what `step` does.
        """
        leaves = None if grads is None else self._leaves(grads)
        with self._lock:
            t = self._plan.step_count + 1
            if self._stale:
                self._refresh(t)
            return self._reference_step(leaves, t)

    def _reference_step(self, leaves: list[Any] | None, t: int) -> StepInfo:
        self._plan.check(leaves)
        given = (self._bound or []) if leaves is None else leaves
        raw = [None if leaf is None else np.asarray(as_array(leaf)) for leaf in given]
        norm: float | None = None
        scale = self._scale
        if self._clip > 0 or self._checks:
            norm = sums.global_norm(g for g in raw if g is not None) * abs(scale)
            if self._checks and not np.isfinite(norm):
                return self._refuse(leaves, norm)
            scale *= spec.clip_coefficient(norm, self._clip)
        steps = self._plan.steps
        for i, g in enumerate(raw):
            if g is not None:
                steps[i] += 1
                self._reference_update(i, g, scale, steps[i])
        self._plan.steps = steps
        self._plan.step_count = t
        return StepInfo(t, self._lr, norm, False)

    def _reference_update(self, i: int, g: Array, scale: float, t: int) -> None:
        number = self._group_of[i]
        h = self._current[number]
        # A subclass may give its operators another meaning, as np.matrix does.
        p, state = np.asarray(self._arrays[i]), self._states[i].values()
        with np.errstate(all="ignore"):
            prepared = spec.prepare(h, scale, g, p)
            new = self.formula(p.dtype.type, h, t, p, prepared, *state)
        for array, values in zip((p, *state), new, strict=True):
            array[...] = values

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """A copy of what a resumed run needs beside its parameters: numbers, names, NumPy arrays.

        Hyperparameters that are callables are functions of the step and are left out, and so are
        `clip_norm`, `grad_scale` and `on_nonfinite`, which no group has.
        """
        with self._lock:
            return self._state_dict()

    def _state_dict(self) -> dict[str, Any]:
        groups = [
            {key: value for key, value in group.items() if not is_schedule(value)}
            for group in self._groups
        ]
        steps = self._plan.steps
        state = {
            self._key(i): {"step": steps[i], **{k: a.copy(order="K") for k, a in own.items()}}
            for i, own in enumerate(self._states)
        }
        return {
            "optimizer": type(self).__name__,
            "step": self.step_count,
            "param_groups": groups,
            "state": state,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken. Everything is verified before anything changes.

        Hyperparameters that are callables here stay. Raises ValueError or TypeError for another
        optimizer, other names, shapes or dtypes.
        """
        with self._lock:
            self._take_state(verify(state_dict, self._expected()))

    def _expected(self) -> Expected:
        keys = [self._key(i) for i in range(len(self._arrays))]
        parameters = list(zip(keys, self._group_of, self._arrays, strict=True))
        name = type(self).__name__
        return Expected(name, self._groups, parameters, self.kernel, self.default, self.KERNELS)

    def _take_state(self, loaded: Loaded) -> None:
        self._plan.steps = loaded.steps  # first: it refuses inside the checks of a step
        self._plan.step_count = loaded.step
        for group, values in zip(self._groups, loaded.groups, strict=True):
            group._values.update(values)
        for key in loaded.groups[0] if loaded.groups else ():
            self._changed(key)
        for i, own in enumerate(loaded.arrays):
            self._states[i] = {name: self._target(i, name) for name in own}
            for name, array in own.items():
                self._states[i][name][...] = array
        self._stale, self._kernels = True, []  # the next step makes a plan of all this

    def _target(self, i: int, name: str) -> Array:
        """The state array to load into; a new one where the present hyperparameters need none."""
        present = self._states[i].get(name)
        return np.zeros_like(self._arrays[i], subok=False) if present is None else present

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            left_out = ("_plan", "_lock", "_groups")
            kept = {key: value for key, value in self.__dict__.items() if key not in left_out}
            groups = [(group._values, group._names) for group in self._groups]
            return {"kept": kept, "groups": groups, "steps": (self._plan.steps, self.step_count)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["kept"])
        self._lock = _new_lock(self)
        self.__dict__["_groups"] = [Group(values, names, self) for values, names in state["groups"]]
        self._replace_plan(*state["steps"])
        self._stale = True

    def __repr__(self) -> str:
        elements = sum(array.size for array in self._arrays)
        shown = [
            f"{key}={getattr(self, key)!r}"
            for key, default in self._defaults().items()
            if key in self.__dict__ and (key == "lr" or getattr(self, key) != default)
        ]
        what = f"{len(self._arrays)} tensors of {elements} elements"
        return f"{type(self).__name__}(<{what}>, {', '.join(shown)})"
