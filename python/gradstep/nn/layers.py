"""Layers that learn, normalise or drop.

Shapes: N rows of a batch, I inputs, O outputs, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from gradstep.arguments import array, choice, flag, floating, generator
from gradstep.nn import dropouts, init, settings
from gradstep.nn.layer import Buffer, FloatArray, Layer, check_batch, check_forward
from gradstep.nn.settings import Setting
from gradstep.ops import norm

__all__ = ["INITIALISERS", "BatchNorm", "Dropout", "LayerNorm", "Linear"]

Initialiser = Callable[..., FloatArray]

# Name -> a function of gradstep.init: of the shape, and the keywords rng and dtype.
INITIALISERS: dict[str, Initialiser] = {
    "he_normal": init.he_normal,
    "he_uniform": init.he_uniform,
    "xavier_normal": init.xavier_normal,
    "xavier_uniform": init.xavier_uniform,
    "normal": init.normal,
    "zeros": lambda shape, *, rng, dtype: init.zeros(shape, dtype=dtype),
}


class Linear(Layer):
    """y = x Wᵀ + b, with `weight` (O, I) and `bias` (O,), as in torch.

    inputs, outputs: sizes I and O, at least 1. rng: source of the initial weights. dtype: float32
    or float64. init: a name of INITIALISERS, or such a function; the default is for ReLUs. The bias
    starts at 0; bias=False leaves it out, as before a BatchNorm, which has its own.
    Raises TypeError for a wrong kind, ValueError for a size below 1 or an unknown name; forward and
    backward do for other shapes and types.

    >>> layer = Linear(3, 2, np.random.default_rng(0))
    >>> layer.forward(np.zeros((4, 3), np.float32)).shape
    (4, 2)
    """

    kind = "products"
    inputs: Any = Setting(settings.size, fixed=True)
    outputs: Any = Setting(settings.size, fixed=True)

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rng: np.random.Generator,
        dtype: npt.DTypeLike = np.float32,
        *,
        init: str | Initialiser = "he_normal",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        kind, biased = floating("dtype", dtype), flag("bias", bias)
        weight = _initial_weight(self.inputs, self.outputs, rng, init)
        self.params["weight"] = weight.astype(kind)
        if biased:
            self.params["bias"] = np.zeros(self.outputs, kind)
        self.grads.update((name, np.zeros_like(p)) for name, p in self.params.items())
        self._x: FloatArray | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y (N, O) of x (N, I)."""
        check_forward(x, training, "N", self.inputs, c_order=False)
        x = np.asarray(x)  # a subclass has operators of its own
        weight = self.params["weight"]
        self._x = x
        y = self._y.like(x, weight.shape[:1])
        np.matmul(x, weight.T, out=y)
        if "bias" in self.params:
            y += self.params["bias"]
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
        check_batch("dy", dy, len(self._x), self.outputs, c_order=False)
        dy = np.asarray(dy)
        np.matmul(dy.T, self._x, out=self.grads["weight"])
        if "bias" in self.grads:
            np.sum(dy, axis=0, out=self.grads["bias"])


def _initial_weight(
    inputs: int, outputs: int, rng: np.random.Generator, init: str | Initialiser
) -> FloatArray:
    """(O, I) in double; rounded afterwards, so that float32 and float64 networks start alike."""
    if not callable(init):
        init = INITIALISERS[choice("init", init, INITIALISERS)]
    # A linear layer is a convolution over one pixel; that shape has the outputs first.
    shape = (outputs, inputs, 1)
    drawn = array("what init returned", init(shape, rng=generator("rng", rng), dtype=np.float64))
    if drawn.shape != shape:
        raise ValueError(f"what init returned: shape {drawn.shape}, expected {shape}")
    return drawn[:, :, 0]


