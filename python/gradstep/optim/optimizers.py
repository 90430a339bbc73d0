"""The optimizers, simplest first: hyperparameters, state and NumPy specification of each.

Names, arguments and defaults are those of `torch.optim`. To add one, write its functor in
`cpp/isa/optim/optimizers.hpp` and its class here; tests, benchmarks and documents enumerate
`OPTIMIZERS`. Every class takes the keywords of `Optimizer` too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gradstep.arrays import Array
from gradstep.optim.hyperparameters import Number
from gradstep.optim.optimizer import Optimizer
from gradstep.spec.optim import (
    Round,
    Scalars,
    clamp,
    denominator,
    maximum,
    moments,
    power,
    shrunk,
    sign,
)

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
]

OPTIMIZERS: dict[str, type[Optimizer]] = {}

COMMON = """
    Common keywords
    ---------------
    maximize: bool
        Ascend instead of descend.
    l1: number >= 0
        Adds l1 * sign(p) to the gradient.
    clip_norm: number > 0 or None
        Scales all gradients so that their global L2 norm is at most this.
    clip_value: number > 0 or None
        Limits each element of the gradient to [-clip_value, clip_value].
    grad_scale: number
        Multiplies the gradients first (1 / loss scale).
    on_nonfinite: "apply", "skip" or "raise"
        What to do with gradients that are not finite; the last two write nothing.

    `params` is an array, a sequence, a mapping (nested if you like), or a list of groups
    `{"params": ..., "lr": ...}`: float32 or float64, contiguous, updated in place. Numbers may be
    functions of the step 1, 2, .... Raises TypeError or ValueError for anything else.
"""


def register(cls: type[Optimizer]) -> type[Optimizer]:
    """Enters the class in OPTIMIZERS and completes its documentation."""
    OPTIMIZERS[cls.__name__] = cls
    cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n{COMMON}"
    return cls


@register
@dataclass(eq=False, repr=False)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's look-ahead.

    Robbins & Monro 1951; Polyak 1964; Nesterov 1983 in the form of Sutskever et al. 2013:
    b = momentum b + (1 - dampening) g; p -= lr b. The first buffer is the first gradient.
    `dampening=momentum` gives the exponentially weighted form b = β b + (1-β) g. With
    `lr_in_momentum` the rate is inside the buffer, b = momentum b + lr g; p -= b, as in Keras:
    the same for a constant rate, smoother where the rate changes.

    >>> import numpy as np, gradstep as gs
    >>> w = np.array([1.0, 2.0])
    >>> gs.SGD(w, lr=0.5).step(np.array([1.0, -1.0])).step
    1
    >>> w
    array([0.5, 2.5])
    """

    KERNELS: ClassVar = {
        "SGD": (),
        "Momentum": ("momentum_buffer",),
        "Nesterov": ("momentum_buffer",),
    }

    lr: Number = 1e-3
    momentum: Number = 0.0
    dampening: Number = 0.0
    weight_decay: Number = 0.0
    nesterov: bool = False
    lr_in_momentum: bool = False
    decoupled_weight_decay: bool = False

    @classmethod
    def kernel(cls, group: Mapping[str, Any]) -> str:
        if group["momentum"] == 0:
            if group["nesterov"]:
                raise ValueError("nesterov: True, expected a momentum > 0 with it")
            return "SGD"
        if not group["nesterov"]:
            return "Momentum"
        if group["dampening"] != 0:
            raise ValueError(f"dampening: {group['dampening']}, expected 0 with nesterov")
        return "Nesterov"

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        if not state:
            return (shrunk(f, h, p) - f(h["lr"]) * g,)
        (b,) = state
        mu = f(h["momentum"])
        inside = h["lr_in_momentum"] != 0
        rate = f(1 if inside else h["lr"])
        if h["nesterov"]:
            g = f(h["lr"] if inside else 1) * g
            b = mu * b + g
            return shrunk(f, h, p) - rate * (g + mu * b), b
        keep = f((1 if t == 1 else 1 - h["dampening"]) * (h["lr"] if inside else 1))
        b = mu * b + keep * g
        return shrunk(f, h, p) - rate * b, b


