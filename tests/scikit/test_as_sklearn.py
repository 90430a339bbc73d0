"""The same model as scikit-learn's, up to rounding, wherever both can be asked for the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from gradstep.sklearn import MLPClassifier, MLPRegressor
from scipy.sparse import csr_array
from sklearn import neural_network as stock
from sklearn.datasets import load_digits, make_multilabel_classification, make_regression

SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam with other betas": {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
    "adam without moments": {"beta_1": 0.0, "beta_2": 0.0},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "sgd, no momentum": {"solver": "sgd", "momentum": 0},
    "sgd, momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "sgd, invscaling": {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.25},
    "sgd, adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.5, "max_iter": 40},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 2},
    "tanh, two layers": {"activation": "tanh", "hidden_layer_sizes": (12, 7)},
    "logistic": {"activation": "logistic", "hidden_layer_sizes": 9},
    "identity": {"activation": "identity", "hidden_layer_sizes": [5]},
    "no penalty": {"alpha": 0},
    "a strong penalty": {"alpha": 10},
    "in order": {"shuffle": False, "batch_size": 32},
    "one row a step": {"batch_size": 1, "max_iter": 2},
}


def data(task: str) -> tuple[Any, Any]:
    if task == "regression":
        x, y = make_regression(150, 8, n_targets=1, random_state=3)
        return x, y / 50
    if task == "several targets":
        x, y = make_regression(150, 8, n_targets=3, random_state=3)
        return x, y / 50
    if task == "multi-label":
        x, y = make_multilabel_classification(150, 8, random_state=3)
        return x / 20, y  # where scikit-learn clips no probability
    x, y = load_digits(n_class=2 if task == "binary" else 10, return_X_y=True)
    return x[:150] / 16, y[:150]


TASKS = ("multi-class", "binary", "multi-label", "regression", "several targets")


@pytest.fixture(autouse=True)
def no_convergence_needed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def both(task: str, settings: dict[str, Any], **own: Any) -> tuple[Any, Any]:
    kind = "MLPRegressor" if task in TASKS[3:] else "MLPClassifier"
    keywords = {"random_state": 5, "max_iter": 8, **settings}
    mine = MLPRegressor if kind == "MLPRegressor" else MLPClassifier
    return getattr(stock, kind)(**keywords), mine(**{**keywords, **own})


def same(theirs: Any, mine: Any, rtol: float) -> None:
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(theirs, name), getattr(mine, name), strict=True):
            assert b.flags.c_contiguous
            np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(a).max())
    np.testing.assert_allclose(theirs.loss_, mine.loss_, rtol=rtol)
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(theirs, name) == getattr(mine, name), name
    if theirs.solver == "lbfgs":
        return
    for name in ("loss_curve_", "best_loss_", "best_validation_score_", "validation_scores_"):
        a, b = getattr(theirs, name), getattr(mine, name)
        assert (a is None) == (b is None), name
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=rtol, err_msg=name)


# Each with two tasks in turn; with all of them by the slow tests.
FITS = [
    pytest.param(
        task, settings, id=f"{name}-{task}", marks=() if (i + j) % 5 < 2 else pytest.mark.slow
    )
    for i, (name, settings) in enumerate(SETTINGS.items())
    for j, task in enumerate(TASKS)
]


@pytest.mark.parametrize(("task", "settings"), FITS)
def test_same_fit_as_scikit_learn(task: str, settings: dict[str, Any]) -> None:
    x, y = data(task)
    theirs, mine = both(task, settings, dtype="auto")
    same(theirs.fit(x, y), mine.fit(x, y), 1e-7)
    np.testing.assert_allclose(theirs.predict(x), mine.predict(x), rtol=1e-6, atol=1e-6)
    if hasattr(theirs, "predict_proba"):
        np.testing.assert_allclose(theirs.predict_proba(x), mine.predict_proba(x), atol=1e-7)
    assert theirs.score(x, y) == pytest.approx(mine.score(x, y))


@pytest.mark.parametrize("task", TASKS)
def test_same_fit_in_float32(task: str) -> None:
    x, y = data(task)
    theirs, mine = both(task, {})
    theirs.fit(x, y)
    mine.fit(x, y)
    assert {a.dtype for a in (*mine.coefs_, *mine.intercepts_)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(theirs.loss_curve_, mine.loss_curve_, rtol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_same_fit_with_sample_weights_and_sparse_rows(task: str) -> None:
    x, y = data(task)
    weight = np.random.default_rng(0).random(len(x))
    theirs, mine = both(task, {}, dtype="auto")
    same(theirs.fit(csr_array(x), y, weight), mine.fit(csr_array(x), y, weight), 1e-7)


def test_same_fit_to_counts() -> None:
    x = np.random.default_rng(0).random((80, 3))
    y = np.random.default_rng(1).poisson(np.exp(x.sum(axis=1)))
    settings = {"loss": "poisson"}
    theirs, mine = both("regression", settings, dtype="auto")
    same(theirs.fit(x, y), mine.fit(x, y), 1e-7)
    same(theirs.fit(x, y, x[:, 0]), mine.fit(x, y, x[:, 0]), 1e-7)


def test_same_partial_fits() -> None:
    x, y = data("multi-class")
    theirs, mine = both("multi-class", {}, dtype="auto")
    for part in np.array_split(np.arange(len(x)), 4):
        theirs.partial_fit(x[part], y[part], classes=range(10))
        mine.partial_fit(x[part], y[part], classes=range(10))
    same(theirs, mine, 1e-7)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_same_warm_start(early_stopping: bool) -> None:
    x, y = data("multi-class")
    settings = {"warm_start": True, "early_stopping": early_stopping}
    theirs, mine = both("multi-class", settings, dtype="auto")
    for _ in range(2):
        same(theirs.fit(x, y), mine.fit(x, y), 1e-7)
