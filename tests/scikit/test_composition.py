"""Inside scikit-learn's tools, copied, sent to other processes, at any number of threads."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import gradstep as gs
import joblib
import numpy as np
import pytest
from gradstep.sklearn import MLPClassifier, MLPRegressor
from scipy.sparse import csc_array, csr_matrix
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, make_multilabel_classification
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

X, Y = load_digits(return_X_y=True)
X, Y = X[:300], Y[:300]
FULL = {"dropout": 0.2, "batch_norm": True, "optimizer": "adamw", "schedule": "cosine"}


@pytest.fixture(autouse=True)
def no_convergence_needed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def classifier(**keywords: Any) -> MLPClassifier:
    settings = {"max_iter": 20, "learning_rate_init": 0.01, "random_state": 0}
    return MLPClassifier((32,), **{**settings, **keywords})


def bits(model: Any) -> bytes:
    running = [a for norm in model.norms_ for a in (norm.weight, *norm.running)]
    return b"".join(a.tobytes() for a in (*model.coefs_, *model.intercepts_, *running))


@pytest.mark.parametrize(
    "jobs",
    [pytest.param({}, id="here"), pytest.param({"n_jobs": 2}, id="loky", marks=pytest.mark.slow)],
)
def test_grid_search_over_a_pipeline(jobs: dict[str, int]) -> None:
    pipeline = make_pipeline(StandardScaler(), classifier())
    grid = {"mlpclassifier__optimizer": ["adam", gs.Lion], "mlpclassifier__dropout": [0.0, 0.2]}
    search = GridSearchCV(pipeline, grid, cv=2, **jobs).fit(X, Y)
    assert search.best_score_ > 0.85
    assert set(search.cv_results_["param_mlpclassifier__dropout"]) == {0.0, 0.2}


@pytest.mark.slow
def test_the_same_scores_in_other_processes_and_threads() -> None:
    expected = cross_val_score(classifier(**FULL), X, Y, cv=3)
    for backend in ("loky", "threading"):
        with joblib.parallel_backend(backend, n_jobs=2):
            found = cross_val_score(classifier(**FULL), X, Y, cv=3)
        np.testing.assert_array_equal(found, expected)


def test_calibration_and_importance() -> None:
    calibrated = CalibratedClassifierCV(classifier(), cv=2).fit(X, Y)
    assert calibrated.score(X, Y) > 0.9
    importance = permutation_importance(calibrated, X, Y, n_repeats=2, random_state=0)
    assert importance.importances_mean.max() > 0.01


def test_multi_label_of_several_classifiers_and_of_one() -> None:
    x, y = make_multilabel_classification(200, random_state=0)
    one = classifier(max_iter=100).fit(x, y)
    several = MultiOutputClassifier(classifier(max_iter=100)).fit(x, y)
    assert one.predict(x).shape == several.predict(x).shape == y.shape
    assert (one.predict(x) == y).mean() > 0.85


def test_a_clone_has_the_arguments_as_given_and_nothing_else() -> None:
    given = {"callbacks": [print], "hidden_layer_sizes": [3], "optimizer": gs.Lion}
    model = MLPClassifier(**given)
    assert all(model.get_params()[name] is value for name, value in given.items())
    model.set_params(callbacks=None).fit(X, Y)
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert not hasattr(copied, "coefs_")


def through_pickle(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def through_joblib(model: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("through", [through_pickle, through_joblib, copy.deepcopy])
@pytest.mark.parametrize("settings", [{}, FULL, {"solver": "sgd"}], ids=str)
def test_a_copy_goes_on_to_the_bit(through: Any, settings: dict[str, Any]) -> None:
    model = classifier(**settings)
    for _ in range(3):
        model.partial_fit(X, Y, classes=range(10))
    copied = through(model)
    assert np.array_equal(copied.predict_proba(X), model.predict_proba(X))
    for _ in range(2):
        model.partial_fit(X, Y)
        copied.partial_fit(X, Y)
        assert bits(copied) == bits(model)
    again = classifier(**settings).partial_fit(X, Y, classes=range(10))
    assert bits(again) != bits(model)


def test_weights_that_were_replaced_are_trained() -> None:
    model = classifier().partial_fit(X, Y, classes=range(10))
    model.coefs_ = [np.zeros_like(w) for w in model.coefs_]
    model.partial_fit(X, Y)
    assert np.count_nonzero(model.intercepts_[1]) and abs(model.coefs_[1]).max() < 0.5


@pytest.mark.parametrize(
    "settings", [{}, FULL, {"layer_norm": True, "activation": "gelu"}], ids=str
)
def test_same_bits_at_every_thread_count(settings: dict[str, Any], level: str) -> None:
    """With BLAS on one thread, whose sums may depend on their number."""
    with threadpool_limits(1, user_api="blas"):
        gs.set_num_threads(1)
        expected = bits(classifier(**settings, max_iter=3).fit(X, Y))
        gs.set_num_threads(3)
        assert bits(classifier(**settings, max_iter=3).fit(X, Y)) == expected
        gs.use_simd("baseline")
        assert bits(classifier(**settings, max_iter=3).fit(X, Y)) == expected


def test_fits_in_two_threads_at_once() -> None:
    expected = bits(classifier(**FULL).fit(X, Y))
    with joblib.parallel_backend("threading", n_jobs=2):
        models = joblib.Parallel()(joblib.delayed(classifier(**FULL).fit)(X, Y) for _ in range(4))
    assert {bits(model) for model in models} == {expected}


def test_predictions_in_threads_share_a_model() -> None:
    model = classifier(batch_norm=True).fit(X, Y)
    expected = model.predict_proba(X)
    with joblib.parallel_backend("threading", n_jobs=4):
        found = joblib.Parallel()(joblib.delayed(model.predict_proba)(X) for _ in range(16))
    assert all(np.array_equal(one, expected) for one in found)


@pytest.mark.parametrize("kind", [csr_matrix, csc_array])
def test_sparse_rows_are_as_dense_ones(kind: Any) -> None:
    settings = {"dtype": "float64", "batch_norm": True}
    dense = classifier(**settings).fit(X, Y)
    sparse = classifier(**settings).fit(kind(X), Y)
    np.testing.assert_allclose(sparse.loss_curve_, dense.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(sparse.predict_proba(kind(X)), dense.predict_proba(X), rtol=1e-6)
    assert classifier(input_dropout=0.2).fit(kind(X), Y).score(kind(X), Y) > 0.9


def test_rows_are_not_written_to() -> None:
    x = X.astype(np.float32)
    sparse = csr_matrix(x)
    for rows, kept in ((x, x.copy()), (sparse, sparse.copy())):
        for solver in ("adam", "lbfgs"):
            dropped = 0.3 if solver == "adam" else 0.0
            classifier(solver=solver, input_dropout=dropped, shuffle=False).fit(rows, Y)
        assert abs(rows - kept).max() == 0


def test_feature_names_of_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:, :3], columns=["a", "b", "c"])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="Stochastic")
        model = MLPRegressor(max_iter=2, early_stopping=True).fit(frame, pandas.Series(Y))
        model.predict(frame)
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[["b", "a", "c"]])
