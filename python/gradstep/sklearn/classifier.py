"""The classifier."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    type_of_target,
    unique_labels,
)
from sklearn.utils.validation import validate_data

from gradstep.arguments import shown
from gradstep.arrays import Array
from gradstep.sklearn.estimator import Perceptron
from gradstep.sklearn.losses import Binary, Custom, MultiClass, Objective
from gradstep.sklearn.parameters import documented

__all__ = ["MLPClassifier"]


@documented
class MLPClassifier(ClassifierMixin, Perceptron):
    """Multilayer perceptron that classifies: scikit-learn's, with more to choose and less to wait.

    Binary, multi-class and multi-label. Rows and parameters are float32 unless `dtype` says
    otherwise; the other defaults are scikit-learn's, and so is the sequence of random numbers: on
    the same data both find the same model up to rounding.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier((32,), optimizer="adamw", schedule="one-cycle", dropout=0.1,
    ...                       learning_rate_init=0.02, max_iter=60, random_state=0,
    ...                       n_iter_no_change=60)
    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):  # all of max_iter is wanted
    ...     model = model.fit(X, y)
    >>> model.score(X, y) > 0.95
    True
    >>> model.predict_proba(X[:1]).shape
    (1, 3)
    """

    OWN = """
    loss: "log_loss", or a function of y and raw that gives the losses (N,) and the gradient (N, K)
        y (N, K) is 1 for the class of a row, else 0 (one column for two classes); raw (N, K) is
        the output before softmax or sigmoid.
    class_weight: mapping class -> weight, "balanced", or None
        Multiplied with sample_weight.
    label_smoothing: number in [0, 1)
        The share of every target that is spread evenly over the classes."""

    ATTRIBUTES = """
    classes_
        The labels."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **Perceptron._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), callable],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    class_weight: Any
    label_smoothing: float

    def __init__(
        self,
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
        loss: Any = "log_loss",
        class_weight: Any = None,
        label_smoothing: float = 0.0,
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
        kind = MultiClass if self._label_binarizer.y_type_ == "multiclass" else Binary
        objective = kind(self.label_smoothing)
        return Custom(self.loss, objective) if callable(self.loss) else objective

    def _validate(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Array]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=self._input_types(),
            reset=reset,
        )
        X = X.tocsr() if hasattr(X, "tocsr") else X
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(y), incremental)
        return X, self._label_binarizer.transform(y).astype(bool)

    def _check_classes(self, found: Array, incremental: bool) -> None:
        if self.warm_start and not incremental and set(found) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same "
                "classes as in the previous call to fit. Previously "
                f"got {self.classes_}, `y` has {found}"
            )
        if len(np.setdiff1d(found, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {found}."
            )

    def _weights(self, y: Array, sample_weight: Array | None, incremental: bool) -> Array | None:
        if self.class_weight is None:
            return sample_weight
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight: 'balanced', expected a mapping for partial_fit: "
                "compute_class_weight('balanced', classes=..., y=...) makes one of all labels"
            )
        labels = self._label_binarizer.inverse_transform(y)
        if hasattr(labels, "toarray"):
            labels = labels.toarray()
        try:
            weight: Array = compute_sample_weight(self.class_weight, labels)
        except (IndexError, TypeError, ValueError) as error:
            expected = f"expected one for each class ({error})"
            raise ValueError(f"class_weight: {shown(self.class_weight)}, {expected}") from None
        return weight if sample_weight is None else weight * sample_weight

    def _score(self, raw: Array, y: Array, weight: Array | None) -> float:
        labels = self._label_binarizer.inverse_transform
        found = self._labels(self._objective().predict(raw))
        return float(accuracy_score(labels(y), found, sample_weight=weight))

    def _labels(self, outputs: Array) -> Array:
        if self.n_outputs_ == 1:
            outputs = outputs.ravel()
        labels: Array = self._label_binarizer.inverse_transform(outputs)
        return labels

    @available_if(lambda estimator: estimator._check_solver())  # type: ignore[untyped-decorator]
    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> MLPClassifier:
        """Trains for one epoch on X (N, I) and y (N,) or (N, K), and goes on at the next call.

        sample_weight: (N,). classes: all labels that there may be, at the first call. Returns
        self. Raises ValueError or TypeError. Not there with solver="lbfgs".
        """
        with self._as_before_if_refused():
            if _check_partial_fit_first_call(self, classes):
                multilabel = type_of_target(y).startswith("multilabel")
                self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
            result: MLPClassifier = self._fit(X, y, sample_weight, True)
        return result

    def predict(self, X: Any) -> Array:
        """The labels (N,), or 0 and 1 (N, K) in multi-label problems, of X (N, I).

        Raises NotFittedError before a fit, ValueError or TypeError for an X unlike that of the fit.
        """
        return self._labels(self._outputs(X))

    def _outputs(self, X: Any) -> Array:
        raw = self._raw(X)
        return self._objective().predict(raw)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities (N, K) of the classes, in the order of `classes_`, for X (N, I).

        Raises as `predict` does.
        """
        outputs = self._outputs(X)
        if self.n_outputs_ > 1:
            return outputs
        return np.hstack([1 - outputs, outputs])

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of `predict_proba`. Raises as `predict` does."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
