"""The optimizer of a fit, with the penalty and the learning rates of scikit-learn around it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from gradstep.arguments import choice, function, kind
from gradstep.arrays import Array
from gradstep.optim.gradients import global_norm
from gradstep.optim.optimizer import OPTIONS, Optimizer
from gradstep.optim.optimizers import OPTIMIZERS, SGD, Adam
from gradstep.sklearn.network import Network
from gradstep.train.loop import OPTIMIZER_NAMES, SCHEDULE_NAMES

__all__ = ["Solver", "adam", "optimizer_maker", "scheduled", "sgd"]

# Of params, a new optimizer.
Maker: TypeAlias = Callable[..., Optimizer]

SMALLEST_RATE = 1e-6  # where the adaptive rate of scikit-learn ends


def _uncorrected(epsilon: float, beta2: float, t: int) -> float:
    return epsilon / math.sqrt(1 - beta2**t)


def adam(lr: Any, beta_1: float, beta_2: float, epsilon: float, **options: Any) -> Maker:
    """scikit-learn's Adam, which adds epsilon before the second moment is corrected."""
    eps = partial(_uncorrected, epsilon, beta_2) if beta_2 else epsilon
    return partial(Adam, lr=lr, betas=(beta_1, beta_2), eps=eps, **options)


def sgd(lr: Any, momentum: float, nesterov: bool, **options: Any) -> Maker:
    """scikit-learn's SGD, whose momentum buffer holds the rate."""
    settings: dict[str, Any] = {"momentum": momentum, "nesterov": nesterov and momentum > 0}
    return partial(SGD, lr=lr, lr_in_momentum=True, **settings, **options)


class Penalty:
    """`alpha` / 2 times the squared weights, divided by the rows of a batch or their weights.

    Where weight decay of the optimizer is added to the gradient, it is part of that: no pass of
    its own. Where it shrinks the weights instead, it is added here.
    """

    def __init__(self, alpha: float, optimizer: Optimizer, weights: Sequence[Array]) -> None:
        self._alpha, self._weights = alpha, list(weights)
        self._group = optimizer.param_groups[0]
        self._decay = self._group["weight_decay"]
        self._inside = not (optimizer.decoupled(self._group) or callable(self._decay))
        self._total = math.nan
        if alpha and not self._inside:
            self._scratch = [np.empty_like(w) for w in self._weights]

    def add(self, grads: Sequence[Array], total: float) -> float:
        """Adds its gradient, now or in the step that follows; returns its loss."""
        if not self._alpha:
            return 0.0
        if not self._inside:
            for weight, grad, scratch in zip(self._weights, grads, self._scratch, strict=True):
                np.multiply(weight, weight.dtype.type(self._alpha / total), out=scratch)
                grad += scratch
        elif total != self._total:
            self._group["weight_decay"] = self._decay + self._alpha / total
            self._total = total
        return 0.5 * self._alpha * global_norm(self._weights) ** 2 / total

    def put_back(self) -> None:
        """Leaves the optimizer with the weight decay that it had."""
        if self._alpha and self._inside:
            self._group["weight_decay"] = self._decay
            self._total = math.nan


