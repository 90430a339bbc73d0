"""What the estimators add to scikit-learn's: each option does what it says, or is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep.sklearn import Epoch, MLPClassifier, MLPRegressor
from gradstep.sklearn.network import ACTIVATIONS
from scipy.sparse import csr_array
from sklearn.datasets import load_digits

X, Y = load_digits(return_X_y=True)
X, Y = X[:300] / 16, Y[:300]


@pytest.fixture(autouse=True)
def no_convergence_needed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def fitted(**keywords: Any) -> MLPClassifier:
    return MLPClassifier(**{"random_state": 0, "max_iter": 5, **keywords}).fit(X, Y)


def same_weights(a: Any, b: Any) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a.coefs_, b.coefs_, strict=True))


# Optimizers and rates


@pytest.mark.parametrize("name", [*map(str.lower, gs.OPTIMIZERS), "momentum", "nesterov"])
def test_every_optimizer_by_name(name: str) -> None:
    lr = {"adadelta": 1.0, "sgd": 0.1}.get(name, 0.01)
    model = fitted(optimizer=name, learning_rate_init=lr, max_iter=30, n_iter_no_change=30)
    assert model.score(X, Y) > 0.6
    assert model.lr_curve_ == [lr] * 30


def test_an_optimizer_is_a_name_a_class_a_function_or_a_pattern() -> None:
    expected = fitted(optimizer="lion", learning_rate_init=1e-3)
    pattern = gs.Lion(np.zeros(1), lr=1e-3)
    for given in (gs.Lion, partial(gs.Lion, lr=1e-3), lambda p: gs.Lion(p, lr=1e-3), pattern):
        assert same_weights(fitted(optimizer=given), expected)
    other = fitted(optimizer=partial(gs.Lion, lr=1e-3, betas=(0.5, 0.9)))
    assert not same_weights(other, expected)
    assert same_weights(fitted(optimizer=gs.Lion(np.zeros(1), lr=1e-3, betas=(0.5, 0.9))), other)


def test_a_pattern_keeps_its_hyperparameters_and_is_not_stepped() -> None:
    pattern = gs.AdamW(np.zeros(3), lr=0.02, weight_decay=0.5, clip_norm=0.1)
    model = fitted(optimizer=pattern)
    made = model._optimizer.optimizer
    assert (made.clip_norm, made.param_groups[0]["weight_decay"]) == (0.1, 0.5)
    assert made.param_groups[1]["weight_decay"] == 0  # intercepts do not decay
    assert pattern.step_count == 0


def test_weight_decay_and_clip_norm_reach_the_optimizer() -> None:
    made = fitted(weight_decay=0.25, clip_norm=0.5, optimizer="adamw")._optimizer.optimizer
    assert (made.clip_norm, made.param_groups[0]["weight_decay"]) == (0.5, 0.25)
    small = fitted(weight_decay=20.0, optimizer="adamw", learning_rate_init=0.01)
    assert abs(small.coefs_[0]).sum() < 0.5 * abs(fitted(optimizer="adamw").coefs_[0]).sum()


def test_alpha_is_the_same_penalty_inside_the_optimizer_and_beside_it() -> None:
    """Adam whose decay shrinks weights, by zero, needs the penalty in its gradients."""
    inside = fitted(alpha=5.0, optimizer=gs.Adam, dtype="float64")
    beside = partial(gs.Adam, decoupled_weight_decay=True)
    found = fitted(alpha=5.0, optimizer=beside, dtype="float64")
    for a, b in zip(inside.coefs_, found.coefs_, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    assert inside.loss_ == pytest.approx(found.loss_)
    assert not same_weights(fitted(alpha=0, optimizer=beside, dtype="float64"), found)


def test_a_schedule_sets_the_rate_of_every_step() -> None:
    steps = 5 * 2  # 300 rows, 200 a batch
    model = fitted(schedule="cosine", learning_rate_init=0.02)
    expected = gs.cosine(0.02, steps)
    assert model.lr_curve_ == pytest.approx([expected(t) for t in range(2, steps + 1, 2)])
    assert same_weights(fitted(schedule=expected), model)
    assert fitted(schedule="warmup_cosine").lr_curve_[-1] < 1e-4


def test_lr_curve_of_adaptive_rates() -> None:
    model = fitted(solver="sgd", learning_rate="adaptive", tol=10.0, n_iter_no_change=1)
    assert model.lr_curve_ == pytest.approx([0.001, 0.001, 0.001, 0.0002, 0.0002])


# The network


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_learns(activation: str) -> None:
    model = fitted(activation=activation, max_iter=40, learning_rate_init=0.01)
    assert model.score(X, Y) > 0.95


@pytest.mark.parametrize(
    "keywords",
    [
        {"batch_norm": True},
        {"layer_norm": True},
        {"dropout": 0.3},
        {"input_dropout": 0.1},
        {"batch_norm": True, "dropout": [0.2, 0.1], "hidden_layer_sizes": (50, 30)},
        {"layer_norm": True, "activation": "gelu", "dropout": 0.2},
        {"batch_norm": True, "activation": "tanh", "dropout": 0.2},
        {"label_smoothing": 0.1},
        {"init": "he_normal"},
        pytest.param({"init": partial(gs.init.normal, std=0.1)}, id="init normal"),
    ],
    ids=str,
)
def test_options_of_the_network_learn(keywords: dict[str, Any]) -> None:
    model = fitted(max_iter=40, learning_rate_init=0.01, **keywords)
    assert model.score(X, Y) > 0.95
    assert not same_weights(model, fitted(max_iter=40, learning_rate_init=0.01))
    assert same_weights(model, fitted(max_iter=40, learning_rate_init=0.01, **keywords))
    sparse = MLPClassifier(max_iter=40, learning_rate_init=0.01, random_state=0, **keywords)
    assert sparse.fit(csr_array(X), Y).score(csr_array(X), Y) > 0.95


def test_dropout_is_off_at_inference_and_no_mask_repeats() -> None:
    model = fitted(dropout=0.5)
    assert np.array_equal(model.predict_proba(X), model.predict_proba(X))
    losses = [MLPClassifier(dropout=0.5, random_state=0, learning_rate_init=1e-12)]
    for _ in range(3):
        losses[0].partial_fit(X, Y, classes=range(10))
    assert len(set(losses[0].loss_curve_)) == 3


def test_batch_norm_predicts_with_running_statistics() -> None:
    model = fitted(batch_norm=True)
    np.testing.assert_allclose(model.predict_proba(X[:1]), model.predict_proba(X)[:1], rtol=1e-4)
    assert not np.array_equal(model.norms_[0].running_mean, np.zeros(100))


def test_a_last_batch_of_one_row_is_joined_with_batch_norm() -> None:
    MLPClassifier(batch_norm=True, batch_size=7, max_iter=1).fit(X[:29], Y[:29])


def test_he_normal_starts_at_zero_intercepts() -> None:
    model = fitted(init="he_normal", learning_rate_init=1e-12)
    assert abs(model.intercepts_[0]).max() < 1e-9
    assert model.coefs_[0].std() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


# Losses and weights


@pytest.mark.parametrize(
    ("loss", "share"),
    [({"loss": "quantile", "quantile": 0.9}, 0.9), ({"loss": "absolute_error"}, 0.5)],
)
def test_quantiles_are_estimated(loss: dict[str, Any], share: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.random((2000, 1))
    y = x[:, 0] + rng.exponential(size=2000)
    model = MLPRegressor(**loss, max_iter=60, learning_rate_init=0.01, random_state=0).fit(x, y)
    assert np.mean(y <= model.predict(x)) == pytest.approx(share, abs=0.03)


def test_huber_is_not_moved_by_outliers() -> None:
    x = np.linspace(-1, 1, 200)[:, np.newaxis]
    y = x[:, 0].copy()
    y[::10] += 100
    keywords = {"max_iter": 200, "learning_rate_init": 0.02, "random_state": 0, "tol": 0}
    robust = MLPRegressor("huber", delta=0.1, **keywords).fit(x, y)
    squared = MLPRegressor(**keywords).fit(x, y)
    error = [np.median(abs(m.predict(x) - x[:, 0])) for m in (robust, squared)]
    assert error[0] < 0.1 < error[1]


def test_a_loss_of_ones_own() -> None:
    def squared(y: Any, raw: Any) -> tuple[Any, Any]:
        d = raw - y
        return (d**2).sum(axis=1) / 2, d

    y = X.sum(axis=1)
    keywords = {"max_iter": 5, "random_state": 0, "dtype": "float64"}
    a = MLPRegressor(squared, **keywords).fit(X, y)
    b = MLPRegressor(**keywords).fit(X, y)
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_)

    def log_loss(y: Any, raw: Any) -> tuple[Any, Any]:
        logs = gs.log_softmax(raw)
        return -(y * logs).sum(axis=1), np.exp(logs) - y

    c = fitted(loss=log_loss, dtype="float64")
    np.testing.assert_allclose(c.loss_curve_, fitted(dtype="float64").loss_curve_)
    assert c.predict_proba(X).sum(axis=1) == pytest.approx(1)


def test_class_weights_are_sample_weights() -> None:
    weights = {c: 1.0 + c for c in range(10)}
    model = fitted(class_weight=weights)
    keywords = {"random_state": 0, "max_iter": 5}
    assert same_weights(MLPClassifier(**keywords).fit(X, Y, 1.0 + Y), model)
    both = MLPClassifier(class_weight=weights, **keywords).fit(X, Y, X[:, 20])
    assert same_weights(MLPClassifier(**keywords).fit(X, Y, X[:, 20] * (1.0 + Y)), both)
    rare = np.where(Y == 0, Y, 1)
    balanced = MLPClassifier(class_weight="balanced", **keywords).fit(X, rare)
    plain = MLPClassifier(**keywords).fit(X, rare)
    recall = [np.mean(m.predict(X)[rare == 0] == 0) for m in (balanced, plain)]
    assert recall[0] > recall[1]


def test_rows_without_weight_change_nothing() -> None:
    weight = np.ones(300)
    weight[200:] = 0
    keywords = {"random_state": 0, "max_iter": 5, "shuffle": False, "batch_size": 50}
    a = MLPClassifier(**keywords, solver="sgd", momentum=0).fit(X, Y, weight)
    b = MLPClassifier(**keywords, solver="sgd", momentum=0).fit(X[:200], Y[:200])
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], atol=1e-6)


def test_label_smoothing_keeps_probabilities_from_the_ends() -> None:
    keywords = {"max_iter": 150, "learning_rate_init": 0.01}
    smoothed = fitted(label_smoothing=0.3, **keywords).predict_proba(X).max(axis=1)
    assert np.median(smoothed) == pytest.approx(1 - 0.3 * 0.9, abs=0.03)
    assert np.median(fitted(**keywords).predict_proba(X).max(axis=1)) > 0.97


# Validation and what happens between epochs


def test_given_validation_rows_are_watched() -> None:
    x, y = X[200:], Y[200:]
    model = MLPClassifier(random_state=0, max_iter=5).fit(X[:200], Y[:200], X_val=x, y_val=y)
    alone = MLPClassifier(random_state=0, max_iter=5).fit(X[:200], Y[:200])
    assert same_weights(model, alone)
    assert len(model.validation_scores_) == len(model.validation_loss_curve_) == 5
    assert model.validation_scores_[-1] == model.score(x, y)
    assert model.best_validation_score_ == max(model.validation_scores_)
    chosen = np.log(model.predict_proba(x)[np.arange(100), y])
    assert model.validation_loss_curve_[-1] == pytest.approx(-chosen.mean(), rel=1e-5)
    assert alone.validation_scores_ is None is alone.validation_loss_curve_


def test_early_stopping_on_given_rows_brings_the_best_weights_back() -> None:
    keywords = {"learning_rate_init": 0.03, "max_iter": 100, "n_iter_no_change": 3}
    model = MLPClassifier(early_stopping=True, batch_norm=True, random_state=0, **keywords)
    model.fit(X[:200], Y[:200], X_val=X[200:], y_val=Y[200:])
    assert model.n_iter_ < 100
    assert model.score(X[200:], Y[200:]) == model.best_validation_score_
    assert model.t_ == 200 * model.n_iter_  # no rows were held out


def test_validation_of_a_regressor() -> None:
    y = X @ np.arange(64)
    model = MLPRegressor(random_state=0, max_iter=5, early_stopping=True)
    model.fit(X[:200], y[:200], X_val=X[200:], y_val=y[200:])
    assert model.best_validation_score_ == pytest.approx(model.score(X[200:], y[200:]))


def test_callbacks_see_every_epoch_and_may_stop() -> None:
    seen: list[Epoch] = []

    def stop_at_three(epoch: Epoch) -> bool:
        return epoch.n_iter == 3

    keywords = {"random_state": 0, "max_iter": 5}
    model = MLPClassifier(callbacks=[seen.append, stop_at_three], **keywords)
    model.fit(X, Y, X_val=X, y_val=Y)
    assert [epoch.n_iter for epoch in seen] == [1, 2, 3]
    assert [epoch.loss for epoch in seen] == model.loss_curve_
    assert [epoch.validation_score for epoch in seen] == model.validation_scores_
    assert {epoch.lr for epoch in seen} == {0.001}
    assert seen[0].estimator is model
    assert MLPClassifier(callbacks=stop_at_three, **keywords).fit(X, Y).n_iter_ == 3


def test_verbose_prints_lines_or_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    fitted(verbose=True, early_stopping=True)
    assert capsys.readouterr().out.splitlines()[1].startswith("Validation score: ")
    fitted(verbose="progress")
    out, err = capsys.readouterr()
    assert out == ""
    assert "5/5" in err and "loss" in err
    fitted()
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_keeps_what_was_learnt() -> None:
    def interrupt(epoch: Epoch) -> None:
        if epoch.n_iter == 2:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        model = MLPClassifier(callbacks=interrupt, random_state=0).fit(X, Y)
    assert model.n_iter_ == 2
    assert same_weights(model, fitted(max_iter=2))


# Types, threads and mistakes


@pytest.mark.parametrize("dtype", ["float32", np.float64, np.dtype("float64"), "auto"])
def test_dtype_of_everything(dtype: Any) -> None:
    model = fitted(dtype=dtype, batch_norm=True)
    expected = np.float32 if dtype == "float32" else np.float64
    arrays = [*model.coefs_, *model.intercepts_, model.norms_[0].running_var]
    assert {a.dtype for a in arrays} == {np.dtype(expected)}
    assert model.predict_proba(X).dtype == expected


def test_threads_are_as_before_after_a_fit() -> None:
    gs.set_num_threads(2)
    during: list[int] = []
    fitted(n_threads=1, callbacks=lambda epoch: during.append(gs.get_num_threads()))
    assert during == [1] * 5
    assert gs.get_num_threads() == 2


def raised(message: str, kind: type[Exception] = ValueError) -> Any:
    return pytest.raises(kind, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"dropout": [0.1, 0.2]},
            "dropout: [0.1, 0.2], expected 1 numbers in [0, 1), one for each hidden layer",
        ),
        (
            {"batch_norm": True, "layer_norm": True},
            "layer_norm: True, expected False with batch_norm=True",
        ),
        (
            {"dropout": 0.5, "solver": "lbfgs"},
            "dropout: 0.5, expected none with solver='lbfgs'",
        ),
        (
            {"schedule": "cosine", "solver": "lbfgs"},
            "schedule: cosine, expected none with solver='lbfgs'",
        ),
        (
            {"batch_norm": True, "batch_size": 1},
            "batch_size: 1, expected at least 2 with batch norm",
        ),
        ({"dtype": np.int32}, "dtype: int32, expected float32, float64 or 'auto'"),
        (
            {"init": lambda shape, rng, dtype: np.ones(3)},
            "init: gave shape (3,), expected (64, 100)",
        ),
    ],
)
def test_what_cannot_be_is_named(keywords: dict[str, Any], message: str) -> None:
    with raised(message):
        fitted(**keywords)


def test_names_that_are_unknown_are_answered_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"^optimizer: 'adamm', expected 'sgd', "):
        fitted(optimizer="adamm")
    with pytest.raises(ValueError, match=r"^schedule: 'cosin', expected 'constant', 'cosine'"):
        fitted(schedule="cosin")
    with raised("optimizer: a function of params gave int", TypeError):
        fitted(optimizer=lambda params: 3)


def test_validation_rows_are_checked() -> None:
    model = MLPClassifier(max_iter=1)
    with raised("y_val: None, expected one as the other is given"):
        model.fit(X, Y, X_val=X)
    with pytest.raises(ValueError, match=r"`y` has classes not in `self.classes_`"):
        model.fit(X[Y < 5], Y[Y < 5], X_val=X, y_val=Y)
    with pytest.raises(ValueError, match="X has 3 features"):
        model.fit(X, Y, X_val=X[:, :3], y_val=Y)


def test_balanced_weights_need_all_labels() -> None:
    with pytest.raises(ValueError, match=r"^class_weight: 'balanced', expected a mapping"):
        MLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=range(10))


def test_counts_are_not_negative() -> None:
    with raised("y: -1.0, expected numbers >= 0 with loss='poisson'"):
        MLPRegressor("poisson").fit(X, -np.ones(300))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_layer_sizes": (6, 5)}, "hidden_layer_sizes: [6, 5], expected [6, 4]"),
        ({"hidden_layer_sizes": 6}, "hidden_layer_sizes: [6], expected [6, 4]"),
        ({"layer_norm": False}, "layer_norm: False, expected True"),
        ({"layer_norm": False, "batch_norm": True}, "batch_norm: True, expected False"),
    ],
)
def test_another_network_than_the_fitted_one_is_not_gone_on_with(
    changed: dict[str, Any], message: str
) -> None:
    model = fitted(hidden_layer_sizes=[6, 4], layer_norm=True, warm_start=True)
    before, weights = model.get_params(), [w.copy() for w in model.coefs_]
    model.set_params(**changed)
    why = " as in the fitted network, which warm_start=True and partial_fit go on with"
    for again in (model.fit, model.partial_fit):
        with raised(message + why):
            again(X, Y)
        assert all(map(np.array_equal, model.coefs_, weights)) and model.n_iter_ == 5
    assert model.predict(X).shape == Y.shape
    model.set_params(**before).fit(X, Y)
    model.set_params(**changed, warm_start=False).fit(X, Y)
    assert len(model.coefs_) == 1 + len(model._hidden_sizes())
    for norm in ({}, {"batch_norm": True}, {"layer_norm": True}):
        fitted(hidden_layer_sizes=[], warm_start=True, **norm).fit(X, Y)
        fitted(hidden_layer_sizes=3, warm_start=True, **norm).fit(X, Y)


def test_targets_of_another_number_are_named() -> None:
    one, two = Y.astype(float), np.c_[Y, Y].astype(float)
    why = " as in the fitted network, which warm_start=True and partial_fit go on with"
    for before, after in ((one, two), (two, one)):
        model = MLPRegressor(hidden_layer_sizes=[4], warm_start=True, max_iter=2).fit(X, before)
        found, expected = (1 if y.ndim == 1 else 2 for y in (after, before))
        for again in (model.fit, model.partial_fit):
            with raised(f"y: {found} outputs, expected {expected}{why}"):
                again(X, after)
            assert model.predict(X).shape == before.shape and model.n_outputs_ == expected
        with raised(f"y_val: {found} outputs, expected {expected} as in y"):
            MLPRegressor(early_stopping=True).fit(X, before, X_val=X, y_val=after)
