"""Wrong parameters are named by `fit`, whatever they are, and what was fitted before stays."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from argument_kinds import (
    BELOW_1,
    Argument,
    between,
    choice,
    flag,
    is_index,
    optional,
    real,
)
from gradstep.nn.layers import INITIALISERS
from gradstep.sklearn import MLPClassifier, MLPRegressor
from gradstep.sklearn.network import ACTIVATIONS
from sklearn.exceptions import NotFittedError
from wrong_values import Liar, wrong_values

X = np.linspace(-1, 1, 90).reshape(30, 3)
Y = np.array([0, 1] * 15)
SMALL = {"hidden_layer_sizes": (2,), "max_iter": 1, "random_state": 0}

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:batch_size. .* more than the 30 rows:UserWarning"),
]


def number(good: float, fits: Callable[[float], bool], infinite: bool = False) -> Argument:
    """Truth values count as 0 and 1, as in scikit-learn."""
    finite = lambda x: infinite or bool(np.isfinite(x))  # noqa: E731

    def takes(value: Any) -> bool:
        found = float(value) if isinstance(value, bool) else real(value)
        return bool(fits(found)) and finite(found)

    return Argument(lambda: good, takes)


def sizes(value: Any) -> bool:
    if callable(value):
        return False
    return isinstance(value, bool) or is_index(value) or all(map(is_index, value))


def one_dropout(value: Any) -> bool:
    if value is False or BELOW_1(real(value)):
        return True
    return not callable(value) and len(value) == 1 and bool(BELOW_1(real(value[0])))


def function(good: Any, *names: Any) -> Argument:
    return Argument(lambda: good, lambda v: callable(v) or v is None or v in names)


COUNT = number(9, lambda x: x >= 1 and x == int(x))
NOT_NEGATIVE, POSITIVE = between(0), lambda x: x > 0
PARAMETERS: dict[str, Argument] = {
    "hidden_layer_sizes": Argument(lambda: (2,), sizes),
    "activation": choice(*ACTIVATIONS),
    "solver": choice("adam", "sgd", "lbfgs"),
    "batch_size": Argument(lambda: 9, lambda v: v == "auto" or COUNT.takes(v)),
    "learning_rate": choice("constant", "invscaling", "adaptive"),
    "n_iter_no_change": number(9, lambda x: x >= 1, infinite=True),
    "random_state": optional(number(0, lambda x: 0 <= x < 2**32)),
    "verbose": Argument(
        lambda: False, lambda v: isinstance(v, (bool, np.bool_)) or bool(real(v) >= 0)
    ),
    "momentum": number(0.9, between(0, 1)),
    "quantile": number(0.5, lambda x: 0 < x < 1),
    "loss": function(lambda y, raw: (np.zeros(len(y)), np.zeros_like(raw)), "log_loss"),
    "class_weight": Argument(lambda: None, lambda v: v is None or v in ({}, [], "balanced")),
    "optimizer": function("adamw"),
    "schedule": function("cosine"),
    "init": Argument(lambda: "auto", lambda v: callable(v) or v in INITIALISERS),
    "callbacks": Argument(lambda: None, lambda v: v is None or callable(v) or not len(v)),
    "dropout": Argument(lambda: 0.5, one_dropout),
    "dtype": Argument(lambda: "float64", lambda v: False),
    "preset": Argument(lambda: None, lambda v: v is None),
    **{name: COUNT for name in ("max_iter", "max_fun")},
    "n_threads": optional(number(1, lambda x: 1 <= x <= 1024 and x == int(x))),
    **{
        name: number(0.5, BELOW_1)
        for name in ("validation_fraction", "beta_1", "beta_2", "label_smoothing", "input_dropout")
    },
    **{name: number(0.5, NOT_NEGATIVE) for name in ("alpha", "power_t", "tol")},
    **{name: number(0.5, POSITIVE) for name in ("learning_rate_init", "epsilon", "delta")},
    "weight_decay": optional(number(0.5, NOT_NEGATIVE)),
    "clip_norm": optional(number(0.5, POSITIVE)),
    **{
        name: flag(False)
        for name in (
            "shuffle", "warm_start", "nesterovs_momentum", "early_stopping", "batch_norm",
            "layer_norm",
        )
    },
}  # fmt: skip


def is_long(name: str, value: Any) -> bool:
    return name in ("max_iter", "max_fun", "hidden_layer_sizes") and (
        is_index(value) and int(value) > 2**20
    )


def problem(model: Any, name: str, value: Any) -> str | None:
    """What is wrong about a fit with one value, or None."""
    takes = PARAMETERS[name].takes
    try:
        model.set_params(**{name: value}).fit(X, Y)
    except Exception as error:
        if isinstance(value, Liar) or (callable(value) and takes(value)):
            return None
        message = str(error)
        named = rf"(The '{name}' parameter of|{name}(\[\d+\])?: .*expected |{name} must be )"
        if isinstance(error, (TypeError, ValueError)) and re.match(named, message, re.DOTALL):
            return None
        if takes(value) and re.match("Solver produced non-finite|.*: .*expected", message):
            return None  # right by itself
        return f"{type(error).__name__}: {message[:200]}"
    return None if takes(value) else "accepted"


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_a_wrong_value_of_every_parameter_is_named(kind: Any) -> None:
    found = []
    of_both = set(inspect.signature(MLPClassifier).parameters) - {"loss"}
    for name in inspect.signature(kind).parameters:
        if kind is MLPRegressor and name in of_both:
            continue  # one text for both
        for label, value in wrong_values(PARAMETERS[name].make()):
            if not is_long(name, value):
                found.append((name, label, problem(kind(**SMALL), name, value)))
    assert len(found) > (300 if kind is MLPRegressor else 3_500)
    assert [each for each in found if each[2]] == []


WRONG: list[tuple[dict[str, Any], Any, Any]] = [
    ({"callbacks": 3}, X, Y),
    ({"batch_norm": True, "layer_norm": True}, X, Y),
    ({"class_weight": {5: 1.0}}, X, Y + 2),
    ({"early_stopping": True, "validation_fraction": 0.01}, X, Y + 2),
    ({}, X[:, :2], Y[:-1]),
    ({}, np.full_like(X, np.nan), Y + 2),
    ({"solver": "lbfgs", "dropout": 0.5}, X[:, :2], Y + 2),
    ({"schedule": "never"}, X[:, :2], Y + 2),
    ({"optimizer": "none"}, X[:, :2], np.arange(30) % 3),
]


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_a_fit_that_is_refused_leaves_the_model_that_was_fitted(call: str) -> None:
    for parameters, x, y in WRONG:
        model = MLPClassifier(**SMALL).fit(X, Y)
        fitted = {name: value for name, value in vars(model).items() if name.endswith("_")}
        before = model.predict_proba(X).tobytes()
        kept = {name: getattr(model, name) for name in parameters}
        with pytest.raises((TypeError, ValueError, AttributeError)):
            getattr(model.set_params(**parameters), call)(x, y)
        model.set_params(**kept)
        now = {name: value for name, value in vars(model).items() if name.endswith("_")}
        assert now.keys() == fitted.keys(), parameters
        assert all(now[name] is fitted[name] for name in fitted), parameters
        assert model.predict_proba(X).tobytes() == before, parameters


def test_a_first_fit_that_is_refused_leaves_no_model() -> None:
    model = MLPClassifier(**SMALL)
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(np.full_like(X, np.nan), Y, classes=[0, 1])
    with pytest.raises(ValueError, match="classes must be passed"):
        model.partial_fit(X, Y)
    with pytest.raises(NotFittedError):
        model.predict(X)
