"""gradstep's steps inside scikit-learn's own MLP: the same losses, and put back afterwards."""

from __future__ import annotations

import io
import pickle
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import gradstep as gs
import joblib
import numpy as np
import pytest
from gradstep import _core
from gradstep.sklearn import accelerate_mlp, acceleration
from scipy.sparse import csr_array
from sklearn.datasets import load_digits, make_regression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network import _multilayer_perceptron as private

X, Y = load_digits(return_X_y=True)
X, Y = X[:300] / 16, Y[:300]
STOCK = (private.AdamOptimizer, private.SGDOptimizer)

SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, other betas": {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-4},
    "sgd": {"solver": "sgd"},
    "sgd, no momentum": {"solver": "sgd", "momentum": 0},
    "sgd, momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "sgd, invscaling": {"solver": "sgd", "learning_rate": "invscaling"},
    "sgd, adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0},
    "early stopping": {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 30},
    "lbfgs": {"solver": "lbfgs"},
}


@pytest.fixture(autouse=True)
def no_convergence_needed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    assert (private.AdamOptimizer, private.SGDOptimizer) == STOCK


def classifier(**keywords: Any) -> Any:
    return MLPClassifier((30, 20), **{"random_state": 0, "max_iter": 10, **keywords})


def accelerated() -> bool:
    return private.AdamOptimizer is acceleration.Adam and private.SGDOptimizer is acceleration.SGD


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_same_losses_to_rounding(settings: dict[str, Any], dtype: Any) -> None:
    x = X.astype(dtype)
    expected = classifier(**settings).fit(x, Y)
    with accelerate_mlp():
        found = classifier(**settings).fit(x, Y)
    rtol = 1e-9 if dtype is np.float64 else 1e-4
    assert found.n_iter_ == expected.n_iter_
    np.testing.assert_allclose(found.loss_, expected.loss_, rtol=rtol)
    for a, b in zip(found.coefs_, expected.coefs_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=10 * rtol)
    if settings.get("solver") != "lbfgs":
        assert isinstance(found._optimizer, acceleration._Native)
        np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_weights_of_rows_sparse_rows_and_targets(dtype: Any) -> None:
    """Whose gradients scikit-learn makes in other types and orders of memory."""
    x, y = make_regression(100, 6, n_targets=2, random_state=0)
    x = x.astype(dtype)
    for rows in (x, csr_array(x), np.asfortranarray(x)):
        expected = MLPRegressor(random_state=0, max_iter=5).fit(rows, y, abs(x[:, 0]))
        with accelerate_mlp():
            found = MLPRegressor(random_state=0, max_iter=5).fit(rows, y, abs(x[:, 0]))
        np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-5)


def test_put_back_on_error() -> None:
    with pytest.raises(ZeroDivisionError), accelerate_mlp():
        assert accelerated()
        raise ZeroDivisionError
    assert not accelerated()


def test_nested_and_as_a_decorator() -> None:
    @accelerate_mlp()
    def inside() -> bool:
        return accelerated()

    with accelerate_mlp():
        assert inside()
        assert accelerated()
    assert not accelerated()
    assert inside() and inside()


def test_overlapping_blocks_of_two_threads() -> None:
    entered, leave, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with accelerate_mlp():
            entered.set()
            assert leave.wait(10)
            seen.append(accelerated())
        seen.append(accelerated())

    thread = threading.Thread(target=other)
    with accelerate_mlp():
        thread.start()
        assert entered.wait(10)
    assert accelerated()  # the other block is open
    leave.set()
    thread.join()
    assert seen == [True, False]


def test_threads_of_blas_are_as_before() -> None:
    there = gs.use_blas_threads()
    gs.use_blas_threads(False)
    for before in (False, True):
        gs.use_blas_threads(before)
        with accelerate_mlp():
            assert _core.uses_blas_threads() == there
        assert _core.uses_blas_threads() == (before and there)
    gs.use_blas_threads(False)


def through_joblib(model: Any) -> Any:
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


@pytest.mark.parametrize("through", [lambda m: pickle.loads(pickle.dumps(m)), through_joblib])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_a_copy_goes_on_after_the_block(solver: str, through: Any) -> None:
    expected = classifier(solver=solver)
    with accelerate_mlp():
        model = classifier(solver=solver).partial_fit(X, Y, classes=range(10))
    copied = through(model)
    expected.partial_fit(X, Y, classes=range(10))
    for _ in range(3):
        for one in (model, copied, expected):
            one.partial_fit(X, Y)
    assert np.array_equal(copied.coefs_[0], model.coefs_[0])
    np.testing.assert_allclose(model.loss_curve_, expected.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda patch: patch.delattr(private, "SGDOptimizer"), "no class SGDOptimizer"),
        (
            lambda patch: patch.setattr(private, "AdamOptimizer", type("AdamOptimizer", (), {})),
            "AdamOptimizer takes ",
        ),
        (
            lambda patch: patch.setattr(STOCK[1].__base__, "iteration_ends", None),
            "AdamOptimizer has no iteration_ends",
        ),
    ],
)
def test_unknown_private_classes_are_left_alone_with_a_warning(
    change: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        change(patch)
        before = vars(private).copy()
        with (
            pytest.warns(RuntimeWarning, match=f"^accelerate_mlp: {message}.* fits are its own$"),
            accelerate_mlp(),
        ):
            assert vars(private) == before
