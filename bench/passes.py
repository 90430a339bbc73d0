"""What stands around a step on large models: the average of the weights, and all that is done to a
bfloat16 gradient before and after. In gradstep each is one pass; others take one for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import Any

import gradstep as gs
import numpy as np

from .steps import spaced
from .work import Arrays, Inputs, Ready

__all__ = ["APART", "DECAY", "Averaged", "Pipeline", "decoded"]

DECAY = 0.99
APART = "gradstep step, then ewma_"


@dataclass(frozen=True)
class Averaged:
    """One AdamW step on a float32 tensor, and its exponential average, of the type `ema`."""

    ema: str
    size: int

    @property
    def name(self) -> str:
        return f"AdamW and a {self.ema} average of the weights, {spaced(self.size)}"

    @property
    def elements(self) -> int:
        return self.size

    @property
    def ideal_bytes(self) -> int:
        return (28 + 2 * (4 if self.ema == "float32" else 2)) * self.size

    @property
    def consumes_inputs(self) -> bool:
        return False

    def small(self) -> Averaged:
        return replace(self, size=5_000)

    def inputs(self, seed: int) -> Inputs:
        """A gradient."""
        return Inputs([np.random.default_rng(seed).standard_normal(self.size, np.float32)])

    def fused(self, inputs: Inputs, call: str = "step") -> Ready:
        """One pass; call: of the optimizer."""
        w = inputs.arrays[0].copy()
        kind: Any = self.ema
        optimizer = gs.AdamW(w, lr=0.1, ema=kind, ema_decay=DECAY)
        optimizer.bind(inputs.arrays[0])
        average = optimizer.state[0]["ema"]
        return _ready(getattr(optimizer, call), inputs.arrays, [w, average])

    def reference(self, inputs: Inputs) -> Ready:
        return self.fused(inputs, "reference_step")

    def apart(self, inputs: Inputs) -> Ready:
        """The step, and then a pass for the average, in float32."""
        w = inputs.arrays[0].copy()
        optimizer, average = gs.AdamW(w, lr=0.1), gs.train.EMA({"w": w}, DECAY)
        optimizer.bind(inputs.arrays[0])

        def run() -> None:
            optimizer.step()
            average.update()

        return _ready(run, inputs.arrays, [w, average.averages["w"]])


@dataclass(frozen=True)
class Pipeline:
    """From a bfloat16 gradient, scaled, to weights: unscale it, look for what is not finite, clip
    it by its norm, AdamW on float32 weights, a bfloat16 copy of these, zeros for the gradient."""

    size: int
    clip_norm: float = 1.0
    loss_scale: float = 1024.0

    @property
    def name(self) -> str:
        return f"unscale + check + clip + AdamW + bfloat16 copy + zero, {spaced(self.size)}"

    @property
    def elements(self) -> int:
        return self.size

    @property
    def ideal_bytes(self) -> int:
        """Weights and moments both ways, the gradient read twice and written, the copy."""
        return (24 + 6 + 2) * self.size

    @property
    def consumes_inputs(self) -> bool:
        return True

    @property
    def skips_nonfinite(self) -> bool:
        return True

    def small(self) -> Pipeline:
        return replace(self, size=5_000)

    def inputs(self, seed: int) -> Inputs:
        """A float32 gradient of bfloat16 numbers; every contender keeps it as such."""
        g = np.random.default_rng(seed).standard_normal(self.size, np.float32)
        scaled = (g * np.float32(self.loss_scale)).astype(_bfloat16())
        return Inputs([scaled.astype(np.float32)])

    def weights(self, inputs: Inputs) -> Any:
        """Those to begin with."""
        return inputs.arrays[0] / np.float32(self.loss_scale)

    def native(self, inputs: Inputs, call: str = "step") -> Ready:
        """One pass, after one for the norm; call: of the optimizer."""
        w, grad = self.weights(inputs), inputs.arrays[0].astype(_bfloat16())
        copy = np.zeros(self.size, _bfloat16())
        optimizer = gs.AdamW(
            w,
            lr=0.1,
            copy_to=copy,
            clip_norm=self.clip_norm,
            grad_scale=1 / self.loss_scale,
            on_nonfinite="skip",
        )
        optimizer.bind(grad)
        step: Callable[[], object] = partial(optimizer.step, zero_grads=True)
        if call != "step":

            def step() -> None:
                optimizer.reference_step()
                grad[...] = 0

        return _ready(step, [grad], [w, grad, copy])

    def reference(self, inputs: Inputs) -> Ready:
        return self.native(inputs, "reference_step")


def _bfloat16() -> Any:
    return import_module("ml_dtypes").bfloat16


def _ready(run: Callable[[], object], grads: Arrays, outputs: Arrays) -> Ready:
    def fed(values: Arrays) -> None:
        for array, value in zip(grads, values, strict=True):
            array[...] = value

    return Ready(run, fed, lambda: [array.astype(np.float32) for array in outputs])


def decoded(fresh: Arrays, outputs: Arrays) -> Arrays:
    """What is compared of a pipeline: weights, zeros, and whether the copy is that of the weights,
    in which two programs may round to neighbours."""
    w, zeros, copy = outputs
    near = np.abs(copy - w) <= np.abs(w) * np.float32(2**-8)
    return [w, zeros, np.array([near.all()], np.float32)]
