"""Activations, forward and backward, on float32, float64, bfloat16 and float16 arrays.

The last two are computed in float32 and rounded once; `prelu` and `maxout` do not take them.

Every function takes `out`: None allocates; the input itself works in place; anything else must
have the shape, dtype and memory order of the result and not overlap an input in part. A backward
pass takes dy, the gradient of the loss by the result, and what the forward pass read (x) or wrote
(y): the second argument says which. Where it is y, the forward pass may have worked in place.

All raise TypeError or ValueError before anything is written. The element-wise ones take C and F
order, the others C order.
"""

from __future__ import annotations

from gradstep import _core
from gradstep.arguments import choice, number
from gradstep.arrays import Array

__all__ = [
    "gelu",
    "gelu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "log_softmax",
    "log_softmax_backward",
    "maxout",
    "maxout_backward",
    "mish",
    "mish_backward",
    "prelu",
    "prelu_backward",
    "relu",
    "relu_backward",
    "selu",
    "selu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "softmax_backward",
    "tanh",
    "tanh_backward",
]


_RELU = _core.ACTIVATIONS["relu"]
_LEAKY_RELU = _core.ACTIVATIONS["leaky_relu"]
_SIGMOID = _core.ACTIVATIONS["sigmoid"]
_TANH = _core.ACTIVATIONS["tanh"]
_SILU = _core.ACTIVATIONS["silu"]
_SELU = _core.ACTIVATIONS["selu"]
_MISH = _core.ACTIVATIONS["mish"]
_GELU = {"none": _core.ACTIVATIONS["gelu"], "tanh": _core.ACTIVATIONS["gelu_tanh"]}