@register
@dataclass(eq=False, repr=False)
class Adagrad(Optimizer):
    """Adagrad: steps divided by the root of all squared gradients so far.

    Duchi, Hazan & Singer 2011: s += g²; p -= lr / (1 + (t-1) lr_decay) g / (√s + eps).

    >>> import numpy as np, gradstep as gs
    >>> w = np.array([1.0])
    >>> _ = gs.Adagrad(w, lr=0.5).step(np.array([4.0]))
    >>> w.round(6)
    array([0.5])
    """

    KERNELS: ClassVar = {"Adagrad": ("sum",)}

    lr: Number = 1e-2
    lr_decay: Number = 0.0
    weight_decay: Number = 0.0
    initial_accumulator_value: float = 0.0
    eps: Number = 1e-10
    decoupled_weight_decay: bool = False

    @classmethod
    def initial_state(cls, name: str, group: Mapping[str, Any]) -> float:
        return float(group["initial_accumulator_value"])

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        (s,) = state
        rate = f(h["lr"] / (1 + float(t - 1) * h["lr_decay"]))
        s = s + g * g
        return shrunk(f, h, p) - rate * (g / (np.sqrt(s) + f(h["eps"]))), s


@register
@dataclass(eq=False, repr=False)
class RMSprop(Optimizer):
    """RMSprop: steps divided by the root of a moving average of squared gradients.

    Hinton 2012; `centered` divides by the standard deviation instead (Graves 2013);
    `momentum` averages the divided gradient: s = α s + (1-α) g²; p -= lr g / (√s + eps).

    >>> import numpy as np, gradstep as gs
    >>> w = np.array([1.0])
    >>> _ = gs.RMSprop(w, lr=0.1, alpha=0.75).step(np.array([2.0]))
    >>> w.round(6)
    array([0.8])
    """

    KERNELS: ClassVar = {
        "RMSprop": ("square_avg",),
        "RMSpropMomentum": ("square_avg", "momentum_buffer"),
        "CenteredRMSprop": ("square_avg", "grad_avg"),
        "CenteredRMSpropMomentum": ("square_avg", "grad_avg", "momentum_buffer"),
    }

    lr: Number = 1e-2
    alpha: Number = 0.99
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    momentum: Number = 0.0
    centered: bool = False
    decoupled_weight_decay: bool = False

    @classmethod
    def kernel(cls, group: Mapping[str, Any]) -> str:
        centered = "Centered" if group["centered"] else ""
        return f"{centered}RMSprop{'' if group['momentum'] == 0 else 'Momentum'}"

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        alpha, rest = f(h["alpha"]), f(1 - h["alpha"])
        averages = [alpha * state[0] + rest * (g * g)]
        variance = averages[0]
        if h["centered"]:
            averages.append(alpha * state[1] + rest * g)
            mean_square = clamp(averages[1] * averages[1], np.finfo(g.dtype).max)
            variance = maximum(variance - mean_square, np.zeros_like(g))
        step = g / (np.sqrt(variance) + f(h["eps"]))
        if len(state) > len(averages):
            step = f(h["momentum"]) * state[-1] + step
            averages.append(step)
        return shrunk(f, h, p) - f(h["lr"]) * step, *averages


@register
@dataclass(eq=False, repr=False)
class Adadelta(Optimizer):
    """Adadelta: steps in the units of the parameter, so that no rate is needed.

    Zeiler 2012 (arXiv:1212.5701): s = ρ s + (1-ρ) g²; δ = √(u + eps) / √(s + eps) g;
    u = ρ u + (1-ρ) δ²; p -= lr δ.

    >>> import numpy as np, gradstep as gs
    >>> w = np.array([1.0])
    >>> _ = gs.Adadelta(w).step(np.array([2.0]))
    >>> bool(w[0] < 1)
    True
    """

    KERNELS: ClassVar = {"Adadelta": ("square_avg", "acc_delta")}

    lr: Number = 1.0
    rho: Number = 0.9
    eps: Number = 1e-6
    weight_decay: Number = 0.0
    decoupled_weight_decay: bool = False

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        s, u = state
        rho, rest, eps = f(h["rho"]), f(1 - h["rho"]), f(h["eps"])
        s = rho * s + rest * (g * g)
        delta = np.sqrt(u + eps) / np.sqrt(s + eps) * g
        u = rho * u + rest * (delta * delta)
        return shrunk(f, h, p) - f(h["lr"]) * delta, s, u


