"""Layers as a careful NumPy user writes them: results in place, nothing allocated that is large.

Every function below gets the work, the input arrays by name and the result y (or dx), and returns
the call to be timed, which puts its results into y and returns them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..layers import ARGUMENTS, DRAWN_AXES, SEED, Layer, drawn_by_itself
from ..steps import feed
from ..work import Arrays, Contender, Inputs, Ready, Work

REQUIRES = ()

Array = NDArray[Any]
Values = dict[str, Any]
Call = Callable[[], Any]
Formulas = dict[str, Callable[[Any, Values, Any], Call]]
SATURATION = -1.7580993408473766  # -lambda alpha of SELU
GELU = (2 / np.pi) ** 0.5


def random_mask(work: Layer) -> tuple[Array, Callable[[], Array]]:
    """A mask that broadcasts against the arrays of the work, and what draws it anew."""
    count = DRAWN_AXES.get(work.forward, len(work.shape))
    shape = (*work.shape[:count], *[1] * (len(work.shape) - count))
    generator = np.random.Generator(np.random.SFC64(SEED))
    numbers, mask = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)

    def draw() -> Array:
        generator.random(out=numbers, dtype=np.float32)
        return np.greater_equal(numbers, work.p, out=mask)

    return draw(), draw


def dropout(work: Layer, v: Values, y: Array) -> Call:
    _, draw = random_mask(work)

    def run() -> Any:
        np.multiply(v["x"], draw(), out=y)
        return np.multiply(y, 1 / (1 - work.p), out=y)

    return run


def dropout_backward(work: Layer, v: Values, dx: Array) -> Call:
    mask, _ = random_mask(work)

    def run() -> Any:
        np.multiply(v["dy"], mask, out=dx)
        return np.multiply(dx, 1 / (1 - work.p), out=dx)

    return run


def alpha_scale(work: Layer) -> float:
    q = 1 - work.p
    return float((q + SATURATION**2 * q * work.p) ** -0.5)


def alpha_dropout(work: Layer, v: Values, y: Array) -> Call:
    _, draw = random_mask(work)
    scale, dropped = alpha_scale(work), np.zeros(y.shape, np.bool_)
    shift = -scale * work.p * SATURATION

    def run() -> Any:
        np.multiply(v["x"], scale, out=y)
        np.add(y, shift, out=y)
        np.copyto(y, scale * SATURATION + shift, where=np.logical_not(draw(), out=dropped))
        return y

    return run


def alpha_dropout_backward(work: Layer, v: Values, dx: Array) -> Call:
    mask, _ = random_mask(work)
    scale = alpha_scale(work)

    def run() -> Any:
        np.multiply(v["dy"], mask, out=dx)
        return np.multiply(dx, scale, out=dx)

    return run


def dropout_mask(work: Layer, v: Values, y: Array) -> Call:
    draw = random_mask(work)[1]
    return lambda: draw()


def relu(work: Layer, v: Values, y: Array) -> Call:
    return lambda: np.maximum(v["x"], 0, out=y)


def relu_backward(work: Layer, v: Values, dx: Array) -> Call:
    positive = np.zeros(dx.shape, np.bool_)

    def run() -> Any:
        np.greater(v["y"], 0, out=positive)
        return np.multiply(v["dy"], positive, out=dx)

    return run


def leaky_relu(work: Layer, v: Values, y: Array) -> Call:
    def run() -> Any:
        np.multiply(v["x"], 0.01, out=y)
        return np.maximum(v["x"], y, out=y)

    return run


def leaky_relu_backward(work: Layer, v: Values, dx: Array) -> Call:
    positive = np.zeros(dx.shape, np.bool_)

    def run() -> Any:
        np.greater(v["y"], 0, out=positive)
        np.multiply(v["dy"], 0.01, out=dx)
        np.copyto(dx, v["dy"], where=positive)
        return dx

    return run


def logistic(x: Array, y: Array) -> Array:
    np.negative(x, out=y)
    np.exp(y, out=y)
    np.add(y, 1, out=y)
    return np.reciprocal(y, out=y)


def sigmoid(work: Layer, v: Values, y: Array) -> Call:
    return lambda: logistic(v["x"], y)


def sigmoid_backward(work: Layer, v: Values, dx: Array) -> Call:
    def run() -> Any:
        np.subtract(1, v["y"], out=dx)
        np.multiply(dx, v["y"], out=dx)
        return np.multiply(dx, v["dy"], out=dx)

    return run


def tanh(work: Layer, v: Values, y: Array) -> Call:
    return lambda: np.tanh(v["x"], out=y)


def tanh_backward(work: Layer, v: Values, dx: Array) -> Call:
    def run() -> Any:
        np.multiply(v["y"], v["y"], out=dx)
        np.subtract(1, dx, out=dx)
        return np.multiply(dx, v["dy"], out=dx)

    return run


def silu(work: Layer, v: Values, y: Array) -> Call:
    return lambda: np.multiply(logistic(v["x"], y), v["x"], out=y)


def silu_backward(work: Layer, v: Values, dx: Array) -> Call:
    s = np.zeros_like(dx)

    def run() -> Any:
        logistic(v["x"], s)
        np.subtract(1, s, out=dx)
        np.multiply(dx, v["x"], out=dx)
        np.add(dx, 1, out=dx)
        np.multiply(dx, s, out=dx)
        return np.multiply(dx, v["dy"], out=dx)

    return run


SELU_ABOVE, SELU_BELOW = 1.0507009873554805, 1.7580993408473769


def selu(work: Layer, v: Values, y: Array) -> Call:
    above = np.zeros_like(y)

    def run() -> Any:
        np.maximum(v["x"], 0, out=above)
        np.multiply(above, SELU_ABOVE, out=above)
        np.minimum(v["x"], 0, out=y)
        np.expm1(y, out=y)
        np.multiply(y, SELU_BELOW, out=y)
        return np.add(y, above, out=y)

    return run


def selu_backward(work: Layer, v: Values, dx: Array) -> Call:
    above = np.zeros(dx.shape, bool)

    def run() -> Any:
        np.greater(v["y"], 0, out=above)
        np.add(v["y"], SELU_BELOW, out=dx)
        np.copyto(dx, SELU_ABOVE, where=above)
        return np.multiply(dx, v["dy"], out=dx)

    return run


def mish(work: Layer, v: Values, y: Array) -> Call:
    def run() -> Any:
        np.logaddexp(v["x"], 0, out=y)
        np.tanh(y, out=y)
        return np.multiply(y, v["x"], out=y)

    return run


def mish_backward(work: Layer, v: Values, dx: Array) -> Call:
    """With t the tanh and s the sigmoid: (t + x (1 - t²) s) · dy."""
    s, t = np.zeros_like(dx), np.zeros_like(dx)

    def run() -> Any:
        logistic(v["x"], s)
        np.multiply(s, v["x"], out=s)
        np.logaddexp(v["x"], 0, out=t)
        np.tanh(t, out=t)
        np.multiply(t, t, out=dx)
        np.subtract(1, dx, out=dx)
        np.multiply(dx, s, out=dx)
        np.add(dx, t, out=dx)
        return np.multiply(dx, v["dy"], out=dx)

    return run


def gelu(work: Layer, v: Values, y: Array) -> Call:
    """The form with tanh: NumPy has no erf."""

    def run() -> Any:
        x = v["x"]
        np.multiply(x, x, out=y)
        np.multiply(y, GELU * 0.044715, out=y)
        np.add(y, GELU, out=y)
        np.multiply(y, x, out=y)
        np.tanh(y, out=y)
        np.add(y, 1, out=y)
        np.multiply(y, 0.5, out=y)
        return np.multiply(y, x, out=y)

    return run


def gelu_backward(work: Layer, v: Values, dx: Array) -> Call:
    """With t the tanh: (1 + t + x (1 - t²) sqrt(2/π) (1 + 3 · 0.044715 x²)) / 2 · dy."""
    square, t = np.zeros_like(dx), np.zeros_like(dx)

    def run() -> Any:
        x = v["x"]
        np.multiply(x, x, out=square)
        np.multiply(square, GELU * 0.044715, out=square)
        np.add(square, GELU, out=t)
        np.multiply(t, x, out=t)
        np.tanh(t, out=t)
        np.multiply(square, 3, out=square)
        np.add(square, GELU, out=square)
        np.multiply(square, x, out=square)
        np.multiply(t, t, out=dx)
        np.subtract(1, dx, out=dx)
        np.multiply(dx, square, out=dx)
        np.add(dx, t, out=dx)
        np.add(dx, 1, out=dx)
        np.multiply(dx, 0.5, out=dx)
        return np.multiply(dx, v["dy"], out=dx)

    return run


def softmax(work: Layer, v: Values, y: Array) -> Call:
    def run() -> Any:
        np.subtract(v["x"], v["x"].max(1, keepdims=True), out=y)
        np.exp(y, out=y)
        return np.divide(y, y.sum(1, keepdims=True), out=y)

    return run


def softmax_backward(work: Layer, v: Values, dx: Array) -> Call:
    def run() -> Any:
        inner = np.einsum("nc,nc->n", v["dy"], v["y"])
        np.subtract(v["dy"], inner[:, None], out=dx)
        return np.multiply(dx, v["y"], out=dx)

    return run


def log_softmax(work: Layer, v: Values, y: Array) -> Call:
    powers = np.zeros_like(y)

    def run() -> Any:
        np.subtract(v["x"], v["x"].max(1, keepdims=True), out=y)
        np.exp(y, out=powers)
        return np.subtract(y, np.log(powers.sum(1, keepdims=True)), out=y)

    return run


def log_softmax_backward(work: Layer, v: Values, dx: Array) -> Call:
    def run() -> Any:
        np.exp(v["y"], out=dx)
        np.multiply(dx, v["dy"].sum(1, keepdims=True), out=dx)
        return np.subtract(v["dy"], dx, out=dx)

    return run


def cross_entropy(work: Layer, v: Values, dx: Array) -> Call:
    rows, targets = np.arange(work.shape[0]), v["targets"]

    def run() -> Any:
        x = v["x"]
        np.subtract(x, x.max(1, keepdims=True), out=dx)
        chosen = dx[rows, targets]
        np.exp(dx, out=dx)
        sums = dx.sum(1, keepdims=True)
        loss = float(np.mean(np.log(sums[:, 0]) - chosen))
        np.multiply(dx, 1 / (len(rows) * sums), out=dx)
        dx[rows, targets] -= np.float32(1 / len(rows))
        return loss, dx

    return run


def mse(work: Layer, v: Values, dx: Array) -> Call:
    def run() -> Any:
        np.subtract(v["x"], v["other"], out=dx)
        flat = dx.reshape(-1)
        loss = float(np.dot(flat, flat)) / dx.size
        return loss, np.multiply(dx, 2 / dx.size, out=dx)

    return run


def prelu(work: Layer, v: Values, y: Array) -> Call:
    slopes, positive = v["weight"][:, None, None], np.zeros(y.shape, np.bool_)

    def run() -> Any:
        np.multiply(v["x"], slopes, out=y)
        np.copyto(y, v["x"], where=np.greater(v["x"], 0, out=positive))
        return y

    return run


def prelu_backward(work: Layer, v: Values, dx: Array) -> Call:
    slopes, positive = v["weight"][:, None, None], np.zeros(dx.shape, np.bool_)

    def run() -> Any:
        np.minimum(v["x"], 0, out=dx)
        dweight = np.einsum("nchw,nchw->c", v["dy"], dx)
        np.multiply(v["dy"], slopes, out=dx)
        np.copyto(dx, v["dy"], where=np.greater(v["x"], 0, out=positive))
        return dx, dweight

    return run


def pieces(work: Layer, x: Array) -> Array:
    n, c, *rest = work.shape
    return x.reshape(n, c // work.k, work.k, *rest)


def maxout(work: Layer, v: Values, y: Array) -> Call:
    return lambda: pieces(work, v["x"]).max(2, out=y)


def maxout_backward(work: Layer, v: Values, dx: Array) -> Call:
    def run() -> Any:
        x = pieces(work, v["x"])
        largest = np.expand_dims(x.argmax(2), 2)
        dx.fill(0)
        np.put_along_axis(pieces(work, dx), largest, v["dy"][:, :, None], 2)
        return dx

    return run


FORMULAS: Formulas = {
    **{f: dropout for f in ("dropout", "drop_connect", "spatial_dropout", "drop_path")},
    "dropout_backward": dropout_backward,
    "drop_connect_backward": dropout_backward,
    "spatial_dropout_backward": dropout_backward,
    "drop_path_backward": dropout_backward,
    "dropout_mask": dropout_mask,
    "alpha_dropout": alpha_dropout,
    "alpha_dropout_backward": alpha_dropout_backward,
    "relu": relu,
    "relu_backward": relu_backward,
    "leaky_relu": leaky_relu,
    "leaky_relu_backward": leaky_relu_backward,
    "prelu": prelu,
    "prelu_backward": prelu_backward,
    "sigmoid": sigmoid,
    "sigmoid_backward": sigmoid_backward,
    "tanh": tanh,
    "tanh_backward": tanh_backward,
    "silu": silu,
    "silu_backward": silu_backward,
    "selu": selu,
    "selu_backward": selu_backward,
    "mish": mish,
    "mish_backward": mish_backward,
    "gelu": gelu,
    "gelu_backward": gelu_backward,
    "softmax": softmax,
    "softmax_backward": softmax_backward,
    "log_softmax": log_softmax,
    "log_softmax_backward": log_softmax_backward,
    "maxout": maxout,
    "maxout_backward": maxout_backward,
    "cross_entropy": cross_entropy,
    "mse": mse,
}


def contenders(work: Work) -> list[Contender]:
    """The formulas above."""
    if not isinstance(work, Layer) or work.function not in FORMULAS:
        return []
    if work.forward == "gelu" and work.keywords.get("approximate") != "tanh":
        return []
    compared = drawn_by_itself(work) if work.draws else None
    return [Contender("NumPy", partial(make, FORMULAS), compared=compared)]


def make(formulas: Formulas, work: Layer, inputs: Inputs) -> Ready:
    """The result goes to a buffer, or to x in place."""
    values = {**work.parameters(), **dict(zip(work.names, inputs.arrays, strict=True))}
    shape = work.shape_of("x" if work.backward else "dy")
    out = inputs.arrays[0] if work.in_place else np.full(shape, 0, np.float32)
    _save(formulas, work, values)
    call, result = formulas[work.function](work, values, out), None

    def run() -> None:
        nonlocal result
        result = call()

    def fill(fresh: Arrays) -> None:
        feed(inputs.arrays, fresh)
        _save(formulas, work, values)

    return Ready(run, fill, lambda: [array.copy() for array in work.results(result)])


def _save(formulas: Formulas, work: Layer, values: Values) -> None:
    """What the gradient reads of what forward gave."""
    if not {"y", "mean", "invstd"} & set(ARGUMENTS[work.function].split()):
        return
    result = formulas[work.forward](work, values, np.full(work.shape, 0, np.float32))()
    if isinstance(result, tuple):
        _, values["mean"], values["invstd"] = result
    else:
        values["y"] = result