class Solver:
    """An optimizer bound to a network that is ready to train.

    rates: "constant", "invscaling" or "adaptive"; power_t: of the
    second. The weights are the first group, intercepts and the rest the second.
    """

    def __init__(
        self,
        network: Network,
        make: Maker,
        alpha: float,
        rates: str = "constant",
        power_t: float = 0.5,
    ) -> None:
        weights = {f"coefs.{i}": layer.weight for i, layer in enumerate(network.layers)}
        others = {
            f"{name}.{i}": array
            for i, layer in enumerate(network.layers)
            for name, array in zip(("intercepts", "norm_weights"), layer.params[1:], strict=False)
        }
        self.optimizer: Optimizer = make(
            [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        )
        self._rates, self._power_t = rates, power_t
        self._first_rate = self.optimizer.param_groups[0]["lr"]
        self._params = network.params
        self._penalty = Penalty(alpha, self.optimizer, list(weights.values()))
        self.attach(network)

    def attach(self, network: Network) -> None:
        """Binds the gradients of a network that holds the same parameters."""
        self._weight_grads = [layer.grads[0] for layer in network.layers]
        rest = [grad for layer in network.layers for grad in layer.grads[1:]]
        names = [group["params"] for group in self.optimizer.param_groups]
        self.optimizer.bind(
            [
                dict(zip(names[0], self._weight_grads, strict=True)),
                dict(zip(names[1], rest, strict=True)),
            ]
        )
        self.last_rate: float = math.nan

    def holds(self, network: Network) -> bool:
        """Whether these are the arrays that it updates."""
        params = network.params
        return len(params) == len(self._params) and all(map(operator.is_, params, self._params))

    def step(self, total: float) -> float:
        """Takes a step after `Network.backward`; returns the loss of the penalty."""
        penalty = self._penalty.add(self._weight_grads, total)
        self.last_rate = self.optimizer.step().lr
        return penalty

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from: arrays, numbers and names."""
        self._penalty.put_back()
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.optimizer.load_state_dict(state)

    @property
    def learning_rate(self) -> float:
        """The rate of the next step."""
        rate = self.optimizer.param_groups[0]["lr"]
        return float(rate(self.optimizer.step_count + 1) if callable(rate) else rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def epoch_ends(self, rows: int) -> None:
        """rows: that were trained on so far, which the rate "invscaling" depends on."""
        if self._rates == "invscaling":
            self.learning_rate = float(self._first_rate) / (rows + 1) ** self._power_t

    def lower_rate(self) -> float | None:
        """The rate from now on, where there is no improvement; None: it is time to stop."""
        if self._rates != "adaptive" or self.learning_rate <= SMALLEST_RATE:
            return None
        self.learning_rate /= 5.0
        return self.learning_rate


def optimizer_maker(given: Any, lr: float, options: Mapping[str, Any]) -> Maker:
    """A function of params that makes the optimizer which the argument `optimizer` means.

    given: a name, a class, a `functools.partial` or another function of params, or an optimizer
    over whatever parameters, whose hyperparameters are taken. lr: for those that have none of
    their own. options: more keywords, which come first. Raises TypeError or ValueError.
    """
    keywords = dict(options)
    if isinstance(given, Optimizer):
        return partial(_like, given, keywords)
    if isinstance(given, str):
        name = given.lower()
        choice("optimizer", name, OPTIMIZER_NAMES)
        class_name, preset = OPTIMIZER_NAMES[name]
        return partial(OPTIMIZERS[class_name], **{"lr": lr, **preset, **keywords})
    if not callable(given):
        expected = "a name, an optimizer, its class or a function of params"
        raise TypeError(f"optimizer: {kind(given)}, expected {expected}")
    own = given.keywords if isinstance(given, partial) else {}
    if isinstance(given, (type, partial)) and "lr" not in own:
        keywords.setdefault("lr", lr)
    return partial(_made, given, keywords)


def _made(make: Callable[..., Any], keywords: Mapping[str, Any], params: Any) -> Optimizer:
    optimizer = make(params, **keywords)
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: a function of params gave {kind(optimizer)}")
    return optimizer


def _like(other: Optimizer, keywords: Mapping[str, Any], params: Any) -> Optimizer:
    first = other.param_groups[0]
    hyper = {key: value for key, value in first.items() if key != "params"}
    options = {option: getattr(other, option) for option in OPTIONS}
    make: Maker = type(other)
    return make(params, **{**hyper, **options, **keywords})


def scheduled(schedule: Any, lr: float, steps: int, epoch_steps: int) -> Any:
    """The rate as a function of the step. schedule: a name, a schedule, or a function of the step.

    lr: what those with a name start from. steps, epoch_steps: of the training and of an epoch.
    """
    if isinstance(schedule, str):
        name = schedule.replace("_", "-")
        choice("schedule", name, SCHEDULE_NAMES)
        return SCHEDULE_NAMES[name](lr, steps, epoch_steps)
    return function("schedule", schedule, "of the step, or a name")
