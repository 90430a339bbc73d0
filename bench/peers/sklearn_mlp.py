"""scikit-learn's MLPClassifier as it is, gradstep's in its place, and gradstep's step in it.

All share BLAS and its threads. After a product of matrices OpenBLAS's threads look for more work
for some 25 ms, on the cores on which the step then runs; gradstep's fits take these threads.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any
from unittest.mock import patch

from ..fits import ACCELERATED, BOUND, STOCK, Fit, fitting, settings, stock
from ..work import Contender, Inputs, Ready, Work

REQUIRES = ("scikit-learn",)

STEP = "sklearn.neural_network._stochastic_optimizers.BaseOptimizer.update_params"


def contenders(work: Work) -> list[Contender]:
    """Stock, with gradstep, and what bounds a step in it."""
    if not isinstance(work, Fit):
        return []
    return [
        Contender(STOCK, stock),
        Contender("gradstep", estimator),
        Contender(ACCELERATED, accelerated),
        Contender(BOUND, without_steps, checked=False),
    ]


def estimator(work: Fit, inputs: Inputs) -> Ready:
    """gradstep.sklearn.MLPClassifier with the same arguments."""
    ours: Any = import_module("gradstep.sklearn").MLPClassifier
    make = partial(ours, dtype=work.dtype, **settings(work))
    return fitting(work, inputs, lambda model, x: model.fit(x, work.labels), make)


def accelerated(work: Fit, inputs: Inputs) -> Ready:
    """scikit-learn's own, inside accelerate_mlp."""
    accelerate_mlp: Any = import_module("gradstep.sklearn").accelerate_mlp

    def fit(classifier: Any, x: Any) -> Any:
        with accelerate_mlp():
            return classifier.fit(x, work.labels)

    return fitting(work, inputs, fit)


def without_steps(work: Fit, inputs: Inputs) -> Ready:
    """scikit-learn's own, whose optimizer does nothing."""

    def fit(classifier: Any, x: Any) -> Any:
        with patch(STEP, lambda optimizer, params, grads: None):
            return classifier.fit(x, work.labels)

    return fitting(work, inputs, fit)
