"""Looking into a network: what its layers hold and give, and whether it can learn at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from gradstep.arguments import array, function, integer, kind, number
from gradstep.arrays import Array
from gradstep.nn import FloatArray, Layer
from gradstep.nn.dropouts import Dropout
from gradstep.nn.layer import walk
from gradstep.ops.losses import cross_entropy
from gradstep.optim.gradients import Summary
from gradstep.optim.gradients import describe as describe_arrays
from gradstep.optim.optimizer import Optimizer
from gradstep.optim.optimizers import Adam
from gradstep.train.live import put

__all__ = ["Description", "LayerSummary", "OverfitTest", "describe", "overfit_test"]

Loss = Callable[[Any, Any], tuple[Any, Any]]


class LayerSummary(NamedTuple):
    """A layer: its name, that of its class, the number of its parameters, and what they hold.

    params, grads: over all arrays of the layer; None where there are none. outputs: of one forward
    call at inference, and the share of them that is 0; None where there was no call.
    """

    name: str
    kind: str
    size: int
    params: Summary | None
    grads: Summary | None
    outputs: Summary | None
    zeros: float | None


class Description(tuple[LayerSummary, ...]):
    """Summaries of the layers from first to last; as text a table."""

    __slots__ = ()

    def __str__(self) -> str:
        heads = (
            "layer,kind,parameters,weights rms,gradients rms,output mean,output rms,zeros,nan/inf"
        )
        rows = [heads.split(","), *map(_cells, self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            [
                cell.ljust(w) if i < 2 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            for row in rows
        )
        return "\n".join("  ".join(line).rstrip() for line in lines)


def _cells(layer: LayerSummary) -> list[str]:
    found = [part for part in (layer.params, layer.grads, layer.outputs) if part is not None]
    bad = sum(part.nonfinite for part in found)
    return [
        layer.name,
        layer.kind,
        f"{layer.size:,}" if layer.size else "",
        _number(layer.params and layer.params.rms),
        _number(layer.grads and layer.grads.rms),
        _number(layer.outputs and layer.outputs.mean),
        _number(layer.outputs and layer.outputs.rms),
        "" if layer.zeros is None else f"{layer.zeros:.0%}",
        f"{bad:,}" if bad else "",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def describe(model: Layer, x: FloatArray | None = None) -> Description:
    """What each layer of a network holds, and gives for x: where signals vanish, explode or die.

    model: a layer or network; layers inside others are named "2.0". Its gradients are those of the
    latest backward call. x: a batch (N, ...) for one forward call at inference, which changes
    nothing; without it nothing is said of outputs. Raises TypeError.

    >>> from gradstep.nn import mlp
    >>> layers = describe(mlp([4, 8, 3]), np.ones((5, 4), np.float32))
    >>> [(layer.name, layer.kind, layer.size) for layer in layers]
    [('0', 'Linear', 40), ('1', 'ReLU', 0), ('2', 'Linear', 27)]
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model: {type(model).__name__}, expected a layer of gradstep.nn")
    leaves = list(_leaves(model, ""))
    outputs = {} if x is None else _outputs(model, [layer for _, layer in leaves], x)
    return Description(_summary(name, layer, outputs.get(id(layer))) for name, layer in leaves)


def _leaves(layer: Layer, name: str) -> Iterator[tuple[str, Layer]]:
    """The layers that have none inside, with their names."""
    if not layer.layers:
        yield name, layer
    for i, inner in enumerate(layer.layers):
        yield from _leaves(inner, f"{name}.{i}" if name else str(i))


def _outputs(
    model: Layer, layers: Sequence[Layer], x: FloatArray
) -> dict[int, tuple[Summary, float]]:
    """Summary and share of zeros of what each layer gives, by its id."""
    found: dict[int, tuple[Summary, float]] = {}

    def noting(layer: Layer) -> Callable[..., FloatArray]:
        forward = layer.forward

        def note(x: FloatArray, training: bool = True) -> FloatArray:
            y = forward(x, training)
            zeros = 1 - np.count_nonzero(y) / y.size if y.size else math.nan
            found[id(layer)] = describe_arrays(np.ascontiguousarray(y))[None], zeros
            return y

        return note

    try:
        for layer in layers:
            layer.forward = noting(layer)  # type: ignore[method-assign]
        model.forward(x, False)
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)
    return found


def _summary(name: str, layer: Layer, output: tuple[Summary, float] | None) -> LayerSummary:
    size = sum(p.size for p in layer.params.values())
    params, grads = (_together(arrays) for arrays in (layer.params, layer.grads))
    outputs, zeros = output or (None, None)
    return LayerSummary(name, type(layer).__name__, size, params, grads, outputs, zeros)