@register
@dataclass(eq=False, repr=False)
class Adam(Optimizer):
    """Adam: both moments of the gradient, corrected for their start at zero.

    Kingma & Ba 2015 (arXiv:1412.6980): m = β₁ m + (1-β₁) g; v = β₂ v + (1-β₂) g²;
    p -= lr / (1-β₁ᵗ) m / (√v / √(1-β₂ᵗ) + eps). `amsgrad` takes the largest v so far (Reddi
    et al. 2018). weight_decay adds to the gradient (L2), unless `decoupled_weight_decay`.

    >>> import numpy as np, gradstep as gs
    >>> w = {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    >>> opt = gs.Adam(w, lr=0.1, clip_norm=1.0)
    >>> info = opt.step({"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)})
    >>> info.grad_norm, w["weight"][0].round(4)
    (2.0, array([0.9, 0.9], dtype=float32))
    """

    KERNELS: ClassVar = {
        "Adam": ("exp_avg", "exp_avg_sq"),
        "AMSGrad": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    }

    lr: Number = 1e-3
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    amsgrad: bool = False
    decoupled_weight_decay: bool = False

    @classmethod
    def kernel(cls, group: Mapping[str, Any]) -> str:
        return "AMSGrad" if group["amsgrad"] else "Adam"

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        m, v = moments(f, h, g, state[0], state[1])
        largest = [maximum(state[2], v)] if len(state) > 2 else []
        rate = f(h["lr"] / (1 - power(h["beta1"], t)))
        p = shrunk(f, h, p) - rate * (m / denominator(f, h, t, largest[0] if largest else v))
        return p, m, v, *largest


@register
@dataclass(eq=False, repr=False)
class AdamW(Adam):
    """AdamW: Adam whose weight decay shrinks the parameter and stays out of the moments.

    Loshchilov & Hutter 2019 (arXiv:1711.05101): p *= 1 - lr weight_decay, then Adam.

    >>> import numpy as np, gradstep as gs
    >>> w = np.ones(3, np.float32)
    >>> opt = gs.AdamW(w, lr=gs.warmup(10, gs.cosine(0.1, 100)), weight_decay=0.1)
    >>> opt.step(np.zeros(3, np.float32)).skipped
    False
    >>> bool((w < 1).all())
    True
    """

    weight_decay: Number = 1e-2
    decoupled_weight_decay: bool = True


@register
@dataclass(eq=False, repr=False)
class NAdam(Optimizer):
    """NAdam: Adam with Nesterov's look-ahead.

    Dozat 2016, with μₜ = β₁ (1 - 0.96^(t momentum_decay) / 2) and Πₜ = μ₁ ... μₜ:
    p -= [lr (1-μₜ)/(1-Πₜ) g + lr μₜ₊₁/(1-Πₜ₊₁) m] / (√v / √(1-β₂ᵗ) + eps). Πₜ is that of the
    present β₁ and momentum_decay, so it needs no state.

    >>> import numpy as np, gradstep as gs
    >>> w = np.array([1.0])
    >>> _ = gs.NAdam(w, lr=0.1).step(np.array([2.0]))
    >>> bool(w[0] < 1)
    True
    """

    KERNELS: ClassVar = {"NAdam": ("exp_avg", "exp_avg_sq")}

    lr: Number = 2e-3
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    momentum_decay: Number = 4e-3
    decoupled_weight_decay: bool = False

    @staticmethod
    def schedule(beta1: float, psi: float, t: int) -> tuple[float, float, float]:
        """μₜ, μₜ₊₁ and Πₜ, without libm: see NesterovSchedule in optimizers.hpp."""
        x = psi * -0.040821994520255166  # log 0.96
        base = term = 1.0
        for i in range(1, 41):
            term = term * x / i
            base += term
        decay = product = 1.0
        i = 0
        while i < t and product > 2.0**-60 and decay > 2.0**-54:
            i += 1
            decay *= base
            product *= beta1 * (1 - 0.5 * decay)
        product *= power(beta1, t - i)
        product = 0.0 if product <= 2.0**-60 else product
        now = beta1 * (1 - 0.5 * power(base, t))
        return now, beta1 * (1 - 0.5 * power(base, t + 1)), product

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        m, v = moments(f, h, g, state[0], state[1])
        now, after, product = NAdam.schedule(h["beta1"], h["momentum_decay"], t)
        gradient_rate = f(h["lr"] * (1 - now) / (1 - product))
        moment_rate = f(h["lr"] * after / (1 - product * after))
        step = (gradient_rate * g + moment_rate * m) / denominator(f, h, t, v)
        return shrunk(f, h, p) - step, m, v


