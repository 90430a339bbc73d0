"""Fused loops of the optimizers as one writes them for numba. Imported only where numba is.

p: parameters, g: gradients, then the states, all flat float32 arrays; the rest are float32 numbers,
so that nothing is computed in float64. `prange` is `range` unless compiled with parallel=True.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange


def sgd(p: Any, g: Any, lr: Any) -> None:
    for i in prange(p.size):
        p[i] -= lr * g[i]


def momentum(p: Any, g: Any, b: Any, lr: Any, beta: Any) -> None:
    for i in prange(p.size):
        x = beta * b[i] + g[i]
        b[i] = x
        p[i] -= lr * x


def adagrad(p: Any, g: Any, s: Any, lr: Any, eps: Any) -> None:
    for i in prange(p.size):
        x = s[i] + g[i] * g[i]
        s[i] = x
        p[i] -= lr * g[i] / (np.sqrt(x) + eps)


def rmsprop(p: Any, g: Any, s: Any, lr: Any, alpha: Any, rest: Any, eps: Any) -> None:
    for i in prange(p.size):
        x = alpha * s[i] + rest * g[i] * g[i]
        s[i] = x
        p[i] -= lr * g[i] / (np.sqrt(x) + eps)


def adadelta(p: Any, g: Any, s: Any, u: Any, lr: Any, rho: Any, rest: Any, eps: Any) -> None:
    for i in prange(p.size):
        x = rho * s[i] + rest * g[i] * g[i]
        change = np.sqrt(u[i] + eps) / np.sqrt(x + eps) * g[i]
        s[i] = x
        u[i] = rho * u[i] + rest * change * change
        p[i] -= lr * change


def adam(
    p: Any, g: Any, m: Any, v: Any, beta1: Any, rest1: Any, beta2: Any, rest2: Any,
    rate: Any, root: Any, eps: Any, shrink: Any,
) -> None:  # fmt: skip
    """rate: lr / (1 - beta1^t); root: 1 / sqrt(1 - beta2^t); shrink: 1 - lr weight_decay."""
    for i in prange(p.size):
        a = beta1 * m[i] + rest1 * g[i]
        b = beta2 * v[i] + rest2 * g[i] * g[i]
        m[i] = a
        v[i] = b
        p[i] = shrink * p[i] - rate * a / (np.sqrt(b) * root + eps)


def amsgrad(
    p: Any, g: Any, m: Any, v: Any, largest: Any, beta1: Any, rest1: Any, beta2: Any, rest2: Any,
    rate: Any, root: Any, eps: Any, shrink: Any,
) -> None:  # fmt: skip
    for i in prange(p.size):
        a = beta1 * m[i] + rest1 * g[i]
        b = beta2 * v[i] + rest2 * g[i] * g[i]
        c = max(largest[i], b)
        m[i] = a
        v[i] = b
        largest[i] = c
        p[i] = shrink * p[i] - rate * a / (np.sqrt(c) * root + eps)


def nadam(
    p: Any, g: Any, m: Any, v: Any, beta1: Any, rest1: Any, beta2: Any, rest2: Any,
    of_g: Any, of_m: Any, root: Any, eps: Any,
) -> None:  # fmt: skip
    """of_g, of_m: the rates of the gradient and of the first moment."""
    for i in prange(p.size):
        a = beta1 * m[i] + rest1 * g[i]
        b = beta2 * v[i] + rest2 * g[i] * g[i]
        m[i] = a
        v[i] = b
        p[i] -= (of_g * g[i] + of_m * a) / (np.sqrt(b) * root + eps)


def adamax(
    p: Any, g: Any, m: Any, u: Any, beta1: Any, rest1: Any, beta2: Any, rate: Any, eps: Any
) -> None:
    for i in prange(p.size):
        a = beta1 * m[i] + rest1 * g[i]
        b = max(beta2 * u[i], abs(g[i]) + eps)
        m[i] = a
        u[i] = b
        p[i] -= rate * a / b


def radam(
    p: Any, g: Any, m: Any, v: Any, beta1: Any, rest1: Any, beta2: Any, rest2: Any,
    plain: Any, rate: Any, eps: Any,
) -> None:  # fmt: skip
    """plain: the rate of the first moment alone; rate: of it over the root of the second."""
    for i in prange(p.size):
        a = beta1 * m[i] + rest1 * g[i]
        b = beta2 * v[i] + rest2 * g[i] * g[i]
        m[i] = a
        v[i] = b
        p[i] -= plain * a + rate * a / (np.sqrt(b) + eps)


def lion(
    p: Any, g: Any, m: Any, lr: Any, beta1: Any, rest1: Any, beta2: Any, rest2: Any, shrink: Any
) -> None:
    for i in prange(p.size):
        x = beta1 * m[i] + rest1 * g[i]
        m[i] = beta2 * m[i] + rest2 * g[i]
        p[i] = shrink * p[i] - lr * np.sign(x)


def scale(p: Any, factor: Any) -> None:
    for i in prange(p.size):
        p[i] *= factor


def squares(p: Any) -> Any:
    """The sum of squares."""
    total = 0.0
    for i in prange(p.size):
        total += p[i] * p[i]
    return total
