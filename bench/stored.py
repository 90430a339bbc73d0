"""The work of an AdamW step on arrays that are kept in 16 and 8 bits, beside the float32 step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, NamedTuple

import gradstep as gs
import numpy as np

from .steps import feed, spaced
from .work import Arrays, Inputs, Ready

__all__ = ["FLOAT32", "LAYOUTS", "Stored", "nothing"]

FLOAT32 = "gradstep float32"


class Layout(NamedTuple):
    """bytes: that a step moves for each parameter, with a bfloat16 gradient."""

    half: bool
    master: Any
    states: Any
    bytes: int
    copy: bool = False


LAYOUTS = {
    "float32 and a bfloat16 copy": Layout(False, None, "float32", 28, True),
    "split master": Layout(True, "split", "float32", 26),
    "split master, bfloat16 moments": Layout(True, "split", "bfloat16", 18),
    "split master, 8-bit moments": Layout(True, "split", "int8", 14),
    "all bfloat16": Layout(True, None, "bfloat16", 14),
    "bfloat16, 8-bit moments": Layout(True, None, "int8", 10),
}


@dataclass(frozen=True)
class Stored:
    """One AdamW step on a tensor, with a bfloat16 gradient; its arrays as `layout` says."""

    layout: str
    size: int

    @property
    def name(self) -> str:
        return f"AdamW {self.layout}, {spaced(self.size)}"

    @property
    def elements(self) -> int:
        return self.size

    @property
    def ideal_bytes(self) -> int:
        return LAYOUTS[self.layout].bytes * self.size

    @property
    def consumes_inputs(self) -> bool:
        return False

    def small(self) -> Stored:
        return replace(self, size=5_000)

    def inputs(self, seed: int) -> Inputs:
        """A float32 gradient; contenders that read another type make it of this one."""
        return Inputs([np.random.default_rng(seed).standard_normal(self.size, np.float32)])

    def optimizer(self, inputs: Inputs) -> tuple[gs.Optimizer, Arrays, Arrays]:
        """gradstep's, what it writes, and the gradient that it is bound to."""
        kind: Any = import_module("ml_dtypes").bfloat16
        layout = LAYOUTS[self.layout]
        w = inputs.arrays[0].astype(kind if layout.half else np.float32)
        copy = np.zeros(self.size, kind) if layout.copy else None
        optimizer = gs.AdamW(
            w, master=layout.master, state_dtype=layout.states, copy_to=copy, lr=0.1
        )
        grads = inputs.once("bfloat16", lambda arrays: [a.astype(kind) for a in arrays])
        optimizer.bind(grads[0])
        return optimizer, [w] if copy is None else [w, copy], grads

    def make(self, inputs: Inputs) -> Ready:
        """The native step."""
        optimizer, outputs, grads = self.optimizer(inputs)
        return _ready(optimizer.step, outputs, grads)

    def reference(self, inputs: Inputs) -> Ready:
        """The specification of the same layout."""
        optimizer, outputs, grads = self.optimizer(inputs)
        return _ready(optimizer.reference_step, outputs, grads)

    def float32(self, inputs: Inputs) -> Ready:
        """The same step where all is float32."""
        w = inputs.arrays[0].copy()
        optimizer = gs.AdamW(w, lr=0.1)
        optimizer.bind(inputs.arrays[0])
        return Ready(optimizer.step, lambda values: feed(inputs.arrays, values), lambda: [w])


def _ready(run: Any, outputs: Arrays, grads: Arrays) -> Ready:
    def fed(values: Arrays) -> None:
        for array, value in zip(grads, values, strict=True):
            array[...] = value.astype(array.dtype)

    return Ready(run, fed, lambda: [array.astype(np.float32) for array in outputs])


def nothing(fresh: Arrays, outputs: Arrays) -> Arrays:
    """What is compared of a contender in another type, whose results differ by its rounding."""
    finite = all(np.isfinite(array).all() for array in outputs)
    return [np.array([finite], np.float32)]
