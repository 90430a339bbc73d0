"""What the optimizers for PyTorch share: one native step over the memory of torch's tensors.

A class here inherits from torch's class of the same name: arguments, checks, groups, hooks, and the
loading of checkpoints are torch's own. Only `step` is replaced. The classes are in `optimizers.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch.autograd.graph import increment_version
from torch.optim import optimizer as torch_optimizer

from gradstep.optim.gradients import nonfinite
from gradstep.optim.hyperparameters import check_hyperparameter
from gradstep.optim.optimizer import OnNonfinite
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.torch.optim.binding import Binding, Member, check_parameters, keys_of
from gradstep.torch.optim.memory import array_of
from gradstep.torch.threads import on_team

__all__ = ["NativeOptimizer"]

REFUSED = {
    "differentiable": "gradients through a step",
    "capturable": "capture into a CUDA graph",
}
EXTRA = """
    Arguments that torch's class does not have
    ------------------------------------------
    clip_norm: number > 0 or None
        Scales all gradients so that their L2 norm over all groups is at most this, as
        `torch.nn.utils.clip_grad_norm_` does, but leaves the gradients themselves as they are.
    on_nonfinite: "apply", "skip" or "raise"
        What to do with gradients that are not finite; the last two write nothing.
    zero_grads: bool
        Fill the gradients with zeros once they are read, while they are in cache.

    `foreach` and `fused` change nothing; `differentiable=True` and `capturable=True` are refused.
    Parameters are dense float32 or float64 tensors on the CPU, and gradients lie in memory as they
    do; for others `step` raises TypeError or ValueError, and writes nothing.
