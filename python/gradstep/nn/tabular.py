"""Layers for tables: numbers as periodic features, scales of columns, activations that adapt.

Shapes: N rows of a batch, I columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.arguments import floating, generator, integer, kind, number, several, shown
from gradstep.nn import settings
from gradstep.nn.activations import Activation
from gradstep.nn.layer import Buffer, FloatArray, Layer, check_batch, check_forward
from gradstep.nn.settings import Setting

__all__ = ["Parametric", "PeriodicEmbedding", "Scale"]


def _column(name: str, value: Any) -> int:
    return integer(name, value, most=2**31)


class Scale(Layer):
    """y = x weight, a number for each column, 1 at first.

    With a rate of its own it is a soft choice of columns: those with larger factors learn faster.
    columns: I, the last axis of x. Raises TypeError or ValueError. Source: Holzmüller, Grinsztajn &
    Steinwart 2024 (arXiv:2407.04491).

    >>> Scale(2).forward(np.array([[1.0, 2.0]], np.float32))
    array([[1., 2.]], dtype=float32)
    """

    columns: Any = Setting(settings.size, fixed=True)

    def __init__(self, columns: int, dtype: npt.DTypeLike = np.float32) -> None:
        super().__init__()
        self.columns = columns
        weight = np.ones(self.columns, floating("dtype", dtype))
        self.params["weight"], self.grads["weight"] = weight, np.zeros_like(weight)
        self._x: FloatArray | None = None
        self._y, self._dx = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y like x (N, I)."""
        check_forward(x, training, "N", self.columns, c_order=False)
        x = self._x = np.asarray(x)
        return np.multiply(x, self.params["weight"], out=self._y.like(x))

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy and return dx, both like x."""
        if self._x is None:
            raise RuntimeError("backward: called before forward")
        check_batch("dy", dy, *self._x.shape, c_order=False)
        dy = np.asarray(dy)
        np.einsum("ni,ni->i", dy, self._x, out=self.grads["weight"], casting="same_kind")
        return np.multiply(dy, self.params["weight"], out=self._dx.like(dy))


class PeriodicEmbedding(Layer):
    """Gives some columns of x (N, I) more features: linear ones of cosines of the column.

    y (N, I + E K): x itself, then K numbers a_e · cos(2π x_e f_e + φ_e) + b_e for each embedded
    column e, with H frequencies f_e and phases φ_e. Learns `frequency`, `phase` (E, H), `weight`
    (E, H, K), `bias` (E, K). columns: the numbers of the E columns. rng: source of the initial
    values; frequencies are normal of deviation sigma. Raises TypeError or ValueError.
    Sources: Gorishniy, Rubachev & Babenko 2022 (arXiv:2203.05556); Holzmüller, Grinsztajn &
    Steinwart 2024 (arXiv:2407.04491), whose PBLD this is.

    >>> layer = PeriodicEmbedding([1], np.random.default_rng(0), features=3)
    >>> layer.forward(np.zeros((5, 2), np.float32)).shape
    (5, 5)
    """

    def __init__(
        self,
        columns: npt.ArrayLike,
        rng: np.random.Generator,
        *,
        frequencies: int = 16,
        features: int = 3,
        sigma: float = 0.1,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        frequencies = settings.size("frequencies", frequencies)
        features = settings.size("features", features)
        sigma = number("sigma", sigma, "a number >= 0", lambda x: x >= 0)
        rng, dtype = generator("rng", rng), floating("dtype", dtype)
        self._columns = np.array(several("columns", columns, _column), np.intp)
        unique = np.unique(self._columns)
        if self._columns.ndim != 1 or not 0 < self._columns.size == unique.size or unique[0] < 0:
            raise ValueError(f"columns: {shown(columns)}, expected different numbers >= 0")
        count, bound = self._columns.size, 1 / math.sqrt(frequencies)
        shapes = (count, frequencies), (count, frequencies, features), (count, features)
        initial = {
            "frequency": sigma * rng.standard_normal(shapes[0]),
            "phase": rng.uniform(-math.pi, math.pi, shapes[0]),
            "weight": rng.uniform(-bound, bound, shapes[1]),
            "bias": rng.uniform(-bound, bound, shapes[2]),
        }
        self.params.update((name, values.astype(dtype)) for name, values in initial.items())
        self.grads.update((name, np.zeros_like(p)) for name, p in self.params.items())
        self._x: FloatArray | None = None
        self._y, self._dx = Buffer(), Buffer()
        self._angles, self._cosines = Buffer(), Buffer()

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y (N, I + E K) of x (N, I)."""
        check_forward(x, training, "N", "I", c_order=False)
        if x.shape[1] <= self._columns.max():
            least = self._columns.max() + 1
            raise ValueError(f"x: shape {x.shape}, expected at least {least} columns")
        x = np.asarray(x)
        count, _, features = self.params["weight"].shape
        rows, inputs = x.shape
        y = self._y.like(x, (inputs + count * features,))
        y[:, :inputs] = x
        # Columns first: each has a matrix of its own.
        angle, cosine = self._scratch(x)
        self._x = x[:, self._columns].T
        np.multiply(self._x[:, :, None], self.params["frequency"][:, None], out=angle)
        angle *= 2 * math.pi
        angle += self.params["phase"][:, None]
        np.cos(angle, out=cosine)
        embedded = np.matmul(cosine, self.params["weight"])
        embedded += self.params["bias"][:, None]
        self._y_shape = y.shape
        y[:, inputs:].reshape(rows, count, features)[...] = embedded.transpose(1, 0, 2)
        return y

    def _scratch(self, rows: FloatArray) -> Iterator[FloatArray]:
        """Angles and their cosines for these rows, (E, N, H) each, in memory that is kept."""
        count, frequencies, _ = self.params["weight"].shape
        for buffer in (self._angles, self._cosines):
            memory = buffer.like(rows, (count * frequencies,))
            yield memory.reshape(count, len(rows), frequencies)

    def parameter_gradients(self, dy: FloatArray) -> None:
        """Fill `grads` from dy (N, I + E K)."""
        self._angle_gradient(self._taken(dy))

    def _taken(self, dy: FloatArray) -> FloatArray:
        if self._x is None:
            raise RuntimeError("backward: called before forward")
        check_batch("dy", dy, *self._y_shape, c_order=False)
        return np.asarray(dy)

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy (N, I + E K) and return dx (N, I)."""
        dy = self._taken(dy)
        dangle = self._angle_gradient(dy)
        count, _, features = self.params["weight"].shape
        dx = self._dx.like(dy, (dy.shape[1] - count * features,))
        dx[...] = dy[:, : dx.shape[1]]
        through = np.einsum("enh,eh->ne", dangle, self.params["frequency"])
        dx[:, self._columns] += 2 * math.pi * through
        return dx

    def _angle_gradient(self, dy: FloatArray) -> FloatArray:
        """Fill `grads`; return the gradient in the angles, (E, N, H)."""
        assert self._x is not None
        rows = len(dy)
        count, _, features = self.params["weight"].shape
        given = dy[:, dy.shape[1] - count * features :].reshape(rows, count, features)
        dembedded = np.ascontiguousarray(given.transpose(1, 0, 2))
        angle, cosine = self._scratch(dy)
        np.matmul(cosine.transpose(0, 2, 1), dembedded, out=self.grads["weight"])
        np.sum(dembedded, axis=1, out=self.grads["bias"])
        dangle = np.matmul(dembedded, self.params["weight"].transpose(0, 2, 1), out=cosine)
        dangle *= np.sin(angle, out=angle)
        np.negative(dangle, out=dangle)
        np.sum(dangle, axis=1, out=self.grads["phase"])
        np.matmul(self._x[:, None], dangle, out=self.grads["frequency"][:, None])
        self.grads["frequency"] *= 2 * math.pi
        return dangle


class Parametric(Layer):
    """y = x + weight (f(x) - x): an activation f, as much of it as each column learns.

    function: an activation without parameters. columns: I; `weight` (I,) starts at 1, which is f
    itself. Raises TypeError or ValueError. Source: Holzmüller, Grinsztajn & Steinwart 2024
    (arXiv:2407.04491).

    >>> from gradstep.nn import ReLU
    >>> layer = Parametric(ReLU(), 1)
    >>> layer.params["weight"][:] = 0.5
    >>> layer.forward(np.array([[-2.0], [2.0]], np.float32))
    array([[-1.],
           [ 2.]], dtype=float32)
    """

    kind = "activations"
    columns: Any = Setting(settings.size, fixed=True)

    def __init__(
        self, function: Activation, columns: int, dtype: npt.DTypeLike = np.float32
    ) -> None:
        super().__init__()
        if not isinstance(function, Activation):
            raise TypeError(f"function: {kind(function)}, expected an activation of gradstep.nn")
        self.columns = columns
        self._function = function
        weight = np.ones(self.columns, floating("dtype", dtype))
        self.params["weight"], self.grads["weight"] = weight, np.zeros_like(weight)
        self._y, self._dx, self._scratch = Buffer(), Buffer(), Buffer()
        self._difference: FloatArray | None = None

    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y like x (N, I)."""
        check_forward(x, training, "N", self.columns)
        difference = np.subtract(self._function.forward(x), x, out=self._scratch.like(x))
        self._difference = difference
        y = np.multiply(difference, self.params["weight"], out=self._y.like(x))
        y += x
        return y

    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy and return dx, both like x."""
        if self._difference is None:
            raise RuntimeError("backward: called before forward")
        check_batch("dy", dy, *self._difference.shape, dtype=self._difference.dtype)
        np.einsum("ni,ni->i", dy, self._difference, out=self.grads["weight"])
        dx = np.multiply(dy, self.params["weight"], out=self._dx.like(dy))
        through = self._function.backward(dx)
        np.subtract(dy, dx, out=dx)
        dx += through
        return dx
