"""The training whose weights the certificate is about: every kernel, and no arithmetic but ours.

A residual network of blocks: h += dropout(activation(norm((h + table) W))). Each block has other
functions and another optimizer, so that a training of all of them is a short loop. Numbers to start
from are integers times powers of two; matrix products are multiplications and additions of NumPy in
one order. Most steps take a few rows; each fiftieth takes all, which is enough to be shared out
among threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from gradstep.arrays import Array
from gradstep.certificate.kernels import Kernels
from gradstep.optim.optimizer import Optimizer
from gradstep.optim.optimizers import OPTIMIZERS
from gradstep.spec.philox import uniform16

__all__ = ["BLOCKS", "Block", "Training", "product"]

SEED = 15
ROWS, BATCH, WIDE_EVERY = 1000, 53, 50
CHANNELS, LENGTH, CLASSES = 3, 7, 5
WIDTH = CHANNELS * LENGTH  # no multiple of a vector
EPS = 1e-5

Grads: TypeAlias = dict[str, Array | None]
# The gradient of what went in, from that of what came out; enters those of weights in `grads`.
Backward: TypeAlias = Callable[[Array], Array]


@dataclass(frozen=True)
class Block:
    """The functions of a block, by name, and its optimizer with what differs from the defaults."""

    optimizer: str
    activation: str
    norm: str = "layer_norm"
    dropout: str = "dropout"
    options: Mapping[str, Any] = field(default_factory=dict)


BLOCKS = (
    Block("SGD", "relu", "batch_norm", "spatial_dropout", {"lr": 0.02, "clip_norm": 1.0}),
    Block("SGD", "leaky_relu", "layer_norm", "dropout", {"lr": 0.02, "momentum": 0.9}),
    Block("SGD", "tanh", "rms_norm", options={"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    Block("Adagrad", "sigmoid", "group_norm", "drop_path", {"clip_value": 0.01}),
    Block("RMSprop", "silu", "instance_norm", "alpha_dropout", {"lr": 1e-3}),
    Block("RMSprop", "gelu", "channels_first", options={"lr": 1e-3, "momentum": 0.5}),
    Block("RMSprop", "gelu_tanh", "layer_norm", "drop_connect", {"lr": 1e-3, "centered": True}),
    Block("RMSprop", "selu", options={"lr": 1e-3, "centered": True, "momentum": 0.5}),
    Block("Adadelta", "mish", "batch_norm", options={"lr": 0.5, "weight_decay": 1e-3}),
    Block("Adam", "prelu", "rms_norm", options={"lr": 2e-3, "l1": 1e-5}),
    Block("Adam", "maxout", options={"lr": 2e-3, "amsgrad": True, "maximize": False}),
    Block("AdamW", "softmax", "group_norm", options={"lr": 2e-3}),
    Block("AdamW", "log_softmax", "batch_norm", options={"lr": 2e-3, "state_dtype": "int8"}),
    Block("AdamW", "tanh", "instance_norm"),
    Block("NAdam", "bias_activation", "rms_norm", options={"lr": 2e-3}),
    Block("Adamax", "relu", "batch_norm", "drop_path"),
    Block("RAdam", "gelu", "layer_norm", "alpha_dropout", {"lr": 2e-3}),
    Block("Lion", "silu", "batch_norm", "spatial_dropout", {"lr": 3e-4}),
)
# What the backward pass of an activation reads: x, or else y.
READS_X = ("silu", "gelu", "gelu_tanh", "mish", "prelu", "maxout", "bias_activation")


def product(a: Array, b: Array) -> Array:
    """The matrix product (n, k) x (k, m), its k terms added in halves: exact to the order."""
    terms = a.T[:, :, None] * b[:, None, :]
    while len(terms) > 1:
        half = len(terms) // 2
        folded = terms[:half] + terms[half : 2 * half]
        terms = np.concatenate([folded, terms[2 * half :]]) if len(terms) % 2 else folded
    return np.asarray(terms[0])


def column_sums(x: Array) -> Array:
    """The sums over rows (n, m) to (m,), in the order of `product`."""
    return np.asarray(product(np.ones((1, len(x)), x.dtype), x)[0])


def drawn(shape: tuple[int, ...], stream: int, bits: int) -> Array:
    """Float32 of multiples of 2^-bits from -2^(15 - bits) on, from a stream of random bits."""
    whole = uniform16(0, int(np.prod(shape)), SEED, stream).astype(np.float32)
    return (whole.reshape(shape) - np.float32(32768)) * np.float32(2.0**-bits)


class Training:
    """A training from the start, one step a call. kernels: whose functions compute."""

    def __init__(self, kernels: Kernels) -> None:
        self.call: Callable[..., Any] = kernels.call
        self.update: Callable[[Optimizer, Mapping[str, Any]], None] = kernels.update
        self.steps: int = 0
        self.wide: bool = False
        self.x: Array = drawn((ROWS, WIDTH), 0, 14)
        whole = uniform16(0, ROWS * WIDTH, SEED, 0).reshape(ROWS, WIDTH).astype(np.int64)
        self.classes: Any = whole[:, :3].sum(1) // 8192 % CLASSES
        self.numbers: Array = self.x[:, 3:4] * self.x[:, 4:5]
        self.class_weight: Array = np.arange(4, 4 + CLASSES).astype(np.float32) / np.float32(8)
        self.running: Array = np.zeros((2, len(BLOCKS), WIDTH), np.float32)
        self.params: list[dict[str, Array]] = [
            self._first(i, block) for i, block in enumerate(BLOCKS)
        ]
        head = {"classes": drawn((WIDTH, CLASSES), 90, 17), "number": drawn((WIDTH, 1), 91, 17)}
        self.params.append({**head, "bias": np.zeros(CLASSES, np.float32)})
        options = [block.options for block in BLOCKS]
        names = [block.optimizer for block in BLOCKS]
        self.optimizers: list[Optimizer] = [
            OPTIMIZERS[name](params, **own)
            for name, params, own in zip(
                [*names, "AdamW"], self.params, [*options, {"clip_norm": 5.0}], strict=True
            )
        ]
        self.loss: float = 0.0

    @staticmethod
    def _first(i: int, block: Block) -> dict[str, Array]:
        pieces = 2 if block.activation == "maxout" else 1
        ones = WIDTH if block.norm in ("batch_norm", "layer_norm", "rms_norm") else CHANNELS
        params = {
            "table": drawn((ROWS, WIDTH), 3 * i + 1, 18),
            "weight": drawn((WIDTH, pieces * WIDTH), 3 * i + 2, 17),
            "scale": np.ones(pieces * WIDTH if block.norm == "layer_norm" else ones, np.float32),
        }
        params["shift"] = np.zeros_like(params["scale"])
        if block.activation == "prelu":
            params["slope"] = np.full(WIDTH, 0.25, np.float32)
        if block.activation == "bias_activation":
            params["bias"] = drawn((WIDTH,), 3 * i + 3, 18)
        return params

    def step(self) -> None:
        """One step of all optimizers."""
        self.steps += 1
        self.wide = self.steps % WIDE_EVERY == 1
        n = ROWS if self.wide else BATCH
        rows = (np.arange(n) + BATCH * self.steps) % ROWS
        h = self.x[rows]
        grads: list[Grads] = [{} for _ in self.params]
        back: list[Backward] = []
        for i in range(len(BLOCKS)):
            h, of_h = self._block(i, h, rows, grads[i])
            back.append(of_h)
        dh = self._head(h, rows, grads[-1])
        for of_h in reversed(back):
            dh = of_h(dh)
        for optimizer, own in zip(self.optimizers, grads, strict=True):
            self.update(optimizer, own)

    def _head(self, h: Array, rows: Array, grads: Grads) -> Array:
        params = self.params[-1]
        logits = product(h, params["classes"]) + params["bias"]
        loss, dlogits = self.call(
            "cross_entropy",
            logits,
            self.classes[rows],
            weight=self.class_weight,
            label_smoothing=0.1,
        )
        error, dnumber = self.call("mse", product(h, params["number"]), self.numbers[rows])
        self.loss = loss + error
        grads["classes"], grads["number"] = product(h.T, dlogits), product(h.T, dnumber)
        grads["bias"] = column_sums(dlogits)
        of_classes = product(dlogits, params["classes"].T)
        return np.asarray(of_classes + product(dnumber, params["number"].T))

    def _block(self, i: int, h: Array, rows: Array, grads: Grads) -> tuple[Array, Backward]:
        params, block = self.params[i], BLOCKS[i]
        # One stream of dropout's random bits a block and step.
        stream = {"seed": SEED + i, "offset": self.steps}
        inputs = h + params["table"][rows]
        weight, of_weight = params["weight"], None
        if block.dropout == "drop_connect":
            weight, of_weight = self._dropout(block.dropout, weight, stream)
        z, of_norm = self._norm(i, product(inputs, weight), grads)
        y, of_activation = self._activation(i, z, grads, stream)
        of_dropout: Backward | None = None
        if of_weight is None and block.activation != "bias_activation":
            y, of_dropout = self._dropout(block.dropout, y, stream)

        def backward(dh: Array) -> Array:
            dy = dh if of_dropout is None else of_dropout(dh)
            dz = of_norm(of_activation(dy))
            dweight = product(inputs.T, dz)
            grads["weight"] = dweight if of_weight is None else of_weight(dweight)
            dinputs = product(dz, weight.T)
            grads["table"] = None
            if self.wide:  # all rows, each of them once
                table = grads["table"] = np.empty_like(dinputs)
                table[rows] = dinputs
            return np.asarray(dh + dinputs)

        return np.asarray(h + y), backward

    def _dropout(self, name: str, x: Array, stream: dict[str, int]) -> tuple[Array, Backward]:
        shaped = x.reshape(len(x), CHANNELS, LENGTH) if name == "spatial_dropout" else x
        y = self.call(name, shaped, 0.125, **stream).reshape(x.shape)

        def backward(dy: Array) -> Array:
            dx: Array = self.call(f"{name}_backward", dy.reshape(shaped.shape), 0.125, **stream)
            return dx.reshape(x.shape)

        return y, backward

    def _norm(self, i: int, z: Array, grads: Grads) -> tuple[Array, Backward]:
        params, name = self.params[i], BLOCKS[i].norm
        scale, shift = params["scale"], params["shift"]
        middle: tuple[Any, ...] = ()
        x = z
        if name in ("group_norm", "instance_norm", "channels_first"):
            x = z.reshape(len(z), CHANNELS, LENGTH)
        if name == "rms_norm":
            y, invstd = self.call(name, z, scale, eps=EPS)
            y, stats = y + shift, (invstd,)
        elif name in ("batch_norm", "channels_first"):
            name = "batch_norm"
            running = self.running[:, i, : len(scale)]
            y, *stats = self.call(name, x, scale, shift, *running, training=True)
        else:
            middle = (1,) if name == "group_norm" else ()
            y, *stats = self.call(name, x, *middle, scale, shift)

        def backward(dy: Array) -> Array:
            dy = dy.reshape(x.shape)
            dx, dscale, *dshift = self.call(f"{name}_backward", dy, x, *middle, scale, *stats)
            grads["scale"], grads["shift"] = dscale, dshift[0] if dshift else column_sums(dy)
            return np.asarray(dx.reshape(z.shape))

        return np.asarray(y.reshape(z.shape)), backward

    def _activation(
        self, i: int, z: Array, grads: Grads, stream: dict[str, int]
    ) -> tuple[Array, Backward]:
        params, name = self.params[i], BLOCKS[i].activation
        own: tuple[Any, ...] = ()
        given: dict[str, Any] = {}
        before: tuple[Any, ...] = ()
        if name == "gelu_tanh":
            name, own = "gelu", ("tanh",)
        elif name == "maxout":
            own = (2,)
        elif name == "prelu":
            own = (params["slope"],)
        elif name == "bias_activation":
            before, own = (params["bias"],), ("tanh",)
            given = {"p": 0.125, **stream}
        y = self.call(name, z, *before, *own, **given)
        saved = z if BLOCKS[i].activation in READS_X else y

        def backward(dy: Array) -> Array:
            if before:
                dz, grads["bias"] = self.call(
                    f"{name}_backward", dy, saved, *own, bias=before[0], **given
                )
            elif name == "prelu":
                dz, grads["slope"] = self.call("prelu_backward", dy, saved, *own)
            else:
                dz = self.call(f"{name}_backward", dy, saved, *own)
            return np.asarray(dz)

        return np.asarray(y), backward

    def digest(self) -> str:
        """SHA-256 of all weights and running statistics, little-endian, in order."""
        found = hashlib.sha256()
        for array in (*(p for own in self.params for p in own.values()), self.running):
            found.update(np.ascontiguousarray(array, "<f4").tobytes())
        return found.hexdigest()
