"""Epochs over the rows: batches, the loss, the step, and when to stop."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import shuffle
from threadpoolctl import threadpool_limits

from gradstep import runtime
from gradstep.arrays import Array
from gradstep.sklearn.losses import Objective
from gradstep.sklearn.network import Network
from gradstep.sklearn.solvers import Solver

__all__ = [
    "Epoch",
    "Rows",
    "Stopping",
    "Trainer",
    "batch_bounds",
    "clipped_batch_size",
    "epochs",
    "fit_lbfgs",
    "threads_of_fit",
]


@dataclass(frozen=True)
class Epoch:
    """What callbacks are given after every epoch.

    estimator: with its weights as they are now. n_iter: 1 for the first epoch of this fit. loss:
    mean of the batches. lr: of the last step. validation_loss, validation_score: None without
    validation rows.
    """

    estimator: Any
    n_iter: int
    loss: float
    lr: float
    validation_loss: float | None = None
    validation_score: float | None = None


@dataclass
class Rows:
    """x (N, I), dense or sparse; targets as the objective wants them; weight (N,) or None."""

    x: Any
    target: Array
    weight: Array | None

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @property
    def total(self) -> float:
        """What a mean over them is divided by."""
        return len(self) if self.weight is None else float(self.weight.sum())


def batch_bounds(count: int, batch_size: int, least: int) -> list[tuple[int, int]]:
    """First row and end of each batch of an epoch.

    least: a last batch with fewer rows is joined to the one before.

    >>> batch_bounds(5, 2, 2)
    [(0, 2), (2, 5)]
    """
    starts = range(0, count - least + 1, batch_size)
    return list(zip(starts, [*starts[1:], count], strict=True))


class Trainer:
    """Runs epochs of a network that is prepared for these batches, in memory allocated once."""

    def __init__(
        self,
        network: Network,
        objective: Objective,
        solver: Solver,
        rows: Rows,
        bounds: Sequence[tuple[int, int]],
    ) -> None:
        self._network, self._objective, self._solver = network, objective, solver
        self._rows, self._bounds = rows, bounds
        most = max(end - start for start, end in bounds)
        self._dense = isinstance(rows.x, np.ndarray)
        if self._dense:
            self._x = np.empty((most, rows.x.shape[1]), rows.x.dtype)
        self._target = np.empty((most, *rows.target.shape[1:]), rows.target.dtype)

    def epoch(self, order: Array, call: int) -> float:
        """Trains once on all rows, in this order; returns the mean loss of the batches.

        call: the number of steps taken before, which picks the masks of dropout.
        """
        rows, loss = self._rows, 0.0
        for number, (start, end) in enumerate(self._bounds):
            index, count = order[start:end], end - start
            if self._dense:
                # mode="clip" lets take write straight into out; the indices are in range anyway.
                x = np.take(rows.x, index, axis=0, out=self._x[:count], mode="clip")
            else:
                x = rows.x[index]
            target = np.take(rows.target, index, axis=0, out=self._target[:count], mode="clip")
            weight = None if rows.weight is None else rows.weight[index]
            total = count if weight is None else float(weight.sum())
            if total:  # else nothing in this batch counts
                loss += count * self._step(x, target, weight, total, call + number)
        return loss / len(rows)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self._bounds)

    def _step(self, x: Any, target: Array, weight: Array | None, total: float, call: int) -> float:
        raw = self._network.forward(x, call)
        loss = self._objective(raw, target, weight, total)
        self._network.backward(raw)
        return loss + self._solver.step(total)


def epochs(
    trainer: Trainer, estimator: Any, count: int, random_state: Any, shuffled: bool
) -> Iterator[float]:
    """The loss of each of `count` epochs, the rows in the order that scikit-learn would draw."""
    order = np.arange(count)
    while True:
        if shuffled:
            order = shuffle(order, random_state=random_state)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            loss = trainer.epoch(order, estimator._calls)
        estimator._calls += trainer.steps
        yield loss


def fit_lbfgs(
    network: Network,
    objective: Objective,
    rows: Rows,
    alpha: float,
    minimize: Callable[[Callable[[Array], tuple[float, Array]], Array], Any],
) -> Any:
    """Lets `minimize` find the weights of a float64 network, all rows at once.

    minimize: of a function of all parameters that gives loss and gradient, and where to start;
    gives an object with `x`. Returns that object; the network has the weights it found.
    """
    params = [p for layer in network.layers for p in layer.params]
    flat = np.concatenate([p.reshape(-1) for p in params])
    gradient = np.empty_like(flat)
    parts = iter(_views(gradient, params))
    network.prepare(len(rows), [[next(parts) for _ in layer.params] for layer in network.layers])
    total = rows.total

    def loss_and_gradient(at: Array) -> tuple[float, Array]:
        for param, values in zip(params, _views(at, params), strict=True):
            param[...] = values
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            raw = network.forward(rows.x, 0)
            loss = objective(raw, rows.target, rows.weight, total)
            network.backward(raw)
            for layer in network.layers:
                loss += 0.5 * alpha / total * float(np.vdot(layer.weight, layer.weight))
                layer.grads[0] += alpha / total * layer.weight
        return loss, gradient.copy()

    result = minimize(loss_and_gradient, flat)
    for param, values in zip(params, _views(result.x, params), strict=True):
        param[...] = values
    return result


def _views(flat: Array, like: list[Array]) -> list[Array]:
    """The pieces of a vector, shaped like these arrays."""
    ends = np.cumsum([p.size for p in like])
    return [flat[end - p.size : end].reshape(p.shape) for end, p in zip(ends, like, strict=True)]


@contextmanager
def threads_of_fit(n: int | None) -> Iterator[None]:
    """n threads for gradstep and BLAS inside the block, or as many as before.

    In the main thread, steps between products take the threads of NumPy's OpenBLAS. Not in
    others: beside a product of another thread a step would wait for that one's end.
    """
    with ExitStack() as stack:
        if n is not None:
            stack.enter_context(runtime.threads(int(n)))
            stack.enter_context(threadpool_limits(int(n), user_api="blas"))
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(runtime.blas_threads())
        yield


class Stopping:
    """When scikit-learn stops: the loss, or the score of validation, has not improved for long.

    tol: what counts as an improvement. patience: epochs without one.
    """

    def __init__(self, tol: float, patience: float) -> None:
        self._tol, self._patience = tol, patience

    def note_loss(self, estimator: Any, loss: float) -> None:
        """Counts an epoch by its training loss."""
        if loss > estimator.best_loss_ - self._tol:
            estimator._no_improvement_count += 1
        else:
            estimator._no_improvement_count = 0
        if loss < estimator.best_loss_:
            estimator.best_loss_ = loss

    def note_score(self, estimator: Any, score: float) -> bool:
        """Counts an epoch by its score; returns whether it is the best so far."""
        best = estimator.best_validation_score_
        if score < best + self._tol:
            estimator._no_improvement_count += 1
        else:
            estimator._no_improvement_count = 0
        if score > best:
            estimator.best_validation_score_ = score
        return bool(score > best)

    def due(self, estimator: Any) -> bool:
        """Whether patience has run out."""
        return bool(estimator._no_improvement_count > self._patience)


def clipped_batch_size(batch_size: Any, count: int, least: int) -> int:
    """As scikit-learn clips it; at least what the network needs."""
    if batch_size == "auto":
        return min(200, count)
    if batch_size > count:
        warnings.warn(
            f"batch_size: {batch_size}, more than the {count} rows; all of them are used",
            stacklevel=2,
        )
    if batch_size < least:
        raise ValueError(f"batch_size: {batch_size}, expected at least {least} with batch norm")
    return int(np.clip(batch_size, 1, count))