"""


class NativeOptimizer(torch.optim.Optimizer):
    """Base of the optimizers: see `gradstep.torch` for them."""

    FORMULA: ClassVar[type[Formula]]
    NUMBERS: ClassVar[tuple[str, ...]] = ("step",)  # states that are one number of a tensor
    _keys: ClassVar[list[str]]
    _fallbacks: ClassVar[list[Any]]
    __signature__: ClassVar[inspect.Signature]

    # GradScaler then hands over the scale and what it found, and does not unscale the gradients.
    _step_supports_amp_scaling = True

    _binding: Binding | None = None
    _values: list[tuple[Any, ...]] | None = None  # hyperparameters of each group, as the plan's
    _volatile = False  # one of them is a tensor, which may change in place
    _grad_norm: float | None = None
    _skipped = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "FORMULA" not in cls.__dict__:
            return
        cls._keys = keys_of(cls.FORMULA)
        cls._fallbacks = [cls.FORMULA.default(key) for key in cls._keys]
        cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n{EXTRA}"
        cls.__signature__ = _with_extra_arguments(cls)

    def __init__(
        self,
        *args: Any,
        clip_norm: float | None = None,
        on_nonfinite: OnNonfinite = "apply",
        zero_grads: bool = False,
        **kwargs: Any,
    ) -> None:
        self.clip_norm = check_hyperparameter("clip_norm", clip_norm, None)
        self.on_nonfinite = check_hyperparameter("on_nonfinite", on_nonfinite, "apply")
        self.zero_grads = check_hyperparameter("zero_grads", zero_grads, False)
        super().__init__(*args, **kwargs)
        _check_flags(self.defaults, "")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch's class does."""
        if isinstance(param_group, dict):
            _check_flags(param_group, "param_group: ")
        super().add_param_group(param_group)

    @property
    def grad_norm(self) -> float | None:
        """The L2 norm of the last step's gradients, where `clip_norm` or `on_nonfinite` need it."""
        return self._grad_norm

    @property
    def skipped(self) -> bool:
        """Whether the last step wrote nothing because its gradients were not finite."""
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
            return loss
        try:
            binding = self._bound(params, grads)
            given, outcome = self._advance(binding, grads)
        except (TypeError, ValueError):
            # A tensor may have another shape in the same memory. Binding again explains, or helps.
            self._binding = None
            binding = self._bound(params, grads)
            given, outcome = self._advance(binding, grads)
        _, norm, applied = outcome
        if applied:
            self._finish(binding, grads, given, norm)
        else:
            self._refuse(binding, given)
            self._skip(grads, norm)
        return loss

    _step_observed = torch.optim.Optimizer.profile_hook_step(_step)

    def _bound(self, params: list[Any], grads: list[Any]) -> Binding:
        binding = self._binding
        if binding is None or not binding.fits(self.state, params, grads):
            binding = self._bind(params, grads, self._read_groups())
        elif self._volatile or self._group_values() != self._values:
            groups = self._read_groups()
            if self._kernels(groups) == binding.kernels:
                self._set_hyper(binding, groups)
            else:
                binding = self._bind(params, grads, groups)
        return binding

    @on_team
    def _advance(
        self, binding: Binding, grads: list[Any]
    ) -> tuple[list[Any], tuple[int, float | None, bool]]:
        given = binding.gradients(binding.own(grads), type(self).__name__, self.zero_grads)
        scale = self.__dict__.get("grad_scale")
        inverse = 1.0 if scale is None else 1.0 / float(scale)
        clip, checks = self.clip_norm or 0.0, self.on_nonfinite != "apply"
        return given, binding.plan.step(given, inverse, clip, checks, self.zero_grads)

    def _finish(
        self, binding: Binding, grads: list[Any], given: list[Any], norm: float | None
    ) -> None:
        self._grad_norm, self._skipped = norm, False
        present = [i for i, grad in enumerate(given) if grad is not None]
        parameters = binding.parameters
        if len(present) == len(parameters):
            self._count(binding, slice(None))
        else:
            self._count(binding, np.array(present, dtype=np.intp))
            parameters = [parameters[i] for i in present]
        increment_version(parameters)
        if self.zero_grads:
            increment_version([grad for grad in grads if grad is not None])

    def _count(self, binding: Binding, present: Any) -> None:
        """Advances the numbers that torch keeps of the parameters at these places."""
        if binding.counts is not None:
            binding.counts[present] += 1
            binding.remember_counts()

    def _skip(self, grads: list[Any], norm: float | None) -> None:
        self._grad_norm, self._skipped = norm, True
        if self.zero_grads:
            for grad in grads:
                if grad is not None:
                    grad.detach().zero_()

    def _refuse(self, binding: Binding, given: list[Any]) -> None:
        if self.on_nonfinite != "raise":
            return
        for member, grad in zip(binding.members, given, strict=True):
            if grad is None:
                continue
            array = array_of(grad) if isinstance(grad, torch.Tensor) else grad
            bad = nonfinite(array).get(None, 0)
            if bad:
                raise FloatingPointError(
                    f"{member.label}.grad: {bad} of {array.size} elements are not finite"
                )
        raise FloatingPointError("gradients: the sum of their squares overflows float64")

    # What the plan is made from

    def _group_values(self) -> list[tuple[Any, ...]]:
        return [tuple(map(group.get, self._keys, self._fallbacks)) for group in self.param_groups]

    def _read_groups(self) -> list[dict[str, Any]]:
        for number, group in enumerate(self.param_groups):
            _check_flags(group, f"param_groups[{number}]: ")
        return [
            self._effective(dict(zip(self._keys, values, strict=True)))
            for values in self._group_values()
        ]

    @classmethod
    def _effective(cls, group: dict[str, Any]) -> dict[str, Any]:
        """The hyperparameters of a group as the native formula takes them."""
        return group

    def _kernels(self, groups: list[dict[str, Any]]) -> list[str]:
        return [self.FORMULA.kernel(group) for group in groups]

    def _set_hyper(self, binding: Binding, groups: list[dict[str, Any]]) -> None:
        scalars = [self.FORMULA._scalars(group, 1) for group in groups]
        for number, h in enumerate(scalars):
            binding.plan.set_hyper(number, list(h.values()))
        self._scalars = scalars
        self._values = self._group_values()
        self._volatile = any(map(_has_tensor, self._values))

    def _bind(self, params: list[Any], grads: list[Any], groups: list[dict[str, Any]]) -> Binding:
        members = self._members(grads)
        check_parameters(members, type(self).__name__)
        binding = Binding(
            members,
            params,
            self.state,
            self.FORMULA,
            self._kernels(groups),
            self.NUMBERS,
            self.defaults,
        )
        own = binding.own(grads)
        binding.check_gradients(own, type(self).__name__)
        binding.plan.check(binding.gradients(own, type(self).__name__, self.zero_grads))
        self._set_hyper(binding, groups)
        binding.commit(self.state)
        self._binding = binding
        return binding

    def _members(self, grads: list[Any]) -> list[Member]:
        """Parameters with a gradient, now or before."""
        before = set(map(id, self._binding.parameters)) if self._binding else set()
        members: list[Member] = []
        position = 0
        for number, group in enumerate(self.param_groups):
            names = group.get("param_names")
            for i, p in enumerate(group["params"]):
                if grads[position] is not None or id(p) in before:
                    name = names[i] if names else f"group {number}, parameter {i}"
                    members.append(Member(p, position, number, name))
                position += 1
        return members

    def __getstate__(self) -> dict[str, Any]:
        own = ("clip_norm", "on_nonfinite", "zero_grads")
        return {**super().__getstate__(), **{key: getattr(self, key) for key in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._binding = None
        super().__setstate__(state)


def _check_flags(values: Mapping[str, Any], where: str) -> None:
    for key, what in REFUSED.items():
        if values.get(key):
            raise ValueError(f"{where}{key}: True, expected False; for {what} use torch.optim")


def _has_tensor(values: Iterable[Any]) -> bool:
    return any(
        isinstance(value, torch.Tensor) or (isinstance(value, (tuple, list)) and _has_tensor(value))
        for value in values
    )


def _with_extra_arguments(cls: type[NativeOptimizer]) -> inspect.Signature:
    """The signature of torch's class with the arguments of NativeOptimizer behind it."""
    order = cls.__mro__
    source = cls if "__init__" in cls.__dict__ else order[order.index(NativeOptimizer) + 1]
    theirs = list(inspect.signature(source.__dict__["__init__"]).parameters.values())[1:]
    own = inspect.signature(NativeOptimizer.__init__).parameters.values()
    extra = [p for p in own if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature([*(p for p in theirs if p.kind is not p.VAR_KEYWORD), *extra])
