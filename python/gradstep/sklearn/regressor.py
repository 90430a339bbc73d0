"""The regressor."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from gradstep.arrays import Array
from gradstep.sklearn.estimator import Perceptron
from gradstep.sklearn.losses import REGRESSION, Custom, Objective
from gradstep.sklearn.parameters import documented

__all__ = ["MLPRegressor"]


@documented
class MLPRegressor(RegressorMixin, Perceptron):
    """Multilayer perceptron that predicts numbers: scikit-learn's, with more to choose.

    One target or several. Rows and parameters are float32 unless `dtype` says otherwise; the other
    defaults are scikit-learn's, and so is the sequence of random numbers.

    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 200)[:, np.newaxis]
    >>> y = X[:, 0] ** 2
    >>> model = MLPRegressor(loss="huber", delta=0.5, learning_rate_init=0.02, random_state=0)
    >>> model.fit(X, y).score(X, y) > 0.95
    True
    """

    OWN = """
    loss: "squared_error", "absolute_error", "huber", "quantile", "poisson", or a function
        As in scikit-learn, "squared_error" and "poisson" are halves. A function of y (N, K) and
        the prediction (N, K) gives the losses (N,) and the gradient (N, K).
    delta: number > 0
        Residual from which on "huber" is linear.
    quantile: number in (0, 1)
        What "quantile" estimates."""

    ATTRIBUTES = ""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Perceptron._parameter_constraints,
        "loss": [StrOptions(set(REGRESSION)), callable],
        "delta": [Interval(Real, 0, None, closed="neither")],
        "quantile": [Interval(Real, 0, 1, closed="neither")],
    }

    delta: float
    quantile: float

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        delta: float = 1.0,
        quantile: float = 0.5,
        optimizer: Any = None,
        schedule: Any = None,
        weight_decay: float | None = None,
        clip_norm: float | None = None,
        dropout: Any = 0.0,
        input_dropout: float = 0.0,
        batch_norm: bool = False,
        layer_norm: bool = False,
        init: Any = "auto",
        callbacks: Any = None,
        n_threads: int | None = None,
        dtype: Any = "float32",
        preset: Any = None,
    ) -> None:
        self._keep(locals())

    def _objective(self) -> Objective:
        if callable(self.loss):
            return Custom(self.loss, REGRESSION["squared_error"](self.delta, self.quantile))
        return REGRESSION[self.loss](self.delta, self.quantile)

    def _validate(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=self._input_types(),
            reset=reset,
        )
        X = X.tocsr() if hasattr(X, "tocsr") else X
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if self.loss == "poisson" and np.any(y < 0):
            raise ValueError(f"y: {y.min()}, expected numbers >= 0 with loss='poisson'")
        return X, y

    def _score(self, raw: Array, y: Array, weight: Array | None) -> float:
        found = self._objective().predict(raw)
        if not np.isfinite(found).all():
            return float("nan")
        return float(r2_score(y, found, sample_weight=weight))

    @available_if(lambda estimator: estimator._check_solver())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> MLPRegressor:
        """Trains for one epoch on X (N, I) and y (N,) or (N, K), and goes on at the next call.

        sample_weight: (N,). Returns self. Raises ValueError or TypeError. Not there with
        solver="lbfgs".
        """
        result: MLPRegressor = self._fit(X, y, sample_weight, True)
        return result

    def predict(self, X: Any) -> Array:
        """Predictions (N,), or (N, K) for several targets, for X (N, I).

        Raises NotFittedError before a fit, ValueError or TypeError for an X unlike that of the fit.
        """
        outputs = self._objective().predict(self._raw(X))
        return outputs.ravel() if outputs.shape[1] == 1 else outputs
