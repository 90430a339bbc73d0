"""The work of a layer on bfloat16 arrays, whose parameters are float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from .layers import Layer, called, own, reference_of
from .work import Arrays, Inputs, Ready

__all__ = ["Half", "rows"]

CACHED, ROWS, MILLION = (128, 256), (8192, 768), (1 << 20,)


@dataclass(frozen=True)
class Half:
    """The call of a layer in bfloat16."""

    inner: Layer

    @property
    def name(self) -> str:
        return f"bfloat16 {self.inner.name}"

    @property
    def elements(self) -> int:
        return self.inner.elements

    @property
    def ideal_bytes(self) -> int:
        return self.inner.ideal_bytes // 2

    @property
    def consumes_inputs(self) -> bool:
        return self.inner.consumes_inputs

    def small(self) -> Half:
        return replace(self, inner=self.inner.small())

    def inputs(self, seed: int) -> Inputs:
        kind: Any = import_module("ml_dtypes").bfloat16
        return Inputs([array.astype(kind) for array in self.inner.inputs(seed).arrays])

    def make(self, inputs: Inputs) -> Ready:
        """The function of gradstep."""
        return self._ready(inputs, own, True)

    def reference(self, inputs: Inputs) -> Ready:
        return self._ready(inputs, reference_of, False)

    def _ready(self, inputs: Inputs, find: Callable[..., Any], out: bool) -> Ready:
        ready = called(self.inner, inputs, find, out)

        def fed(values: Arrays) -> None:
            ready.feed([value.astype(inputs.arrays[0].dtype) for value in values])

        return replace(
            ready,
            feed=fed,
            outputs=lambda: [array.astype(np.float32) for array in ready.outputs()],
        )


def rows(sizes: tuple[int, ...] | None, quick: bool) -> list[Half]:
    """What stands between the products of a transformer, forward and backward.

    sizes: of dropout, in place of 1 048 576.
    """
    layers: list[Layer] = []
    for shape in (CACHED,) if quick else (CACHED, ROWS):
        for name in ("layer_norm", "softmax", "gelu", "silu"):
            layers += [Layer(each, shape) for each in (name, f"{name}_backward")]
    for n in sizes or MILLION:
        layers += [Layer("dropout", (n,)), Layer("dropout_backward", (n,))]
    return [Half(layer) for layer in layers]
