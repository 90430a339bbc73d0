"""The training loop of `gradstep train`: optimizers by name, epochs, early stopping, curves.

Prints nothing. Everything random comes from the seed, so two runs differ only where BLAS does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import gradstep as gs
from gradstep import schedules
from gradstep.datasets import Split
from gradstep.nn import FloatArray, IntArray, Layer, softmax_cross_entropy
from gradstep.optimizer import Optimizer

__all__ = [
    "DEFAULT_LR",
    "OPTIMIZER_NAMES",
    "SCHEDULE_NAMES",
    "EarlyStopping",
    "Epoch",
    "History",
    "batches",
    "draw_curves",
    "evaluate",
    "make_optimizer",
    "step_function",
    "train",
]


# What may be asked for by name: the registry, and two settings of SGD with names of their own.
OPTIMIZER_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name.lower(): (name, {}) for name in gs.OPTIMIZERS},
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
}

# Rates that suit a small network of ReLUs: the best compromise between digits and mnist5k, with
# pixels in 0 ... 1 and standardised. Optimizers not named here have the rate of their class.
DEFAULT_LR: dict[str, float] = {
    **{name.lower(): optimizer.default("lr") for name, optimizer in gs.OPTIMIZERS.items()},
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
    optimizer: Callable[..., Optimizer] = gs.OPTIMIZERS[class_name]
    return optimizer(params, lr=lr, **{**preset, **given})


@dataclass(frozen=True)
class Epoch:
    """One epoch; train loss and accuracy are means over its batches, in training mode.

    lr: of the last step. seconds: of the steps, without the validation. optimizer_seconds: the part
    of it spent in `optimizer.step()`.
    """

    train_loss: float
    train_accuracy: float
    valid_loss: float
    valid_accuracy: float
    lr: float
    seconds: float
    optimizer_seconds: float


@dataclass
class History:
    """What happened in training.

    epochs: one entry for each that ran. best: index of the epoch whose weights the model has now,
    the last one, or with early stopping the one of the lowest validation loss. stopped_early:
    patience ran out. diverged: a loss was not finite, which ends the training.
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

    @property
    def optimizer_share(self) -> float:
        """Part of the training time spent in `optimizer.step()`, 0 ... 1."""
        return sum(e.optimizer_seconds for e in self.epochs) / sum(e.seconds for e in self.epochs)


class EarlyStopping:
    """Keeps a copy of the parameters at the lowest loss; tells when it is `patience` epochs old.

    params: name -> array, the live parameters. patience: epochs, at least 1.
    Raises ValueError if patience is below 1. Source: Prechelt 1998, "Early stopping - but when?".

    >>> w = np.array([1.0])
    >>> stopping = EarlyStopping({"w": w}, patience=1)
    >>> stopping.update(0, 0.5)
    False
    >>> w += 1
    >>> stopping.update(1, 0.7)
    True
    >>> stopping.restore(), w.tolist()
    (0, [1.0])
    """

    def __init__(self, params: Mapping[str, FloatArray], patience: int) -> None:
        if patience < 1:
            raise ValueError(f"patience: {patience}, expected at least 1")
        self._params = params
        self._saved = {name: p.copy() for name, p in params.items()}
        self._patience = patience
        self._best_loss, self._best_epoch = np.inf, 0

    def update(self, epoch: int, loss: float) -> bool:
        """Note the loss of an epoch; return True if training should stop."""
        if loss < self._best_loss:
            self._best_loss, self._best_epoch = loss, epoch
            for name, p in self._params.items():
                np.copyto(self._saved[name], p)
        return epoch - self._best_epoch >= self._patience

    def restore(self) -> int:
        """Put the best parameters back, in place, and return their epoch."""
        for name, p in self._params.items():
            np.copyto(p, self._saved[name])
        return self._best_epoch


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
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Train a classifier and return its history; the weights of `history.best` stay in the model.

    model: maps x (N, I) to logits (N, C). optimizer: made for `model.params`; its gradients are
    bound here. epochs: at least 1. batch_size: rows per step, fewer in the last of an epoch; None
    is all of them, 1 is single-sample descent. seed: of the order of the rows. class_weights: (C,),
    for both losses. patience: epochs without a lower validation loss before training stops; None
    never stops. on_epoch: called after every epoch.
    Raises ValueError if a number is out of range.

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
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size: {batch_size}, expected at least 1")
    optimizer.bind(model.grads)
    rng = np.random.default_rng(seed)
    stopping = None if patience is None else EarlyStopping(model.params, patience)
    history = History()
    for index in range(epochs):
        with np.errstate(over="ignore", invalid="ignore"):
            epoch = _epoch(model, data, optimizer, batch_size, rng, class_weights)
        history.epochs.append(epoch)
        history.best = index
        if on_epoch is not None:
            on_epoch(epoch)
        history.diverged = not math.isfinite(epoch.train_loss + epoch.valid_loss)
        history.stopped_early = stopping is not None and stopping.update(index, epoch.valid_loss)
        if history.diverged or history.stopped_early:
            break
    if stopping is not None:
        history.best = stopping.restore()
    return history


