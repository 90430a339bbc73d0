"""The training loop of `gradstep train`: optimizers by name, epochs, early stopping.

Prints nothing. Everything random comes from the seed, so two runs differ only where BLAS does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain, repeat
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from gradstep.nn import FloatArray, Layer
from gradstep.ops.losses import cross_entropy
from gradstep.optim import schedules
from gradstep.optim.optimizer import Optimizer
from gradstep.optim.optimizers import OPTIMIZERS
from gradstep.train.augmentation import Augmentation
from gradstep.train.batches import IntArray, batches, check_batch_size
from gradstep.train.datasets import Split
from gradstep.train.monitors import EarlyStopping

__all__ = [
    "DEFAULT_LR",
    "OPTIMIZER_NAMES",
    "SCHEDULE_NAMES",
    "Epoch",
    "History",
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


def make_optimizer(name: str, params: Any, lr: Any, **settings: Any) -> Optimizer:
    """Return an optimizer for params.

    name: a key of OPTIMIZER_NAMES. params: what the optimizer takes. lr: a rate or a schedule.
    settings: keywords of the class; those that are None are left at its defaults.
    Raises ValueError if the name is unknown, and what the class raises.

    >>> make_optimizer("momentum", np.zeros(2), 0.1, clip_norm=None).param_groups[0]["momentum"]
    0.9
    """
    if name not in OPTIMIZER_NAMES:
        raise ValueError(f"name: {name!r}, expected one of {', '.join(OPTIMIZER_NAMES)}")
    class_name, preset = OPTIMIZER_NAMES[name]
    given = {key: value for key, value in settings.items() if value is not None}
    optimizer: Callable[..., Optimizer] = OPTIMIZERS[class_name]
    return optimizer(params, lr=lr, **{**preset, **given})


@dataclass(frozen=True)
class Epoch:
    """One epoch; train loss and accuracy are means over its batches, in training mode.

    lr: of the last step. seconds: of the steps, without the validation. parts: where they went:
    the kinds of layers in the model, "loss", and "optimizer" for `optimizer.step()`.
    """

    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    lr: float
    seconds: float
    parts: dict[str, float]


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


def train(
    model: Layer,
    data: Split,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int | None = 64,
    seed: int = 0,
    class_weights: FloatArray | None = None,
    patience: int | None = None,
    augment: Augmentation | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Train a classifier and return its history; the state of `history.best` stays in the model.

    model: maps x (N, I) to logits (N, C). optimizer: made for `model.params`; its gradients are
    bound here. epochs: at least 1. batch_size: rows per step, fewer in the last of an epoch; None
    is all of them, 1 is single-sample descent. seed: of the order of the rows. class_weights: (C,),
    for both losses. patience: epochs without a lower validation loss before training stops; None
    never stops. augment: changes every batch before it is used. on_epoch: called after every epoch.
    Raises ValueError if a number is out of range, or a batch too small for the model: batch norm
    needs two rows, so a last batch of one row is joined to the one before.

    >>> import gradstep as gs
    >>> from gradstep.nn import mlp
    >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    >>> model = mlp([4, 8, 2])
    >>> history = train(model, Split(x, y, x, y), gs.Adam(model.params, lr=0.1), epochs=20)
    >>> history.final.valid_accuracy
    1.0
    """
    if epochs < 1:
        raise ValueError(f"epochs: {epochs}, expected at least 1")
    check_batch_size(model, data, batch_size)
    optimizer.bind(model.grads)
    rng = np.random.default_rng(seed)
    stopping = None if patience is None else EarlyStopping(model, patience)
    history = History()
    untrained = math.log(int(data.y.max()) + 1)  # of equal chances for every class
    for index in range(epochs):
        with np.errstate(over="ignore", invalid="ignore"):
            epoch, first = _epoch(model, data, optimizer, batch_size, rng, class_weights, augment)
        untrained = max(untrained, first) if index == 0 else untrained
        history.epochs.append(epoch)
        history.best = index
        if on_epoch is not None:
            on_epoch(epoch)
        history.diverged = not math.isfinite(epoch.train_loss + epoch.valid_loss)
        history.stopped_early = stopping is not None and stopping.update(epoch.valid_loss)
        if history.diverged or history.stopped_early:
            break
    if stopping is not None:
        history.best = stopping.restore()
    final = history.final
    history.diverged |= min(final.train_loss, final.valid_loss) > EXPLOSION * untrained
    return history


