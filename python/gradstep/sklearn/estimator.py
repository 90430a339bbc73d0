"""What both estimators share: validation, the fit, warm starts, copies."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.optimize
from sklearn.base import BaseEstimator, _fit_context, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gradstep.arrays import Array
from gradstep.nn.layers import INITIALISERS
from gradstep.sklearn.fitting import (
    Epoch,
    Rows,
    Stopping,
    Trainer,
    batch_bounds,
    clipped_batch_size,
    epochs,
    fit_lbfgs,
    threads_of_fit,
)
from gradstep.sklearn.losses import Objective
from gradstep.sklearn.network import ACTIVATIONS, Layer, Network, Norm, NormedLayer, mask_seeds
from gradstep.sklearn.parameters import Arguments
from gradstep.sklearn.preset import Fitted, fit_preset
from gradstep.sklearn.progress import Progress
from gradstep.sklearn.solvers import Maker, Solver, adam, optimizer_maker, scheduled, sgd

__all__ = ["Perceptron"]


class Perceptron(Arguments, BaseEstimator, ABC):
    """Base of MLPClassifier and MLPRegressor: not for use by itself."""

    # Fitted, or None where there is no validation.
    validation_scores_: Any
    validation_loss_curve_: Any
    best_validation_score_: Any
    best_loss_: float | None
    # Fitted
    n_iter_: int
    t_: int
    n_layers_: int
    n_outputs_: int
    out_activation_: str
    loss_: float
    coefs_: list[Array]
    intercepts_: list[Array]
    norms_: list[Norm]

    # What the two differ in

    @abstractmethod
    def _objective(self) -> Objective:
        """The loss of this task."""

    @abstractmethod
    def _validate(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        """X of the parameters' type, and y as numbers (N,) or (N, K)."""

    @abstractmethod
    def _score(self, raw: Array, y: Array, weight: Array | None) -> float:
        """Of outputs before their activation (which are overwritten) against y (N, K)."""

    def _weights(self, y: Array, sample_weight: Array | None, incremental: bool) -> Array | None:
        """The weight of every row."""
        return sample_weight

    # Fit

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, X_val: Any = None, y_val: Any = None
    ) -> Any:
        """Trains on X and y.

        X: (N, I), array, sparse matrix or data frame. y: (N,) or (N, K). sample_weight: (N,).
        X_val, y_val: rows that are only validated on after every epoch, as given: a Pipeline does
        not transform them. With early_stopping they take the place of a part of X.
        Returns self. Raises ValueError or TypeError.
        """
        with self._as_before_if_refused():
            return self._fit(X, y, sample_weight, False, X_val, y_val)

    @contextmanager
    def _as_before_if_refused(self) -> Iterator[None]:
        """What was fitted before stays, where a fit raises TypeError or ValueError."""
        before = dict(self.__dict__)
        try:
            yield
        except (TypeError, ValueError):
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        incremental: bool,
        X_val: Any = None,
        y_val: Any = None,
    ) -> Any:
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y = self._validate(X, y, incremental, first)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
        weight = self._weights(y, sample_weight, incremental)
        y = y.reshape(len(y), -1)
        if not first and y.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y: {y.shape[1]} outputs, expected {self.n_outputs_} as in the fitted network, "
                "which warm_start=True and partial_fit go on with"
            )
        validation = self._given_validation(X_val, y_val)
        if validation is not None and validation[1].shape[1] != y.shape[1]:
            found = f"y_val: {validation[1].shape[1]} outputs"
            raise ValueError(f"{found}, expected {y.shape[1]} as in y")
        self._check_combinations()
        self.n_outputs_ = y.shape[1]
        self._random_state = check_random_state(self.random_state)
        objective = self._objective()
        if self.preset is not None:
            fit_preset(self, X, y, weight, objective, validation)
        else:
            self.__dict__.pop("tabular_", None)
            self._fit_network(X, y, weight, objective, validation, incremental, first)
        return self

    def _fit_network(
        self,
        X: Any,
        y: Array,
        weight: Array | None,
        objective: Objective,
        validation: tuple[Any, Array] | None,
        incremental: bool,
        first: bool,
    ) -> None:
        if first:
            self._initialize(X, self._hidden_sizes(), objective)
        else:
            self._check_goes_on([b.size for b in self.intercepts_], getattr(self, "norms_", []))
        with threads_of_fit(self.n_threads):
            if self._lbfgs:
                self._fit_lbfgs(Rows(X, objective.targets(y, np.float64), weight), objective)
            else:
                self._fit_stochastic(X, y, weight, objective, validation, incremental)
        if not all(np.isfinite(p).all() for p in self._network().arrays):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may"
                " contain large values and need to be preprocessed."
            )

    @property
    def _lbfgs(self) -> bool:
        return self.solver == "lbfgs" and self.optimizer is None

    def _check_combinations(self) -> None:
        self._callbacks()  # partial_fit comes here without a check of all
        if self.batch_norm and self.layer_norm:
            raise ValueError("layer_norm: True, expected False with batch_norm=True")
        if not self._lbfgs:
            return
        dropped = any(self._dropouts()) or self.input_dropout
        for name, given in {
            "dropout": dropped,
            "schedule": self.schedule,
            "clip_norm": self.clip_norm,
        }.items():
            if given:
                raise ValueError(
                    f"{name}: {getattr(self, name)}, expected none with solver='lbfgs'"
                )

    def _given_validation(self, X_val: Any, y_val: Any) -> tuple[Any, Array] | None:
        if X_val is None and y_val is None:
            return None
        for name, given in (("X_val", X_val), ("y_val", y_val)):
            if given is None:
                raise ValueError(f"{name}: None, expected one as the other is given")
        X_val, y_val = self._validate(X_val, y_val, True, False)
        return X_val, y_val.reshape(len(y_val), -1)

    def _input_types(self) -> Any:
        """The types that X may keep."""
        if isinstance(self.dtype, str) and self.dtype == "auto":
            return (np.float64, np.float32)
        dtype = np.dtype(self.dtype)
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype: {dtype}, expected float32, float64 or 'auto'")
        return dtype

    # The network

    def _initialize(self, X: Any, sizes: list[int], objective: Objective) -> None:
        units = [X.shape[1], *sizes, self.n_outputs_]
        self.n_iter_ = 0
        self.t_ = 0
        self.n_layers_ = len(units)
        self.out_activation_ = objective.output
        drawn = [self._initial(*pair, X.dtype) for pair in pairwise(units)]
        self.coefs_ = [weight for weight, _ in drawn]
        self.intercepts_ = [bias for _, bias in drawn]
        self.norms_ = []
        if self.batch_norm or self.layer_norm:
            kind = "batch" if self.batch_norm else "layer"
            self.norms_ = [Norm.new(kind, size, X.dtype) for size in sizes]
            for bias in self.intercepts_[:-1]:
                bias.fill(0)
        self._calls = 0
        self._seed = 0
        if any(self._dropouts()) or self.input_dropout:
            self._seed = int(self._random_state.randint(2**31 - 1))
        self.__dict__.pop("_optimizer", None)
        self.__dict__.pop("_optimizer_state", None)
        if self._lbfgs:
            return
        self.loss_curve_: list[float] = []
        self.lr_curve_: list[float] = []
        self._no_improvement_count = 0
        self.best_loss_ = None if self.early_stopping else np.inf
        self.validation_scores_ = [] if self.early_stopping else None
        self.validation_loss_curve_ = [] if self.early_stopping else None
        self.best_validation_score_ = -np.inf if self.early_stopping else None

    def _initial(self, fan_in: int, fan_out: int, dtype: Any) -> tuple[Array, Array]:
        """Weights and intercepts of a layer; by default those that scikit-learn would draw."""
        if self.init == "auto":
            bound = np.sqrt((2.0 if self.activation == "logistic" else 6.0) / (fan_in + fan_out))
            weight = self._random_state.uniform(-bound, bound, (fan_in, fan_out))
            bias = self._random_state.uniform(-bound, bound, fan_out)
            return weight.astype(dtype, copy=False), bias.astype(dtype, copy=False)
        function = self.init if callable(self.init) else INITIALISERS[self.init]
        rng = np.random.default_rng(self._random_state.randint(2**31 - 1))
        weight = np.asarray(function((fan_in, fan_out), rng=rng, dtype=np.float64))
        if weight.shape != (fan_in, fan_out):
            raise ValueError(f"init: gave shape {weight.shape}, expected {(fan_in, fan_out)}")
        return weight.astype(dtype), np.zeros(fan_out, dtype)

    def _network(self, dtype: Any = None) -> Network:
        """The layers over the arrays of the fitted attributes, or over copies of another type."""
        norms: list[Norm] = getattr(self, "norms_", [])
        self._calls = getattr(self, "_calls", 0)
        if dtype is not None:
            self.coefs_ = [np.array(w, dtype, order="C") for w in self.coefs_]
            self.intercepts_ = [np.array(b, dtype, order="C") for b in self.intercepts_]
            norms = self.norms_ = [norm.astype(dtype) for norm in norms]
        hidden = len(self.coefs_) - 1
        dropouts = self._dropouts() if hidden == len(self._hidden_sizes()) else [0.0] * hidden
        seeds = mask_seeds(getattr(self, "_seed", 0), hidden + 1)
        arrays = list(zip(self.coefs_, self.intercepts_, strict=True))
        function = ACTIVATIONS[self.activation]
        layers: list[Layer] = []
        for i in range(hidden):
            rest: Any = (function, dropouts[i], seeds[i + 1])
            if norms:
                layers.append(NormedLayer(*arrays[i], norms[i], *rest))
            else:
                layers.append(Layer(*arrays[i], *rest))
        layers.append(Layer(*arrays[-1]))
        return Network(layers, self.input_dropout, seeds[0])

    def _fit_lbfgs(self, rows: Rows, objective: Objective) -> None:
        """In float64 whatever `dtype`: the line search needs it."""
        dtype = self.coefs_[0].dtype
        rows.x = rows.x.astype(np.float64)
        if len(rows) < (least := self._network().smallest_batch):
            raise ValueError(f"X: n_samples = 1, expected at least {least} with batch_norm")
        options = {"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol}
        minimize = partial(scipy.optimize.minimize, method="L-BFGS-B", jac=True, options=options)
        result = fit_lbfgs(self._network(np.float64), objective, rows, self.alpha, minimize)
        self.n_iter_ = min(int(result.nit), self.max_iter)
        self.loss_ = float(result.fun)
        self._network(dtype)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        if result.status != 0:
            warnings.warn(
                f"lbfgs did not converge in {self.n_iter_} iterations ({result.message}): "
                "increase max_iter or max_fun, or scale the data",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _fit_stochastic(
        self,
        X: Any,
        y: Array,
        weight: Array | None,
        objective: Objective,
        validation: tuple[Any, Array] | None,
        incremental: bool,
    ) -> None:
        held_out: Array | None = None
        if self.early_stopping and validation is None:
            X, y, weight, validation, held_out = self._split(X, y, weight)
        count = X.shape[0]
        if any(p.dtype != X.dtype for p in (*self.coefs_, *self.intercepts_)):
            self._network(X.dtype)
        network = self._network()
        least = network.smallest_batch
        if count < least:
            raise ValueError(f"X: n_samples = {count}, expected at least {least} with batch_norm")
        bounds = batch_bounds(count, clipped_batch_size(self.batch_size, count, least), least)
        network.prepare(max(end - start for start, end in bounds))
        self._take_optimizer(network, len(bounds), incremental)
        rows = Rows(X, objective.targets(y, X.dtype), weight)
        trainer = Trainer(network, objective, self._optimizer, rows, bounds)
        valid: tuple[Rows, Array] | None = None
        if validation is not None:
            target = objective.targets(validation[1], X.dtype)
            valid = Rows(validation[0], target, held_out), validation[1]
            self._start_curves()
        best = [a.copy() for a in network.arrays] if self.early_stopping else []
        try:
            self._run(trainer, network, count, objective, valid, best, incremental)
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        for array, saved in zip(network.arrays, best, strict=False):
            array[...] = saved

    def _start_curves(self) -> None:
        if self.validation_scores_ is None:
            self.validation_scores_, self.validation_loss_curve_ = [], []
            self.best_validation_score_ = -np.inf

    def _split(self, X: Any, y: Array, weight: Array | None) -> tuple[Any, ...]:
        """Rows to train on, their weights, rows to validate on, their weights."""
        stratify = y if is_classifier(self) and self.n_outputs_ == 1 else None
        arrays = [X, y] if weight is None else [X, y, weight]
        parts = train_test_split(
            *arrays,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=stratify,
        )
        X, X_val, y, y_val = parts[:4]
        if X_val.shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' "
                "or the size of your dataset."
            )
        weight, held_out = parts[4:] if weight is not None else (None, None)
        return X, y, weight, (X_val, y_val), held_out

    def _run(
        self,
        trainer: Trainer,
        network: Network,
        count: int,
        objective: Objective,
        valid: tuple[Rows, Array] | None,
        best: list[Array],
        incremental: bool,
    ) -> None:
        stopping = Stopping(self.tol, self.n_iter_no_change)
        self.lr_curve_ = getattr(self, "lr_curve_", [])
        limit = 1 if incremental else self.max_iter
        self.n_iter_ = 0
        losses = epochs(trainer, self, count, self._random_state, self.shuffle)
        with Progress(self.verbose, limit) as progress:
            for _ in range(limit):
                self.loss_ = next(losses)
                self.n_iter_ += 1
                self.t_ += count
                self.loss_curve_.append(self.loss_)
                self.lr_curve_.append(self._optimizer.last_rate)
                found = None if valid is None else self._validated(network, objective, *valid)
                progress.epoch(self.n_iter_, self.loss_, found)
                if self.early_stopping:
                    if stopping.note_score(self, self.validation_scores_[-1]):
                        for saved, array in zip(best, network.arrays, strict=True):
                            saved[...] = array
                else:
                    stopping.note_loss(self, self.loss_)
                    if found is not None and found[1] > self.best_validation_score_:
                        self.best_validation_score_ = found[1]
                self._optimizer.epoch_ends(self.t_)
                if self._call_back(found) or (stopping.due(self) and self._stops(progress)):
                    return
        if not incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=2,
            )

    def _validated(
        self, network: Network, objective: Objective, rows: Rows, y: Array
    ) -> tuple[float, float]:
        """(loss, score) of rows that are not trained on."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            raw = network.infer(rows.x)
            loss = objective(raw.copy(), rows.target, rows.weight, rows.total)
            score = self._score(raw, y, rows.weight)
        self.validation_loss_curve_.append(loss)
        self.validation_scores_.append(score)
        return loss, score

    def _call_back(self, found: tuple[float, float] | None) -> bool:
        """Calls the callbacks; whether one of them wants to stop."""
        numbers = (self.n_iter_, self.loss_, self.lr_curve_[-1], *(found or ()))
        return any([callback(Epoch(self, *numbers)) is True for callback in self._callbacks()])

    def _stops(self, progress: Progress) -> bool:
        """Patience has run out: whether to stop, or else to go on with a lower rate."""
        what = "Validation score" if self.early_stopping else "Training loss"
        message = (
            f"{what} did not improve more than tol={self.tol:f} "
            f"for {self.n_iter_no_change} consecutive epochs."
        )
        rate = self._optimizer.lower_rate()
        if rate is None:
            progress.say(f"{message} Stopping.")
            return True
        progress.say(f"{message} Setting learning rate to {rate:f}")
        self._no_improvement_count = 0
        return False

    # The optimizer

    def _take_optimizer(self, network: Network, epoch_steps: int, incremental: bool) -> None:
        """A new one, or for partial_fit the one of the call before."""
        held: Solver | None = getattr(self, "_optimizer", None)
        if incremental and held is not None and held.holds(network):
            held.attach(network)
            return
        state = self.__dict__.pop("_optimizer_state", None) if held is None else None
        constant = self.optimizer is not None or self.solver != "sgd" or self.schedule is not None
        rates = "constant" if constant else self.learning_rate
        self._optimizer = Solver(network, self._maker(epoch_steps), self.alpha, rates, self.power_t)
        if incremental and state is not None:
            self._optimizer.load_state_dict(state)

    def _maker(self, epoch_steps: int) -> Maker:
        rate = float(self.learning_rate_init)
        given = {"weight_decay": self.weight_decay, "clip_norm": self.clip_norm}
        options = {name: value for name, value in given.items() if value is not None}
        if self.schedule is not None:
            steps = self.max_iter * epoch_steps
            options["lr"] = scheduled(self.schedule, rate, steps, epoch_steps)
        if self.optimizer is not None:
            return optimizer_maker(self.optimizer, rate, options)
        rate = options.pop("lr", rate)
        if self.solver == "sgd":
            return sgd(rate, self.momentum, self.nesterovs_momentum, **options)
        return adam(rate, float(self.beta_1), float(self.beta_2), float(self.epsilon), **options)

    def _check_solver(self) -> bool:
        if self.preset is not None:
            raise AttributeError("partial_fit is not there with a preset, whose schedules end.")
        if self._lbfgs:
            raise AttributeError(
                "partial_fit is only available for stochastic"
                f" optimizers. {self.solver} is not stochastic."
            )
        return True

    # After the fit

    def _raw(self, X: Any) -> Array:
        """Outputs (N, K) before their activation."""
        check_is_fitted(self)
        fitted: Fitted | None = getattr(self, "tabular_", None)
        dtype = fitted.model.dtype if fitted else self.coefs_[0].dtype
        sparse: Any = False if fitted else ["csr", "csc"]
        X = validate_data(self, X, accept_sparse=sparse, dtype=dtype, reset=False)
        return fitted.raw(X) if fitted else self._network().infer(X)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        optimizer: Solver | None = state.pop("_optimizer", None)
        if optimizer is not None:
            state["_optimizer_state"] = optimizer.state_dict()
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.preset is None
        return tags
