"""The multilayer perceptron of the estimators: products, normalisation, activation, dropout.

Weights are (inputs, outputs), as scikit-learn keeps them. In training everything is written into
memory that is allocated once; at inference nothing is kept, so that threads may share a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gradstep.arrays import Array
from gradstep.ops import activations, norm
from gradstep.ops.dropout import dropout, dropout_backward
from gradstep.ops.fused import bias_activation, bias_activation_backward

__all__ = ["ACTIVATIONS", "Layer", "Network", "Norm", "NormedLayer", "mask_seeds"]


class Activation(NamedTuple):
    """A function of every value and its derivative.

    name: in `gradstep.ops.fused`. reads: whether the derivative is computed from the function's "x"
    or its "y"; "sign": from the sign of either, which dropout in place leaves.
    """

    name: str
    forward: Callable[..., Array]
    backward: Callable[..., Array]
    reads: str


def _activation(name: str, reads: str) -> Activation:
    backward = getattr(activations, f"{name}_backward")
    return Activation(name, getattr(activations, name), backward, reads)


# scikit-learn's names, and those of gradstep that learn nothing.
ACTIVATIONS: dict[str, Activation | None] = {
    "identity": None,
    "logistic": _activation("sigmoid", "y"),
    "tanh": _activation("tanh", "y"),
    "relu": _activation("relu", "sign"),
    "leaky_relu": _activation("leaky_relu", "sign"),
    "silu": _activation("silu", "x"),
    "gelu": _activation("gelu", "x"),
    "selu": _activation("selu", "y"),
    "mish": _activation("mish", "x"),
}


def mask_seeds(seed: int, count: int) -> list[int]:
    """A seed of dropout for every layer, as `gradstep.nn.mlp` derives them."""
    sequences = (np.random.SeedSequence([seed, number]) for number in range(count))
    return [int(sequence.generate_state(1, np.uint64)[0]) for sequence in sequences]


@dataclass
class Norm:
    """Normalisation before an activation; the intercept of the layer is its bias.

    weight: (C,). running_mean, running_var: (C,) for batch norm, None for layer norm.
    """

    weight: Array
    running_mean: Array | None = None
    running_var: Array | None = None

    @classmethod
    def new(cls, kind: str, channels: int, dtype: Any) -> Norm:
        """That of an untrained layer. kind: "batch" or "layer"."""
        weight = np.ones(channels, dtype)
        if kind == "layer":
            return cls(weight)
        return cls(weight, np.zeros(channels, dtype), np.ones(channels, dtype))

    @property
    def batch(self) -> bool:
        """Whether it is a batch norm."""
        return self.running_mean is not None

    def astype(self, dtype: Any) -> Norm:
        """A copy of another type."""
        return Norm(self.weight.astype(dtype), *(a.astype(dtype) for a in self.running))

    @property
    def running(self) -> tuple[Array, ...]:
        """The running statistics, if there are any."""
        if self.running_mean is None or self.running_var is None:
            return ()
        return self.running_mean, self.running_var

    def forward(
        self, z: Array, bias: Array, training: bool, relu: bool, out: Array
    ) -> tuple[Array, Any, Any]:
        """(y, mean, invstd) of z (N, C); relu: whether what is below 0 becomes 0 as well."""
        if not self.batch:
            return norm.layer_norm(z, self.weight, bias, out=out)
        return norm.batch_norm(
            z,
            self.weight,
            bias,
            self.running_mean,
            self.running_var,
            training=training,
            axis=-1,
            activation="relu" if relu else None,
            out=out,
        )

    def backward(
        self, dy: Array, z: Array, bias: Array, stats: tuple[Any, Any], relu: bool
    ) -> tuple[Array, Array]:
        """(dweight, dbias); dz is written over dy."""
        if self.batch:
            activation: Any = "relu" if relu else None
            settings = {"axis": -1, "activation": activation, "bias": bias, "out": dy}
            _, dweight, dbias = norm.batch_norm_backward(dy, z, self.weight, *stats, **settings)
        else:
            _, dweight, dbias = norm.layer_norm_backward(dy, z, self.weight, *stats, out=dy)
        return dweight, dbias


class Layer:
    """y = dropout(activation(x W + b)); activation None is the identity.

    weight: (I, O). bias: (O,). p, seed: of the dropout, whose mask depends on these and on the
    number of the call. All arrays are used as they are; gradients are found in `grads`.
    """

    norm: Norm | None = None

    def __init__(
        self,
        weight: Array,
        bias: Array,
        activation: Activation | None = None,
        p: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.weight: Array = weight
        self.bias: Array = bias
        self.activation: Activation | None = activation
        self.p: float = p
        self.seed: int = seed
        self.grads: list[Array] = []

    @property
    def params(self) -> list[Array]:
        """Arrays that learn; in this order their gradients."""
        return [self.weight, self.bias]

    def infer(self, x: Any) -> Array:
        """y of x (N, I), dense or sparse, without dropout, into new memory."""
        z: Array = np.asarray(x @ self.weight)
        if self.activation:
            return bias_activation(z, self.bias, self.activation.name, out=z)
        z += self.bias
        return z

    def prepare(self, rows: int, grads: Sequence[Array] | None = None) -> None:
        """Allocates what training on up to so many rows needs."""
        outputs, dtype = self.weight.shape[1], self.weight.dtype
        self.grads = [np.zeros_like(p) for p in self.params] if grads is None else list(grads)
        self._z = np.empty((rows, outputs), dtype)
        self._dx = np.empty((rows, self.weight.shape[0]), dtype)
        reads = self.activation.reads if self.activation else ""
        self._keeps_x = reads == "x" or (reads == "y" and self.p > 0)
        self._y = np.empty_like(self._z) if self._keeps_x else self._z

    def forward(self, x: Any, call: int) -> Array:
        """y of x (N, I) in training; call: the number of the step, which picks the mask."""
        self._x = x
        self._drop: Any = {"p": self.p, "seed": self.seed, "offset": call}
        z = self._z[: x.shape[0]]
        if isinstance(x, np.ndarray):
            np.matmul(x, self.weight, out=z)
        else:
            z[...] = x @ self.weight
        return self._after_product(z)

    def _after_product(self, z: Array) -> Array:
        if self.activation:
            out, name = self._y[: len(z)], self.activation.name
            y = bias_activation(z, self.bias, name, out=out, **self._drop)
            self._saved = z if self._keeps_x else y
            return y
        z += self.bias
        return dropout(z, out=z, **self._drop) if self.p else z

    def backward(self, dy: Array) -> None:
        """Fills `grads` from dy, over which it writes the gradient in the product."""
        self._before_product(dy)
        if isinstance(self._x, np.ndarray):
            np.matmul(self._x.T, dy, out=self.grads[0])
        else:
            self.grads[0][...] = self._x.T @ dy

    def _before_product(self, dy: Array) -> None:
        if self.activation:
            bias, name = self.bias if self._keeps_x else None, self.activation.name
            _, self.grads[1][...] = bias_activation_backward(
                dy, self._saved, name, bias=bias, out=dy, **self._drop
            )
            return
        if self.p:
            dropout_backward(dy, out=dy, **self._drop)
        np.add.reduce(dy, axis=0, out=self.grads[1])

    def input_gradient(self, dz: Array) -> Array:
        """The gradient in x, from what `backward` left in dy."""
        return np.matmul(dz, self.weight.T, out=self._dx[: len(dz)])


class NormedLayer(Layer):
    """y = dropout(activation(norm(x W) + b)). norm: whose weight learns as well."""

    norm: Norm

    def __init__(self, weight: Array, bias: Array, norm: Norm, *others: Any) -> None:
        super().__init__(weight, bias, *others)
        self.norm = norm
        # A ReLU after batch norm is part of it.
        self._relu = norm.batch and self.activation is ACTIVATIONS["relu"]
        if self._relu:
            self.activation = None

    @property
    def params(self) -> list[Array]:
        """Arrays that learn; in this order their gradients."""
        return [*super().params, self.norm.weight]

    def infer(self, x: Any) -> Array:
        """y of x (N, I), dense or sparse, without dropout, into new memory."""
        z: Array = np.asarray(x @ self.weight)
        self.norm.forward(z, self.bias, False, self._relu, z)
        return z if self.activation is None else self.activation.forward(z, out=z)

    def prepare(self, rows: int, grads: Sequence[Array] | None = None) -> None:
        """Allocates what training on up to so many rows needs."""
        super().prepare(rows, grads)
        reads = self.activation.reads if self.activation else ""
        self._normed = np.empty_like(self._z)
        self._y = np.empty_like(self._z) if reads == "x" else self._normed
        self._dropped = np.empty_like(self._z) if self.p and reads == "y" else self._y

    def _after_product(self, z: Array) -> Array:
        rows = len(z)
        y = u = self._normed[:rows]
        _, *self._stats = self.norm.forward(z, self.bias, True, self._relu, u)
        if self.activation:
            y = self.activation.forward(u, out=self._y[:rows])
            self._saved = u if self.activation.reads == "x" else y
        return dropout(y, out=self._dropped[:rows], **self._drop) if self.p else y

    def _before_product(self, dy: Array) -> None:
        if self.p:
            dropout_backward(dy, out=dy, **self._drop)
        if self.activation:
            self.activation.backward(dy, self._saved, out=dy)
        z, stats = self._z[: len(dy)], (self._stats[0], self._stats[1])
        dweight, dbias = self.norm.backward(dy, z, self.bias, stats, self._relu)
        self.grads[1][...], self.grads[2][...] = dbias, dweight


class Network:
    """Layers in a row, the last one without activation.

    input_dropout, seed: of the dropout of x.
    """

    def __init__(self, layers: Sequence[Layer], input_dropout: float = 0.0, seed: int = 0) -> None:
        self.layers: list[Layer] = list(layers)
        self._p, self._seed = input_dropout, seed

    @property
    def smallest_batch(self) -> int:
        """Rows that a batch needs: batch norm has no variance of one."""
        return 2 if any(layer.norm and layer.norm.batch for layer in self.layers) else 1

    @property
    def params(self) -> list[Array]:
        """Arrays that learn."""
        return [p for layer in self.layers for p in layer.params]

    @property
    def arrays(self) -> list[Array]:
        """All that a trained network consists of."""
        running = (a for layer in self.layers if layer.norm for a in layer.norm.running)
        return [*self.params, *running]

    def infer(self, x: Any) -> Array:
        """What the last layer makes of x (N, I), dense or sparse."""
        for layer in self.layers:
            x = layer.infer(x)
        result: Array = x
        return result

    def prepare(self, rows: int, grads: Iterable[Sequence[Array]] | None = None) -> None:
        """Allocates what training on up to so many rows needs. grads: where gradients go."""
        given = [None] * len(self.layers) if grads is None else list(grads)
        for layer, own in zip(self.layers, given, strict=True):
            layer.prepare(rows, own)

    def forward(self, x: Any, call: int) -> Array:
        """The same in training, in memory that the next call overwrites; x may be dropped from."""
        if self._p:
            values = x if isinstance(x, np.ndarray) else x.data
            dropout(values, self._p, seed=self._seed, offset=call, out=values)
        for layer in self.layers:
            x = layer.forward(x, call)
        result: Array = x
        return result

    def backward(self, dy: Array) -> None:
        """Fills the `grads` of all layers; dy is overwritten."""
        first, *others = self.layers
        for layer in reversed(others):
            layer.backward(dy)
            dy = layer.input_gradient(dy)
        first.backward(dy)
