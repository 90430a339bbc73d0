"""Networks: layers in a row, around a shortcut, and the multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.arguments import flag, integer, kind, number, several, shown, text
from gradstep.nn.activations import ACTIVATIONS, Maxout, PReLU
from gradstep.nn.layer import Buffer, FloatArray, Layer, check_batch, walk
from gradstep.nn.layers import BatchNorm, Dropout, Linear
from gradstep.nn.settings import size

__all__ = ["Residual", "Sequential", "mlp"]


class Sequential(Layer):
    """One layer after the other; arrays are named "0.weight", "0.bias", "2.weight", ...

    Raises ValueError without layers, or where one occurs twice: it remembers one forward call. A
    forward call that a later layer refuses leaves all buffers as they were, but no call to go back
    through. The gradient that goes back must be shaped like y, of y's dtype.

    >>> rng = np.random.default_rng(0)
    >>> net = Sequential(Linear(4, 3, rng), BatchNorm(3, activation="relu"), Linear(3, 2, rng))
    >>> list(net.params)
    ['0.weight', '0.bias', '1.weight', '1.bias', '2.weight', '2.bias']
    >>> list(net.buffers)
    ['1.running_mean', '1.running_var', '1.num_batches_tracked']
    """

    kind = "networks"

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        if not layers:
            raise ValueError("layers: none, expected at least one")
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"layers[{i}]: {kind(layer)}, expected a Layer")
        self.layers = layers
        inside = list(walk(self))
        if len({id(layer) for layer in inside}) < len(inside):
            raise ValueError("layers: one occurs twice, expected another one for each place")
        for layer in inside:
            layer.seconds = self.seconds
        for i, layer in enumerate(layers):
            self.params.update((f"{i}.{name}", p) for name, p in layer.params.items())
            self.grads.update((f"{i}.{name}", g) for name, g in layer.grads.items())
            self.buffers.update((f"{i}.{name}", b) for name, b in layer.buffers.items())
        self.smallest_batch: int = max(layer.smallest_batch for layer in layers)
        # Shape and dtype of the latest y; None before any, or after a call that was refused.
        self._latest: tuple[tuple[int, ...], np.dtype[Any]] | None = None

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return the output of the last layer for x (N, ...)."""
        before = [(buffer, buffer.copy()) for buffer in self.buffers.values()]
        try:
            y = self._through(x, training)
        except BaseException:
            for buffer, kept in before:
                if buffer.flags.writeable:
                    np.copyto(buffer, kept)
            raise
        self._latest = np.shape(y), np.asarray(y).dtype
        return y

    def _through(self, x: FloatArray, training: bool) -> FloatArray:
        start = perf_counter()
        for layer in self.layers:
            x = layer.forward(x, training)
            self._latest = None  # it computed in the memory of the call before
            end = perf_counter()
            self.seconds[layer.kind] += end - start
            start = end
        return x

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill every layer's `grads` and return the gradient in the input."""
        self._check_gradient(dy)
        return self._back_through(self.layers, dy)

    def parameter_gradients(self, dy: FloatArray) -> None:
        """Fill every layer's `grads`, without the gradient in the input, which training drops."""
        self._check_gradient(dy)
        first, *others = self.layers
        dy = self._back_through(others, dy)
        start = perf_counter()
        first.parameter_gradients(dy)
        self.seconds[first.kind] += perf_counter() - start

    def _check_gradient(self, dy: FloatArray) -> None:
        """What a layer in the middle would refuse after later ones have filled their `grads`."""
        if self._latest is None:
            raise RuntimeError("backward: called before forward, or after one that was refused")
        shape, dtype = self._latest
        check_batch("dy", dy, *shape, dtype=dtype, c_order=False)

    def _back_through(self, layers: Sequence[Layer], dy: FloatArray) -> FloatArray:
        start = perf_counter()
        for layer in reversed(layers):
            dy = layer.backward(dy)
            end = perf_counter()
            self.seconds[layer.kind] += end - start
            start = end
        return dy


