"""Activations of `gradstep` as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gradstep.arguments import choice, floating, integer, number
from gradstep.nn import settings
from gradstep.nn.layer import Buffer, FloatArray, Layer, check_forward
from gradstep.nn.settings import Setting
from gradstep.ops import activations as functions

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "SELU",
    "LeakyReLU",
    "LogSoftmax",
    "Maxout",
    "Mish",
    "PReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]


class Activation(Layer):
    """A function y of x with as many elements as x, without parameters to learn.

    _settings: names of the arguments of the two functions after the arrays. _backward_reads:
    whether the second array of the backward function is what the forward one read or wrote.
    """

    kind = "activations"
    _function: ClassVar[Callable[..., FloatArray]]
    _derivative: ClassVar[Callable[..., FloatArray]]
    _backward_reads: ClassVar[Literal["x", "y"]]
    _settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self._kept: FloatArray | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y like x (N, ...)."""
        check_forward(x, training, "N", "...")
        given = [getattr(self, name) for name in self._settings]
        y = type(self)._function(x, *given, out=self._y.like(x))
        self._given = given
        self._kept = x if self._backward_reads == "x" else y
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Return dx like dy."""
        if self._kept is None:
            raise RuntimeError("backward: called before forward")
        out = self._dx.like(self._kept)
        return type(self)._derivative(dy, self._kept, *self._given, out=out)


class ReLU(Activation):
    """y = max(x, 0) of x (N, ...); the gradient at 0 is 0. Nair & Hinton 2010. Errors as of Layer.

    >>> ReLU().forward(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """

    _function, _derivative = functions.relu, functions.relu_backward
    _backward_reads = "y"

    def __init__(self) -> None:
        super().__init__()


class LeakyReLU(Activation):
    """y = x where x > 0, else slope x, of x (N, ...). Maas, Hannun & Ng 2013.

    slope: a finite number. Raises TypeError or ValueError.

    >>> LeakyReLU(0.5).forward(np.array([[-1.0, 2.0]]))
    array([[-0.5,  2. ]])
    """

    _function, _derivative = functions.leaky_relu, functions.leaky_relu_backward
    _backward_reads = "x"
    _settings = ("slope",)
    slope: Any = Setting(number)

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = slope


class Sigmoid(Activation):
    """y = 1 / (1 + exp(-x)) of x (N, ...). Errors as of Layer.

    >>> Sigmoid().forward(np.zeros((1, 2)))
    array([[0.5, 0.5]])
    """

    _function, _derivative = functions.sigmoid, functions.sigmoid_backward
    _backward_reads = "y"

    def __init__(self) -> None:
        super().__init__()


class Tanh(Activation):
    """y = tanh(x) of x (N, ...). Errors as of Layer.

    >>> Tanh().forward(np.zeros((1, 2)))
    array([[0., 0.]])
    """

    _function, _derivative = functions.tanh, functions.tanh_backward
    _backward_reads = "y"

    def __init__(self) -> None:
        super().__init__()


class SiLU(Activation):
    """y = x sigmoid(x) of x (N, ...). Errors as of Layer.

    Source: Elfwing, Uchibe & Doya 2018 (arXiv:1702.03118).

    >>> SiLU().forward(np.array([[1000.0]]))
    array([[1000.]])
    """

    _function, _derivative = functions.silu, functions.silu_backward
    _backward_reads = "x"

    def __init__(self) -> None:
        super().__init__()


class GELU(Activation):
    """y = x P(normal < x) of x (N, ...). Hendrycks & Gimpel 2016.

    approximate: "none" or "tanh". Raises TypeError or ValueError.

    >>> GELU().forward(np.array([[1.0]])).round(4)
    array([[0.8413]])
    """

    _function, _derivative = functions.gelu, functions.gelu_backward
    _backward_reads = "x"

    _settings = ("approximate",)
    approximate: Any = Setting(lambda name, value: choice(name, value, ("none", "tanh")))

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate


class SELU(Activation):
    """y = λ x where x > 0, else λ α (exp(x) - 1), of x (N, ...). Errors as of Layer.

    Source: Klambauer et al. 2017 (arXiv:1706.02515).

    >>> SELU().forward(np.array([[1.0]])).round(4)
    array([[1.0507]])
    """

    _function, _derivative = functions.selu, functions.selu_backward
    _backward_reads = "y"

    def __init__(self) -> None:
        super().__init__()


class Mish(Activation):
    """y = x tanh(log(1 + exp(x))) of x (N, ...). Errors as of Layer.

    Source: Misra 2019 (arXiv:1908.08681).

    >>> Mish().forward(np.array([[1000.0]]))
    array([[1000.]])
    """

    _function, _derivative = functions.mish, functions.mish_backward
    _backward_reads = "x"

    def __init__(self) -> None:
        super().__init__()


class _AlongAxis(Activation):
    _backward_reads = "y"
    _settings = ("axis",)
    axis: Any = Setting(integer)

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis


class Softmax(_AlongAxis):
    """y = exp(x) / sum of these along an axis. To train a classifier, use `gs.cross_entropy`.

    axis: of x (N, ...), the last one by default. Raises TypeError or ValueError.

    >>> Softmax().forward(np.zeros((1, 2)))
    array([[0.5, 0.5]])
    """

    _function, _derivative = functions.softmax, functions.softmax_backward


class LogSoftmax(_AlongAxis):
    """The logarithm of Softmax, with its argument and errors as there.

    >>> LogSoftmax().forward(np.zeros((1, 2))).round(3)
    array([[-0.693, -0.693]])
    """

    _function, _derivative = functions.log_softmax, functions.log_softmax_backward


class PReLU(Layer):
    """y = x where x > 0, else weight x, a learned `weight` for each channel, 0.25 at first.

    channels: C, or 1 for one weight in all. axis: that of the channels in x (N, C, ...).
    Raises TypeError or ValueError. Source: He et al. 2015 (arXiv:1502.01852).

    >>> PReLU(2).forward(np.array([[-1.0, 2.0]], np.float32))
    array([[-0.25,  2.  ]], dtype=float32)
    """

    kind = "activations"
    channels: Any = Setting(settings.size, fixed=True)
    axis: Any = Setting(integer)

    def __init__(
        self, channels: int = 1, *, axis: int = 1, dtype: npt.DTypeLike = np.float32
    ) -> None:
        super().__init__()
        self.channels, self.axis = channels, axis
        weight = np.full(self.channels, 0.25, floating("dtype", dtype))
        self.params["weight"], self.grads["weight"] = weight, np.zeros_like(weight)
        self._x: FloatArray | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y like x."""
        weight = self.params["weight"]
        check_forward(x, training, "N", "...", dtype=weight.dtype)
        y = functions.prelu(x, weight, self.axis, out=self._y.like(x))
        self._x = x
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy and return dx, both like x."""
        if self._x is None:
            raise RuntimeError("backward: called before forward")
        weight, out = self.params["weight"], self._dx.like(self._x)
        dx, dweight = functions.prelu_backward(dy, self._x, weight, self.axis, out=out)
        np.copyto(self.grads["weight"], dweight)
        return dx


class Maxout(Layer):
    """y = the largest of each k consecutive columns of x (N, k O, ...). Goodfellow et al. 2013.

    Raises TypeError or ValueError.

    >>> Maxout(2).forward(np.array([[1.0, 3.0, -1.0, -2.0]]))
    array([[ 3., -1.]])
    """

    kind = "activations"
    k: Any = Setting(settings.size)

    def __init__(self, k: int = 2) -> None:
        super().__init__()
        self.k = k
        self._x: FloatArray | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y (N, O, ...)."""
        check_forward(x, training, "N", "kO", "...")
        if x.shape[1] % self.k:
            raise ValueError(f"x: shape {x.shape}, expected a multiple of k = {self.k} columns")
        columns = (x.shape[1] // self.k, *x.shape[2:])
        y = functions.maxout(x, self.k, out=self._y.like(x, columns))
        self._x, self._pieces = x, self.k
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Return dx like x: dy at the first of the largest, 0 elsewhere."""
        if self._x is None:
            raise RuntimeError("backward: called before forward")
        return functions.maxout_backward(dy, self._x, self._pieces, out=self._dx.like(self._x))


# Name of the function in gradstep -> layer.
ACTIVATIONS: dict[str, type[Layer]] = {
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "prelu": PReLU,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "silu": SiLU,
    "gelu": GELU,
    "selu": SELU,
    "mish": Mish,
    "maxout": Maxout,
    "softmax": Softmax,
    "log_softmax": LogSoftmax,
}