@register
@dataclass(eq=False, repr=False)
class Adamax(Optimizer):
    """Adamax: Adam with the largest recent gradient in place of the second moment.

    Kingma & Ba 2015, section 7.1: u = max(β₂ u, |g| + eps); p -= lr / (1-β₁ᵗ) m / u.

    >>> import numpy as np, gradstep as gs
    >>> w = np.array([1.0])
    >>> _ = gs.Adamax(w, lr=0.1).step(np.array([2.0]))
    >>> w.round(6)
    array([0.9])
    """

    KERNELS: ClassVar = {"Adamax": ("exp_avg", "exp_inf")}

    lr: Number = 2e-3
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    decoupled_weight_decay: bool = False

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        m, u = state
        m = f(h["beta1"]) * m + f(1 - h["beta1"]) * g
        u = maximum(f(h["beta2"]) * u, np.abs(g) + f(h["eps"]))
        rate = f(h["lr"] / (1 - power(h["beta1"], t)))
        return shrunk(f, h, p) - rate * (m / u), m, u


@register
@dataclass(eq=False, repr=False)
class RAdam(Optimizer):
    """RAdam: Adam with the variance of its early steps rectified.

    Liu et al. 2020 (arXiv:1908.03265): plain momentum while ρₜ ≤ 5, then Adam times
    √((ρₜ-4)(ρₜ-2)ρ∞ / ((ρ∞-4)(ρ∞-2)ρₜ)).

    >>> import numpy as np, gradstep as gs
    >>> w = np.array([1.0])
    >>> _ = gs.RAdam(w, lr=0.1).step(np.array([2.0]))
    >>> w.round(6)
    array([0.8])
    """

    KERNELS: ClassVar = {"RAdam": ("exp_avg", "exp_avg_sq")}

    lr: Number = 1e-3
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    decoupled_weight_decay: bool = False

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        m, v = moments(f, h, g, state[0], state[1])
        power2 = power(h["beta2"], t)
        rho_inf = 2 / (1 - h["beta2"]) - 1
        rho = rho_inf - 2 * float(t) * power2 / (1 - power2)
        rate = h["lr"] / (1 - power(h["beta1"], t))
        step = m
        if rho > 5:
            rectification = math.sqrt(
                (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
            )
            rate *= rectification * math.sqrt(1 - power2)
            step = m / (np.sqrt(v) + f(h["eps"]))
        return shrunk(f, h, p) - f(rate) * step, m, v


@register
@dataclass(eq=False, repr=False)
class Lion(Optimizer):
    """Lion: the sign of an interpolated momentum; one state array.

    Chen et al. 2023 (arXiv:2302.06675): p *= 1 - lr weight_decay;
    p -= lr sign(β₁ m + (1-β₁) g); m = β₂ m + (1-β₂) g; sign(0) = 0.

    >>> import numpy as np, gradstep as gs
    >>> w = np.array([1.0, 1.0])
    >>> _ = gs.Lion(w, lr=0.25).step(np.array([1e-9, 0.0]))
    >>> w
    array([0.75, 1.  ])
    """

    KERNELS: ClassVar = {"Lion": ("exp_avg",)}

    lr: Number = 1e-4
    betas: tuple[Number, Number] = (0.9, 0.99)
    weight_decay: Number = 0.0

    @classmethod
    def decoupled(cls, group: Mapping[str, Any]) -> bool:
        return True

    @staticmethod
    def formula(
        f: Round, h: Scalars, t: int, p: Array, g: Array, *state: Array
    ) -> tuple[Array, ...]:
        (m,) = state
        mixed = f(h["beta1"]) * m + f(1 - h["beta1"]) * g
        p = shrunk(f, h, p) - f(h["lr"]) * sign(mixed)
        return p, f(h["beta2"]) * m + f(1 - h["beta2"]) * g