class Residual(Sequential):
    """y = x + layers(x), where the layers keep the shape. He et al. 2016 (arXiv:1512.03385).

    Raises what Sequential raises, and ValueError in forward where the shape is another.

    >>> Residual(Linear(2, 2, np.random.default_rng(0), init="zeros")).forward(np.eye(2))
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__(*layers)
        self._y, self._dx = Buffer(), Buffer()

    def _through(self, x: FloatArray, training: bool) -> FloatArray:
        y = super()._through(x, training)
        if y.shape != x.shape:
            raise ValueError(f"layers: x of shape {x.shape} became {y.shape}, expected no change")
        return np.add(x, y, out=self._y.like(x))

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill every layer's `grads` and return dx like dy."""
        return np.add(dy, super().backward(dy), out=self._dx.like(dy))


def mlp(
    sizes: Sequence[int],
    *,
    seed: int = 0,
    dtype: npt.DTypeLike = np.float32,
    activation: str = "relu",
    init: str = "he_normal",
    batch_norm: bool = False,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> Sequential:
    """Make a multilayer perceptron: each hidden layer is Linear, BatchNorm, activation, Dropout.

    sizes: inputs, hidden layers, classes; at least two numbers. seed: of the initial weights and
    the masks. activation: a name of ACTIVATIONS; a ReLU after batch norm is part of it, and maxout
    takes the larger of two. init: a name of INITIALISERS. batch_norm: whether there is any.
    dropout, input_dropout: probabilities to drop a hidden value and an input, in [0, 1); 0: none.
    Raises TypeError for a wrong kind, ValueError for fewer than two sizes, a size below 1, a name
    that is unknown, or a probability out of range.

    >>> [p.shape for p in mlp([64, 32, 10]).params.values()]
    [(32, 64), (32,), (10, 32), (10,)]
    >>> net = mlp([64, 32, 10], batch_norm=True, dropout=0.2, activation="tanh")
    >>> [type(layer).__name__ for layer in net.layers]
    ['Linear', 'BatchNorm', 'Tanh', 'Dropout', 'Linear']
    """
    sizes = several("sizes", sizes, size)
    if len(sizes) < 2:
        raise ValueError(f"sizes: {list(sizes)}, expected inputs and outputs at least")
    if text("activation", activation) not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise ValueError(f"activation: {shown(activation)}, expected one of {names}")
    dropout, input_dropout = _share("dropout", dropout), _share("input_dropout", input_dropout)
    batch_norm, seed = flag("batch_norm", batch_norm), integer("seed", seed, 0)
    rng = np.random.default_rng(seed)
    layers: list[Layer] = [Dropout(input_dropout, _mask_seed(seed, 0))] if input_dropout else []
    for place, (inputs, hidden) in enumerate(pairwise(sizes[:-1]), 1):
        outputs = 2 * hidden if activation == "maxout" else hidden
        layers.append(Linear(inputs, outputs, rng, dtype, init=init, bias=not batch_norm))
        layers += _normalised_activation(activation, outputs, batch_norm, dtype)
        if dropout:
            layers.append(Dropout(dropout, _mask_seed(seed, place)))
    return Sequential(*layers, Linear(sizes[-2], sizes[-1], rng, dtype, init=init))


def _share(name: str, value: object) -> float:
    return number(name, value, "a number from 0 to below 1", lambda p: 0 <= p < 1)


def _normalised_activation(
    name: str, channels: int, batch_norm: bool, dtype: npt.DTypeLike
) -> list[Layer]:
    if batch_norm and name == "relu":
        return [BatchNorm(channels, activation="relu", dtype=dtype)]
    layers: list[Layer] = [BatchNorm(channels, dtype=dtype)] if batch_norm else []
    if name == "prelu":
        return [*layers, PReLU(channels, dtype=dtype)]
    return [*layers, Maxout(2) if name == "maxout" else ACTIVATIONS[name]()]


def _mask_seed(seed: int, number: int) -> int:
    """Every layer its own: those that numpy derives from the seed and the layer's number."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])
