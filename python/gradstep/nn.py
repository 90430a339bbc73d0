"""The few layers that a NumPy network needs.

A layer computes `y = forward(x, training)` and `dx = backward(dy)`. Both write into buffers that
the layer keeps, so their memory is allocated once, for the largest batch; what they return is valid
until the next call of the same method. `params` and `grads` map names to arrays that stay the same
objects for the whole training: an optimizer binds them once.

Shapes: N rows of a batch, I inputs, O outputs, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = [
    "Layer",
    "Linear",
    "ReLU",
    "Sequential",
    "balanced_class_weights",
    "mlp",
    "softmax_cross_entropy",
]

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.integer]


class Buffer:
    """Rows of scratch memory: grows to the largest batch seen, smaller batches are a view of it."""

    def __init__(self) -> None:
        self._array: npt.NDArray[np.generic] | None = None

    def like(self, x: FloatArray, columns: tuple[int, ...] | None = None) -> FloatArray:
        """Return uninitialised (len(x), *columns) of x's dtype; x.shape[1:] unless given."""
        shape = (len(x), *(x.shape[1:] if columns is None else columns))
        held = self._array
        fits = held is not None and held.shape[1:] == shape[1:] and held.dtype == x.dtype
        if held is None or not fits or len(held) < len(x):
            held = self._array = np.empty(shape, x.dtype)
        return held[: len(x)]  # type: ignore[return-value]


class Layer(ABC):
    """A differentiable function of a batch, with the arrays it learns.

    >>> class Double(Layer):
    ...     def forward(self, x, training=True):
    ...         return 2 * x
    ...
    ...     def backward(self, dy):
    ...         return 2 * dy
    >>> Sequential(Double(), Double()).forward(np.ones(2)).tolist()
    [4.0, 4.0]
    """

    def __init__(self) -> None:
        self.params: dict[str, FloatArray] = {}
        self.grads: dict[str, FloatArray] = {}

    @abstractmethod
    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y of x (N, ...), and keep what `backward` needs; x must not change until then."""

    @abstractmethod
    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy, the gradient of the loss in y, and return the gradient in x."""

    def parameter_gradients(self, dy: FloatArray) -> None:
        """Fill `grads` only: all that the first layer of a network has to do."""
        self.backward(dy)


