"""An optimizer on the host for parameters that live on another device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gradstep import _core
from gradstep.arguments import entry, integer, several, shown
from gradstep.optim.gradients import accumulate
from gradstep.optim.storage import check_own_values
from gradstep.spec import sums as spec_sums
from gradstep.torch.optim.memory import DTYPES, array_of
from gradstep.torch.optim.optimizer import NativeOptimizer
from gradstep.torch.optim.optimizers import AdamW
from gradstep.torch.threads import on_team

__all__ = ["OffloadOptimizer"]

# What is added in float32.
ADDED = (torch.float32, torch.bfloat16, torch.float16)


class _Place:
    """One parameter: on its device, on the host, and what stands between."""

    def __init__(self, parameter: Any, pinned: bool) -> None:
        self.parameter, self.pinned = parameter, pinned
        self.host = torch.nn.Parameter(self.like(parameter.dtype))
        self.host.grad_dtype = None  # that of the device's gradient, or float32 of several
        self.grad: Any = None  # the gradient on the host
        self.total: Any = None  # of several batches
        self.sums: Any = None  # of the squares in it

    def like(self, dtype: torch.dtype) -> Any:
        tensor = torch.zeros_like(self.parameter.detach(), dtype=dtype, device="cpu")
        return tensor.pin_memory() if self.pinned else tensor

    def fetch(self) -> None:
        """Starts the copy of the gradient."""
        given = self.parameter.grad.detach()
        if self.grad is None or self.grad.dtype != given.dtype:
            self.grad = self.like(given.dtype)
        self.grad.copy_(given, non_blocking=self.pinned)


class Group(MutableMapping[str, Any]):
    """A group of the optimizer on the host, with the device's parameters in place of the host's."""

    def __init__(self, hosted: dict[str, Any], given: dict[int, Any]) -> None:
        self._hosted, self._given = hosted, given

    def __getitem__(self, key: str) -> Any:
        value = self._hosted[key]
        return [self._given[id(host)] for host in value] if key == "params" else value

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "params":
            raise ValueError("params: hold from when the optimizer was made on")
        self._hosted[key] = value

    def __delitem__(self, key: str) -> None:
        del self._hosted[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosted)

    def __len__(self) -> int:
        return len(self._hosted)


class OffloadOptimizer:
    """A step on the host for parameters on another device, which keeps neither states nor masters.

    params: parameters, named ones or groups, as for torch's optimizers, on one device, the CPU too.
    optimizer: a class of `gradstep.torch`. bucket: bytes of parameters that are copied together.
    options: of that class, as `lr`, `clip_norm`, `on_nonfinite`, `master`, `state_dtype`.

    Gradients come into pinned memory and weights go back from there, bucket by bucket on a stream
    of their own: while one bucket is stepped on, the next one's gradients and the last one's
    weights are under way. With `clip_norm` or `on_nonfinite` all gradients must have come before
    the first step. The result is that of `optimizer` on the host, to the bit. Schedulers take
    `offload.optimizer`, whose `param_groups` are the groups.

    Raises TypeError or ValueError for what the optimizer refuses, parameters of two devices or that
    come twice.
    Ren et al. 2021 (arXiv:2101.06840).

    >>> import torch, gradstep.torch
    >>> model = torch.nn.Linear(4, 2).bfloat16()  # .to("cuda") where there is one
    >>> opt = gradstep.torch.OffloadOptimizer(
    ...     model.parameters(), lr=1e-3, master="split", clip_norm=1.0
    ... )
    >>> model(torch.ones(3, 4, dtype=torch.bfloat16)).sum().backward()
    >>> opt.step()
    >>> opt.zero_grad()
    >>> sorted(opt.optimizer.state_dict()["state"][0])
    ['exp_avg', 'exp_avg_sq', 'master_low', 'step']
    """

    def __init__(
        self,
        params: Iterable[Any],
        optimizer: type[NativeOptimizer] = AdamW,
        *,
        bucket: int = 64 * 2**20,
        **options: Any,
    ) -> None:
        if not (isinstance(optimizer, type) and issubclass(optimizer, NativeOptimizer)):
            raise TypeError(f"optimizer: {shown(optimizer)}, expected a class of gradstep.torch")
        if options.get("zero_grads"):
            raise ValueError("zero_grads: True, expected False; call zero_grad()")
        self._size = integer("bucket", bucket, 1)
        self._places: list[_Place] = []
        if isinstance(params, torch.Tensor):  # whose elements would be taken for parameters
            raise TypeError("params: a tensor, expected a sequence of them, or groups")
        entries = list(several("params", params, lambda name, own: own))
        if not entries:
            raise ValueError("params: none, expected at least one")
        hosted: list[Any] = []
        if isinstance(entries[0], dict):
            for number, group in enumerate(entries):
                given = entry(group, "params", f"params[{number}]")
                hosted.append({**group, "params": self._hosted(given)})
        else:
            hosted = self._hosted(entries)
        self.optimizer: NativeOptimizer = optimizer(hosted, **options)
        self.reload()

    def __getstate__(self) -> dict[str, Any]:
        # Streams are made anew when needed; a scaler's numbers are those of one step.
        left_out = ("_device", "_both", "found_inf", "grad_scale")
        return {key: value for key, value in self.__dict__.items() if key not in left_out}

    def _hosted(self, entries: Any) -> list[Any]:
        """Parameters of the host for these, with their names if they have some."""
        found: list[Any] = []
        for own in [entries] if isinstance(entries, torch.Tensor) else entries:
            parameter = own[1] if isinstance(own, tuple) else own
            if not isinstance(parameter, torch.Tensor):
                raise TypeError(f"params: {type(parameter).__name__}, expected tensors")
            if not parameter.is_floating_point():
                raise TypeError(f"params: dtype {parameter.dtype}, expected floating-point numbers")
            if any(parameter is place.parameter for place in self._places):
                raise ValueError("params: a tensor that comes twice, expected each once")
            if self._places and parameter.device != self._places[0].parameter.device:
                where = self._places[0].parameter.device
                raise ValueError(f"params: on {parameter.device}, expected {where} as the first")
            if parameter.is_meta:
                raise TypeError("params: on meta, expected a device with memory")
            pinned = parameter.device.type != "cpu"
            self._places.append(_Place(parameter, pinned))
            host = self._places[-1].host
            found.append((own[0], host) if isinstance(own, tuple) else host)
        return found

    # A GradScaler hands its scale and what it found to the step, as to torch's fused ones.
    _step_supports_amp_scaling = True

    @property
    def param_groups(self) -> list[Group]:
        """The groups, with the parameters that were given."""
        given = {id(place.host): place.parameter for place in self._places}
        return [Group(group, given) for group in self.optimizer.param_groups]

    @property
    def grad_norm(self) -> float | None:
        """The L2 norm of the last step's gradients, where `clip_norm` or `on_nonfinite` need it."""
        return self.optimizer.grad_norm

    @property
    def skipped(self) -> bool:
        """Whether the last step wrote nothing because its gradients were not finite."""
        return self.optimizer.skipped

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clears the gradients on the device."""
        for place in self._places:
            grad = place.parameter.grad
            if set_to_none:
                place.parameter.grad = None
            elif grad is not None:
                grad.detach_().zero_()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In a `with` block parameters with `ema` hold their averages, on the device too."""
        try:
            with self.optimizer.averaged():
                self._send_all()
                yield
        finally:
            self._send_all()

    def _send_all(self) -> None:
        self._send(self._places)
        self._meet()
        self._device.synchronize()  # the host's will be others

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer on the host. The weights are not in it."""
        found: dict[str, Any] = self.optimizer.state_dict()
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the optimizer's own, for the weights that the device has now, which go to the host.

        Load the weights first. After weights that come later call `reload`, which costs a split
        master its missing bits. Raises as the optimizer's own, RuntimeError inside of `averaged`.
        """
        check_own_values("load_state_dict", self.optimizer._holds_averages)
        self.optimizer.load_state_dict(state_dict)
        self._take_weights()

    def reload(self) -> None:
        """Takes weights that were changed on the device to the host, and into the masters."""
        check_own_values("reload", self.optimizer._holds_averages)
        self._take_weights()
        self.optimizer.reload_masters()

    def _take_weights(self) -> None:
        for place in self._places:
            place.host.detach().copy_(place.parameter.detach())

    def accumulate(self) -> None:
        """Adds the gradients to those of the batches before, in float32 on the host, for the next
        `step`. Those on the device are gone then.

        Raises TypeError or ValueError for gradients that cannot be added; then nothing was.
        """
        given = self._with_gradients(ADDED)
        for place in given:
            if place.total is None:
                place.total = place.like(torch.float32)
        for bucket, arrived in self._fetched(given):
            arrived()
            totals = [array_of(place.total) for place in bucket]
            found = on_team(accumulate)([array_of(place.grad) for place in bucket], into=totals)
            for place, sums in zip(bucket, found, strict=True):
                place.sums = sums
                place.parameter.grad = None  # at once: if a later bucket fails, none is added twice

    def _with_gradients(self, dtypes: Sequence[torch.dtype] = DTYPES) -> list[_Place]:
        """Those with a gradient. Raises TypeError for one that is sparse, or of another type."""
        for place, member in zip(self._places, self.optimizer._members(), strict=True):
            grad = place.parameter.grad
            if grad is not None and grad.layout is not torch.strided:
                found = f"{member.label}.grad: layout {grad.layout}"
                raise TypeError(f"{found}, expected a dense tensor; sparse=False in the embedding")
            if grad is not None and grad.dtype not in dtypes:
                expected = ", ".join(map(str, dtypes))
                raise TypeError(f"{member.label}.grad: {grad.dtype}, expected {expected}")
        return [place for place in self._places if place.parameter.grad is not None]

    def step(self) -> None:
        """Updates the parameters that have a gradient, or had one since the last step.

        Raises TypeError or ValueError for gradients that the optimizer cannot take, MemoryError,
        and FloatingPointError with `on_nonfinite="raise"`; then nothing was written.
        """
        found_inf = self.__dict__.get("found_inf")
        if found_inf is not None and float(found_inf) != 0:
            self.optimizer._skip([], None)
            return
        several = any(place.sums is not None for place in self._places)
        if several:
            self.accumulate()
            given = [place for place in self._places if place.sums is not None]
            arriving = [(bucket, _arrived) for bucket in self._buckets(given)]
        else:
            given = self._with_gradients()
            arriving = list(self._fetched(given))
        if not given:
            return
        grads = {id(p.host): p.total if several else p.grad for p in given}
        optimizer = self.optimizer
        hosts = [place.host for place in self._places]
        # All is checked before the first bucket is written.
        every = [grads.get(id(host)) for host in hosts]
        participants = optimizer._current(hosts, every)
        participants.check_gradients(participants.own(every))
        checks = optimizer.on_nonfinite != "apply"
        try:
            if checks or optimizer.clip_norm:
                for _, arrived in arriving:
                    arrived()
                norm = self._norm(given, several)
                optimizer._known_norm = norm
                if checks and not math.isfinite(norm):
                    arriving = [(given, _arrived)]  # refused as a whole
            scale = self.__dict__.get("grad_scale")
            if scale is not None:
                optimizer.grad_scale = float(scale)
            steps = [
                (bucket, arrived, _of_bucket(bucket, hosts, grads)) for bucket, arrived in arriving
            ]
            self._step_on(steps, hosts, participants.plan)
        finally:
            optimizer._known_norm = None
            optimizer.__dict__.pop("grad_scale", None)
            if several:
                for place in given:
                    place.total.zero_()
                    place.sums = None
        self._meet()
        optimizer._opt_called = True  # which schedulers look for

    def _step_on(self, steps: list[Any], hosts: list[Any], plan: _core.Plan) -> None:
        """Steps on one bucket after the other.

        All large memory is there by now. Where a little is missing between two buckets, the step
        goes on where it was, as it could not be taken back.
        """
        optimizer = self.optimizer
        for number, (bucket, arrived, grads) in enumerate(steps):
            arrived()
            taken = plan.step_count
            try:
                optimizer._step_natively(hosts, grads)
            except MemoryError:
                if number == 0 or plan.step_count != taken:
                    raise
                optimizer._step_natively(hosts, grads)
            if not optimizer.skipped:
                self._send(bucket)

    def _norm(self, given: list[_Place], several: bool) -> float:
        if several:
            return math.sqrt(spec_sums.total([place.sums for place in given]))
        return on_team(_core.global_norm)(
            [array_of(place.grad) for place in given], [None] * len(given), "grads"
        )

    # Copies

    def _buckets(self, given: list[_Place]) -> Iterator[list[_Place]]:
        bucket: list[_Place] = []
        size = 0
        for place in given:
            bucket.append(place)
            size += place.host.numel() * place.host.element_size()
            if size >= self._size:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket

    def _streams(self) -> tuple[Any, Any]:
        """The streams of the device, made when first needed: one for each way."""
        if "_both" not in self.__dict__:
            self._device = torch.get_device_module(self._places[0].parameter.device)
            self._both = self._device.Stream(), self._device.Stream()
        return self._both

    def _fetched(self, given: list[_Place]) -> Iterator[tuple[list[_Place], Callable[[], None]]]:
        """Starts all copies to the host; gives each bucket and what waits for it."""
        if not given:
            return
        stream, _ = self._streams()
        stream.wait_stream(self._device.current_stream())
        started = []
        with self._device.stream(stream):
            for bucket in self._buckets(given):
                for place in bucket:
                    place.fetch()
                event = self._device.Event()
                event.record(stream)
                started.append((bucket, event.synchronize))
        yield from started

    def _send(self, bucket: list[_Place]) -> None:
        _, stream = self._streams()
        stream.wait_stream(self._device.current_stream())  # the device may still read weights
        with self._device.stream(stream):
            for place in bucket:
                with torch.no_grad():
                    place.parameter.copy_(place.host, non_blocking=place.pinned)

    def _meet(self) -> None:
        """What the device does next waits for its weights."""
        _, stream = self._streams()
        self._device.current_stream().wait_stream(stream)


def _of_bucket(bucket: list[_Place], hosts: list[Any], grads: dict[int, Any]) -> list[Any]:
    """The gradients of a bucket's parameters among all of the host."""
    own = {id(place.host) for place in bucket}
    return [grads[id(host)] if id(host) in own else None for host in hosts]


def _arrived() -> None:
    """Nothing is under way."""
