"""The training loop of `gradstep train`: optimizers by name, epochs, early stopping.

Prints nothing. Everything random comes from the seed, so two runs differ only where BLAS does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.nn import FloatArray, Layer
from gradstep.optim import schedules
from gradstep.optim.optimizer import Optimizer
from gradstep.optim.optimizers import OPTIMIZERS
from gradstep.train.augmentation import Augmentation
from gradstep.train.batches import batches, check_batch_size
from gradstep.train.datasets import Split
from gradstep.train.monitors import EarlyStopping
from gradstep.train.objectives import Classification, Objective

__all__ = [
    "DEFAULT_LR",
    "OPTIMIZER_NAMES",
    "REGRESSION_LR",
    "SCHEDULE_NAMES",
    "Epoch",
    "History",
    "Training",
    "evaluate",
    "make_optimizer",
    "step_function",
    "train",
]

# What may be asked for by name: the registry, and two settings of SGD with names of their own.
OPTIMIZER_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name.lower(): (name, {}) for name in OPTIMIZERS},
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
}

# Rates that suit a small network of ReLUs: the best compromise between digits and mnist5k, with
# pixels in 0 ... 1 and standardised. Optimizers not named here have the rate of their class.
DEFAULT_LR: dict[str, float] = {
    **{name.lower(): optimizer.default("lr") for name, optimizer in OPTIMIZERS.items()},
    "sgd": 0.2,
    "momentum": 0.05,
    "nesterov": 0.05,
    "rmsprop": 1e-3,
    "adam": 2e-3,
    "adamw": 2e-3,
    "adamax": 5e-3,
    "radam": 2e-3,
    "lion": 2e-4,
}

# A squared error has no bound, so plain descent needs smaller steps than on a cross entropy.
REGRESSION_LR = {**DEFAULT_LR, "sgd": 0.005, "momentum": 0.002, "nesterov": 0.002}

# Name -> a schedule of the rate, the steps of the whole training, and the steps of an epoch.
SCHEDULE_NAMES: dict[str, Callable[[float, int, int], Any]] = {
    "constant": lambda lr, steps, epoch: lr,
    "cosine": lambda lr, steps, epoch: schedules.cosine(lr, steps),
    "step": lambda lr, steps, epoch: schedules.step_decay(lr, every=-(-steps // 4)),
    "inverse-time": lambda lr, steps, epoch: schedules.inverse_time(lr, 9 * epoch / steps, epoch),
    "exponential": lambda lr, steps, epoch: schedules.exponential(lr, 0.01, steps),
    "power": lambda lr, steps, epoch: schedules.per_epoch(epoch, schedules.power(lr, 0.5)),
    "warmup-cosine": lambda lr, steps, epoch: schedules.warmup(
        steps // 10, schedules.cosine(lr, steps - steps // 10)
    ),
    "one-cycle": lambda lr, steps, epoch: schedules.one_cycle(lr, max(steps, 2)),
}


def make_optimizer(
    name: str, params: Any, lr: Any, *, make: Callable[..., Any] | None = None, **settings: Any
) -> Optimizer:
    """Return an optimizer for params.

    name: a key of OPTIMIZER_NAMES. params: what the optimizer takes. lr: a rate or a schedule.
    settings: keywords of the class; those that are None are left at its defaults. make: called with
    the class and its arguments, in place of the class.
    Raises ValueError if the name is unknown, and what the class raises.

    >>> make_optimizer("momentum", np.zeros(2), 0.1, clip_norm=None).param_groups[0]["momentum"]
    0.9
    """
    if name not in OPTIMIZER_NAMES:
        raise ValueError(f"name: {name!r}, expected one of {', '.join(OPTIMIZER_NAMES)}")
    class_name, preset = OPTIMIZER_NAMES[name]
    given = {key: value for key, value in settings.items() if value is not None}
    optimizer: Callable[..., Optimizer] = OPTIMIZERS[class_name]
    if make is not None:
        optimizer = partial(make, optimizer)
    return optimizer(params, lr=lr, **{**preset, **given})


@dataclass(frozen=True)
class Epoch:
    """One epoch; loss and scores of the training are over its batches, in training mode.

    scores: those of the objective, by name, such as accuracy. lr: of the last step. seconds: of the
    steps, without the validation. parts: where they went: the kinds of layers in the model, "loss",
    and "optimizer" for `optimizer.step()`.
    """

    train_loss: float
    train_scores: Mapping[str, float]
    valid_loss: float
    valid_scores: Mapping[str, float]
    lr: float
    seconds: float
    parts: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        """Return the epoch as one plain mapping: train_loss, train_accuracy, ..., parts.

        >>> epoch = Epoch(0.5, {"accuracy": 1.0}, 0.7, {"accuracy": 0.9}, 0.1, 2.0, {})
        >>> epoch.record()["valid_accuracy"]
        0.9
        """
        return {
            "train_loss": self.train_loss,
            **{f"train_{name}": score for name, score in self.train_scores.items()},
            "valid_loss": self.valid_loss,
            **{f"valid_{name}": score for name, score in self.valid_scores.items()},
            "lr": self.lr,
            "seconds": self.seconds,
            "parts": dict(self.parts),
        }


# The losses of a training that went wrong are more than so many times those at its start.
EXPLOSION = 4.0


@dataclass
class History:
    """What happened in training.

    epochs: one entry for each that ran. best: index of the epoch whose weights the model has now,
    the last one, or with early stopping the one of the lowest validation loss. stopped_early:
    patience ran out. diverged: a loss was not finite, which ends the training, or those of the
    best epoch are far above what an untrained network has.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    stopped_early: bool = False
    diverged: bool = False

    @property
    def final(self) -> Epoch:
        """The epoch whose weights the model has now."""
        return self.epochs[self.best]

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs, in seconds."""
        return median(epoch.seconds for epoch in self.epochs)

    def share(self, *parts: str) -> float:
        """Fraction of the training time spent in these parts together, 0 ... 1."""
        spent = sum(e.parts.get(part, 0.0) for e in self.epochs for part in parts)
        return spent / sum(e.seconds for e in self.epochs)


class Training:
    """A training under way: the model, its optimizer, and all that the next epoch depends on.

    Arguments as for `train`. history: what was seen so far.
    """

    def __init__(
        self,
        model: Layer,
        data: Split,
        optimizer: Optimizer,
        *,
        batch_size: int | None = 64,
        seed: int = 0,
        objective: Objective | None = None,
        patience: int | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        check_batch_size(model, data, batch_size)
        self.model: Layer = model
        self.data: Split = data
        self.optimizer: Optimizer = optimizer
        self._bind()
        self.objective: Objective = objective or Classification()
        self.history: History = History()
        self._batch_size, self._augment = batch_size, augment
        self._rng = np.random.default_rng(seed)
        self._stopping = None if patience is None else EarlyStopping(model, patience)
        self._untrained = self.objective.untrained(data.y)

    def _bind(self) -> None:
        self.optimizer.bind(self.model.grads)

    def epoch(self) -> bool:
        """Train for an epoch; return whether there is reason for another one."""
        history, index = self.history, len(self.history.epochs)
        with np.errstate(over="ignore", invalid="ignore"):
            epoch, first = self._epoch()
        self._untrained = max(self._untrained, first) if index == 0 else self._untrained
        diverged = not math.isfinite(epoch.train_loss + epoch.valid_loss)
        stopping = self._stopping
        history.stopped_early = stopping is not None and stopping.update(epoch.valid_loss)
        history.diverged = diverged
        history.epochs.append(epoch)
        history.best = index
        return not (diverged or history.stopped_early)

    def finish(self) -> History:
        """Put the best state back where training stops early, and return the history."""
        history = self.history
        if self._stopping is not None:
            history.best = self._stopping.restore()
        final = history.final
        limit = EXPLOSION * self._untrained
        history.diverged |= min(final.train_loss, final.valid_loss) > limit
        return history

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all that the next epoch depends on, and of the history."""
        history = self.history
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self._rng.bit_generator.state,
            "stopping": None if self._stopping is None else self._stopping.state_dict(),
            "untrained": self._untrained,
            "history": {**vars(history), "epochs": [{**vars(e)} for e in history.epochs]},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave. Raises TypeError or ValueError if it does not fit."""
        self.model.load_state_dict(state_dict["model"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        if self._stopping is not None:
            self._stopping.load_state_dict(state_dict["stopping"])
        self._rng.bit_generator.state = state_dict["order"]
        self._untrained = state_dict["untrained"]
        history = dict(state_dict["history"])
        epochs = [Epoch(**epoch) for epoch in history.pop("epochs")]
        self.history = History(epochs=epochs, **history)

    def _epoch(self) -> tuple[Epoch, float]:
        """Train for an epoch; return it, and the loss of its first batch."""
        model, data, objective = self.model, self.data, self.objective
        spent = model.seconds
        spent.clear()
        start = perf_counter()
        loss_sum = lr = 0.0
        sums: Any = 0.0
        first: float | None = None
        least = model.smallest_batch
        for x, y in batches(data.x, data.y, self._batch_size, self._rng, least):
            used = x if self._augment is None else self._augment(x, self._rng)
            loss, tally, lr = self.step(used, y)
            first = loss if first is None else first
            loss_sum += loss * len(y)
            sums = sums + tally
        seconds = perf_counter() - start
        parts = dict(spent)
        train_loss, train_scores = loss_sum / len(data.y), objective.scores(sums)
        epoch = Epoch(train_loss, train_scores, *self._evaluate(), lr, seconds, parts)
        return epoch, math.nan if first is None else first

    def step(self, x: FloatArray, y: npt.NDArray[Any]) -> tuple[float, Any, float]:
        """Train on a batch; return its mean loss, what its scores add up from, and the rate."""
        loss, tally = gradients(self.model, x, y, self.objective)
        before = perf_counter()
        lr = self.optimizer.step().lr
        self.model.seconds["optimizer"] += perf_counter() - before
        return loss, tally, lr

    def latest_gradients(self) -> Mapping[str, FloatArray]:
        """Return the gradients of the latest batch, by name."""
        return self.model.grads

    def _evaluate(self) -> tuple[float, dict[str, float]]:
        return evaluate(self.model, self.data.valid_x, self.data.valid_y, self.objective)


def train(
    model: Layer,
    data: Split,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int | None = 64,
    seed: int = 0,
    objective: Objective | None = None,
    patience: int | None = None,
    augment: Augmentation | None = None,
    on_epoch: Callable[[Training], None] | None = None,
    start: Mapping[str, Any] | None = None,
    kind: Callable[..., Training] | None = None,
) -> History:
    """Train a network and return its history; the state of `history.best` stays in the model.

    model: maps x (N, I) to outputs (N, C). optimizer: made for `model.params`; its gradients are
    bound here. epochs: at least 1. batch_size: rows per step, fewer in the last of an epoch; None
    is all of them, 1 is single-sample descent. seed: of the order of the rows. objective: loss and
    scores; classification unless given. patience: epochs without a lower validation loss before
    training stops; None never stops. augment: changes every batch before it is used. on_epoch:
    called after every epoch. start: what `Training.state_dict` gave of such a training, after some
    of the epochs; it goes on from there to the bit. kind: what makes the
    Training, where several processes share it.
    Raises ValueError if a number is out of range, or a batch too small for the model: batch norm
    needs two rows, so a last batch of one row is joined to the one before.

    >>> import gradstep as gs
    >>> from gradstep.nn import mlp
    >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    >>> model = mlp([4, 8, 2])
    >>> history = train(model, Split(x, y, x, y), gs.Adam(model.params, lr=0.1), epochs=20)
    >>> history.final.valid_scores
    {'accuracy': 1.0}
    """
    if epochs < 1:
        raise ValueError(f"epochs: {epochs}, expected at least 1")
    training = (kind or Training)(
        model,
        data,
        optimizer,
        batch_size=batch_size,
        seed=seed,
        objective=objective,
        patience=patience,
        augment=augment,
    )
    if start is not None:
        training.load_state_dict(start)
    while len(training.history.epochs) < epochs:
        more = training.epoch()
        if on_epoch is not None:
            on_epoch(training)
        if not more:
            break
    return training.finish()


def gradients(
    model: Layer, x: FloatArray, y: npt.NDArray[Any], objective: Objective, share: float = 1.0
) -> tuple[float, npt.NDArray[np.float64]]:
    """Fill model.grads from one batch; return its mean loss and what its scores add up from.

    share: of these rows in the mean over a larger batch, whose gradient they then are a part of.
    """
    outputs = model.forward(x, True)
    start = perf_counter()
    tally = objective.tally(outputs, y)
    loss = objective.gradient(outputs, y)
    if share < 1:
        np.multiply(outputs, outputs.dtype.type(share), out=outputs)
    model.seconds["loss"] += perf_counter() - start
    model.parameter_gradients(outputs)
    return loss, tally


def step_function(
    model: Layer,
    data: Split,
    optimizer: Optimizer,
    *,
    batch_size: int | None = 64,
    seed: int = 0,
    objective: Objective | None = None,
    kind: Callable[..., Training] | None = None,
) -> Callable[[], float]:
    """Return a function that trains on the next batch and returns its loss, as find_lr wants it.

    Arguments as for `train`; the batches are those of its epochs, without end.

    >>> import gradstep as gs
    >>> from gradstep.nn import mlp
    >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    >>> model = mlp([4, 8, 2])
    >>> step = step_function(model, Split(x, y, x, y), gs.Adam(model.params, lr=0.1))
    >>> step() > step()
    True
    """
    training = (kind or Training)(
        model, data, optimizer, batch_size=batch_size, seed=seed, objective=objective
    )
    rng, least = np.random.default_rng(seed), model.smallest_batch
    epochs = (batches(data.x, data.y, batch_size, rng, least) for _ in repeat(None))
    endless = chain.from_iterable(epochs)
    return lambda: training.step(*next(endless))[0]


def evaluate(
    model: Layer, x: FloatArray, y: npt.NDArray[Any], objective: Objective | None = None
) -> tuple[float, dict[str, float]]:
    """Return the mean loss and the scores of the model, in inference mode.

    x: (N, I). y: (N,). objective: as for `train`.

    >>> from gradstep.nn import mlp
    >>> loss, scores = evaluate(mlp([2, 3]), np.zeros((3, 2), np.float32), np.array([0, 0, 1]))
    >>> round(loss, 4), round(scores["accuracy"], 4)
    (1.0986, 0.6667)
    """
    goal = objective or Classification()
    loss_sum = weight_sum = 0.0
    sums: Any = 0.0
    for start in range(0, len(y), 1024):
        targets = y[start : start + 1024]
        outputs = model.forward(x[start : start + 1024], False)
        sums = sums + goal.tally(outputs, targets)
        loss, weight = goal.loss(outputs, targets)
        loss_sum += loss
        weight_sum += weight
    return loss_sum / weight_sum, goal.scores(sums)
