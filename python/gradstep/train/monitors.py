"""What watches a loss or a score over the epochs: when to stop, when to lower the rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradstep.arguments import choice, entry, integer, number, real
from gradstep.optim.optimizer import Optimizer
from gradstep.train.live import check_copies, live_arrays, put

__all__ = ["EarlyStopping", "ReduceOnPlateau"]


@dataclass
class _Watch:
    """The best value so far, and how many values came since."""

    mode: str
    min_delta: float
    best: float = math.nan
    since: int = 0

    def __post_init__(self) -> None:
        choice("mode", self.mode, ["min", "max"])
        number("min_delta", self.min_delta, "a number >= 0", lambda x: x >= 0)

    def better(self, value: Any) -> bool:
        """Takes the next value; returns whether it is better than the best by min_delta."""
        found = real("value", value)
        sign = 1 if self.mode == "min" else -1
        first = math.isnan(self.best) and not math.isnan(found)
        better = first or sign * found < sign * self.best - self.min_delta
        self.best, self.since = (found, 0) if better else (self.best, self.since + 1)
        return better

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "since": self.since}


def _checked(state: Any) -> tuple[float, int]:
    """Best and since of a state."""
    best = real("state_dict['best']", entry(state, "best", "state_dict"))
    return best, integer("state_dict['since']", entry(state, "since", "state_dict"), 0)


class EarlyStopping:
    """Keeps a copy of the model at its best; tells when it has been the best for `patience` epochs.

    model: a layer or network, whose parameters and running statistics are kept, or a tree of
    arrays. patience: epochs, at least 1. min_delta: what a value must be better by, >= 0. mode:
    "min" for losses, "max" for scores. NaN is never better. Goes into checkpoints.
    Raises TypeError or ValueError. Source: Prechelt 1998, "Early stopping - but when?".

    >>> import numpy as np
    >>> w = np.array([1.0])
    >>> stopping = EarlyStopping({"w": w}, patience=1)
    >>> stopping.update(0.5)
    False
    >>> w += 1
    >>> stopping.update(0.7)
    True
    >>> stopping.restore(), w.tolist()
    (0, [1.0])
    """

    def __init__(
        self, model: Any, patience: int, *, min_delta: float = 0.0, mode: str = "min"
    ) -> None:
        self._watch = _Watch(mode, min_delta)
        self._patience = integer("patience", patience, 1)
        self._live = live_arrays(model)
        self._kept = {name: array.copy() for name, array in self._live.items()}
        self._epochs = 0

    @property
    def best(self) -> float:
        """The best value so far; NaN before any."""
        return self._watch.best

    @property
    def best_epoch(self) -> int:
        """The epoch of the best value, from 0."""
        return max(self._epochs - 1 - self._watch.since, 0)

    @property
    def stopped(self) -> bool:
        """Whether the best value is `patience` epochs old."""
        return self._watch.since >= self._patience

    def update(self, value: float) -> bool:
        """Take the value of the next epoch; return whether training should stop.

        NaN is no improvement. Raises TypeError for what is no number.
        """
        if self._watch.better(value):
            put(self._kept, self._live)
        self._epochs += 1
        return self.stopped

    def restore(self) -> int:
        """Put the best arrays back, in place, and return their epoch."""
        put(self._live, self._kept)
        return self.best_epoch

    def state_dict(self) -> dict[str, Any]:
        """All that the next decisions depend on, with a copy of the best arrays."""
        kept = {name: array.copy() for name, array in self._kept.items()}
        return {**self._watch.state_dict(), "epochs": self._epochs, "arrays": kept}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; all is checked before anything changes.

        Raises TypeError or ValueError.
        """
        best, since = _checked(state_dict)
        epochs = integer("state_dict['epochs']", entry(state_dict, "epochs", "state_dict"), 0)
        kept = check_copies(state_dict, "arrays", self._live)
        put(self._kept, kept)
        self._watch.best, self._watch.since, self._epochs = best, since, epochs