class Linear(Layer):
    """y = x Wᵀ + b, with `weight` (O, I) and `bias` (O,), as in torch.

    inputs, outputs: sizes I and O, at least 1. rng: source of the initial weights. dtype: float32
    or float64. The weights start normal with standard deviation sqrt(2/I), for a network of ReLUs
    (He et al. 2015, "Delving deep into rectifiers"); the bias starts at 0.
    Raises ValueError if a size is below 1.

    >>> layer = Linear(3, 2, np.random.default_rng(0))
    >>> layer.forward(np.zeros((4, 3), np.float32)).shape
    (4, 2)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rng: np.random.Generator,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        for name, size in (("inputs", inputs), ("outputs", outputs)):
            if size < 1:
                raise ValueError(f"{name}: {size}, expected at least 1")
        # Drawn in double and rounded, so that float32 and float64 networks start alike.
        weight = rng.standard_normal((outputs, inputs)) * np.sqrt(2.0 / inputs)
        self.params = {"weight": weight.astype(dtype), "bias": np.zeros(outputs, dtype)}
        self.grads = {name: np.zeros_like(p) for name, p in self.params.items()}
        self._x: FloatArray | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y (N, O) of x (N, I)."""
        weight, bias = self.params["weight"], self.params["bias"]
        self._x = x
        y = self._y.like(x, bias.shape)
        np.matmul(x, weight.T, out=y)
        y += bias
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy (N, O) and return dx (N, I)."""
        self.parameter_gradients(dy)
        weight = self.params["weight"]
        return np.matmul(dy, weight, out=self._dx.like(dy, weight.shape[1:]))

    def parameter_gradients(self, dy: FloatArray) -> None:
        """Fill `grads` from dy (N, O) without the product that dx would cost."""
        if self._x is None:
            raise RuntimeError("backward: called before forward")
        np.matmul(dy.T, self._x, out=self.grads["weight"])
        np.sum(dy, axis=0, out=self.grads["bias"])


class ReLU(Layer):
    """y = max(x, 0); the gradient at 0 is 0.

    >>> ReLU().forward(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """

    def __init__(self) -> None:
        super().__init__()
        self._y, self._dx = Buffer(), Buffer()
        self._output: FloatArray | None = None

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y of x, any shape."""
        self._output = np.maximum(x, 0, out=self._y.like(x))
        return self._output

    def backward(self, dy: FloatArray) -> FloatArray:
        """Return dy where y is positive and 0 elsewhere."""
        if self._output is None:
            raise RuntimeError("backward: called before forward")
        return np.multiply(dy, self._output > 0, out=self._dx.like(dy))


class Sequential(Layer):
    """One layer after the other; parameters are named "0.weight", "0.bias", "2.weight", ...

    >>> rng = np.random.default_rng(0)
    >>> net = Sequential(Linear(4, 3, rng), ReLU(), Linear(3, 2, rng))
    >>> list(net.params)
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(self, *layers: Layer) -> None:
        super().__init__()
        if not layers:
            raise ValueError("layers: none, expected at least one")
        self.layers = layers
        for i, layer in enumerate(layers):
            self.params |= {f"{i}.{name}": p for name, p in layer.params.items()}
            self.grads |= {f"{i}.{name}": g for name, g in layer.grads.items()}

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return the output of the last layer for x (N, ...)."""
        for layer in self.layers:
            x = layer.forward(x, training)
        return x

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill every layer's `grads` and return the gradient in the input."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        return dy

    def parameter_gradients(self, dy: FloatArray) -> None:
        """Fill every layer's `grads`, without the gradient in the input, which training drops."""
        for layer in reversed(self.layers[1:]):
            dy = layer.backward(dy)
        self.layers[0].parameter_gradients(dy)


def mlp(sizes: Sequence[int], *, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> Sequential:
    """Make a multilayer perceptron: Linear layers with ReLU between them.

    sizes: inputs, hidden layers, classes; at least two numbers. seed: of the initial weights.
    Raises ValueError if there are fewer than two sizes or one is below 1.

    >>> [p.shape for p in mlp([64, 32, 10]).params.values()]
    [(32, 64), (32,), (10, 32), (10,)]
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes: {list(sizes)}, expected inputs and outputs at least")
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    for inputs, outputs in pairwise(sizes):
        layers += [Linear(inputs, outputs, rng, dtype), ReLU()]
    return Sequential(*layers[:-1])


def softmax_cross_entropy(
    logits: FloatArray, labels: IntArray, class_weights: FloatArray | None = None
) -> tuple[float, FloatArray]:
    """Return the mean cross-entropy of softmax(logits) and its gradient in the logits.

    logits: (N, C), overwritten by the gradient, which is returned. labels: (N,), classes 0 ... C-1.
    class_weights: (C,), or None for equal ones; the mean is then sum(wᵢ lossᵢ) / sum(wᵢ), as in
    torch.nn.CrossEntropyLoss. The largest logit of a row is subtracted first, so none overflows.
    Raises ValueError if the shapes do not fit. Source: Bridle 1990, "Probabilistic interpretation
    of feedforward classification network outputs".

    >>> loss, gradient = softmax_cross_entropy(np.zeros((1, 2)), np.array([0]))
    >>> round(loss, 4), gradient.tolist()
    (0.6931, [[-0.5, 0.5]])
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"labels: shape {labels.shape}, expected one per row of {logits.shape}")
    rows = np.arange(len(labels))
    logits -= logits.max(axis=1, keepdims=True)
    chosen = logits[rows, labels]
    np.exp(logits, out=logits)
    total = logits.sum(axis=1, keepdims=True)
    losses = np.log(total[:, 0]) - chosen
    weights = np.ones(len(labels)) if class_weights is None else class_weights[labels]
    share = weights / weights.sum(dtype=np.float64)
    logits /= total
    logits[rows, labels] -= 1
    logits *= share[:, None].astype(logits.dtype)
    return float(np.dot(share, losses)), logits


def balanced_class_weights(y: IntArray, classes: int) -> npt.NDArray[np.float64]:
    """Return weights (C,) that let every class count alike in the loss; their mean over y is 1.

    y: (N,), numbers below `classes`. A class without a row gets 0. As in scikit-learn.
    Source: King & Zeng 2001, "Logistic regression in rare events data".

    >>> balanced_class_weights(np.array([0, 0, 0, 1]), 2).tolist()
    [0.6666666666666666, 2.0]
    """
    counts = np.bincount(y, minlength=classes)
    weights: npt.NDArray[np.float64] = len(y) / (classes * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0)
