"""scikit-learn's MLPClassifier as it is, and with nothing but its Adam replaced by gradstep's.

Both share BLAS and its threads. After a product of matrices OpenBLAS's threads look for more work
for some 25 ms, on the cores on which the step then runs, unless OPENBLAS_THREAD_TIMEOUT (say 14)
was set when Python started.
"""

from __future__ import annotations

import math
from functools import cache, partial
from importlib import import_module
from typing import Any
from unittest.mock import patch

import gradstep as gs

from ..fits import Fit, fitting, stock
from ..work import Contender, Inputs, Ready, Work

REQUIRES = ("scikit-learn",)

MODULE = "sklearn.neural_network._multilayer_perceptron"


def contenders(work: Work) -> list[Contender]:
    """Stock, and the same with gradstep."""
    if not isinstance(work, Fit):
        return []
    return [Contender("scikit-learn", stock), Contender("gradstep", replaced)]


def replaced(work: Fit, inputs: Inputs) -> Ready:
    def fit(classifier: Any, x: Any) -> Any:
        with patch(f"{MODULE}.AdamOptimizer", adam()):
            return classifier.fit(x, work.labels)

    return fitting(work, inputs, fit)


@cache
def adam() -> type[Any]:
    """A class that scikit-learn takes for its own."""
    base: Any = import_module("sklearn.neural_network._stochastic_optimizers").BaseOptimizer

    class Adam(base):  # type: ignore[misc]
        def __init__(
            self, params: Any, lr: float, beta1: float, beta2: float, epsilon: float
        ) -> None:
            super().__init__(lr)
            # scikit-learn adds epsilon before the correction of the second moment, gradstep after.
            eps = partial(corrected, epsilon, beta2)
            self.optimizer = gs.Adam(params, lr, (beta1, beta2), eps)

        def update_params(self, params: Any, grads: Any) -> None:
            self.optimizer.step(grads)

    return Adam


def corrected(epsilon: float, beta2: float, t: int) -> float:
    return epsilon / math.sqrt(1 - beta2**t)
