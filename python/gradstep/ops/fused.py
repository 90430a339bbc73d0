"""What stands between two matrix products of a perceptron, in one pass: bias, activation, dropout.

The same bits as the functions one after the other; the gradient of the bias is summed in double, in
one order. Raises TypeError or ValueError before anything is written.
"""

from __future__ import annotations

from typing import Any, SupportsFloat, SupportsIndex

from gradstep import _core
from gradstep.arguments import choice, probability
from gradstep.arrays import Array

__all__ = ["BIASED", "bias_activation", "bias_activation_backward"]

# Name -> index of the kernel, its parameter, and whether its derivative is one of x, not of y.
BIASED: dict[str, tuple[int, float, bool]] = {
    "relu": (_core.ACTIVATIONS["relu"], 0.0, False),
    "leaky_relu": (_core.ACTIVATIONS["leaky_relu"], 0.01, False),
    "sigmoid": (_core.ACTIVATIONS["sigmoid"], 0.0, False),
    "tanh": (_core.ACTIVATIONS["tanh"], 0.0, False),
    "silu": (_core.ACTIVATIONS["silu"], 0.0, True),
    "gelu": (_core.ACTIVATIONS["gelu"], 0.0, True),
    "selu": (_core.ACTIVATIONS["selu"], 0.0, False),
    "mish": (_core.ACTIVATIONS["mish"], 0.0, True),
}


def bias_activation(
    x: Array,
    bias: Array,
    activation: str,
    *,
    p: SupportsFloat = 0.0,
    seed: SupportsIndex = 0,
    offset: SupportsIndex = 0,
    out: Any = None,
) -> Array:
    """Dropout of an activation of x + bias.

    x: (..., C), float32 or float64 in C order. bias: (C,) of x's type. activation: a name of
    `BIASED`; a leaky ReLU has the slope 0.01. p, seed, offset: as in `gradstep.dropout`. out: where
    the result goes, like x or x itself; a new array if None. Raises TypeError or ValueError.

    >>> import numpy as np
    >>> bias_activation(np.array([[1.0, -2.0]]), np.array([0.5, 1.0]), "relu")
    array([[1.5, 0. ]])
    """
    index, parameter, _ = BIASED[choice("activation", activation, BIASED)]
    return _core.bias_activation(index, x, bias, parameter, p, seed, offset, out)


def bias_activation_backward(
    dy: Array,
    saved: Array,
    activation: str,
    *,
    bias: Array | None = None,
    p: SupportsFloat = 0.0,
    seed: SupportsIndex = 0,
    offset: SupportsIndex = 0,
    out: Any = None,
) -> tuple[Array, Array]:
    """The gradients of `bias_activation`: (dx, dbias), from that of its result.

    saved: what forward returned; or, with `bias`, its x. The latter is needed for "silu", "gelu"
    and "mish", and with dropout for all but the two ReLUs. out: where dx goes, like dy or dy
    itself; a new array if None. Raises TypeError or ValueError.

    >>> import numpy as np
    >>> bias_activation_backward(np.array([[5.0, 5.0]]), np.array([[1.5, 0.0]]), "relu")
    (array([[5., 0.]]), array([5., 0.]))
    """
    index, parameter, reads_x = BIASED[choice("activation", activation, BIASED)]
    dropped = probability("p", p) != 0 and activation not in ("relu", "leaky_relu")
    if bias is None and (reads_x or dropped):
        after = " after dropout" if not reads_x else ""
        raise ValueError(
            f"bias: None, expected an array, and saved to be x, for {activation}{after}"
        )
    argument = "saved"
    return _core.bias_activation_backward(
        index, dy, saved, argument, bias, parameter, p, seed, offset, out
    )
