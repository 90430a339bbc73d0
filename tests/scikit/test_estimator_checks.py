"""scikit-learn's own checks of estimators, all of them, in several configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from gradstep.sklearn import MLPClassifier, MLPRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

WEIGHTED = ("dense", "sparse")
TO_ROUNDING = (
    "compares predictions of two fits within 1e-7, which is the rounding of float32; "
    "the configurations in float64 pass it"
)
DROPPED = "masks and statistics of a batch depend on which rows are there, whatever they weigh"

CONFIGURATIONS: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, TO_ROUNDING),
    ({"dtype": "float64"}, ""),
    ({"dropout": 0.1, "batch_norm": True}, DROPPED),
    ({"optimizer": "adamw", "schedule": "cosine"}, TO_ROUNDING),
    ({"optimizer": "adamw", "schedule": "cosine", "dtype": "auto"}, ""),
    ({"layer_norm": True, "activation": "tanh", "n_threads": 1, "dtype": "auto"}, ""),
    ({"solver": "lbfgs", "dtype": "float64"}, ""),
)
ESTIMATORS = {
    estimator(max_iter=100, **keywords): reason
    for keywords, reason in CONFIGURATIONS
    for estimator in (MLPClassifier, MLPRegressor)
}


def expected_failures(estimator: Any) -> dict[str, str]:
    reason = ESTIMATORS[estimator]
    names = [f"check_sample_weight_equivalence_on_{kind}_data" for kind in WEIGHTED]
    return dict.fromkeys(names, reason) if reason else {}


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    list(ESTIMATORS)[:2], expected_failed_checks=expected_failures, xfail_strict=False
)
def test_estimator_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(
    list(ESTIMATORS)[2:], expected_failed_checks=expected_failures, xfail_strict=False
)
def test_estimator_checks_in_other_configurations(
    estimator: Any, check: Callable[[Any], None]
) -> None:
    check(estimator)
