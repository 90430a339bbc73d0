"""What the estimators minimise: a mean over rows, with its gradient in the last layer's outputs.

An objective turns labels into its own kind of targets once (`targets`), and then, for every batch,
writes the gradient over `raw` (N, K), the outputs before their activation, and returns the loss.
weight: (N,) or None. total: what the loss is divided by, the rows or their weights together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from gradstep.arrays import Array
from gradstep.ops.activations import sigmoid, softmax
from gradstep.ops.losses import cross_entropy, mse

__all__ = [
    "REGRESSION",
    "Binary",
    "Custom",
    "MultiClass",
    "Objective",
    "Poisson",
    "Residual",
    "Squared",
]


class Objective(ABC):
    """A loss and the activation of the outputs that belongs to it."""

    output = "identity"

    @abstractmethod
    def targets(self, y: Array, dtype: Any) -> Array:
        """What `__call__` takes rows of, made of y (N, K)."""

    @abstractmethod
    def __call__(self, raw: Array, target: Array, weight: Array | None, total: float) -> float:
        """The loss; d loss / d raw is written over raw."""

    def predict(self, raw: Array) -> Array:
        """The outputs (N, K) after their activation, over raw."""
        return raw


class MultiClass(Objective):
    """Cross-entropy of the softmax against one class a row."""

    output = "softmax"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._smoothing = label_smoothing

    def targets(self, y: Array, dtype: Any) -> Array:
        classes: Array = y.argmax(axis=1)
        return classes

    def __call__(self, raw: Array, target: Array, weight: Array | None, total: float) -> float:
        return _cross_entropy(raw, target, weight, self._smoothing)

    def predict(self, raw: Array) -> Array:
        return softmax(raw, out=raw)


class Binary(Objective):
    """Cross-entropy of the sigmoid of each output, summed over the outputs.

    As one of two classes with logits 0 and z, which is the same and never overflows.
    """

    output = "logistic"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self._smoothing = label_smoothing

    def targets(self, y: Array, dtype: Any) -> Array:
        return y.astype(np.int64)

    def __call__(self, raw: Array, target: Array, weight: Array | None, total: float) -> float:
        outputs: int = raw.shape[1]
        logits = np.zeros((raw.size, 2), raw.dtype)
        logits[:, 1] = raw.reshape(-1)
        if weight is not None and outputs > 1:
            weight = np.repeat(weight, outputs)
        loss = outputs * _cross_entropy(logits, target.reshape(-1), weight, self._smoothing)
        np.multiply(logits[:, 1], raw.dtype.type(outputs), out=raw.reshape(-1))
        return loss

    def predict(self, raw: Array) -> Array:
        return sigmoid(raw, out=raw)


def _cross_entropy(logits: Array, target: Array, weight: Array | None, smoothing: float) -> float:
    """The mean over rows or their weights; the gradient goes to logits."""
    loss, _ = cross_entropy(
        logits, target, sample_weight=weight, label_smoothing=smoothing, out=logits
    )
    return float(loss)


class Residual(Objective):
    """A function of prediction - target, averaged over outputs.

    The gradient is that of the sum over outputs, as in scikit-learn: a step does not get smaller
    with more of them. function: of residuals (N, K): the losses, and their derivatives.
    """

    def __init__(self, function: Callable[[Array], tuple[Array, Array]]) -> None:
        self._function = function

    def targets(self, y: Array, dtype: Any) -> Array:
        return y.astype(dtype)

    def __call__(self, raw: Array, target: Array, weight: Array | None, total: float) -> float:
        losses, slopes = self._function(raw - target)
        return _averaged(raw, losses, slopes, weight, total) / float(raw.shape[1])


class Squared(Residual):
    """(prediction - target)² / 2."""

    def __init__(self) -> None:
        super().__init__(lambda d: (np.square(d) * d.dtype.type(0.5), d))

    def __call__(self, raw: Array, target: Array, weight: Array | None, total: float) -> float:
        if weight is not None:
            return super().__call__(raw, target, weight, total)
        loss, _ = mse(raw, target, out=raw)
        if raw.shape[1] != 2:
            raw *= raw.dtype.type(raw.shape[1] / 2)
        return loss / 2


class Poisson(Residual):
    """Half the Poisson deviance of exp(raw), summed over outputs; targets are >= 0."""

    output = "exp"

    def __init__(self) -> None:
        super().__init__(lambda d: (d, d))

    def __call__(self, raw: Array, target: Array, weight: Array | None, total: float) -> float:
        mean = np.exp(raw)
        logs = np.log(np.where(target > 0, target, 1)) - raw
        losses = np.where(target > 0, target * logs, 0) - target + mean
        return _averaged(raw, losses, mean - target, weight, total)

    def predict(self, raw: Array) -> Array:
        return np.exp(raw, out=raw)


class Custom(Objective):
    """A function of the user: `loss(y, raw)` gives the losses (N,) and d losses / d raw (N, K).

    output: the activation that makes predictions of raw: that of `like`.
    """

    def __init__(self, function: Callable[[Array, Array], tuple[Any, Any]], like: Objective):
        self._function, self._like = function, like
        self.output: str = like.output

    def targets(self, y: Array, dtype: Any) -> Array:
        return y.astype(dtype)

    def __call__(self, raw: Array, target: Array, weight: Array | None, total: float) -> float:
        result: Any = self._function(target, raw.copy())
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(
                f"loss: the function gave {type(result).__name__}, expected (losses, gradient)"
            )
        losses, slopes = (np.asarray(part, raw.dtype) for part in result)
        for name, part, shape in (
            ("losses", losses, raw.shape[:1]),
            ("gradient", slopes, raw.shape),
        ):
            if part.shape != shape:
                raise ValueError(
                    f"loss: {name} of shape {part.shape} from the function, expected {shape}"
                )
        return _averaged(raw, losses[:, np.newaxis], slopes, weight, total)

    def predict(self, raw: Array) -> Array:
        return self._like.predict(raw)


def _averaged(
    raw: Array, losses: Array, slopes: Array, weight: Array | None, total: float
) -> float:
    """The mean over rows of what is summed over columns; the gradient goes to raw."""
    if weight is None:
        np.multiply(slopes, raw.dtype.type(1 / total), out=raw)
        return float(np.sum(losses, dtype=np.float64) / total)
    column = weight[:, np.newaxis]
    np.multiply(slopes, (column / total).astype(raw.dtype), out=raw)
    return float(np.sum(losses * column, dtype=np.float64) / total)


def _absolute(d: Array) -> tuple[Array, Array]:
    return np.abs(d), np.sign(d)


def _huber(delta: float) -> Callable[[Array], tuple[Array, Array]]:
    def function(d: Array) -> tuple[Array, Array]:
        inside = np.clip(d, -delta, delta).astype(d.dtype, copy=False)
        return inside * (d - inside * d.dtype.type(0.5)), inside

    return function


def _pinball(quantile: float) -> Callable[[Array], tuple[Array, Array]]:
    def function(d: Array) -> tuple[Array, Array]:
        over, under = d.dtype.type(1 - quantile), d.dtype.type(-quantile)
        slopes = np.where(d > 0, over, np.where(d < 0, under, d))
        return d * slopes, slopes

    return function


# Name -> the objective, made from `delta` and `quantile`.
REGRESSION: dict[str, Callable[[float, float], Objective]] = {
    "squared_error": lambda delta, quantile: Squared(),
    "absolute_error": lambda delta, quantile: Residual(_absolute),
    "huber": lambda delta, quantile: Residual(_huber(delta)),
    "quantile": lambda delta, quantile: Residual(_pinball(quantile)),
    "poisson": lambda delta, quantile: Poisson(),
}
