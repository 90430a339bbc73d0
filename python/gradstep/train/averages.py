"""Averages of the weights along a training, for evaluation: exponential, or of equal parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gradstep.arguments import entry, flag, floating, integer, kind, number
from gradstep.arrays import Array
from gradstep.nn import BatchNorm, Layer
from gradstep.nn.dropouts import Dropout
from gradstep.nn.layer import walk
from gradstep.optim.averages import BoundAverage
from gradstep.optim.optimizer import Optimizer
from gradstep.train.live import check_copies, check_writable, live_arrays, put

__all__ = ["EMA", "SWA", "update_batch_norm"]


class _Average(ABC):
    """Averages of a model's float arrays, which can change places with them."""

    def __init__(self, model: Any, *, buffers: bool) -> None:
        found = live_arrays(model, buffers=buffers)
        # Counters and flags have no average.
        self._live = {name: a for name, a in found.items() if a.dtype.kind not in "biu"}
        if not self._live:
            raise ValueError("model: no array of float32 or float64, expected at least one")
        for name, array in self._live.items():
            _check(f"model[{name!r}]", array)
        self._averages = {name: np.array(a, order="K") for name, a in self._live.items()}
        self._moved = dict(self._live)  # what `update` averages
        self._optimizer: Optimizer | None = None  # which averages the others
        self._updates, self._swapped = 0, False
        self._bound: BoundAverage | None = None

    @property
    def averages(self) -> dict[str, Array]:
        """Name -> average, the arrays themselves."""
        return dict(self._averages)

    @property
    def updates(self) -> int:
        """How many times the weights were taken in."""
        return self._updates

    def update(self) -> None:
        """Take in the weights as they are now: after a step, or after an epoch."""
        self._check_in_place("update")
        share = self._share_of_past(self._updates + 1)
        if self._bound is None and self._moved:
            own = {name: self._averages[name] for name in self._moved}
            self._bound = BoundAverage(own, self._moved)
        if self._bound is not None:
            self._bound.update(share)
        self._updates += 1

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bound": None}  # of a copy its arrays are others

    @abstractmethod
    def _share_of_past(self, update: int) -> float:
        """What the average so far counts in update number 1, 2, ..."""

    def _check_in_place(self, call: str) -> None:
        if self._swapped:
            raise RuntimeError(f"{call}: called while swapped, expected swap() first")

    def swap(self) -> None:
        """Exchange the averages and the weights, in place; once more changes them back."""
        check_writable(self._live)
        if self._optimizer is not None:
            self._optimizer._hold_averages(not self._swapped)
        for name, live in self._live.items():
            kept = live.copy(order="K")
            np.copyto(live, self._averages[name])
            np.copyto(self._averages[name], kept)
        self._swapped = not self._swapped

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """In a `with` block the model has the averages; afterwards its weights again."""
        self._check_in_place("swapped")
        self.swap()
        try:
            yield
        finally:
            if self._swapped:
                self.swap()

    def state_dict(self) -> dict[str, Any]:
        """A copy of the averages, and the number of updates."""
        self._check_in_place("state_dict")
        copies = {name: array.copy() for name, array in self._averages.items()}
        return {"updates": self._updates, "arrays": copies}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; all is checked before anything changes.

        Raises TypeError or ValueError.
        """
        self._check_in_place("load_state_dict")
        updates = integer("state_dict['updates']", entry(state_dict, "updates", "state_dict"), 0)
        put(self._averages, check_copies(state_dict, "arrays", self._live))
        self._updates = updates


def _address(array: Array) -> tuple[int, int]:
    return array.ctypes.data, array.size


def _check(name: str, array: Array) -> None:
    floating(name, array.dtype)
    if not array.flags.forc:
        raise ValueError(f"{name}: not contiguous, expected C or F order")


class EMA(_Average):
    """The exponential moving average of a model: average = decay average + (1 - decay) weights.

    model: a layer or network, whose running statistics are averaged too, or a tree of float32 or
    float64 arrays. decay: in [0, 1), or a function of the number of the update, 1, 2, ... warmup:
    decay at most (1 + t) / (10 + t) in update t, so that the start does not linger. The average
    begins as a copy. Native, in place. Goes into checkpoints.
    optimizer: one of `gradstep` over the model's parameters, made with `ema="float32"`: its steps
    then average what they change in their own pass, by its `ema_decay`, and `update` has left what
    it does not, as running statistics.
    Raises TypeError or ValueError. Source: Polyak & Juditsky 1992, "Acceleration of stochastic
    approximation by averaging"; warmup as in TensorFlow.

    >>> w = np.zeros(1)
    >>> ema = EMA({"w": w}, decay=0.5)
    >>> w += 4
    >>> ema.update()
    >>> with ema.swapped():
    ...     print(w)
    [2.]
    >>> w
    array([4.])
    """

    def __init__(
        self,
        model: Any,
        decay: float | Callable[[int], float] = 0.999,
        *,
        warmup: bool = False,
        optimizer: Optimizer | None = None,
    ) -> None:
        self._decay = decay if callable(decay) else _decay(decay)
        self._warmup = flag("warmup", warmup)
        super().__init__(model, buffers=True)
        if optimizer is not None:
            self._follow(optimizer)

    def _follow(self, optimizer: Optimizer) -> None:
        """Takes the averages that the steps of an optimizer move."""
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: {kind(optimizer)}, expected one of gradstep.OPTIMIZERS")
        found = {
            name: average
            for array, average in optimizer._averages()
            for name, live in self._live.items()
            if _address(array) == _address(live)
        }
        if not found:
            raise ValueError(
                "optimizer: averages none of the model's arrays, expected ema='float32' over them"
            )
        for name, average in found.items():
            if average.dtype != self._live[name].dtype:
                raise ValueError(
                    f"optimizer: ema of {average.dtype} for model[{name!r}], expected "
                    f"{self._live[name].dtype}; its averaged() takes any"
                )
        self._averages.update(found)
        self._optimizer = optimizer
        for name in found:
            del self._moved[name]

    def _share_of_past(self, update: int) -> float:
        decay = _decay(self._decay(update)) if callable(self._decay) else self._decay
        return min(decay, (1 + update) / (10 + update)) if self._warmup else decay


def _decay(decay: Any) -> float:
    return number("decay", decay, "a number in [0, 1)", lambda x: 0 <= x < 1)


class SWA(_Average):
    """Stochastic weight averaging: the mean of the weights at every update.

    model: a layer or network, or a tree of float32 or float64 arrays. Update at the end of an epoch
    in the last part of a training. Running statistics of batch norm are those of the last weights:
    with the averages in place, `update_batch_norm` makes new ones. Native, in place. Goes into
    checkpoints. Raises TypeError or ValueError. Source: Izmailov et al. 2018 (arXiv:1803.05407).

    >>> w = np.zeros(1)
    >>> swa = SWA({"w": w})
    >>> for _ in range(3):
    ...     w += 1
    ...     swa.update()
    >>> swa.averages["w"]
    array([2.])
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model, buffers=False)

    def _share_of_past(self, update: int) -> float:
        return (update - 1) / update