class BatchNorm(Layer):
    """Normalises every channel over the batch; see `gradstep.batch_norm`.

    channels: C. x: (N, C, ...) for axis 1, (..., C) for axis -1. `weight` (C,) starts at 1, `bias`
    (C,) at 0. Buffers: `running_mean`, `running_var` (C,), used at inference, and
    `num_batches_tracked`. momentum: share of a batch in the running statistics, or None for the
    average of all batches. activation: "relu" to apply a ReLU in the same pass.
    Raises TypeError or ValueError. Source: Ioffe & Szegedy 2015 (arXiv:1502.03167).

    >>> BatchNorm(2, eps=0).forward(np.array([[1.0, 5.0], [3.0, 5.0]], np.float32))
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """

    kind = "normalisation"
    channels: Any = Setting(settings.size, fixed=True)
    momentum: Any = Setting(settings.momentum)
    eps: Any = Setting(settings.eps)
    axis: Any = Setting(settings.channel_axis)
    activation: Any = Setting(settings.relu_or_none)

    def __init__(
        self,
        channels: int,
        *,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
        axis: int = 1,
        activation: Literal["relu"] | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        self.channels, self.momentum, self.eps = channels, momentum, eps
        self.axis, self.activation = axis, activation
        self.params.update(_scale_and_shift(self.channels, dtype))
        self.grads.update((name, np.zeros_like(p)) for name, p in self.params.items())
        self.buffers.update(
            {
                "running_mean": np.zeros_like(self.params["bias"]),
                "running_var": np.ones_like(self.params["weight"]),
                "num_batches_tracked": np.zeros((), np.int64),
            }
        )
        self.smallest_batch = 2
        # In training; others where a batch is computed in parts by several processes.
        self.functions: tuple[Any, Any] = (
            partial(norm.batch_norm, training=True),
            norm.batch_norm_backward,
        )
        self._latest: tuple[Any, ...] | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y like x; in training update the running statistics, otherwise use them."""
        shape = ("N", self.channels, "...") if self.axis == 1 else ("...", "N", self.channels)
        check_forward(x, training, *shape, dtype=self.params["weight"].dtype)
        tracked = self.buffers["num_batches_tracked"]
        number = int(tracked) + 1
        if training and not tracked.flags.writeable:
            raise ValueError("num_batches_tracked: read-only, expected a writable array")
        normalise = self.functions[0] if training else partial(norm.batch_norm, training=False)
        y, mean, invstd = normalise(
            x,
            self.params["weight"],
            self.params["bias"],
            self.buffers["running_mean"],
            self.buffers["running_var"],
            momentum=self.momentum,
            num_batches_tracked=number,
            eps=self.eps,
            axis=self.axis,
            activation=self.activation,
            out=self._y.like(x),
        )
        if training:
            tracked[...] = number
        self._latest = x, mean, invstd, training, self.axis, self.activation
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy and return dx, both like x; after inference for fixed statistics."""
        if self._latest is None:
            raise RuntimeError("backward: called before forward")
        x, mean, invstd, training, axis, activation = self._latest
        inference = partial(norm.batch_norm_backward, training=False)
        dx, dweight, dbias = (self.functions[1] if training else inference)(
            dy,
            x,
            self.params["weight"],
            mean,
            invstd,
            axis=axis,
            activation=activation,
            bias=self.params["bias"],
            out=self._dx.like(x),
        )
        np.copyto(self.grads["weight"], dweight)
        np.copyto(self.grads["bias"], dbias)
        return dx


def _scale_and_shift(channels: int, dtype: npt.DTypeLike) -> dict[str, FloatArray]:
    kind = floating("dtype", dtype)
    return {"weight": np.ones(channels, kind), "bias": np.zeros(channels, kind)}


class LayerNorm(Layer):
    """Normalises every row over its C values; see `gradstep.layer_norm`.

    channels: C, the last axis of x (..., C). `weight` (C,) starts at 1, `bias` (C,) at 0.
    Raises TypeError or ValueError. Source: Ba, Kiros & Hinton 2016 (arXiv:1607.06450).

    >>> LayerNorm(2, eps=0).forward(np.array([[1.0, 3.0], [5.0, 5.0]], np.float32))
    array([[-1.,  1.],
           [ 0.,  0.]], dtype=float32)
    """

    kind = "normalisation"
    channels: Any = Setting(settings.size, fixed=True)
    eps: Any = Setting(settings.eps)

    def __init__(
        self, channels: int, *, eps: float = 1e-5, dtype: npt.DTypeLike = np.float32
    ) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.params.update(_scale_and_shift(self.channels, dtype))
        self.grads.update((name, np.zeros_like(p)) for name, p in self.params.items())
        self._latest: tuple[FloatArray, Any, Any] | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y like x, in training as at inference."""
        weight, bias = self.params["weight"], self.params["bias"]
        check_forward(x, training, "...", self.channels, dtype=weight.dtype)
        y, mean, invstd = norm.layer_norm(x, weight, bias, eps=self.eps, out=self._y.like(x))
        self._latest = x, mean, invstd
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy and return dx, both like x."""
        if self._latest is None:
            raise RuntimeError("backward: called before forward")
        x, mean, invstd = self._latest
        dx, dweight, dbias = norm.layer_norm_backward(
            dy, x, self.params["weight"], mean, invstd, out=self._dx.like(x)
        )
        np.copyto(self.grads["weight"], dweight)
        np.copyto(self.grads["bias"], dbias)
        return dx


class Dropout(Layer, dropouts.Dropout):
    """`gradstep.Dropout` as part of a network: its counts are buffers.

    p: in [0, 1]. seed: 0 ... 2**64 - 1; give every layer its own. Buffers: `seed` and `calls`, the
    number of forward calls in training: call n drops with the mask of offset n, so that no mask
    repeats, and a network that was loaded goes on with those that were to come. At inference x
    is returned itself. part: where x is a part of a batch, the rows of that and which they are:
    then they are dropped as in the whole. Raises TypeError or ValueError. Source: Srivastava et al.
    2014.

    >>> layer = Dropout(0.5, seed=110)
    >>> layer.forward(np.ones((1, 4))), layer.backward(np.ones((1, 4)))
    (array([[0., 2., 0., 0.]]), array([[0., 2., 0., 0.]]))
    >>> layer.forward(np.ones((1, 4)))
    array([[2., 2., 0., 2.]])
    """

    kind: ClassVar[str] = "dropout"
    LAST_CALL: ClassVar[int] = dropouts.LAST_CALL - 1  # so that the count fits its buffer

    def __init__(self, p: float, seed: int) -> None:
        Layer.__init__(self)
        self.part: tuple[int, slice] | None = None
        self.buffers.update(seed=np.array(0, np.uint64), calls=np.array(0, np.uint64))
        self._y, self._dx = Buffer(), Buffer()
        dropouts.Dropout.__init__(self, p, seed)

    @property
    def _seed(self) -> int:
        return int(self.buffers["seed"])

    @_seed.setter
    def _seed(self, seed: int) -> None:
        self.buffers["seed"][...] = seed

    @property
    def _calls(self) -> int:
        return int(self.buffers["calls"])

    @_calls.setter
    def _calls(self, calls: int) -> None:
        self.buffers["calls"][...] = calls

    def _apply(self, x: FloatArray, p: float, offset: int, out: Any) -> FloatArray:
        return self._in_whole(dropouts.Dropout._apply, x, p, offset, out)

    def _apply_backward(self, dy: FloatArray, p: float, offset: int, out: Any) -> FloatArray:
        return self._in_whole(dropouts.Dropout._apply_backward, dy, p, offset, out)

    def _in_whole(
        self, apply: Callable[..., Any], x: FloatArray, p: float, offset: int, out: Any
    ) -> FloatArray:
        if self.part is None:
            return apply(self, x, p, offset, out)  # type: ignore[no-any-return]
        rows, own = self.part
        whole = np.zeros((rows, *x.shape[1:]), x.dtype)
        whole[own] = x
        apply(self, whole, p, offset, whole)
        out[...] = whole[own]
        return out  # type: ignore[no-any-return]

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:  # type: ignore[override]
        """Return y like x, dropped with the next mask; without `training` x itself."""
        check_forward(x, training, "N", "...")
        out = self._y.like(x) if training else None
        return dropouts.Dropout.forward(self, x, training, out)

    __call__ = forward  # type: ignore[assignment]

    def backward(self, dy: FloatArray) -> FloatArray:  # type: ignore[override]
        """Return dx like dy: dropped with the mask of the latest forward call."""
        check_batch("dy", dy, "N", "...")
        out = self._dx.like(dy) if self._latest and self._latest[0] is not None else None
        return dropouts.Dropout.backward(self, dy, out)
