"""What a network is trained for: a loss with its gradient, and the scores that people read."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gradstep.nn import FloatArray
from gradstep.ops.losses import cross_entropy, mse
from gradstep.train.encoding import Scale

__all__ = ["LOSSES", "Classification", "Objective", "Regression"]

Sums = npt.NDArray[np.float64]
# Of a regression; all in standard deviations of the training targets.
LOSSES = ("squared", "absolute", "huber")
# Errors beyond so many standard deviations count by their size, no longer by their square.
HUBER_DELTA = 1.0


class Objective(ABC):
    """A loss of outputs (N, C) against targets (N,), and scores that sums over batches give.

    better: score -> 1 if more of it is better, -1 if less is; the first is the one that matters.
    """

    better: ClassVar[Mapping[str, int]]

    @abstractmethod
    def gradient(self, outputs: FloatArray, y: npt.NDArray[Any]) -> float:
        """Return the mean loss and put its gradient in the place of the outputs."""

    @abstractmethod
    def loss(self, outputs: FloatArray, y: npt.NDArray[Any]) -> tuple[float, float]:
        """Return the sum of the losses, and that of the weights that its mean is over."""

    def weight(self, y: npt.NDArray[Any]) -> float:
        """Return the sum of the weights of these rows, which the mean is over."""
        return len(y)

    @abstractmethod
    def tally(self, outputs: FloatArray, y: npt.NDArray[Any]) -> Sums:
        """Return what `scores` needs of one batch; it adds up over batches."""

    @abstractmethod
    def scores(self, sums: Sums) -> dict[str, float]:
        """Return the scores of all rows that were tallied."""

    @abstractmethod
    def untrained(self, y: npt.NDArray[Any]) -> float:
        """Return the loss of a network that knows nothing."""


class Classification(Objective):
    """Cross entropy of logits (N, C) against classes (N,); the score is the accuracy.

    weights: (C,), how much each class counts in the loss; the accuracy counts every row alike.

    >>> logits, y = np.zeros((2, 2), np.float32), np.array([0, 1])
    >>> objective = Classification()
    >>> objective.scores(objective.tally(logits, y)), round(objective.gradient(logits, y), 4)
    ({'accuracy': 0.5}, 0.6931)
    """

    better: ClassVar[Mapping[str, int]] = {"accuracy": 1}

    def __init__(self, weights: FloatArray | None = None) -> None:
        self._weights = weights

    def gradient(self, outputs: FloatArray, y: npt.NDArray[Any]) -> float:
        """See Objective."""
        return float(cross_entropy(outputs, y, weight=self._like(outputs), out=outputs)[0])

    def loss(self, outputs: FloatArray, y: npt.NDArray[Any]) -> tuple[float, float]:
        """See Objective."""
        total, _ = cross_entropy(outputs, y, weight=self._like(outputs), reduction="sum")
        return float(total), self.weight(y)

    def weight(self, y: npt.NDArray[Any]) -> float:
        """See Objective."""
        return len(y) if self._weights is None else float(self._weights[y].sum())

    def tally(self, outputs: FloatArray, y: npt.NDArray[Any]) -> Sums:
        """See Objective."""
        return np.array([np.count_nonzero(outputs.argmax(axis=1) == y), len(y)], np.float64)

    def scores(self, sums: Sums) -> dict[str, float]:
        """See Objective."""
        return {"accuracy": float(sums[0] / sums[1])}

    def untrained(self, y: npt.NDArray[Any]) -> float:
        """See Objective: that of equal chances for every class."""
        return math.log(int(y.max()) + 1)

    def _like(self, outputs: FloatArray) -> FloatArray | None:
        return None if self._weights is None else self._weights.astype(outputs.dtype, copy=False)


class Regression(Objective):
    """Loss of outputs (N, 1) against standardised targets (N,); scores in the data's own units.

    loss: "squared", "absolute", or "huber": half the square of errors up to one standard deviation
    of the targets, and linear beyond. scale: what the targets went through.
    Raises ValueError for another loss. Source: Huber 1964, "Robust estimation of a location
    parameter".

    >>> outputs, y = np.float32([[1.0], [3.0]]), np.float32([1.0, 2.0])
    >>> objective = Regression("absolute", Scale(0.0, 10.0))
    >>> objective.scores(objective.tally(outputs, y))["mae"], objective.gradient(outputs, y)
    (5.0, 0.5)
    """

    better: ClassVar[Mapping[str, int]] = {"rmse": -1, "mae": -1, "r2": 1}

    def __init__(self, loss: str = "squared", scale: Scale | None = None) -> None:
        if loss not in LOSSES:
            raise ValueError(f"loss: {loss!r}, expected one of {', '.join(LOSSES)}")
        self._loss, self._scale = loss, scale or Scale()

    def gradient(self, outputs: FloatArray, y: npt.NDArray[Any]) -> float:
        """See Objective."""
        if self._loss == "squared":
            return mse(outputs, y.reshape(outputs.shape), out=outputs)[0]
        loss, weights = self.loss(outputs, y)
        errors = outputs[:, 0] - y
        limit = HUBER_DELTA if self._loss == "huber" else 0.0
        slope = np.clip(errors, -limit, limit) if limit else np.sign(errors)
        np.divide(slope, len(y), out=outputs[:, 0])
        return loss / weights

    def loss(self, outputs: FloatArray, y: npt.NDArray[Any]) -> tuple[float, float]:
        """See Objective."""
        errors = np.abs(outputs[:, 0].astype(np.float64) - y)
        if self._loss == "squared":
            errors *= errors
        elif self._loss == "huber":
            small = np.minimum(errors, HUBER_DELTA)
            errors = small * (errors - 0.5 * small)
        return float(errors.sum()), self.weight(y)

    def tally(self, outputs: FloatArray, y: npt.NDArray[Any]) -> Sums:
        """See Objective."""
        wide = y.astype(np.float64)
        errors = outputs[:, 0] - wide
        sums = (len(y), np.abs(errors).sum(), errors @ errors, wide.sum(), wide @ wide)
        return np.array(sums, np.float64)

    def scores(self, sums: Sums) -> dict[str, float]:
        """See Objective: NaN for R² where all targets are the same."""
        rows, absolute, squares, total, total_squares = sums.tolist()
        spread = total_squares - total * total / rows
        unit = self._scale.deviation
        r2 = 1 - squares / spread if spread > 0 else math.nan
        return {"rmse": unit * math.sqrt(squares / rows), "mae": unit * absolute / rows, "r2": r2}

    def untrained(self, y: npt.NDArray[Any]) -> float:
        """See Objective: that of saying the mean of the targets every time."""
        loss, weights = self.loss(np.full((len(y), 1), y.mean(), np.float64), y)
        return loss / weights
