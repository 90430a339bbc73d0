"""What the arguments of both estimators may be, and the text about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from numbers import Integral, Real
from typing import Any, ClassVar, TypeVar

import numpy as np
from sklearn.utils._param_validation import (
    Interval,
    Options,
    StrOptions,
    make_constraint,
    validate_parameter_constraints,
)

from gradstep.arguments import function, integer, is_integer, kind, number, several, shown
from gradstep.nn.layers import INITIALISERS
from gradstep.optim.optimizer import Optimizer
from gradstep.sklearn.network import ACTIVATIONS, Norm
from gradstep.train.tabular import Recipe

__all__ = ["Arguments", "documented"]

PROBABILITY: Any = Interval(Real, 0, 1, closed="left")
POSITIVE: Any = Interval(Real, 0, None, closed="neither")
MOST_THREADS = 1024
NOT_NEGATIVE: Any = Interval(Real, 0, None, closed="left")
COUNT: Any = Interval(Integral, 1, None, closed="left")

# What scikit-learn's checks take without an error of another kind.
Ordinary: tuple[type[Any], ...] = (str, int, float, type(None))

T = TypeVar("T", bound=type[Any])


def _probability(name: str, value: Any) -> float:
    return number(name, value, "a number in [0, 1)", lambda p: 0 <= p < 1)


PARAMETERS = """
    Parameters
    ----------
    As in scikit-learn: hidden_layer_sizes, solver, alpha, batch_size, learning_rate,
    learning_rate_init, power_t, max_iter, shuffle, random_state, tol, warm_start, momentum,
    nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon,
    n_iter_no_change, max_fun. Also:
    {own}
    activation: "relu", "tanh", "logistic", "identity", or another function of gradstep that learns
        nothing: "leaky_relu", "silu", "gelu", "selu", "mish"
    optimizer: None, a name, an optimizer, its class, or a function of params
        In place of `solver`: "adamw", `gs.Lion`, `functools.partial(gs.SGD, momentum=0.9)`. Of an
        optimizer over whatever parameters the hyperparameters are taken. The rate is
        learning_rate_init, unless it has its own.
    schedule: None, a name, or a function of the step 1, 2, ...
        The rate. Names start from learning_rate_init and end with max_iter: "cosine",
        "warmup-cosine", "one-cycle", "step", "exponential", "inverse-time", "power".
    weight_decay: number >= 0 or None
        Of the optimizer, for weights alone; None is the optimizer's default. `alpha` is a penalty
        in the loss, divided by the rows of a batch.
    clip_norm: number > 0 or None
        The most that the global L2 norm of the gradients may be.
    dropout: number in [0, 1), or one for each hidden layer
    input_dropout: number in [0, 1)
    batch_norm, layer_norm: bool
        Normalise before each hidden activation; the intercepts are its biases.
    init: "auto", "he_normal", "he_uniform", "xavier_normal", ..., or such a function
        "auto" draws what scikit-learn draws.
    verbose: bool, int or "progress"
        Lines as in scikit-learn, or a bar (tqdm).
    callbacks: None, a function or several
        Called with an `Epoch` after every epoch; one that returns True ends the fit.
    n_threads: int or None
        Threads of gradstep and BLAS during the fit; None leaves them as they are.
    dtype: "float32", "float64", or "auto" for that of X
        Of rows, parameters and predictions. lbfgs always computes in float64.
    preset: None, "tabular", or a `gradstep.train.tabular.Recipe`
        All that is left at its default comes from a recipe for tables (RealMLP), scales of the
        columns too. hidden_layer_sizes, max_iter, batch_size, learning_rate_init, weight_decay,
        dropout, label_smoothing and validation_fraction replace its numbers; others of the
        network and the optimizer must stay at their defaults. Dense X. The epoch that validated
        best is kept.

    Attributes
    ----------
    As in scikit-learn: loss_, best_loss_, loss_curve_, validation_scores_, best_validation_score_,
    t_, coefs_, intercepts_, n_features_in_, feature_names_in_, n_iter_, n_layers_, n_outputs_,
    out_activation_. Also:
    {attributes}
    validation_loss_curve_
        Losses of the validation rows, or None.
    lr_curve_
        The rate at the end of every epoch.
    norms_
        Weights and running statistics of the hidden layers, with batch_norm or layer_norm.
    tabular_
        With a preset, in place of coefs_ and intercepts_: its network and scales.

    Raises ValueError or TypeError. Kingma & Ba 2015 (arXiv:1412.6980), Glorot & Bengio 2010,
    Srivastava et al. 2014, Ioffe & Szegedy 2015 (arXiv:1502.03167).
