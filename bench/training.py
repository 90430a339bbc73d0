"""Work as users of PyTorch meet it: whole training steps, and steps and layers by torch's classes.

All contenders need PyTorch: they are in peers/torch_training.py, networks in torch_networks.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import numpy as np

from .layers import Layer
from .shapes import MODELS, Shapes
from .steps import Step
from .work import Inputs, Ready

__all__ = ["MILLION", "SMALL", "TRAININGS", "ThroughTorch", "Training", "rows"]

MILLION = 1 << 20
IMAGES = (64, 64, 56, 56)


@dataclass(frozen=True)
class ThroughTorch:
    """A step or layer, called as a torch.optim.Optimizer or torch.nn.Module.

    Layers build the graph that backward needs, and allocate their results.
    """

    inner: Step | Layer

    @property
    def name(self) -> str:
        return f"{self.inner.name} through torch"

    @property
    def elements(self) -> int:
        return self.inner.elements

    @property
    def ideal_bytes(self) -> int:
        return self.inner.ideal_bytes

    @property
    def consumes_inputs(self) -> bool:
        return self.inner.consumes_inputs

    def small(self) -> ThroughTorch:
        return replace(self, inner=self.inner.small())

    def inputs(self, seed: int) -> Inputs:
        return self.inner.inputs(seed)

    def reference(self, inputs: Inputs) -> Ready:
        return self.inner.reference(inputs)


@dataclass(frozen=True)
class Training:
    """A training step: forward, cross-entropy, backward, AdamW, on one batch again and again.

    network: a name in torch_networks.NETWORKS. note: words for the tables. x, y: shapes of the
    batch and of its classes. keywords: of the network's sizes. autocast: to bfloat16, of
    forward and loss.
    """

    network: str
    note: str
    x: tuple[int, ...]
    y: tuple[int, ...]
    classes: int
    dropout: float
    keywords: Mapping[str, Any] = field(default_factory=dict)
    autocast: bool = False

    @property
    def name(self) -> str:
        return f"training {self.network} {self.note}{', autocast' if self.autocast else ''}"

    @property
    def elements(self) -> int:
        return math.prod(self.x)

    @property
    def ideal_bytes(self) -> int:
        """Arithmetic is the limit of most of it, not bytes."""
        return 0

    @property
    def consumes_inputs(self) -> bool:
        return False

    def small(self) -> Training:
        """Without dropout, so that results can be compared."""
        return replace(SMALL[self.network], autocast=self.autocast)

    def inputs(self, seed: int) -> Inputs:
        """Normal numbers; whole ones are made of them where they are read."""
        generator = np.random.default_rng(seed)
        shapes: Shapes = (self.x, self.y)
        return Inputs([generator.standard_normal(shape, dtype=np.float32) for shape in shapes])

    def reference(self, inputs: Inputs) -> Ready:
        """Stock PyTorch in float64, its optimizer a loop over tensors."""
        peer: Any = import_module(".peers.torch_training", __package__)
        ready: Ready = peer.reference(self, inputs)
        return ready


TRAININGS = (
    Training(
        "MLP",
        "784-1024-1024-10, batch 128, dropout 0.5",
        *((128, 784), (128,), 10, 0.5),
        {"widths": (1024, 1024)},
    ),
    Training(
        "Transformer",
        "4×256, batch 8×128, dropout 0.1",
        *((8, 128), (8, 128), 128, 0.1),
        {"width": 256, "heads": 4, "layers": 4},
    ),
    Training(
        "residual CNN",
        "16-32-64, batch 64×32×32",
        *((64, 3, 32, 32), (64,), 10, 0.0),
        {"widths": (16, 32, 64)},
    ),
)

# Blocks as wide as GPT-2's and BERT's, under autocast alone: in float32 products take all the time.
WIDE = (
    Training(
        "Transformer",
        "4×768, batch 4×256, dropout 0.1",
        *((4, 256), (4, 256), 512, 0.1),
        {"width": 768, "heads": 12, "layers": 4},
    ),
    Training(
        "encoder",
        "4×768, batch 4×256, dropout 0.1",
        *((4, 256), (4, 256), 512, 0.1),
        {"width": 768, "heads": 12, "layers": 4},
    ),
)

SMALL = {
    work.network: work
    for work in (
        Training("MLP", "small", (16, 20), (16,), 5, 0.0, {"widths": (12, 9)}),
        Training(
            "Transformer",
            "small",
            *((3, 7), (3, 7), 11, 0.0),
            {"width": 16, "heads": 2, "layers": 2},
        ),
        Training(
            "encoder",
            "small",
            *((3, 7), (3, 7), 11, 0.0),
            {"width": 16, "heads": 2, "layers": 2},
        ),
        Training("residual CNN", "small", (6, 3, 8, 8), (6,), 5, 0.0, {"widths": (4, 8)}),
    )
}


def rows(optimizers: tuple[str, ...] | None, quick: bool) -> list[Training | ThroughTorch]:
    """The works of the suite. optimizers: in place of AdamW, in the steps by torch's classes."""
    models = ("MLP 784-256-128-10",) if quick else tuple(MODELS)
    steps = [Step(name, m, MODELS[m]) for name in optimizers or ("AdamW",) for m in models]
    layers = [Layer("dropout", (MILLION,))]
    if not quick:
        layers += [Layer("batch_norm", IMAGES), Layer("batch_norm_backward", IMAGES)]
    trainings = TRAININGS[:1] if quick else TRAININGS
    lower = [] if quick else [replace(each, autocast=True) for each in (*TRAININGS, *WIDE)]
    return [*trainings, *lower, *map(ThroughTorch, steps), *map(ThroughTorch, layers)]
