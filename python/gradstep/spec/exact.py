"""Activations, softmax and cross-entropy with `elementary` functions: the kernels' bits.

`activations` and `losses` take NumPy's exp and log instead: an independent check of how near the
kernels come to the true values, but not the same on every machine. What is exact there is not
written again here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gradstep.arrays import Array
from gradstep.spec import activations, dropout, losses, norm
from gradstep.spec.elementary import (
    NORMAL_END,
    at_least,
    at_most,
    constants,
    exp,
    exp_parts,
    expm1_positive,
    gelu_slope_below,
    log,
    normal_above,
    normal_tail,
    sigmoid,
    tanh,
    with_sign,
)
from gradstep.spec.fused import READS_X, column_sums
from gradstep.spec.sums import paired_sums_along, sum_along

__all__ = ["FUNCTIONS"]


def silu(x: Array) -> Array:
    """x sigmoid(x)."""
    e, f = exp_parts(-np.abs(x)), x.dtype.type
    finite = at_least(x, constants(x).exp_low)
    return np.asarray(np.where(x < 0, e.times(finite), x) / (e.value() + f(1)))


def silu_backward(dy: Array, x: Array) -> Array:
    """dy times the slope of `silu`."""
    one = x.dtype.type(1)
    e = exp_parts(-np.abs(x)).value()
    d = e + one
    finite = with_sign(at_most(np.abs(x), -constants(x).exp_low), x)
    return np.asarray(dy * ((np.where(x < 0, e, one) + finite * e / d) / d))


def gelu(x: Array, approximate: str = "none") -> Array:
    """x times the probability of a standard normal variable below x; "tanh": its approximation."""
    if approximate == "tanh":
        return _gelu_tanh(x)
    a, density, ratio = normal_tail(x)
    outside = density.times(a * ratio)
    tail = np.where(x < 0, -outside, x - outside)
    if x.dtype != np.float32:
        return tail
    inside = at_most(np.abs(x), NORMAL_END)
    y = at_least(x, 0) - inside * normal_above(inside)
    return np.where(np.abs(x) > np.float32(NORMAL_END), tail, y)


def gelu_backward(dy: Array, x: Array, approximate: str = "none") -> Array:
    """dy times the slope of `gelu`."""
    if approximate == "tanh":
        return _gelu_tanh_backward(dy, x)
    f = x.dtype.type
    a, density, ratio = normal_tail(x)
    e = density.value()
    above = e * ratio
    below = np.where(x < 0, above, f(1) - above)
    tail = dy * (below + with_sign(np.asarray(a * (e * f(0.398942280401432678))), x))
    if x.dtype != np.float32:
        return np.asarray(tail)
    slope = gelu_slope_below(at_most(np.abs(x), NORMAL_END))
    dx = dy * np.where(x < 0, slope, f(1) - slope)
    return np.where(np.abs(x) > f(NORMAL_END), tail, dx)


GELU_LINEAR = 1.59576912160573071
GELU_CUBIC = GELU_LINEAR * 0.044715


def _gelu_tanh(x: Array) -> Array:
    f = x.dtype.type
    a = at_most(np.abs(x), constants(x).tail_end)
    e = exp_parts(-(a * (f(GELU_LINEAR) + f(GELU_CUBIC) * (a * a))))
    return np.asarray(np.where(x < 0, -e.times(a), x) / (e.value() + f(1)))


def _gelu_tanh_backward(dy: Array, x: Array) -> Array:
    f = x.dtype.type
    a = at_most(np.abs(x), constants(x).tail_end)
    square = a * a
    e = exp_parts(-(a * (f(GELU_LINEAR) + f(GELU_CUBIC) * square))).value()
    d = e + f(1)
    slope = with_sign(np.asarray(a * (f(GELU_LINEAR) + f(3) * f(GELU_CUBIC) * square)), x)
    return np.asarray(dy * ((np.where(x < 0, e, f(1)) + slope * e / d) / d))


def selu(x: Array) -> Array:
    """Scaled exponential linear unit."""
    f = x.dtype.type
    m = expm1_positive(at_most(np.abs(x), 2 * constants(x).tanh_one))[0]
    below = with_sign(np.asarray(m / (m + f(1)) * f(activations.SELU_BELOW)), x)
    return np.where(x > 0, x * f(activations.SELU_ABOVE), below)


def mish(x: Array) -> Array:
    """x tanh(log(1 + exp(x)))."""
    f, parts = x.dtype.type, exp_parts(-np.abs(x))
    e, finite = parts.value(), at_least(x, constants(x).exp_low)
    above = np.where(x < 0, parts.times(finite * (e + f(2))), x * (e + e + f(1)))
    return np.asarray(above / _mish_below(x, e))


def mish_backward(dy: Array, x: Array) -> Array:
    """dy times the slope of `mish`."""
    f = x.dtype.type
    e = exp_parts(-np.abs(x)).value()
    d = _mish_below(x, e)
    above = np.where(x < 0, e * (e + f(2)), e + e + f(1))
    finite = with_sign(at_most(np.abs(x), -constants(x).exp_low), x)
    slope = np.where(x < 0, e, e * e) * (e + f(1)) * f(4)
    return np.asarray(dy * ((above + finite * slope / d) / d))


def _mish_below(x: Array, e: Array) -> Array:
    f = x.dtype.type
    return np.asarray(np.where(x < 0, e * (e + f(2)) + f(2), (e + e) * (e + f(1)) + f(1)))


def _largest(x: Array, axis: int) -> Array:
    return np.asarray(x.max(axis, keepdims=True))


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x) over its sum along an axis."""
    e = exp_parts(x - _largest(x, axis)).value()
    return np.asarray(e * (1 / paired_sums_along(e, axis)).astype(x.dtype))