@dataclass(frozen=True)
class _Lowered:
    """A schedule times a factor, but not below `least`, unless the schedule itself is."""

    schedule: Callable[[int], float]
    factor: float
    least: float

    def __call__(self, step: int) -> float:
        rate = float(self.schedule(step))
        return min(rate, max(self.factor * rate, self.least))


class ReduceOnPlateau:
    """Lowers the learning rates of an optimizer when a value has stopped getting better.

    optimizer: one of ours; a rate of its groups may be a number or a schedule, which is then
    multiplied. factor: in (0, 1), each time. patience: epochs without a better value until then, at
    least 1; torch waits one more. min_delta, mode: as for EarlyStopping. cooldown: epochs after a
    change that do not count. min_lr: no rate is lowered below it. Goes into checkpoints.
    Raises TypeError or ValueError. Source: `torch.optim.lr_scheduler.ReduceLROnPlateau`.

    >>> import numpy as np, gradstep as gs
    >>> opt = gs.SGD(np.zeros(2), lr=0.5)
    >>> plateau = ReduceOnPlateau(opt, factor=0.5, patience=2)
    >>> [plateau.update(loss) for loss in (1.0, 0.9, 0.9, 0.9)], opt.lr
    ([False, False, False, True], 0.25)
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str = "min",
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            kind = type(optimizer).__name__
            raise TypeError(f"optimizer: {kind}, expected an optimizer of gradstep")
        self._watch = _Watch(mode, min_delta)
        self._factor = number("factor", factor, "a number in (0, 1)", lambda x: 0 < x < 1)
        self._patience = integer("patience", patience, 1)
        self._cooldown = integer("cooldown", cooldown, 0)
        self._least = number("min_lr", min_lr, "a number >= 0", lambda x: x >= 0)
        self._optimizer = optimizer
        self._scale, self._cooling = 1.0, 0

    @property
    def scale(self) -> float:
        """What schedules are multiplied by now: the factor, once for each change."""
        return self._scale

    @property
    def best(self) -> float:
        """The best value so far; NaN before any."""
        return self._watch.best

    def update(self, value: float) -> bool:
        """Take the value of the next epoch; return whether the rates were lowered.

        NaN is no improvement. Raises TypeError for what is no number.
        """
        self._watch.better(value)
        if self._cooling:
            self._cooling -= 1
            self._watch.since = 0
        if self._watch.since < self._patience:
            return False
        self._watch.since, self._cooling = 0, self._cooldown
        self._scale *= self._factor
        for group in self._optimizer.param_groups:
            rate = group["lr"]
            if callable(rate):
                group["lr"] = self._lower_schedule(rate)
            else:
                group["lr"] = min(rate, max(self._factor * rate, self._least))
        return True

    def _lower_schedule(self, rate: Callable[[int], float]) -> Callable[[int], float]:
        schedule = rate.schedule if isinstance(rate, _Lowered) else rate
        return schedule if self._scale == 1.0 else _Lowered(schedule, self._scale, self._least)

    def state_dict(self) -> dict[str, Any]:
        """All that the next decisions depend on."""
        return {**self._watch.state_dict(), "scale": self._scale, "cooling": self._cooling}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; all is checked before anything changes.

        Rates that are schedules are lowered again; numbers are in the state of the optimizer.
        Raises TypeError or ValueError.
        """
        best, since = _checked(state_dict)
        cooling = integer("state_dict['cooling']", entry(state_dict, "cooling", "state_dict"), 0)
        scale = entry(state_dict, "scale", "state_dict")
        scale = number("state_dict['scale']", scale, "a number in [0, 1]", lambda x: 0 <= x <= 1)
        self._watch.best, self._watch.since = best, since
        self._scale, self._cooling = scale, cooling
        for group in self._optimizer.param_groups:
            if callable(group["lr"]):
                group["lr"] = self._lower_schedule(group["lr"])