def _epoch(
    model: Layer,
    data: Split,
    optimizer: Optimizer,
    batch_size: int | None,
    rng: np.random.Generator,
    class_weights: FloatArray | None,
    augment: Augmentation | None,
) -> tuple[Epoch, float]:
    """Train for an epoch; return it, and the loss of its first batch."""
    spent = model.seconds
    spent.clear()
    start = perf_counter()
    loss_sum = correct = lr = 0.0
    first: float | None = None
    for x, y in batches(data.x, data.y, batch_size, rng, model.smallest_batch):
        used = x if augment is None else augment(x, rng)
        loss, hits = _gradients(model, used, y, class_weights)
        first = loss if first is None else first
        loss_sum += loss * len(y)
        correct += hits
        before = perf_counter()
        lr = optimizer.step().lr
        spent["optimizer"] += perf_counter() - before
    seconds = perf_counter() - start
    parts = dict(spent)
    n = len(data.y)
    valid_loss, valid_accuracy = evaluate(model, data.valid_x, data.valid_y, class_weights)
    epoch = Epoch(loss_sum / n, correct / n, valid_loss, valid_accuracy, lr, seconds, parts)
    return epoch, math.nan if first is None else first


def _gradients(
    model: Layer, x: FloatArray, y: IntArray, class_weights: FloatArray | None
) -> tuple[float, int]:
    """Fill model.grads from one batch; return its mean loss and the number of correct answers."""
    logits = model.forward(x, True)
    start = perf_counter()
    correct = int(np.count_nonzero(logits.argmax(axis=1) == y))
    loss, gradient = cross_entropy(logits, y, weight=_like(logits, class_weights), out=logits)
    model.seconds["loss"] += perf_counter() - start
    model.parameter_gradients(gradient)
    return loss, correct


def _like(logits: FloatArray, class_weights: FloatArray | None) -> FloatArray | None:
    return None if class_weights is None else class_weights.astype(logits.dtype, copy=False)


def step_function(
    model: Layer,
    data: Split,
    optimizer: Optimizer,
    *,
    batch_size: int | None = 64,
    seed: int = 0,
    class_weights: FloatArray | None = None,
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
    check_batch_size(model, data, batch_size)
    optimizer.bind(model.grads)
    rng, least = np.random.default_rng(seed), model.smallest_batch
    epochs = (batches(data.x, data.y, batch_size, rng, least) for _ in repeat(None))
    endless = chain.from_iterable(epochs)

    def step() -> float:
        loss, _ = _gradients(model, *next(endless), class_weights)
        optimizer.step()
        return loss

    return step


def evaluate(
    model: Layer, x: FloatArray, y: IntArray, class_weights: FloatArray | None = None
) -> tuple[float, float]:
    """Return the mean loss and the accuracy of the model, in inference mode.

    x: (N, I). y: (N,). class_weights: (C,), of the loss; the accuracy counts every row alike.

    >>> from gradstep.nn import mlp
    >>> loss, accuracy = evaluate(mlp([2, 3]), np.zeros((3, 2), np.float32), np.array([0, 0, 1]))
    >>> round(loss, 4), round(accuracy, 4)
    (1.0986, 0.6667)
    """
    loss_sum = correct = weight_sum = 0.0
    for start in range(0, len(y), 1024):
        labels = y[start : start + 1024]
        logits = model.forward(x[start : start + 1024], False)
        correct += int(np.count_nonzero(logits.argmax(axis=1) == labels))
        weight = _like(logits, class_weights)
        loss_sum += cross_entropy(logits, labels, weight=weight, reduction="sum")[0]
        weight_sum += len(labels) if class_weights is None else float(class_weights[labels].sum())
    return loss_sum / weight_sum, correct / len(y)
