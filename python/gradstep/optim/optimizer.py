"""What every optimizer does: groups, binding, the step, its specification, checkpoints.

The optimizers themselves, with their formulas, are in `optimizers.py`. One class, whose parts all
work on its plan and its states, under its lock: hence the length.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field, fields
from functools import cache, partial
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np

from gradstep import _core
from gradstep.arguments import flag
from gradstep.arrays import Array, Tree, as_array, label, leaves_like
from gradstep.optim.gradients import raise_nonfinite
from gradstep.optim.groups import Group, Parameters, arranged, given_by
from gradstep.optim.hyperparameters import (
    EMA_DECAY,
    FIXED,
    Number,
    at_step,
    check_ema,
    check_hyperparameter,
    is_schedule,
    likely,
    scalars,
)
from gradstep.optim.locks import new_lock
from gradstep.optim.state import Expected, Loaded, check_array, copies_between, verify
from gradstep.optim.storage import (
    Layout,
    check_own_values,
    first_tiles,
    layout_of,
    saved_state,
    values_of,
)
from gradstep.spec import optim as spec
from gradstep.spec import sums as spec_sums
from gradstep.spec.optim import Round, Scalars

OnNonfinite: TypeAlias = Literal["apply", "skip", "raise"]

__all__ = ["Group", "OnNonfinite", "Optimizer", "StepInfo"]

FLOATS = (np.float32, np.float64)
# Keywords that hold for the whole optimizer; all others belong to a group.
OPTIONS = ("clip_norm", "grad_scale", "on_nonfinite")


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


@dataclass(eq=False, repr=False)
class Optimizer:
    """Base of all optimizers: see `gradstep.OPTIMIZERS` for them.

    A subclass is a dataclass whose fields are its hyperparameters. It names its native kernels in
    `KERNELS`, picks one in `kernel`, and gives the same formula for NumPy in `formula`. All of them
    raise TypeError or ValueError for arguments, and values assigned later, that cannot be.
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
    master: Literal["split", "float32"] | None = field(default=None, kw_only=True)
    state_dtype: Literal["float32", "bfloat16", "int8"] = field(default="float32", kw_only=True)
    ema: Literal["float32", "bfloat16"] | None = field(default=None, kw_only=True)
    ema_decay: Number = field(default=EMA_DECAY, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    copy_to: InitVar[Tree] = field(default=None, kw_only=True)

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
        """The default of a hyperparameter. Raises KeyError for what is none."""
        return cls._defaults()[key]

    def __post_init__(self, params: Tree, copy_to: Tree) -> None:
        if not self.KERNELS:
            raise TypeError(f"{type(self).__name__}: has no formula, expected one of OPTIMIZERS")
        self._lock = new_lock(self)  # one call at a time works on an optimizer
        hyper = {key: getattr(self, key) for key in self._defaults() if key not in OPTIONS}
        parameters, given = arranged(params, [*hyper, "copy_to"])
        self._copies = parameters.copies(copy_to, [own.pop("copy_to", None) for own in given])
        groups = [Group({**hyper, **own}, parameters.of(i), self) for i, own in enumerate(given)]
        self._hyper = hyper  # of groups that are added later
        check_ema(groups)
        self._take(parameters, groups)
        self.__dict__.update((key, self._groups[0][key]) for key in hyper)
        for option in OPTIONS:
            setattr(self, option, getattr(self, option))
        self._plan = self._make_plan(self._states)
        self._refresh(1)

    # Parameters and groups

    def _take(self, parameters: Parameters, groups: list[Group]) -> None:
        self._names, self._arrays = parameters.names, parameters.arrays
        self._group_of = parameters.group_of
        self._shape, self._flat = parameters.shape, parameters.flat
        self._parameters, self._groups = parameters, groups
        self._stale = True
        self._states: list[dict[str, Array]] = [{} for _ in self._arrays]
        self._bound: list[Array | None] | None = None
        self._copied: list[weakref.ref[Array] | None] | None = None
        self._holds_averages = False

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Adds parameters, with a state of their own, as `torch.optim` does.

        group: `{"params": ..., "lr": ..., ...}`; what it leaves out is as the optimizer has it, but
        for `copy_to`: none. From then on gradients come one entry per group, and buffers must be
        bound anew. Raises TypeError or ValueError, and then nothing has changed.

        >>> import numpy as np, gradstep as gs
        >>> head, body = np.zeros(2), np.zeros(3)
        >>> opt = gs.SGD({"head": head}, lr=1.0)
        >>> opt.add_param_group({"params": {"body": body}, "lr": 0.1})
        >>> opt.step([{"head": np.ones(2)}, {"body": np.ones(3)}]).step
        1
        >>> body
        array([-0.1, -0.1, -0.1])
        """
        with self._lock:
            check_own_values("add_param_group", self._holds_averages)
            own = given_by(group, "group", [*self._hyper, "copy_to"])
            parameters = self._parameters.added(group["params"])
            number = len(self._groups)
            copies = parameters.copies_of(number, own.pop("copy_to", None), "group")
            new = Group({**self._hyper, **own}, parameters.of(number), self)
            count, steps, states = self.step_count, self._plan.steps, self._states
            before = dict(self.__dict__)
            names = [(one, one._names) for one in self._groups]
            try:
                self._copies = [*self._copies, *copies]
                self._take(parameters, [*self._groups, new])
                self._states[: len(states)] = states
                self._replace_plan(steps + [0] * (len(self._states) - len(steps)), count)
                for i, one in enumerate(self._groups):
                    one._names = tuple(parameters.of(i))
            except BaseException:
                self.__dict__.update(before)
                for one, known in names:
                    one._names = known
                raise

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
        """The memory of the state, by name of the parameter, then of the state."""
        # Views: an array that others hold could be frozen, or moved by its `resize`.
        views = [{name: a.view() for name, a in own.items()} for own in self._states]
        return {self._key(i): own for i, own in enumerate(views)}

    def _key(self, i: int) -> str | int:
        name = self._names[i]
        return 0 if name is None else name

    def __setattr__(self, key: str, value: Any) -> None:
        if "_groups" in self.__dict__ and not key.startswith("_"):
            if key in FIXED or key == "copy_to":
                raise AttributeError(f"{key}: holds from when the optimizer was made on")
            if key in self._defaults():
                value = check_hyperparameter(key, value, self.default(key))
            elif not hasattr(type(self), key):
                expected = f"expected {likely(key, list(self._defaults()))}"
                raise AttributeError(f"{type(self).__name__} has no attribute {key!r}, {expected}")
            if key in self._hyper:
                self._hyper[key] = value
                for group in self._groups:
                    group[key] = value
        object.__setattr__(self, key, value)
        if key in OPTIONS:  # last: a step of another thread may take over what is there meanwhile
            self._stale = True

    def __delattr__(self, key: str) -> None:
        if key.startswith("_"):
            return object.__delattr__(self, key)
        raise AttributeError(f"{type(self).__name__}.{key} cannot be deleted")

    def _changed(self, key: str) -> None:
        self.__dict__[key] = self._groups[0][key]
        self._stale = True

    # The native plan

    def _make_plan(self, states: Sequence[Mapping[str, Array]]) -> _core.Plan:
        """A plan over the parameters with the given state arrays, and new ones where missing."""
        kernels = [self.kernel(group) for group in self._groups]
        kept: list[dict[str, Array]] = []
        tensors: list[tuple[Any, ...]] = []
        layouts = self._make_layouts(kernels)
        for i, array in enumerate(self._arrays):
            names = self.KERNELS[kernels[self._group_of[i]]]
            layout = layouts[i]
            if layout is None:
                own = self._own_arrays(i, names, states[i])
                given: tuple[Any, ...] = (array, *own.values())
            else:
                group = self._groups[self._group_of[i]]
                own = layout.arrays(names, states[i], partial(self.initial_state, group=group))
                given = layout.native(names, own)
            kept.append(own)
            tensors.append((self._names[i], self._group_of[i], *given))
        defaults = {k: v for k, v in self._defaults().items() if k not in (*OPTIONS, "params")}
        scalars = list(self._scalars(defaults, 1))
        plan = _core.Plan([(kernel, scalars) for kernel in kernels], tensors)
        self._kernels, self._seeds = kernels, self._current_seeds()
        self._states, self._layouts = kept, layouts
        return plan

    def _make_layouts(self, kernels: Sequence[str]) -> list[Layout | None]:
        tiles = first_tiles(self._arrays)
        return [
            layout_of(
                self._names[i],
                array,
                self._copies[i],
                self._groups[number],
                list(dict.fromkeys(chain.from_iterable(self.KERNELS.values()))),
                tiles[i],
            )
            for i, (array, number) in enumerate(zip(self._arrays, self._group_of, strict=True))
        ]

    def _own_arrays(
        self, i: int, names: Sequence[str], states: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The state arrays there are, and new ones where missing, of the parameter's own type."""
        array, group = self._arrays[i], self._groups[self._group_of[i]]
        own: dict[str, Array] = {}
        for name in names:
            if name in states:
                own[name] = states[name]
            elif getattr(array, "dtype", None) in FLOATS:  # else the plan names the error
                own[name] = np.zeros_like(array, subok=False)
                initial = self.initial_state(name, group)
                if initial:
                    own[name].fill(initial)
            else:
                own[name] = array
        return own

    def reload_masters(self) -> None:
        """Takes parameters that were changed outside, as by loading weights, into their masters.

        Where a parameter is the rounded master still, the master stays; a split one loses the bits
        below bfloat16. Without masters nothing happens.

        >>> import ml_dtypes, numpy as np, gradstep as gs
        >>> w = np.ones(2, ml_dtypes.bfloat16)
        >>> opt = gs.SGD(w, lr=1.0, master="float32")
        >>> w[0] = 3
        >>> opt.reload_masters()
        >>> opt.state[0]["master"]
        array([3., 1.], dtype=float32)
        """
        with self._lock:
            check_own_values("reload_masters", self._holds_averages)
            for layout, own in zip(self._layouts, self._states, strict=True):
                if layout is not None:
                    layout.reload(own)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In a `with` block parameters with `ema` hold their averages; then what they were.

        So do their copies of `copy_to`. Steps in it raise RuntimeError, and so do `reload_masters`
        and `add_param_group`. A copy of the optimizer that is made in it goes on from the averages.

        >>> import numpy as np, gradstep as gs
        >>> w = np.zeros(1, np.float32)
        >>> opt = gs.SGD(w, lr=4.0, ema="float32", ema_decay=0.75)
        >>> opt.step(np.float32([-1])).step
        1
        >>> with opt.averaged():
        ...     print(w)
        [1.]
        >>> w
        array([4.], dtype=float32)
        """
        with self._lock:
            if self._holds_averages:
                raise RuntimeError("averaged: called in a block of it, expected one")
            self._plan.check_parameters()
            pairs = self._averages()
            copies = zip(self._copies, self._states, strict=True)
            pairs += [
                (copy.view(), own["ema"])
                for copy, own in copies
                if copy is not None and "ema" in own
            ]
            kept = [array.copy(order="K") for array, _ in pairs]
            self._hold_averages(True)
            for array, average in pairs:
                array[...] = average
        try:
            yield
        finally:
            with self._lock:
                for (array, _), own in zip(pairs, kept, strict=True):
                    array[...] = own
                self._hold_averages(False)

    def _averages(self) -> list[tuple[Array, Array]]:
        """The memory of parameters that have one, and their averages."""
        rows = zip(self._arrays, self._states, strict=True)
        return [(array.view(), own["ema"]) for array, own in rows if "ema" in own]

    def _hold_averages(self, held: bool) -> None:
        self._holds_averages, self._stale = held, True

    @classmethod
    def _scalars(cls, group: Mapping[str, Any], t: int) -> dict[str, float]:
        return scalars(group, t, cls.decoupled(group))

    def _refresh(self, t: int) -> None:
        """Takes over what changed since the last step, and the values of schedules at step t."""
        self._stale = False  # first: what another thread changes meanwhile counts for the next step
        try:
            self._take_over(t)
        except BaseException:
            self._stale = True
            raise

    def _take_over(self, t: int) -> None:
        check_own_values("step", self._holds_averages)
        groups = [group._values for group in self._groups]
        current = [self._scalars(group, t) for group in groups]
        scale = at_step("grad_scale", self.grad_scale, t)
        clip = 0.0 if self.clip_norm is None else at_step("clip_norm", self.clip_norm, t)
        if self._needs_plan():
            self._replace_plan(self._plan.steps, self._plan.step_count)
        for number, h in enumerate(current):
            self._plan.set_hyper(number, list(h.values()))
        self._current = current
        self._scale, self._clip = scale, clip
        self._checks = self.on_nonfinite != "apply"
        values = [value for group in groups for value in group.values()]
        if any(map(is_schedule, [*values, self.grad_scale, self.clip_norm])):
            self._stale = True
        self._lr = current[0]["lr"] if current else 0.0

    def _needs_plan(self) -> bool:
        kernels = [self.kernel(group) for group in self._groups]
        return kernels != self._kernels or self._current_seeds() != self._seeds

    def _current_seeds(self) -> list[int]:
        return [group["seed"] for group in self._groups]

    def _replace_plan(self, steps: list[int], step_count: int) -> None:
        before = self._kernels, self._states, self._layouts, self._seeds
        try:
            plan = self._make_plan(before[1])
            plan.steps = steps
            plan.step_count = step_count
            if self._bound is not None:
                plan.bind(self._bound)
            self.__dict__["_plan"] = plan
        except BaseException:  # Ctrl-C: the plan before stays in force
            self._kernels, self._states, self._layouts, self._seeds = before
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

    def step(self, grads: Tree = None, *, zero_grads: bool = False, sums: Tree = None) -> StepInfo:
        """Updates the parameters and the state in place, all of them or, on an error, none.

        grads: arrays of the dtype, shape and order of the parameters, arranged like params (a list,
        a mapping, one array, or one of these per group), or numbers for parameters without axes;
        None for a tensor leaves it alone. Without argument, the buffers given to `bind`.
        zero_grads: fill the gradients with zeros once they are read, while they are in cache, and
        those of a step that is skipped; they must then be writable and share no memory.
        sums: what `accumulate` returned for these very gradients, which are then not read for
        `clip_norm` and `on_nonfinite`.

        Raises TypeError or ValueError for gradients that do not fit, FloatingPointError with
        `on_nonfinite="raise"` for those that are not finite. Then nothing was written.
        """
        if zero_grads is not False:
            zero_grads = flag("zero_grads", zero_grads)
        if grads is not None and not (self._flat and type(grads) is list):
            grads = self._leaves(grads)
        with self._lock:
            if grads is None and self._bound is None:
                self._bind_copied()
            if self._stale:
                self._refresh(self._plan.step_count + 1)
            if sums is None:
                count, norm, applied = self._plan.step(
                    grads, self._scale, self._clip, self._checks, zero_grads
                )
            else:
                known = self._known_norm(grads, sums)
                count, norm, applied = self._plan.step_with_norm(
                    known, grads, self._scale, self._clip, self._checks, zero_grads
                )
            if not applied:
                return self._refuse(grads, norm, zero_grads)
            return StepInfo(count, self._lr, norm, False)

    def _leaves(self, grads: Tree) -> list[Any]:
        if self._flat and isinstance(grads, (list, tuple)):
            return list(grads)
        return leaves_like(self._shape, grads, "grads")

    def _known_norm(self, grads: list[Any] | None, sums: Tree) -> float:
        """The norm of gradients by the sums of their blocks. Raises TypeError or ValueError."""
        given = (self._bound or []) if grads is None else grads
        found = leaves_like(self._shape, sums, "sums")
        blocks = []
        # The plan checks how many gradients there are.
        rows = zip(self._names, self._arrays, found, given, strict=False)
        for name, array, own, leaf in rows:
            if leaf is not None:
                what = label("sums", name)
                check_array(own, np.float64, (-(-array.size // spec_sums.SUM_BLOCK),), what)
                blocks.append(own)
        total = spec_sums.total(blocks)
        if total < 0:
            raise ValueError(f"sums: {total:g} in all, expected sums of squares")
        return float(np.sqrt(total))

    def _refuse(
        self, grads: list[Any] | None, norm: float | None, zero_grads: bool = False
    ) -> StepInfo:
        leaves = (self._bound or []) if grads is None else grads
        if self.on_nonfinite == "skip":
            if zero_grads:  # the plan has found them fit for it
                for leaf in leaves:
                    if leaf is not None:
                        as_array(leaf)[...] = 0
            return StepInfo(self.step_count, self._lr, norm, True)
        raise_nonfinite(self._names, leaves)

    def reference_step(self, grads: Tree = None, *, sums: Tree = None) -> StepInfo:
        """The same step by the NumPy specification: same checks, same bits, slowly.

        Takes, returns and raises what `step` does.
        """
        leaves = None if grads is None else self._leaves(grads)
        with self._lock:
            if leaves is None and self._bound is None:
                self._bind_copied()
            t = self._plan.step_count + 1
            if self._stale:
                self._refresh(t)
            known = None if sums is None else self._known_norm(leaves, sums)
            return self._reference_step(leaves, t, known)

    def _reference_step(
        self, leaves: list[Any] | None, t: int, norm: float | None = None
    ) -> StepInfo:
        self._plan.check(leaves)
        given = (self._bound or []) if leaves is None else leaves
        raw = [
            None if leaf is None else _read(leaf, array)
            for leaf, array in zip(given, self._arrays, strict=True)
        ]
        scale = self._scale
        if not (self._clip > 0 or self._checks):
            norm = None
        else:
            if norm is None:
                norm = spec_sums.global_norm(values_of(g) for g in raw if g is not None)
            norm *= abs(scale)
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
        h, layout = self._current[number], self._layouts[i]
        # A subclass may give its operators another meaning, as np.matrix does.
        p, state = np.asarray(self._arrays[i]), [*self._states[i].values()]
        names = self.KERNELS[self._kernels[number]]
        if layout is not None or g.dtype != p.dtype:
            g = values_of(g)
        if layout is not None:
            p, *state = layout.load(names, self._states[i])
        elif g.shape != p.shape:
            g = g.reshape(p.shape, order="F" if p.flags.f_contiguous else "C")
        with np.errstate(all="ignore"):
            prepared = spec.prepare(h, scale, g, p)
            new = self.formula(p.dtype.type, h, t, p, prepared, *state)
        if layout is not None:
            layout.store(names, self._states[i], new, t, h["ema_decay"])
            return
        for array, values in zip((p, *state), new, strict=True):
            array[...] = values

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """A copy of what a resumed run needs beside its parameters: numbers, names, NumPy arrays.

        Hyperparameters that are callables are functions of the step and are left out.
        """
        with self._lock:
            return self._state_dict()

    def _state_dict(self) -> dict[str, Any]:
        groups = [
            {key: value for key, value in group.items() if not is_schedule(value)}
            for group in self._groups
        ]
        options = {option: getattr(self, option) for option in OPTIONS}
        options = {key: value for key, value in options.items() if not is_schedule(value)}
        steps = self._plan.steps
        state = {
            self._key(i): saved_state(steps[i], {k: a.copy(order="K") for k, a in own.items()})
            for i, own in enumerate(self._states)
        }
        return {
            "optimizer": type(self).__name__,
            "step": self.step_count,
            "options": options,
            "param_groups": groups,
            "state": state,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where `state_dict()` was taken. Everything is verified before anything changes.

        Parameters of a mapping are matched by their names, in whatever order they come. What is a
        callable here stays, and so do options of which the state tells nothing. Raises ValueError
        or TypeError for another optimizer, other names, shapes or dtypes.
        """
        with self._lock:
            self._take_state(verify(state_dict, self._expected()))

    def _expected(self) -> Expected:
        self._plan.check_parameters()
        keys = [self._key(i) for i in range(len(self._arrays))]
        return Expected(
            type(self).__name__,
            self._groups,
            {option: getattr(self, option) for option in OPTIONS},
            list(zip(keys, self._group_of, self._arrays, strict=True)),
            self.kernel,
            self.default,
            self.KERNELS,
            self._layouts,
        )

    def _take_state(self, loaded: Loaded) -> None:
        """All or nothing: what may fail comes first, and the arrays are written last."""
        steps = self._plan.steps
        self._plan.steps = steps  # it refuses inside the checks of a step
        before, values = dict(self.__dict__), [group._values for group in self._groups]
        try:
            for group, found in zip(self._groups, loaded.groups, strict=True):
                group._values = {**group._values, **found}
            self.__dict__.update(self._groups[0]._values if self._groups else {})
            self.__dict__.update(loaded.options, _stale=True)
            if self._needs_plan():
                self._replace_plan(loaded.steps, loaded.step)
            copies = copies_between(
                (own[name], loaded.arrays[i][name])
                for i, own in enumerate(self._states)
                for name in own
            )
            walk: Any = deque(maxlen=0).extend
            self._plan.steps = loaded.steps
            self._plan.step_count = loaded.step
            walk(copies)
        except BaseException:
            self.__dict__.update(before)
            self._plan.steps = steps
            for group, found in zip(self._groups, values, strict=True):
                group._values = found
            raise

    # Copies

    def _bind_copied(self) -> None:
        """Binds what a copy was bound to, where somebody else has it: copied together with this."""
        if self._copied is None:
            return  # the plan says that nothing was bound
        found = [None if ref is None else ref() for ref in self._copied]
        if any(a is None for a, ref in zip(found, self._copied, strict=True) if ref is not None):
            what = "this optimizer is a copy and the gradients it was bound to are not: bind() anew"
            raise ValueError(f"grads: None, expected arrays: {what}")
        self._plan.bind(found)
        self._bound, self._copied = found, None

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            left_out = ("_plan", "_lock", "_groups", "_copied")
            kept = {key: value for key, value in self.__dict__.items() if key not in left_out}
            groups = [(group._values, group._names) for group in self._groups]
            return {"kept": kept, "groups": groups, "steps": (self._plan.steps, self.step_count)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state["kept"])
        self._holds_averages = False  # the block is that of another
        self._lock = new_lock(self)
        self.__dict__["_groups"] = [Group(values, names, self) for values, names in state["groups"]]
        # Gradients that only this copy had would be those of one step for ever.
        bound, self._bound = self._bound, None
        self._copied = None
        if bound is not None:
            self._copied = [None if a is None else weakref.ref(a) for a in bound]
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


def _read(leaf: Any, parameter: Array) -> Array:
    """A gradient as an array; Python's float is of the parameter's type."""
    if type(leaf) is float:
        return np.asarray(leaf, np.float64 if parameter.dtype == np.float64 else np.float32)
    return np.asarray(as_array(leaf))