def log_softmax(x: Array, axis: int = -1) -> Array:
    """The logarithm of `softmax`."""
    most = _largest(x, axis)
    e = exp_parts(x - most).value()
    return np.asarray(x - most - log(paired_sums_along(e, axis)).astype(x.dtype))


def log_softmax_backward(dy: Array, y: Array, axis: int = -1) -> Array:
    """The gradient of `log_softmax` from its result."""
    return np.asarray(dy - exp(y) * paired_sums_along(dy, axis).astype(y.dtype))


def cross_entropy(
    logits: Array, targets: Array, *, weight: Array, label_smoothing: float = 0.0
) -> tuple[float, Array]:
    """The mean loss of (rows, classes), and its gradient.

    targets: a class for each row, none to be ignored. weight: of the classes.
    """
    rows, classes = logits.shape
    of_target, at = weight.astype(np.float64)[targets], (np.arange(rows), targets)
    count = weight_sum = 0.0
    for number in of_target.tolist():
        count += number
    scale, share = 1 / count, label_smoothing / classes
    most = _largest(logits, 1)
    e = exp_parts(logits - most).value()
    total = paired_sums_along(e, 1)[:, 0]
    log_sum = log(total)
    kept = 1 - label_smoothing
    losses = kept * of_target * ((most[:, 0].astype(float) - logits[at].astype(float)) + log_sum)
    target_part = scale * (kept * of_target)
    if label_smoothing:
        for number in weight.astype(np.float64).tolist():
            weight_sum += number
        smooth = paired_sums_along((logits - most) * weight, 1)[:, 0]
        losses = losses + share * (weight_sum * log_sum - smooth)
    else:
        weight_sum = float(classes)
    factor = (target_part + scale * (share * weight_sum)) / total
    dlogits = e * factor.astype(logits.dtype)[:, None]
    if label_smoothing:
        dlogits = dlogits - (scale * share * weight.astype(np.float64)).astype(logits.dtype)
    dlogits[at] -= target_part.astype(logits.dtype)
    return float(sum_along(losses, 0)[0]) / count, np.asarray(dlogits)


def bias_activation(
    x: Array, bias: Array, activation: str, *, p: float, seed: int, offset: int
) -> Array:
    """Dropout of an activation of x + bias."""
    return dropout.dropout(FUNCTIONS[activation](x + bias), p, seed=seed, offset=offset)


def bias_activation_backward(
    dy: Array, saved: Array, activation: str, *, bias: Array, p: float, seed: int, offset: int
) -> tuple[Array, Array]:
    """The gradients of `bias_activation`, from its x: (dx, dbias)."""
    state = saved + bias
    if activation not in READS_X:
        state = FUNCTIONS[activation](state)
    dy = dropout.dropout(dy, p, seed=seed, offset=offset)
    dx: Array = FUNCTIONS[f"{activation}_backward"](dy, state)
    return dx, column_sums(dx)


def instance_norm(x: Array, weight: Array | None, bias: Array | None) -> tuple[Array, ...]:
    """Group norm with a group for each channel."""
    return norm.group_norm(x, x.shape[1], weight, bias)


def instance_norm_backward(dy: Array, x: Array, *rest: Array) -> tuple[Array, ...]:
    """The gradients of `instance_norm`."""
    weight, mean, invstd = rest
    return norm.group_norm_backward(dy, x, x.shape[1], weight, mean, invstd)


# Name of a function of `gradstep` -> its specification to the bit.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(activations, name) for name in activations.__all__ if name.islower()},
    **{name: getattr(norm, name) for name in norm.__all__},
    **{name: getattr(dropout, name) for name in dropout.__all__ if name.islower()},
    "mse": losses.mse,
    "dropout_backward": dropout.dropout,
    "drop_connect": dropout.dropout,
    "drop_connect_backward": dropout.dropout,
    "drop_path_backward": dropout.drop_path,
    "spatial_dropout_backward": dropout.spatial_dropout,
    **{
        function.__name__: function
        for function in (
            *(sigmoid, tanh, silu, silu_backward, gelu, gelu_backward, selu, mish, mish_backward),
            *(softmax, log_softmax, log_softmax_backward, cross_entropy),
            *(bias_activation, bias_activation_backward, instance_norm, instance_norm_backward),
        )
    },
}