def relu(x: Array, *, out: Array | None = None) -> Array:
    """max(x, 0); NaN stays NaN. Nair & Hinton 2010.

    x: float32, float64, bfloat16 or float16, any shape, C or F order. out: where the result goes,
    like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return _core.activate(_RELU, x, out, 0.0)


def relu_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """dy where y > 0, else 0. y: the result of `relu`, or its x.

    dy, y: float32, float64, bfloat16 or float16, alike in type, shape and order, C or F. out: where
    the result goes, like dy, or dy or y itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.relu_backward(np.array([5.0, 5.0]), np.array([0.0, 2.0]))
    array([0., 5.])
    """
    return _core.activate_backward(_RELU, dy, y, "y", out, 0.0)


def leaky_relu(x: Array, slope: float = 0.01, *, out: Array | None = None) -> Array:
    """x where x > 0, else slope x. Maas, Hannun & Ng 2013.

    x: float32, float64, bfloat16 or float16, any shape, C or F order. out: where the result goes,
    like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.leaky_relu(np.array([-1.0, 2.0]), 0.5)
    array([-0.5,  2. ])
    """
    return _core.activate(_LEAKY_RELU, x, out, number("slope", slope))


def leaky_relu_backward(
    dy: Array, y: Array, slope: float = 0.01, *, out: Array | None = None
) -> Array:
    """dy where y > 0, else slope dy. y: the result of `leaky_relu` if slope >= 0, or its x.

    dy, y: float32, float64, bfloat16 or float16, alike in type, shape and order, C or F. out: where
    the result goes, like dy, or dy or y itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.leaky_relu_backward(np.array([5.0, 5.0]), np.array([-0.5, 2.0]), 0.5)
    array([2.5, 5. ])
    """
    return _core.activate_backward(_LEAKY_RELU, dy, y, "y", out, number("slope", slope))


def sigmoid(x: Array, *, out: Array | None = None) -> Array:
    """1 / (1 + exp(-x)), within 2.5 ULP, also where it is tiny.

    x: float32, float64, bfloat16 or float16, any shape, C or F order. out: where the result goes,
    like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.sigmoid(np.array([0.0, -1000.0, 1000.0]))
    array([0.5, 0. , 1. ])
    """
    return _core.activate(_SIGMOID, x, out, 0.0)


def sigmoid_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """dy (1 - y) y. y: the result of `sigmoid`.

    dy, y: float32, float64, bfloat16 or float16, alike in type, shape and order, C or F. out: where
    the result goes, like dy, or dy or y itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.sigmoid_backward(np.array([4.0]), np.array([0.5]))
    array([1.])
    """
    return _core.activate_backward(_SIGMOID, dy, y, "y", out, 0.0)


def tanh(x: Array, *, out: Array | None = None) -> Array:
    """The hyperbolic tangent, within 2 ULP.

    x: float32, float64, bfloat16 or float16, any shape, C or F order. out: where the result goes,
    like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.tanh(np.array([0.0, 100.0]))
    array([0., 1.])
    """
    return _core.activate(_TANH, x, out, 0.0)


def tanh_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """dy (1 - y²). y: the result of `tanh`.

    dy, y: float32, float64, bfloat16 or float16, alike in type, shape and order, C or F. out: where
    the result goes, like dy, or dy or y itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.tanh_backward(np.array([4.0]), np.array([0.5]))
    array([3.])
    """
    return _core.activate_backward(_TANH, dy, y, "y", out, 0.0)


def silu(x: Array, *, out: Array | None = None) -> Array:
    """x sigmoid(x), within 3.5 ULP. Elfwing, Uchibe & Doya 2018 (arXiv:1702.03118).

    x: float32, float64, bfloat16 or float16, any shape, C or F order. out: where the result goes,
    like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.silu(np.array([-np.inf, 0.0, 1000.0]))
    array([  -0.,    0., 1000.])
    """
    return _core.activate(_SILU, x, out, 0.0)


def silu_backward(dy: Array, x: Array, *, out: Array | None = None) -> Array:
    """dy s (1 + x (1 - s)) with s = sigmoid(x). x: what `silu` was given.

    dy, x: float32, float64, bfloat16 or float16, alike in type, shape and order, C or F. out: where
    the result goes, like dy, or dy or x itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.silu_backward(np.array([4.0]), np.array([0.0]))
    array([2.])
    """
    return _core.activate_backward(_SILU, dy, x, "x", out, 0.0)


def _gelu_kind(approximate: str) -> int:
    return _GELU[choice("approximate", approximate, _GELU)]


def gelu(x: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """x times the probability that a standard normal variable is below x.

    approximate: "none", within 7 ULP; or "tanh", x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2,
    computed without the cancellation that this form has for x < 0. Hendrycks & Gimpel 2016
    (arXiv:1606.08415).
    x: float32, float64, bfloat16 or float16, any shape, C or F order. out: where the result goes,
    like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    >>> gs.gelu(np.array([-1.0, 0.0, 1.0]), "tanh").round(4)
    array([-0.1588,  0.    ,  0.8412])
    """
    return _core.activate(_gelu_kind(approximate), x, out, 0.0)


def gelu_backward(
    dy: Array, x: Array, approximate: str = "none", *, out: Array | None = None
) -> Array:
    """dy times the derivative of `gelu` at x. x: what `gelu` was given.

    dy, x: float32, float64, bfloat16 or float16, alike in type, shape and order, C or F. out: where
    the result goes, like dy, or dy or x itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.gelu_backward(np.array([4.0]), np.array([0.0]))
    array([2.])
    """
    return _core.activate_backward(_gelu_kind(approximate), dy, x, "x", out, 0.0)


def selu(x: Array, *, out: Array | None = None) -> Array:
    """λ x where x > 0, else λ α (exp(x) - 1), within 4 ULP. λ = 1.0507..., α = 1.6732...

    Keeps a mean of 0 and a deviation of 1. Klambauer et al. 2017 (arXiv:1706.02515).
    x: float32, float64, bfloat16 or float16, any shape, C or F order. out: where the result goes,
    like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.selu(np.array([-np.inf, 0.0, 1.0])).round(4)
    array([-1.7581,  0.    ,  1.0507])
    """
    return _core.activate(_SELU, x, out, 0.0)


def selu_backward(dy: Array, y: Array, *, out: Array | None = None) -> Array:
    """λ dy where y > 0, else dy (y + λ α). y: the result of `selu`.

    dy, y: float32, float64, bfloat16 or float16, alike in type, shape and order, C or F. out: where
    the result goes, like dy, or dy or y itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.selu_backward(np.array([1.0, 1.0]), gs.selu(np.array([-np.inf, 2.0]))).round(4)
    array([0.    , 1.0507])
    """
    return _core.activate_backward(_SELU, dy, y, "y", out, 0.0)


def mish(x: Array, *, out: Array | None = None) -> Array:
    """x tanh(log(1 + exp(x))), within 5 ULP. Misra 2019 (arXiv:1908.08681).

    x: float32, float64, bfloat16 or float16, any shape, C or F order. out: where the result goes,
    like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.mish(np.array([-np.inf, -1.0, 100.0])).round(4)
    array([ -0.    ,  -0.3034, 100.    ])
    """
    return _core.activate(_MISH, x, out, 0.0)


def mish_backward(dy: Array, x: Array, *, out: Array | None = None) -> Array:
    """dy times the derivative of `mish` at x. x: what `mish` was given.

    dy, x: float32, float64, bfloat16 or float16, alike in type, shape and order, C or F. out: where
    the result goes, like dy, or dy or x itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.mish_backward(np.array([5.0]), np.array([0.0]))
    array([3.])
    """
    return _core.activate_backward(_MISH, dy, x, "x", out, 0.0)


def softmax(x: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """exp(x - max) / sum of these, along an axis; the sum in one order.

    A row with an infinity of the larger sign only, or with NaN, gives NaN, as in torch.
    x: float32, float64, bfloat16 or float16, any shape with axes, C order. out: where the result
    goes, like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.softmax(np.array([[0.0, 0.0], [1000.0, 0.0]]))
    array([[0.5, 0.5],
           [1. , 0. ]])
    """
    return _core.softmax(False, x, axis, out)


def softmax_backward(dy: Array, y: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """y (dy - Σ dy y). y: the result of `softmax`. The sum in one order.

    dy, y: float32, float64, bfloat16 or float16, alike in type and shape, C order. out: where the
    result goes, like dy, or dy or y itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.softmax_backward(np.array([1.0, 0.0]), np.array([0.5, 0.5]))
    array([ 0.25, -0.25])
    """
    return _core.softmax_backward(False, dy, y, axis, out)


def log_softmax(x: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """The logarithm of `softmax`: x - max - log of the sum of exp(x - max).

    x: float32, float64, bfloat16 or float16, any shape with axes, C order. out: where the result
    goes, like x or x itself; a new array if None. Raises TypeError or ValueError before anything is
    written.

    >>> import numpy as np, gradstep as gs
    >>> gs.log_softmax(np.array([0.0, 0.0])).round(3)
    array([-0.693, -0.693])
    """
    return _core.softmax(True, x, axis, out)


def log_softmax_backward(dy: Array, y: Array, axis: int = -1, *, out: Array | None = None) -> Array:
    """dy - exp(y) Σ dy. y: the result of `log_softmax`. The sum in one order.

    dy, y: float32, float64, bfloat16 or float16, alike in type and shape, C order. out: where the
    result goes, like dy, or dy or y itself; a new array if None. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.log_softmax_backward(np.array([1.0, 0.0]), np.log([0.5, 0.5]))
    array([ 0.5, -0.5])
    """
    return _core.softmax_backward(True, dy, y, axis, out)


def prelu(x: Array, weight: Array, axis: int = 1, *, out: Array | None = None) -> Array:
    """x where x > 0, else weight x, a weight for each channel. He et al. 2015 (arXiv:1502.01852).

    weight: shape (C,) for C channels along `axis`, or (1,) for all. dtype as x.
    x: float32 or float64, C order. out: where the result goes, like x or x itself; a new array if
    None. Raises TypeError or ValueError before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.prelu(np.array([[-1.0, -1.0], [2.0, 2.0]]), np.array([0.5, 0.25]))
    array([[-0.5 , -0.25],
           [ 2.  ,  2.  ]])
    """
    return _core.prelu(x, weight, axis, out)


def prelu_backward(
    dy: Array, x: Array, weight: Array, axis: int = 1, *, out: Array | None = None
) -> tuple[Array, Array]:
    """(dx, dweight). x: what `prelu` was given. `out` is for dx.

    dweight of a channel is the sum of dy x where x <= 0, in double: along memory in the blocks of
    every sum here, or, with channels innermost, down 256 rows at a time.
    dy, x: float32 or float64, alike in type and shape, C order. Raises TypeError or ValueError
    before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.prelu_backward(np.ones((2, 1)), np.array([[-3.0], [2.0]]), np.array([0.5]))
    (array([[0.5],
           [1. ]]), array([-3.]))
    """
    return _core.prelu_backward(dy, x, weight, axis, out)


def maxout(x: Array, k: int, axis: int = 1, *, out: Array | None = None) -> Array:
    """The largest of each k consecutive channels. Goodfellow et al. 2013 (arXiv:1302.4389).

    axis: its size must be a multiple of k; the result has a k-th of it. NaN wins. Not in place.
    x: float32 or float64, C order. out: where the result goes; a new array if None. Raises
    TypeError or ValueError before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.maxout(np.array([[1.0, 3.0, -1.0, -2.0]]), 2)
    array([[ 3., -1.]])
    """
    return _core.maxout(x, k, axis, out)


def maxout_backward(
    dy: Array, x: Array, k: int, axis: int = 1, *, out: Array | None = None
) -> Array:
    """dy at the first of the largest of each k channels, else 0. x: what `maxout` was given.

    dy, x: float32 or float64, of one type, C order. out: where the result goes; a new array if
    None. Raises TypeError or ValueError before anything is written.

    >>> import numpy as np, gradstep as gs
    >>> gs.maxout_backward(np.array([[5.0]]), np.array([[3.0, 3.0]]), 2)
    array([[5., 0.]])
    """
    return _core.maxout_backward(dy, x, k, axis, out)