def update_batch_norm(model: Layer, batches: Iterable[Any]) -> None:
    """Make the running statistics of all batch norms anew, as means over the batches.

    model: a layer or network. batches: its inputs, (N, ...) each, or tuples that begin with one.
    Masks of dropout do not advance. Raises TypeError, or ValueError without batches. Source:
    Izmailov et al. 2018 (arXiv:1803.05407), section 3.1.

    >>> from gradstep.nn import Sequential
    >>> net = Sequential(BatchNorm(1))
    >>> update_batch_norm(net, [np.full((2, 1), 1.0, np.float32), np.full((2, 1), 3.0, np.float32)])
    >>> net.buffers["0.running_mean"]
    array([2.], dtype=float32)
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model: {type(model).__name__}, expected a layer of gradstep.nn")
    try:
        given = iter(batches)
    except TypeError:
        raise TypeError(f"batches: {kind(batches)}, expected several to walk through") from None
    norms = [layer for layer in walk(model) if isinstance(layer, BatchNorm)]
    before = {name: buffer.copy() for name, buffer in model.buffers.items()}
    momenta = [layer.momentum for layer in norms]
    calls = [(layer, layer.calls) for layer in walk(model) if isinstance(layer, Dropout)]
    try:
        for layer in norms:
            layer.momentum = None
            layer.buffers["num_batches_tracked"].fill(0)
        count = 0
        for batch in given:
            x = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
            try:
                model.forward(x, True)
            except (TypeError, ValueError) as error:
                raise type(error)(f"batches[{count}]: {error}") from error
            count += 1
        if not count:
            raise ValueError("batches: none, expected at least one")
    except BaseException:
        put(model.buffers, before)
        raise
    finally:
        for layer, momentum in zip(norms, momenta, strict=True):
            layer.momentum = momentum
        for drop, number_of_calls in calls:
            drop._calls = number_of_calls
