"""The work of an optimizer: a step, alone or with clipping before it and zeroing after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import gradstep as gs
import numpy as np

from .shapes import Shapes, count
from .work import Arrays, Inputs, Ready

__all__ = ["Step", "copied", "feed", "single", "spaced", "zeroed"]

SMALL_SHAPES: Shapes = ((3,), (17, 5), (4099,))


@dataclass(frozen=True)
class Step:
    """One step of an optimizer on float32 tensors.

    optimizer: a name in gs.OPTIMIZERS. place: what the tensors are, for the tables. keywords:
    hyperparameters that are not the defaults. clip_norm: if given, the call clips the gradients by
    their global L2 norm before the step and sets them to zero after it. loss_scale: if given too,
    the gradients are those of a loss multiplied by it: the call divides them by it first, and if
    one of them is not finite it leaves the parameters alone.
    """

    optimizer: str
    place: str
    shapes: Shapes
    keywords: Mapping[str, Any] = field(default_factory=dict)
    clip_norm: float | None = None
    loss_scale: float | None = None

    @property
    def title(self) -> str:
        words = [key if value is True else f"{key} {value}" for key, value in self.keywords.items()]
        title = " ".join([self.optimizer, *words])
        if self.clip_norm is None:
            return title
        first = "clip" if self.loss_scale is None else "unscale + check + clip"
        return f"{first} + {title} + zero gradients"

    @property
    def name(self) -> str:
        return f"{self.title}, {self.place}"

    @property
    def elements(self) -> int:
        return count(self.shapes)

    @property
    def ideal_bytes(self) -> int:
        """Parameter and states are read and written, the gradient is read.

        Clipping reads the gradient once more, because the norm must be known before the first
        update (it tells whether all are finite, and unscaling fits into both reads), and zeroing
        writes it.
        """
        words = 3 + 2 * self.states + (0 if self.clip_norm is None else 2)
        return 4 * words * self.elements

    @property
    def consumes_inputs(self) -> bool:
        return self.clip_norm is not None

    @property
    def skips_nonfinite(self) -> bool:
        """Whether the call has to notice a gradient that is not finite."""
        return self.loss_scale is not None

    @cached_property
    def _example(self) -> gs.Optimizer:
        return gs.OPTIMIZERS[self.optimizer](np.zeros(1, np.float32), **self.keywords)

    @property
    def hyper(self) -> Mapping[str, Any]:
        """All hyperparameters, the defaults included."""
        return self._example.param_groups[0]

    @property
    def states(self) -> int:
        """The number of state arrays of a parameter."""
        return len(self._example.state[0])

    @property
    def kernel(self) -> str:
        """The formula's name: that of the optimizer, but "Momentum", "AMSGrad" and the like."""
        return type(self._example).kernel(self.hyper)

    def small(self) -> Step:
        return replace(self, shapes=SMALL_SHAPES, keywords={**self.keywords, "lr": 0.1})

    def inputs(self, seed: int) -> Inputs:
        """Normal gradients, in memory that NumPy allocated and every page of which was written."""
        generator = np.random.default_rng(seed)
        arrays = [np.empty(shape, np.float32) for shape in self.shapes]
        for array in arrays:
            generator.standard_normal(out=array, dtype=np.float32)
            if self.loss_scale is not None:
                array *= np.float32(self.loss_scale)
        return Inputs([*arrays])

    def parameters(self, inputs: Inputs) -> Arrays:
        """New parameters: they begin with the values of the gradients, which saves a set."""
        params = copied(inputs.arrays)
        for p in params if self.loss_scale is not None else ():
            p /= np.float32(self.loss_scale)
        return params

    def build(self, params: Arrays) -> gs.Optimizer:
        """The optimizer of gradstep for this work."""
        keywords = {**self.keywords, "clip_norm": self.clip_norm}
        if self.loss_scale is not None:
            keywords |= {"grad_scale": 1 / self.loss_scale, "on_nonfinite": "skip"}
        return gs.OPTIMIZERS[self.optimizer](params, **keywords)

    def reference(self, inputs: Inputs) -> Ready:
        params, grads = self.parameters(inputs), inputs.arrays
        optimizer = self.build(params)

        def run() -> None:
            optimizer.reference_step(grads)
            if self.clip_norm is not None:
                zeroed(grads)

        return self.ready(run, params, grads)

    def ready(self, run: Any, params: Arrays, grads: Arrays) -> Ready:
        """`run` on NumPy arrays, or on NumPy views of another library's."""
        outputs = params if self.clip_norm is None else [*params, *grads]
        return Ready(run, lambda values: feed(grads, values), lambda: outputs)


def copied(arrays: Arrays) -> Arrays:
    """Copies in new memory, written at once so that large arrays get huge pages where allowed."""
    copies = [np.empty_like(array) for array in arrays]
    feed(copies, arrays)
    return copies


def feed(arrays: Arrays, values: Arrays) -> None:
    """Copies values into arrays."""
    for array, value in zip(arrays, values, strict=True):
        np.copyto(array, value)


def zeroed(arrays: Arrays) -> None:
    """Sets arrays to zero."""
    for array in arrays:
        array.fill(0)


def spaced(n: int) -> str:
    """A number with its digits in groups of three.

    >>> spaced(65536)
    '65 536'
    """
    return f"{n:,}".replace(",", " ")


def single(optimizer: str, size: int, keywords: Mapping[str, Any] | None = None) -> Step:
    """A step on one tensor of `size` parameters."""
    return Step(optimizer, spaced(size), ((size,),), keywords or {})
