"""gradstep's steps inside scikit-learn's own MLP, for as long as a block lasts."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn.neural_network import _multilayer_perceptron as perceptron

from gradstep import runtime
from gradstep.arrays import Array
from gradstep.optim.optimizer import Optimizer
from gradstep.sklearn.solvers import Maker, adam, sgd

__all__ = ["SGD", "Adam", "accelerate_mlp"]

# Name in scikit-learn's module -> the arguments of its class that ours understand.
EXPECTED: dict[str, tuple[str, ...]] = {
    "AdamOptimizer": ("params", "learning_rate_init", "beta_1", "beta_2", "epsilon"),
    "SGDOptimizer": (
        "params",
        "learning_rate_init",
        "lr_schedule",
        "momentum",
        "nesterov",
        "power_t",
    ),
}
METHODS = ("update_params", "iteration_ends", "trigger_stopping")


class _Native:
    """Steps of a gradstep optimizer in place of scikit-learn's `update_params`.

    It is pickled as numbers and arrays, and follows parameters that were replaced: those of a
    model that was loaded are other arrays than the ones that its optimizer was loaded with.
    """

    _native: Optimizer | None = None
    _state: Mapping[str, Any] | None = None
    _params: Sequence[Array] = ()

    def _maker(self) -> Maker:
        raise NotImplementedError

    def update_params(self, params: Sequence[Array], grads: Sequence[Any]) -> None:
        """Takes a step. params, grads: lists of arrays of the same shapes."""
        optimizer = self._over(params)
        self._set_rate(optimizer)
        optimizer.step([_like(grad, param) for grad, param in zip(grads, params, strict=True)])

    def _set_rate(self, optimizer: Optimizer) -> None:
        """Takes over what scikit-learn made of the rate."""

    def _over(self, params: Sequence[Array]) -> Optimizer:
        held = self._native
        if held is not None and all(a is b for a, b in zip(self._params, params, strict=True)):
            return held
        state = self._state if held is None else held.state_dict()
        self._native = optimizer = self._maker()(list(params))
        self._params, self._state = list(params), None
        if state is not None:
            optimizer.load_state_dict(state)
        return optimizer

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        native: Optimizer | None = state.pop("_native", None)
        state.pop("_params", None)
        if native is not None:
            state["_state"] = native.state_dict()
        return state


def _like(grad: Any, param: Array) -> Array:
    """The gradient as the step takes it; a copy only where its type or order is another."""
    return np.asarray(grad, param.dtype, "C" if param.flags.c_contiguous else "F")


class Adam(_Native, perceptron.AdamOptimizer):
    """scikit-learn's AdamOptimizer with a native step."""

    def __init__(
        self,
        params: Sequence[Array],
        learning_rate_init: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__([], learning_rate_init, beta_1, beta_2, epsilon)
        self._over(params)

    def _maker(self) -> Maker:
        return adam(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)


class SGD(_Native, perceptron.SGDOptimizer):
    """scikit-learn's SGDOptimizer with a native step."""

    def __init__(
        self,
        params: Sequence[Array],
        learning_rate_init: float = 0.1,
        lr_schedule: str = "constant",
        momentum: float = 0.9,
        nesterov: bool = True,
        power_t: float = 0.5,
    ) -> None:
        super().__init__([], learning_rate_init, lr_schedule, momentum, nesterov, power_t)
        self._over(params)

    def _maker(self) -> Maker:
        return sgd(self.learning_rate, self.momentum, self.nesterov)

    def _set_rate(self, optimizer: Optimizer) -> None:
        group = optimizer.param_groups[0]
        if group["lr"] != self.learning_rate:
            group["lr"] = self.learning_rate


REPLACEMENTS: dict[str, type[Any]] = {"AdamOptimizer": Adam, "SGDOptimizer": SGD}


def _unexpected() -> str | None:
    """What of scikit-learn's private classes is not as ours expect it."""
    for name, wanted in EXPECTED.items():
        found = getattr(perceptron, name, None)
        if found is REPLACEMENTS[name]:
            continue
        if not isinstance(found, type):
            return f"no class {name}"
        arguments = tuple(inspect.signature(found).parameters)
        if arguments != wanted:
            return f"{name} takes {', '.join(arguments)}, expected {', '.join(wanted)}"
        for method in METHODS:
            if not callable(getattr(found, method, None)):
                return f"{name} has no {method}"
    return None


class _Blocks:
    """How many blocks are open, in all threads: the last one to end puts scikit-learn's back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._stock: dict[str, Any] = {}

    def enter(self) -> None:
        with self._lock:
            if self._open == 0:
                self._stock = {name: getattr(perceptron, name) for name in REPLACEMENTS}
                for name, ours in REPLACEMENTS.items():
                    setattr(perceptron, name, ours)
            self._open += 1

    def leave(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                for name, stock in self._stock.items():
                    setattr(perceptron, name, stock)


_blocks = _Blocks()


@contextmanager
def accelerate_mlp() -> Iterator[None]:
    """scikit-learn's MLPClassifier and MLPRegressor take gradstep's steps inside the block.

    Also a decorator. For solver="adam" and "sgd"; the losses are the same up to rounding. It holds
    for the whole process: for fits in its other threads, but not for those in processes of joblib.
    Blocks may be nested and overlap; when the last one ends, everything is as it was. A fit in the
    main thread lets steps compute on OpenBLAS's threads, see `gradstep.use_blas_threads`. Models
    fitted inside go on with these steps in `partial_fit`, and need gradstep to be unpickled.

    Where this version of scikit-learn has other private classes than expected, it warns with a
    RuntimeWarning, and fits are scikit-learn's own.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> with accelerate_mlp():
    ...     model = MLPClassifier((8,), learning_rate_init=0.05, tol=0.01, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.9
    True
    """
    problem = _unexpected()
    if problem is not None:
        warnings.warn(
            f"accelerate_mlp: {problem} in this scikit-learn; fits are its own",
            RuntimeWarning,
            stacklevel=3,
        )
        yield
        return
    _blocks.enter()
    try:
        if threading.current_thread() is threading.main_thread():
            with runtime.blas_threads():
                yield
        else:
            yield
    finally:
        _blocks.leave()