"""


def documented(cls: T) -> T:
    """Completes the docstring of an estimator with what is the same for both."""
    text = PARAMETERS.format(own=cls.OWN.strip(), attributes=cls.ATTRIBUTES.strip())
    cls.__doc__ = (
        f"{(cls.__doc__ or '').rstrip()}\n{text.replace(chr(10) + '    ' + chr(10), chr(10))}"
    )
    return cls


class Arguments:
    """The arguments of both, and what each may be."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", COUNT],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"})],
        "alpha": [NOT_NEGATIVE],
        "batch_size": [StrOptions({"auto"}), COUNT],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [POSITIVE],
        "power_t": [NOT_NEGATIVE],
        "max_iter": [COUNT],
        "loss": [callable],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [NOT_NEGATIVE],
        "verbose": ["verbose", StrOptions({"progress"})],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [PROBABILITY],
        "beta_1": [PROBABILITY],
        "beta_2": [PROBABILITY],
        "epsilon": [POSITIVE],
        "n_iter_no_change": [COUNT, Options(Real, {np.inf})],
        "max_fun": [COUNT],
        "optimizer": [None, str, callable, Optimizer],
        "schedule": [None, str, callable],
        "dropout": [PROBABILITY, "array-like"],
        "input_dropout": [PROBABILITY],
        "batch_norm": ["boolean"],
        "layer_norm": ["boolean"],
        "weight_decay": [None, NOT_NEGATIVE],
        "clip_norm": [None, POSITIVE],
        "init": [StrOptions({"auto", *INITIALISERS}), callable],
        "callbacks": [None, callable, "array-like"],
        "n_threads": [None, Interval(Integral, 1, MOST_THREADS, closed="both")],
        "dtype": [StrOptions({"float32", "float64", "auto"}), type, np.dtype],
        "preset": [None, StrOptions({"tabular"}), Recipe],
    }

    hidden_layer_sizes: Any
    activation: str
    solver: str
    alpha: float
    batch_size: Any
    learning_rate: str
    learning_rate_init: float
    power_t: float
    max_iter: int
    loss: Any
    shuffle: bool
    random_state: Any
    tol: float
    verbose: Any
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    optimizer: Any
    schedule: Any
    dropout: Any
    input_dropout: float
    batch_norm: bool
    layer_norm: bool
    weight_decay: float | None
    clip_norm: float | None
    init: Any
    callbacks: Any
    n_threads: int | None
    dtype: Any
    preset: Any

    def _validate_params(self) -> None:
        """As scikit-learn's, whose checks fail by themselves at some values."""
        for name, constraints in self._parameter_constraints.items():
            value = getattr(self, name)
            if isinstance(value, int) and value.bit_length() > 1_000:
                raise ValueError(f"{name}: {shown(value)}, expected a number that floats can hold")
            if not isinstance(value, Ordinary):
                self._validate_odd(name, value, constraints)
        super()._validate_params()  # type: ignore[misc]
        self._hidden_sizes()
        if self.preset is None:
            self._dropouts()
        self._callbacks()

    def _validate_odd(self, name: str, value: Any, constraints: list[Any]) -> None:
        with suppress(Exception):
            validate_parameter_constraints({name: constraints}, {name: value}, type(self).__name__)
            if not isinstance(value, np.timedelta64):  # an integer by its type
                return
        allowed = " or ".join(str(make_constraint(each)) for each in constraints)
        raise TypeError(f"{name}: {kind(value)}, expected {allowed}")

    def _hidden_sizes(self) -> list[int]:
        given = self.hidden_layer_sizes
        if isinstance(given, bool) or is_integer(given):
            given = [int(given)]
        sizes: list[int] = list(several("hidden_layer_sizes", given, integer))
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {shown(sizes)}.")
        return sizes

    def _check_goes_on(self, sizes: list[int], norms: list[Norm]) -> None:
        """Raises ValueError where the parameters are those of another network than the fitted one.

        sizes: of its layers, the last one too. norms: those after the others.
        """
        batch, hidden = [norm.batch for norm in norms], self._hidden_sizes()
        found: dict[str, tuple[Any, Any]] = {"hidden_layer_sizes": (hidden, sizes[:-1])}
        if hidden:
            found["batch_norm"] = bool(self.batch_norm), True in batch
            found["layer_norm"] = bool(self.layer_norm), False in batch
        for name, (given, fitted) in found.items():
            if given != fitted:
                raise ValueError(
                    f"{name}: {shown(given)}, expected {shown(fitted)} as in the fitted network, "
                    "which warm_start=True and partial_fit go on with"
                )

    def _dropouts(self) -> list[float]:
        """A probability for each hidden layer."""
        hidden = len(self._hidden_sizes())
        if isinstance(self.dropout, Real):
            return [float(self.dropout)] * hidden
        given: list[float] = list(several("dropout", self.dropout, _probability))
        if len(given) != hidden:
            expected = f"expected {hidden} numbers in [0, 1), one for each hidden layer"
            raise ValueError(f"dropout: {shown(given)}, {expected}")
        return given

    def _callbacks(self) -> tuple[Callable[..., Any], ...]:
        given = [] if self.callbacks is None else self.callbacks
        given = [given] if callable(given) else given
        return several("callbacks", given, lambda name, value: function(name, value, "of an Epoch"))

    def _keep(self, given: Mapping[str, Any]) -> None:
        """Stores the arguments of __init__, which `given` has beside its other local names."""
        for name, value in given.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)
