"""The optimizers as a careful NumPy user writes them: in place, two buffers, nothing allocated.

In the formulas h holds the hyperparameters, t is the step (1, 2, ...), p the parameter, g its
gradient, x and y are buffers of the same shape, and the rest are the states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..steps import Step, zeroed
from ..work import Arrays, Contender, Inputs, Ready, Work

REQUIRES = ()

Array = NDArray[Any]
Hyper = Mapping[str, Any]


def sgd(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array) -> None:
    np.multiply(g, h["lr"], out=x)
    p -= x


def momentum(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, b: Array) -> None:
    b *= h["momentum"]
    b += g
    np.multiply(b, h["lr"], out=x)
    p -= x


def adagrad(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, s: Array) -> None:
    np.multiply(g, g, out=x)
    s += x
    np.sqrt(s, out=x)
    x += h["eps"]
    np.divide(g, x, out=x)
    x *= h["lr"] / (1 + (t - 1) * h["lr_decay"])
    p -= x


def average(a: Array, value: Array, beta: float, x: Array) -> None:
    """a = beta a + (1 - beta) value; x may be value."""
    np.multiply(value, 1 - beta, out=x)
    a *= beta
    a += x


def rmsprop(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, s: Array) -> None:
    np.multiply(g, g, out=x)
    average(s, x, h["alpha"], x)
    np.sqrt(s, out=x)
    x += h["eps"]
    np.divide(g, x, out=x)
    x *= h["lr"]
    p -= x


def adadelta(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, s: Array, u: Array) -> None:
    np.multiply(g, g, out=x)
    average(s, x, h["rho"], x)
    np.add(s, h["eps"], out=x)
    np.sqrt(x, out=x)
    np.add(u, h["eps"], out=y)
    np.sqrt(y, out=y)
    y /= x
    y *= g
    np.multiply(y, y, out=x)
    average(u, x, h["rho"], x)
    y *= h["lr"]
    p -= y


def moments(h: Hyper, g: Array, x: Array, m: Array, v: Array) -> None:
    average(m, g, h["betas"][0], x)
    np.multiply(g, g, out=x)
    average(v, x, h["betas"][1], x)


def denominator(h: Hyper, t: int, v: Array, x: Array) -> None:
    """x = sqrt(v) / sqrt(1 - beta2^t) + eps."""
    np.sqrt(v, out=x)
    x *= 1 / math.sqrt(1 - h["betas"][1] ** t)
    x += h["eps"]


def shrink(h: Hyper, p: Array) -> None:
    if h["weight_decay"] != 0:
        p *= 1 - h["lr"] * h["weight_decay"]


def adam(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, m: Array, v: Array) -> None:
    moments(h, g, x, m, v)
    denominator(h, t, v, x)
    np.divide(m, x, out=x)
    x *= h["lr"] / (1 - h["betas"][0] ** t)
    shrink(h, p)
    p -= x


def amsgrad(
    h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, m: Array, v: Array, largest: Array
) -> None:
    moments(h, g, x, m, v)
    np.maximum(largest, v, out=largest)
    denominator(h, t, largest, x)
    np.divide(m, x, out=x)
    x *= h["lr"] / (1 - h["betas"][0] ** t)
    shrink(h, p)
    p -= x


class NAdam:
    """Keeps the product of the momentum schedule, as a user would."""

    def __init__(self) -> None:
        self.t, self.product = 0, 1.0

    def __call__(
        self, h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, m: Array, v: Array
    ) -> None:
        beta1, psi = h["betas"][0], h["momentum_decay"]
        now = beta1 * (1 - 0.5 * 0.96 ** (t * psi))
        after = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * psi))
        if t != self.t:
            self.t, self.product = t, self.product * now
        moments(h, g, x, m, v)
        denominator(h, t, v, x)
        np.multiply(m, h["lr"] * after / (1 - self.product * after), out=y)
        y /= x
        p -= y
        np.multiply(g, h["lr"] * (1 - now) / (1 - self.product), out=y)
        y /= x
        p -= y


def adamax(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, m: Array, u: Array) -> None:
    average(m, g, h["betas"][0], x)
    np.abs(g, out=x)
    x += h["eps"]
    u *= h["betas"][1]
    np.maximum(u, x, out=u)
    np.divide(m, u, out=x)
    x *= h["lr"] / (1 - h["betas"][0] ** t)
    p -= x


def radam(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, m: Array, v: Array) -> None:
    beta1, beta2 = h["betas"]
    moments(h, g, x, m, v)
    last = 2 / (1 - beta2) - 1
    rho = last - 2 * t * beta2**t / (1 - beta2**t)
    rate = h["lr"] / (1 - beta1**t)
    if rho > 5:
        rate *= math.sqrt((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho))
        rate *= math.sqrt(1 - beta2**t)
        np.sqrt(v, out=x)
        x += h["eps"]
        np.divide(m, x, out=x)
        x *= rate
    else:
        np.multiply(m, rate, out=x)
    p -= x


def lion(h: Hyper, t: int, p: Array, g: Array, x: Array, y: Array, m: Array) -> None:
    beta1, beta2 = h["betas"]
    np.multiply(m, beta1, out=x)
    np.multiply(g, 1 - beta1, out=y)
    x += y
    np.sign(x, out=x)
    x *= h["lr"]
    shrink(h, p)
    p -= x
    average(m, g, beta2, x)


# By `Step.kernel`, what makes the formula for a new optimizer.
FORMULAS: dict[str, Callable[[], Callable[..., None]]] = {
    "SGD": lambda: sgd,
    "Momentum": lambda: momentum,
    "Adagrad": lambda: adagrad,
    "RMSprop": lambda: rmsprop,
    "Adadelta": lambda: adadelta,
    "Adam": lambda: adam,
    "AMSGrad": lambda: amsgrad,
    "NAdam": NAdam,
    "Adamax": lambda: adamax,
    "RAdam": lambda: radam,
    "Lion": lambda: lion,
}


def contenders(work: Work) -> list[Contender]:
    """The formulas above; none where weight decay adds to the gradient."""
    if not isinstance(work, Step) or work.kernel not in FORMULAS:
        return []
    if work.hyper["weight_decay"] != 0 and work.optimizer not in ("AdamW", "Lion"):
        return []
    return [Contender("NumPy in place", make)]


def make(work: Step, inputs: Inputs) -> Ready:
    """The buffers have the size of the largest tensor."""
    params, grads = work.parameters(inputs), inputs.arrays
    largest = max(p.size for p in params)
    buffers = [np.full(largest, 0, np.float32) for _ in range(2)]
    tensors: list[Arrays] = []
    for p, g in zip(params, grads, strict=True):
        scratch = [buffer[: p.size].reshape(p.shape) for buffer in buffers]
        tensors.append([p, g, *scratch, *(np.zeros_like(p) for _ in range(work.states))])
    hyper, formula, t = dict(work.hyper), FORMULAS[work.kernel](), 0

    def step() -> None:
        nonlocal t
        t += 1
        for arrays in tensors:
            formula(hyper, t, *arrays)

    def clipped() -> None:
        unscale = 1 / (work.loss_scale or 1.0)
        norm = unscale * math.sqrt(sum(float(np.dot(g.ravel(), g.ravel())) for g in grads))
        if math.isfinite(norm) or not work.skips_nonfinite:
            scale = unscale * min(1.0, (work.clip_norm or math.inf) / (norm + 1e-6))
            for g in grads:
                g *= scale
            step()
        zeroed(grads)

    return work.ready(step if work.clip_norm is None else clipped, params, grads)
