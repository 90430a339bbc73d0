"""A network for tables that needs no tuning: the recipe of RealMLP-TD.

Robust scales of columns, periodic features of numbers, a learned factor for each, three layers of
256 units whose activations adapt; Adam with rates by kind of parameter that rise and fall in four
cycles, dropout and weight decay that end in the second half, smoothed labels.
Source: Holzmüller, Grinsztajn & Steinwart 2024, "Better by default: strong pre-tuned MLPs and
boosted trees on tabular data" (arXiv:2407.04491), whose tuned numbers are in `Recipe`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import gradstep.nn as nn
from gradstep.arguments import choice, integer, number, several
from gradstep.nn import Dropout, FloatArray, Layer, Linear, Sequential
from gradstep.nn.activations import Activation
from gradstep.nn.tabular import Parametric, PeriodicEmbedding, Scale
from gradstep.optim.optimizers import AdamW

__all__ = ["CLASSES", "NUMBERS", "Best", "Columns", "Epoch", "Recipe", "Tabular"]

SMOOTH_CLIP = 3.0  # no scaled value leaves -3 ... 3
FAR = 1e100  # scaled values that are as good as infinite
EPS = 1e-8  # of Adam
ROWS_SEEN = 16_384  # by what initial values are fitted to, at most
ROWS_AT_ONCE = 4_096  # of a prediction


@dataclass(frozen=True)
class Columns:
    """Makes the columns of a table comparable: (x - median) factor, then a smooth clip.

    median, factor: (I,). A factor is 1 over the distance of the quartiles; where that is 0, 2 over
    the distance of the extremes; 0 for a constant column. several: (I,), whether a column has more
    than two values, without which a curve over it means nothing.

    >>> columns = Columns.of(np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0], [300.0, 1.0]]))
    >>> columns(np.array([[1.5, 1.0], [1e9, 1.0]])).round(3).tolist()
    [[0.0, 0.0], [3.0, 0.0]]
    """

    median: npt.NDArray[np.float64]
    factor: npt.NDArray[np.float64]
    several: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, x: FloatArray) -> Columns:
        """Those of the training rows x (N, I), finite numbers."""
        x = np.asarray(x, np.float64)
        low, first, median, third, high = np.quantile(x, (0, 0.25, 0.5, 0.75, 1), axis=0)
        # Halves: a difference of numbers of either sign near the largest would be infinite.
        spread, extent = third / 2 - first / 2, high / 2 - low / 2
        factor = np.zeros_like(median)
        with np.errstate(over="ignore"):
            np.divide(0.5, spread, out=factor, where=spread > 0)
            np.divide(1, extent, out=factor, where=(spread == 0) & (extent > 0))
        several = ((x != low) & (x != high)).any(axis=0)
        return cls(median, np.minimum(factor, np.finfo(np.float64).max), several)

    def __call__(self, x: FloatArray, dtype: npt.DTypeLike = np.float32) -> FloatArray:
        """Return rows x (N, I) so changed."""
        with np.errstate(over="ignore", invalid="ignore"):
            z = (np.asarray(x, np.float64) - self.median) * self.factor
        z = np.where(self.factor == 0, 0, np.clip(z, -FAR, FAR))
        return np.asarray(SMOOTH_CLIP * z / np.hypot(SMOOTH_CLIP, z), dtype)


@dataclass(frozen=True)
class Cycles:
    """A rate in cycles that double in length: from 0 up to lr and back to 0 in each.

    >>> rate = Cycles(1.0, steps=15)
    >>> [round(rate(t), 3) for t in (1, 2, 3, 4, 6, 8, 16)]
    [0.0, 0.0, 0.93, 0.0, 0.93, 0.0, 0.0]
    """

    lr: float
    steps: int
    cycles: int = 4

    def __call__(self, t: int) -> float:
        """The rate of step t = 1, 2, ..."""
        at = math.log2(1 + (2**self.cycles - 1) * (t - 1) / self.steps)
        return self.lr * 0.5 * (1 - math.cos(2 * math.pi * at))


@dataclass(frozen=True)
class FlatCosine:
    """A value that stays for half of the steps and then falls to 0 along a cosine.

    >>> [round(FlatCosine(0.2, steps=4)(t), 3) for t in (1, 2, 3, 4, 5)]
    [0.2, 0.2, 0.2, 0.1, 0.0]
    """

    value: float
    steps: int

    def __call__(self, t: int) -> float:
        """The value at step t = 1, 2, ..."""
        fallen = max(0.0, 2 * (t - 1) / self.steps - 1)
        return self.value * 0.5 * (1 + math.cos(math.pi * fallen))


# Activations that learn nothing and give a value for each.
FUNCTIONS: dict[str, Callable[[], Activation]] = {
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "selu": nn.SELU,
    "mish": nn.Mish,
}


@dataclass(frozen=True)
class Recipe:
    """The numbers of the recipe; `..._rate` are factors of `lr` for a kind of parameter.

    activation: a name of FUNCTIONS. hidden: units of each hidden layer. batch_size: rows of a step.
    validation_fraction: share of the rows that is held out to choose an epoch; of estimators.
    Raises TypeError or ValueError.

    >>> Recipe(lr=0.1, activation="selu", dropout=1.0)
    Traceback (most recent call last):
    ValueError: dropout: 1.0, expected a number in [0, 1)
    """

    lr: float
    activation: str
    label_smoothing: float = 0.1
    hidden: tuple[int, ...] = (256, 256, 256)
    epochs: int = 256
    batch_size: int = 256
    dropout: float = 0.15
    weight_decay: float = 0.02
    betas: tuple[float, float] = (0.9, 0.95)
    scale_rate: float = 6.0
    bias_rate: float = 0.1
    activation_rate: float = 0.1
    embedding_rate: float = 0.1
    validation_fraction: float = 0.2

    def __post_init__(self) -> None:
        choice("activation", self.activation, FUNCTIONS)
        several("hidden", self.hidden, lambda name, size: integer(name, size, 1))
        for name in ("epochs", "batch_size"):
            integer(name, getattr(self, name), 1)
        rates = ("scale_rate", "bias_rate", "activation_rate", "embedding_rate")
        for name in ("lr", "weight_decay", *rates):
            number(name, getattr(self, name), "a number >= 0", lambda x: x >= 0)
        for name in ("dropout", "label_smoothing", "validation_fraction"):
            number(name, getattr(self, name), "a number in [0, 1)", lambda p: 0 <= p < 1)


CLASSES = Recipe(lr=0.04, activation="selu")
NUMBERS = Recipe(lr=0.2, activation="mish")


class Epoch(NamedTuple):
    """loss: mean over the steps of an epoch. lr: that of weights at its last step."""

    loss: float
    lr: float


class Best:
    """A copy of arrays as they were at the last of the smallest errors.

    >>> w = np.array([1.0])
    >>> best = Best({"w": w})
    >>> best.note(0.5)
    True
    >>> w += 1
    >>> best.note(0.7)
    False
    >>> best.restore()
    >>> w
    array([1.])
    """

    def __init__(self, arrays: Mapping[str, FloatArray]) -> None:
        self._arrays = arrays
        self._saved = {name: array.copy() for name, array in arrays.items()}
        self._least = math.inf

    def note(self, error: float) -> bool:
        """Copy the arrays if there was no smaller error; return whether."""
        if not error <= self._least:
            return False
        self._least = error
        for name, array in self._arrays.items():
            np.copyto(self._saved[name], array)
        return True

    def restore(self) -> None:
        """Put the copy back, in place."""
        for name, array in self._arrays.items():
            np.copyto(array, self._saved[name])


class Tabular:
    """A network by the recipe, with initial values from the rows x (N, I) that will train it.

    x: finite numbers. outputs: K. seed: of everything random. dtype: of parameters and results.
    Pickles hold the parameters, without memory for computing.

    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((200, 2))
    >>> model = Tabular(Recipe(lr=0.1, activation="mish", epochs=40), x, outputs=1, seed=0)
    >>> target = np.float32(x[:, :1] * x[:, 1:])
    >>> def loss(raw, target, weight, total):
    ...     difference = raw - target
    ...     np.multiply(difference, 2 / total, out=raw)
    ...     return float(np.square(difference).mean())
    >>> losses = [epoch.loss for epoch in model.epochs(x, target, loss)]
    >>> losses[-1] < 0.5 * losses[0]
    True
    >>> model.predict(x).shape
    (200, 1)
    """

    def __init__(
        self,
        recipe: Recipe,
        x: FloatArray,
        outputs: int,
        seed: int,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        self.recipe: Recipe = recipe
        self.columns: Columns = Columns.of(x)
        self._outputs, self._seed = outputs, seed
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.network: Sequential
        self.network, self._dropouts = self._built()
        rng = np.random.default_rng([seed, 1])
        rows = self.columns(x[:ROWS_SEEN], dtype)
        for layer in self.network.layers:
            if isinstance(layer, Linear):
                _fit_initial_values(layer, rows, rng)
            rows = layer.forward(rows, False)

    def _built(self) -> tuple[Sequential, list[Dropout]]:
        recipe, dtype = self.recipe, self.dtype
        rng = np.random.default_rng([self._seed, 0])
        layers: list[Layer] = []
        inputs = len(self.columns.median)
        curved = np.flatnonzero(self.columns.several)
        if curved.size:
            embedding = PeriodicEmbedding(curved, rng, dtype=dtype)
            layers.append(embedding)
            inputs += embedding.params["bias"].size
        layers.append(Scale(inputs, dtype))
        dropouts = []
        for depth, size in enumerate(recipe.hidden):
            function = FUNCTIONS[recipe.activation]()
            entropy = np.random.SeedSequence([self._seed, 2, depth])
            dropout = Dropout(recipe.dropout, int(entropy.generate_state(1, np.uint64)[0]))
            linear = Linear(inputs, size, rng, dtype, init="zeros")
            layers += [linear, Parametric(function, size, dtype), dropout]
            dropouts.append(dropout)
            inputs = size
        layers.append(Linear(inputs, self._outputs, rng, dtype, init="zeros"))
        return Sequential(*layers), dropouts

    def predict(self, x: FloatArray) -> FloatArray:
        """Return the outputs (N, K) for rows x (N, I); threads may predict at the same time."""
        return self.outputs(self.columns(x, self.dtype))

    def outputs(self, rows: FloatArray) -> FloatArray:
        """The same for rows that `columns` has changed."""
        network = self.network.twin()
        y = np.empty((len(rows), self._outputs), self.dtype)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            y[part] = network.forward(rows[part], False)
        return y

    def epochs(
        self,
        x: FloatArray,
        target: npt.NDArray[Any],
        loss: Callable[..., float],
        weight: FloatArray | None = None,
    ) -> Iterator[Epoch]:
        """Train on rows x (N, I), and yield after every epoch.

        target: (N, ...), what the loss takes rows of. loss(raw, target, weight, total): gives the
        loss of a batch and writes its gradient over raw (n, K). weight: of each row (N,); total is
        their sum, or n. Rows that do not fill a batch sit an epoch out, others in every one.
        """
        recipe, rows = self.recipe, self.columns(x, self.dtype)
        size = min(recipe.batch_size, len(rows))
        starts = range(0, len(rows) - size + 1, size)
        steps = recipe.epochs * len(starts)
        optimizer = AdamW(self._groups(steps), betas=recipe.betas)
        optimizer.bind([*self._by_kind(self.network.grads).values()])
        dropped = FlatCosine(recipe.dropout, steps)
        rng = np.random.default_rng([self._seed, 3])
        for _ in range(recipe.epochs):
            order, sum_of_losses = rng.permutation(len(rows)), 0.0
            for start in starts:
                index = order[start : start + size]
                part = None if weight is None else weight[index]
                total = float(size if part is None else part.sum())
                for dropout in self._dropouts:
                    dropout.p = dropped(optimizer.step_count + 1)
                raw = self.network.forward(rows[index], True)
                if total:  # else nothing in this batch counts
                    sum_of_losses += loss(raw, target[index], part, total)
                    self.network.parameter_gradients(raw)
                    optimizer.step()
            yield Epoch(sum_of_losses / len(starts), _rate(recipe, optimizer.step_count, steps))

    def _groups(self, steps: int) -> list[dict[str, Any]]:
        """Parameters with their rates.

        A weight matrix of I inputs has lr / √I: for Adam the same as weights √I times as large in
        a product divided by √I (the NTK parametrisation), without that division. Decay and eps
        are then those of the larger weights. As in the authors' code, the factor of a rate counts
        twice in the decay, and there is none for biases.
        """
        recipe, groups = self.recipe, []
        factors = {
            "weight": 1.0,
            "bias": recipe.bias_rate,
            "scale": recipe.scale_rate,
            "activation": recipe.activation_rate,
            "embedding": recipe.embedding_rate,
        }
        for (kind, inputs), params in self._by_kind(self.network.params).items():
            factor, root = factors[kind], math.sqrt(inputs)
            decay = 0.0 if kind == "bias" else recipe.weight_decay * factor * root
            groups.append(
                {
                    "params": params,
                    "lr": Cycles(recipe.lr * factor / root, steps),
                    "weight_decay": FlatCosine(decay, steps),
                    "eps": EPS * root,
                }
            )
        return groups

    def _by_kind(
        self, arrays: Mapping[str, FloatArray]
    ) -> dict[tuple[str, int], dict[str, FloatArray]]:
        """(kind, inputs of a product, else 1) -> name -> array, always in one order."""
        kinds = {Scale: "scale", Parametric: "activation", PeriodicEmbedding: "embedding"}
        found: defaultdict[tuple[str, int], dict[str, FloatArray]] = defaultdict(dict)
        for place, layer in enumerate(self.network.layers):
            for name, param in layer.params.items():
                kind = kinds.get(type(layer), name)
                inputs = param.shape[1] if kind == "weight" else 1
                found[kind, inputs][f"{place}.{name}"] = arrays[f"{place}.{name}"]
        return found

    def __getstate__(self) -> dict[str, Any]:
        built = ("network", "_dropouts")
        state = {name: value for name, value in vars(self).items() if name not in built}
        return {**state, "arrays": self.network.state_dict()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = state.pop("arrays")
        vars(self).update(state)
        self.network, self._dropouts = self._built()
        self.network.load_state_dict(arrays)


def _rate(recipe: Recipe, step: int, steps: int) -> float:
    return Cycles(recipe.lr, steps)(max(step, 1))


ROWS_OF_A_KINK = 5


def _fit_initial_values(linear: Linear, x: FloatArray, rng: np.random.Generator) -> None:
    """Give every unit a deviation of 1 over rows x, and a zero at a random mean of a few of them.

    The second is the "he+5" of the paper, after Steinwart 2019 (arXiv:1903.11482).
    """
    weight, bias = linear.params["weight"], linear.params["bias"]
    weight[...] = rng.standard_normal(weight.shape)
    z = x @ weight.T
    deviation = z.std(axis=0)
    deviation[deviation == 0] = 1
    weight /= deviation[:, None]
    chosen = rng.integers(len(x), size=(ROWS_OF_A_KINK, len(bias)))
    shares = rng.standard_exponential(chosen.shape)
    shares /= shares.sum(axis=0)
    bias[...] = -(np.take_along_axis(z, chosen, axis=0) * shares).sum(axis=0) / deviation