def _epoch(
    model: Layer,
    data: Split,
    optimizer: Optimizer,
    batch_size: int | None,
    rng: np.random.Generator,
    class_weights: FloatArray | None,
) -> Epoch:
    start = perf_counter()
    loss_sum = correct = in_optimizer = lr = 0.0
    for x, y in batches(data.x, data.y, batch_size, rng):
        loss, hits = _gradients(model, x, y, class_weights)
        loss_sum += loss * len(y)
        correct += hits
        before = perf_counter()
        lr = optimizer.step().lr
        in_optimizer += perf_counter() - before
    seconds = perf_counter() - start
    n = len(data.y)
    valid_loss, valid_accuracy = evaluate(model, data.valid_x, data.valid_y, class_weights)
    return Epoch(loss_sum / n, correct / n, valid_loss, valid_accuracy, lr, seconds, in_optimizer)


def _gradients(
    model: Layer, x: FloatArray, y: IntArray, class_weights: FloatArray | None
) -> tuple[float, int]:
    """Fill model.grads from one batch; return its mean loss and the number of correct answers."""
    logits = model.forward(x, True)
    correct = int(np.count_nonzero(logits.argmax(axis=1) == y))
    loss, gradient = softmax_cross_entropy(logits, y, class_weights)
    model.parameter_gradients(gradient)
    return loss, correct


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

    >>> from gradstep.nn import mlp
    >>> x, y = np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1])
    >>> model = mlp([4, 8, 2])
    >>> step = step_function(model, Split(x, y, x, y), gs.Adam(model.params, lr=0.1))
    >>> step() > step()
    True
    """
    optimizer.bind(model.grads)
    rng = np.random.default_rng(seed)
    epochs = (batches(data.x, data.y, batch_size, rng) for _ in repeat(None))
    endless = chain.from_iterable(epochs)

    def step() -> float:
        loss, _ = _gradients(model, *next(endless), class_weights)
        optimizer.step()
        return loss

    return step


def batches(
    x: FloatArray, y: IntArray, size: int | None, rng: np.random.Generator
) -> Iterator[tuple[FloatArray, IntArray]]:
    """Yield every row of x (N, I) and y (N,) once, in an order drawn from rng, `size` at a time.

    size: rows per batch; the last may have fewer. None is one batch of all rows, as they stand. The
    arrays yielded are buffers that the next batch overwrites.

    >>> rng = np.random.default_rng(0)
    >>> [len(y) for _, y in batches(np.eye(5), np.arange(5), 2, rng)]
    [2, 2, 1]
    """
    if size is None or size >= len(x):
        yield x, y
        return
    order = rng.permutation(len(x))
    batch_x, batch_y = np.empty((size, *x.shape[1:]), x.dtype), np.empty(size, y.dtype)
    for start in range(0, len(x), size):
        rows = order[start : start + size]
        # mode="clip" lets take write straight into out; the indices are in range anyway.
        yield (
            np.take(x, rows, axis=0, out=batch_x[: len(rows)], mode="clip"),
            np.take(y, rows, out=batch_y[: len(rows)], mode="clip"),
        )


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
        rows = slice(start, start + 1024)
        logits = model.forward(x[rows], False)
        correct += int(np.count_nonzero(logits.argmax(axis=1) == y[rows]))
        weights = np.ones(len(logits)) if class_weights is None else class_weights[y[rows]]
        weight = float(weights.sum(dtype=np.float64))
        loss_sum += weight * softmax_cross_entropy(logits, y[rows], class_weights)[0]
        weight_sum += weight
    return loss_sum / weight_sum, correct / len(y)


LINE_STYLES = {"train": "--", "validation": "-"}


def draw_curves(runs: Sequence[tuple[str, Sequence[History]]], title: str, path: Path) -> None:
    """Write a picture of loss and accuracy over the epochs; needs matplotlib.

    runs: names with their histories, one color per name, one pair of lines per history. A dot marks
    the best epoch where training went on after it. path: ends in .png, .svg or .pdf.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    palette = colormaps["tab10" if len(runs) <= 10 else "tab20"]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for number, (_, histories) in enumerate(runs):
            for history in histories:
                _draw_history(axes, history, quantity, palette(number), len(histories) ** -0.5)
        axes.set(xlabel="epoch", title=quantity)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].set_yscale("log")
    figure.axes[1].yaxis.set_major_formatter("{x:.0%}")
    figure.axes[1].set_ylim(_accuracy_floor([h for _, histories in runs for h in histories]), 1.005)
    names = [Line2D([], [], color=palette(i), label=name) for i, (name, _) in enumerate(runs)]
    styles = [Line2D([], [], color="gray", ls=ls, label=part) for part, ls in LINE_STYLES.items()]
    if any(h.best + 1 < len(h.epochs) for _, histories in runs for h in histories):
        styles.append(Line2D([], [], color="gray", marker="o", ls="", label="best epoch"))
    figure.legend(handles=[*names, *styles], loc="outside right upper", frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def _draw_history(axes: Any, history: History, quantity: str, color: Any, alpha: float) -> None:
    numbers = range(1, len(history.epochs) + 1)
    marker = "." if len(numbers) < 4 else ""
    for part, style in LINE_STYLES.items():
        values = [getattr(epoch, f"{part[:5]}_{quantity}") for epoch in history.epochs]
        axes.plot(numbers, values, style, marker=marker, color=color, lw=1.5, alpha=alpha)
    if history.best + 1 < len(numbers):
        axes.plot(history.best + 1, getattr(history.final, f"valid_{quantity}"), "o", color=color)


def _accuracy_floor(histories: Sequence[History]) -> float:
    """Leave out how the first fifth of the epochs climbs, so that the rest can be told apart."""
    later = [e.valid_accuracy for h in histories for e in h.epochs[len(h.epochs) // 5 :]]
    return max(0.0, min(later) - 0.1 * (1 - min(later)) - 0.01)