def _together(arrays: dict[str, FloatArray]) -> Summary | None:
    """One summary over all arrays."""
    parts = list(describe_arrays(arrays).values()) if arrays else []
    if not parts:
        return None
    finite = [part for part in parts if part.size > part.nonfinite]
    count = sum(part.size - part.nonfinite for part in finite)
    bad, size = sum(part.nonfinite for part in parts), sum(part.size for part in parts)
    if not count:
        return Summary(math.nan, math.nan, math.nan, math.nan, bad, size)
    mean = sum((part.size - part.nonfinite) * part.mean for part in finite) / count
    square = sum((part.size - part.nonfinite) * part.rms**2 for part in finite) / count
    low, high = min(part.min for part in finite), max(part.max for part in finite)
    return Summary(low, high, mean, math.sqrt(square), bad, size)


class OverfitTest(NamedTuple):
    """What came of training on a few rows.

    reached: whether the network learnt them by heart. losses: one for each step.
    """

    reached: bool
    losses: list[float]

    @property
    def steps(self) -> int:
        """The number of steps taken."""
        return len(self.losses)


def overfit_test(
    model: Layer,
    x: FloatArray,
    y: Array,
    *,
    rows: int = 16,
    steps: int = 500,
    target: float = 0.01,
    loss: Loss = cross_entropy,
    make_optimizer: Callable[[dict[str, FloatArray]], Optimizer] | None = None,
) -> OverfitTest:
    """Train on a few rows on purpose: a network that cannot learn these by heart has a fault.

    model: a layer or network, without dropout during the test; its state is put back afterwards.
    x: (N, ...). y: (N, ...), what `loss(outputs, y)` takes to return a loss and its gradient, such
    as `cross_entropy` or `mse`. rows: the first so many make the only batch. steps: at most.
    target: the loss at which it has learnt. make_optimizer: of params; Adam at 0.01 unless given.
    Raises TypeError or ValueError. Source: Karpathy 2019, "A recipe for training neural networks".

    >>> from gradstep.nn import mlp
    >>> rng = np.random.default_rng(0)
    >>> x, y = rng.standard_normal((100, 4), np.float32), rng.integers(0, 2, 100)
    >>> overfit_test(mlp([4, 32, 2]), x, y).reached
    True
    >>> overfit_test(mlp([4, 2]), x, y).reached  # no straight line parts them
    False
    """
    if not isinstance(model, Layer):
        raise TypeError(f"model: {type(model).__name__}, expected a layer of gradstep.nn")
    for name, rows_of in (("x", array("x", x)), ("y", y)):
        if not isinstance(rows_of, np.ndarray):
            raise TypeError(f"{name}: {kind(rows_of)}, expected a numpy.ndarray")
        if not rows_of.ndim:
            raise ValueError(f"{name}: 0 dimensions, expected rows")
    if len(x) != len(y):
        raise ValueError(f"y: {len(y)} rows, expected {len(x)} as in x")
    integer("rows", rows, model.smallest_batch, len(x))
    integer("steps", steps, 1)
    number("target", target, "a number > 0", lambda t: t > 0)
    function("loss", loss, "of outputs and y")
    if make_optimizer is not None:
        function("make_optimizer", make_optimizer, "of params")
    live = model.params | model.buffers
    before = {name: array.copy() for name, array in live.items()}
    dropped = [(layer, layer.p) for layer in walk(model) if isinstance(layer, Dropout)]
    try:
        for layer, _ in dropped:
            layer.p = 0.0
        optimizer = (make_optimizer or _adam)(model.params)
        optimizer.bind(model.grads)
        return _learn(model, x[:rows], y[:rows], optimizer, steps, target, loss)
    finally:
        for layer, p in dropped:
            layer.p = p
        put(live, before)


def _adam(params: dict[str, FloatArray]) -> Optimizer:
    return Adam(params, lr=0.01)


def _learn(
    model: Layer,
    x: FloatArray,
    y: Array,
    optimizer: Optimizer,
    steps: int,
    target: float,
    loss: Loss,
) -> OverfitTest:
    losses: list[float] = []
    for _ in range(steps):
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = model.forward(x, True)
            try:
                value, gradient = loss(outputs, y)
            except (TypeError, ValueError) as error:
                raise type(error)(f"loss: {error}") from error
        losses.append(float(value))
        if losses[-1] <= target or not math.isfinite(losses[-1]):
            break
        model.parameter_gradients(gradient)
        optimizer.step()
    return OverfitTest(losses[-1] <= target, losses)
