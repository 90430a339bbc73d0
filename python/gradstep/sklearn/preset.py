"""`preset="tabular"`: the estimators with the recipe of `gradstep.train.tabular`.

What is not said otherwise comes from the recipe: the network, the optimizer and its schedules, the
scales of the columns, and that a fifth of the rows decides which epoch is kept.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split

from gradstep.arrays import Array
from gradstep.sklearn.fitting import threads_of_fit
from gradstep.sklearn.losses import Binary, MultiClass, Objective, Residual, Squared
from gradstep.sklearn.progress import Progress
from gradstep.train.tabular import CLASSES, NUMBERS, Best, Recipe, Tabular

__all__ = ["Fitted", "fit_preset", "recipe_of"]

# Argument -> the number of the recipe whose place it takes where it is not at its default.
REPLACES = {
    "hidden_layer_sizes": "hidden",
    "max_iter": "epochs",
    "batch_size": "batch_size",
    "learning_rate_init": "lr",
    "weight_decay": "weight_decay",
    "dropout": "dropout",
    "label_smoothing": "label_smoothing",
    "validation_fraction": "validation_fraction",
}
# Arguments that mean the same with and without a recipe.
SAME = {
    *("preset", "loss", "delta", "quantile", "class_weight", "random_state", "verbose"),
    *("callbacks", "n_threads", "dtype"),
}
FEWEST_ROWS = 10  # of which some are held out


def recipe_of(estimator: Any) -> Recipe:
    """The recipe that an estimator's arguments mean.

    Raises ValueError for an argument that is not at its default and that no recipe has a place for.
    """
    named = CLASSES if is_classifier(estimator) else NUMBERS
    recipe: Recipe = estimator.preset if isinstance(estimator.preset, Recipe) else named
    changes: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(estimator).__init__).parameters.items():
        value = getattr(estimator, name, parameter.default)
        if name in SAME or _same(value, parameter.default):
            continue
        if name not in REPLACES or (name == "dropout" and not isinstance(value, Real)):
            raise ValueError(f"{name}: {value!r}, expected {parameter.default!r} with a preset")
        changes[REPLACES[name]] = value
    if "hidden" in changes:
        changes["hidden"] = tuple(estimator._hidden_sizes())
    return replace(recipe, **changes)


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


@dataclass
class Fitted:
    """A trained network and what its outputs stand for: output * factor + shift, clipped.

    low, high: the range of the training targets (K,); None where outputs are no such numbers.
    """

    model: Tabular
    factor: Any
    shift: Any
    low: Any = None
    high: Any = None

    def raw(self, X: Array) -> Array:
        """Outputs (N, K) before their activation, for X (N, I)."""
        return self.of(self.model.predict(X))

    def of(self, outputs: Array) -> Array:
        """The same for outputs of the network, over which it may write."""
        outputs *= self.factor
        outputs += self.shift
        if self.low is not None:
            np.clip(outputs, self.low, self.high, out=outputs)
        return outputs


class _Scaled:
    """An objective in the units of the targets, for a network whose outputs have deviation 1.

    Its gradient is that of the loss divided by the deviations, of squares by their squares: alike
    for targets of any size, which share a network and the eps of an optimizer.
    """

    def __init__(self, objective: Objective, fitted: Fitted) -> None:
        self._objective, self._factor = objective, fitted.factor
        # A loss of differences is better computed from small numbers.
        centred = isinstance(objective, Residual)
        self._shift = 0 * fitted.shift if centred else fitted.shift
        self._centre = fitted.shift - self._shift
        self._slope = 1 / fitted.factor if isinstance(objective, Squared) else 1 + 0 * fitted.factor

    def targets(self, y: Array, dtype: Any) -> Array:
        return self._objective.targets(y - self._centre, dtype)

    def __call__(self, raw: Array, target: Array, weight: Array | None, total: float) -> float:
        raw *= self._factor
        raw += self._shift
        loss = self._objective(raw, target, weight, total)
        raw *= self._slope
        return loss


def fit_preset(
    estimator: Any,
    X: Any,
    y: Array,
    weight: Array | None,
    objective: Objective,
    validation: tuple[Any, Array] | None,
) -> None:
    """Fits an estimator by its recipe; X (N, I), y (N, K) as numbers, weight (N,) or None.

    The epoch with the best validation is kept, the last of several: by accuracy for classes, by
    the loss for numbers. Without rows to validate on, the last epoch.
    """
    recipe = recipe_of(estimator)
    if not isinstance(X, np.ndarray):
        raise TypeError("X: a sparse matrix, expected a dense array with a preset")
    weight_val: Array | None = None
    if validation is None and recipe.validation_fraction and len(X) >= FEWEST_ROWS:
        X, y, weight, validation, weight_val = _split(estimator, recipe, X, y, weight)
    seed = int(estimator._random_state.randint(2**31 - 1))
    model = Tabular(recipe, X, y.shape[1], seed, X.dtype)
    fitted, loss = _task(model, objective, y, recipe)
    for name in ("coefs_", "intercepts_", "norms_"):
        vars(estimator).pop(name, None)
    estimator.tabular_ = fitted
    estimator.out_activation_ = objective.output
    estimator.n_layers_ = len(recipe.hidden) + 2
    estimator.n_iter_ = estimator.t_ = 0
    estimator.loss_curve_, estimator.lr_curve_ = [], []
    estimator.best_loss_, estimator.best_validation_score_ = np.inf, None
    estimator.validation_scores_ = estimator.validation_loss_curve_ = None
    if validation is not None:
        estimator.validation_scores_, estimator.validation_loss_curve_ = [], []
        estimator.best_validation_score_ = -np.inf
    with threads_of_fit(estimator.n_threads):
        try:
            _run(estimator, model, loss, X, y, weight, validation, weight_val)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)


def _split(
    estimator: Any, recipe: Recipe, X: Array, y: Array, weight: Array | None
) -> tuple[Any, ...]:
    """Rows to train on, their weights, rows to validate on, their weights."""
    stratify = None
    if is_classifier(estimator) and estimator.n_outputs_ == len(estimator.classes_) - (
        len(estimator.classes_) == 2
    ):
        codes = y.argmax(axis=1) if y.shape[1] > 1 else y[:, 0]
        counts = np.unique(codes, return_counts=True)[1]
        if counts.min() > 1 and recipe.validation_fraction * len(y) >= len(counts):
            stratify = codes
    rows, held = train_test_split(
        np.arange(len(y)),
        test_size=recipe.validation_fraction,
        random_state=estimator._random_state,
        stratify=stratify,
    )
    of = (None, None) if weight is None else (weight[rows], weight[held])
    return X[rows], y[rows], of[0], (X[held], y[held]), of[1]


def _task(model: Tabular, objective: Objective, y: Array, recipe: Recipe) -> tuple[Fitted, Any]:
    """What the outputs stand for, and the loss."""
    dtype = model.dtype
    ones, zeros = np.ones(y.shape[1], dtype), np.zeros(y.shape[1], dtype)
    if isinstance(objective, (MultiClass, Binary)):
        return Fitted(model, ones, zeros), type(objective)(recipe.label_smoothing)
    if objective.output != "identity":
        return Fitted(model, ones, zeros), objective
    y = y.astype(np.float64)
    with np.errstate(all="ignore"):
        deviation, mean = y.std(axis=0), y.mean(axis=0)
        deviation[deviation == 0] = 1
        parts = np.stack([deviation, mean, y.min(axis=0), y.max(axis=0)]).astype(dtype)
    if not (np.isfinite(parts).all() and parts[0].all()):
        raise ValueError(
            f"y: magnitudes up to {np.abs(y).max():.3g}, expected a mean and a deviation that "
            f"{np.dtype(dtype)} holds: divide y by its scale"
        )
    fitted = Fitted(model, *parts)
    return fitted, _Scaled(objective, fitted)


def _run(
    estimator: Any,
    model: Tabular,
    loss: Any,
    X: Array,
    y: Array,
    weight: Array | None,
    validation: tuple[Array, Array] | None,
    weight_val: Array | None,
) -> None:
    best = Best(model.network.params)
    target = loss.targets(y, X.dtype)
    valid = None
    if validation is not None:
        valid = model.columns(validation[0], X.dtype), loss.targets(validation[1], X.dtype)
    with Progress(estimator.verbose, model.recipe.epochs) as progress:
        for epoch in model.epochs(X, target, loss, weight):
            estimator.loss_ = epoch.loss
            estimator.best_loss_ = min(estimator.best_loss_, epoch.loss)
            estimator.n_iter_ += 1
            estimator.t_ += len(X)
            estimator.loss_curve_.append(epoch.loss)
            estimator.lr_curve_.append(epoch.lr)
            found = None
            if valid is not None and validation is not None:
                found = _validated(estimator, model, loss, valid, validation[1], weight_val)
                best.note(-found[1] if is_classifier(estimator) else found[0])
            progress.epoch(estimator.n_iter_, epoch.loss, found)
            if estimator._call_back(found):
                break
    if valid is not None:
        best.restore()


def _validated(
    estimator: Any, model: Tabular, loss: Any, valid: Any, y: Array, weight: Array | None
) -> tuple[float, float]:
    """(loss, score) of rows that are not trained on."""
    rows, target = valid
    total = float(len(y) if weight is None else weight.sum())
    outputs = model.outputs(rows)
    found = loss(outputs.copy(), target, weight, total)
    score = estimator._score(estimator.tabular_.of(outputs), y, weight)
    estimator.validation_loss_curve_.append(found)
    estimator.validation_scores_.append(score)
    estimator.best_validation_score_ = max(estimator.best_validation_score_, score)
    return found, score
