"""The suites: lists of works. To add one, write its function and its line in SUITES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradstep as gs

from . import fits, halves, layer_suites, shapes
from . import training as torch_training
from .between import AFTER, Between
from .layers import Layer
from .passes import Averaged, Pipeline
from .ranks import Ranks
from .scaling import Threaded
from .steps import Step, single
from .stored import LAYOUTS, Stored
from .work import Work

__all__ = ["SUITES", "Choice"]

# More than the defaults: what changes the number of state arrays.
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "SGD": ({}, {"momentum": 0.9}),
    "Adam": ({}, {"amsgrad": True}),
}

SIZES = (4_096, 1 << 18, 1 << 24)
QUICK_SIZES = (1 << 18,)
QUICK_OPTIMIZERS = ("AdamW", "RMSprop", "NAdam", "Lion")
CURVE = (4_096, 16_384, 65_536, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 27)
QUICK_CURVE = (4_096, 65_536, 1 << 24)
CACHED = 1 << 18
SMALL_SIZES = (1, 64, 1_024, 16_384)
QUICK_SMALL_SIZES = (64,)
BETWEEN = (16_384, 65_536, 235_146, 1 << 20, 1 << 22)
QUICK_BETWEEN = (235_146, 1 << 20)


@dataclass(frozen=True)
class Choice:
    """What of a suite is wanted.

    optimizers: names, or None for the suite's own choice. sizes: of single tensors, likewise.
    quick: less of everything.
    """

    optimizers: tuple[str, ...] | None = None
    sizes: tuple[int, ...] | None = None
    quick: bool = False


def optimizers(choice: Choice) -> list[Work]:
    """Every optimizer on single tensors of several sizes."""
    works: list[Work] = []
    for name in choice.optimizers or (QUICK_OPTIMIZERS if choice.quick else gs.OPTIMIZERS):
        sizes = choice.sizes or (QUICK_SIZES if choice.quick else SIZES)
        if name == "AdamW" and not choice.sizes:
            sizes = QUICK_CURVE if choice.quick else CURVE
        for keywords in VARIANTS.get(name, ({},)):
            works += [single(name, size, keywords) for size in sizes]
    return works


def models(choice: Choice) -> list[Work]:
    """A step on all tensors of a model."""
    return [
        Step(name, model, shapes.MODELS[model])
        for name in choice.optimizers or ("AdamW",)
        for model in _models(choice)
    ]


def pipeline(choice: Choice) -> list[Work]:
    """What stands between two backward passes.

    Unscale, look for values that are not finite, clip by the norm, step, zero the gradients.
    """
    return [
        Step(name, model, shapes.MODELS[model], clip_norm=1.0, loss_scale=1024.0)
        for name in choice.optimizers or ("AdamW",)
        for model in _models(choice)[: 1 if choice.quick else None]
    ]


def small(choice: Choice) -> list[Work]:
    """The cost of the call and of each tensor."""
    works: list[Work] = []
    for name in choice.optimizers or ("AdamW",):
        sizes = choice.sizes or (QUICK_SMALL_SIZES if choice.quick else SMALL_SIZES)
        works += [single(name, size) for size in sizes]
        many = list(shapes.MANY_SMALL.items())
        works += [Step(name, *one) for one in (many[:1] if choice.quick else many)]
    return works


def fewer_bytes(choice: Choice) -> list[Work]:
    """AdamW on arrays of 16 and 8 bits beside its float32 step, and what one pass does besides."""
    works: list[Work] = []
    for size in choice.sizes or ((1 << 20,) if choice.quick else (1 << 16, 1 << 20, 1 << 26)):
        works += [Stored(layout, size) for layout in LAYOUTS]
        works += [Averaged("float32", size), Averaged("bfloat16", size), Pipeline(size)]
    return works


def dropout(choice: Choice) -> list[Work]:
    """Dropout and its relatives."""
    return [*layer_suites.dropout(choice.sizes, choice.quick)]


def norms(choice: Choice) -> list[Work]:
    """Batch norm and its relatives."""
    return [*layer_suites.norms(choice.sizes, choice.quick)]


def activations(choice: Choice) -> list[Work]:
    """Activations and losses."""
    return [*layer_suites.activations(choice.sizes, choice.quick)]


def half(choice: Choice) -> list[Work]:
    """Layers on bfloat16 arrays."""
    return [*halves.rows(choice.sizes, choice.quick)]


def threads(choice: Choice) -> list[Work]:
    """One thread against all, on data that fit the caches and on data that do not."""
    sizes = choice.sizes or ((CACHED,) if choice.quick else (CACHED, 1 << 24))
    names = choice.optimizers or (("AdamW",) if choice.quick else tuple(gs.OPTIMIZERS))
    steps = [single(name, size) for name in names for size in sizes]
    layers = layer_suites.threads(sizes, choice.quick)
    return [*map(Threaded, steps), *map(Threaded, layers)]


def between(choice: Choice) -> list[Work]:
    """A call after other work, where real ones stand, and for comparison in a tight loop."""
    sizes = choice.sizes or (QUICK_BETWEEN if choice.quick else BETWEEN)
    works: list[Step | Layer] = []
    for name in choice.optimizers or ("AdamW",):
        works += [single(name, size) for size in sizes]
    if not choice.quick:
        works += layer_suites.between(sizes)
    return [Between(work, after) for work in works for after in AFTER]


def training(choice: Choice) -> list[Work]:
    """Training steps, optimizers and modules of PyTorch's users."""
    return [*torch_training.rows(choice.optimizers, choice.quick)]


def sklearn(choice: Choice) -> list[Work]:
    """Whole fits of scikit-learn's users."""
    return [*fits.sklearn_fits(choice.quick)]


def distributed(choice: Choice) -> list[Work]:
    """A step that two processes of this machine share."""
    models = ["ResNet-50"] if choice.quick else ["ResNet-50", "GPT-2 small"]
    kinds = [("mpi", False), ("mpi", True), ("gloo", False)]
    return [Ranks(model, over, clip) for model in models for over, clip in kinds]


def _models(choice: Choice) -> list[str]:
    """All, or all but the largest."""
    names = sorted(shapes.MODELS, key=lambda name: shapes.count(shapes.MODELS[name]))
    return names[:-1] if choice.quick else names


SUITES: dict[str, Callable[[Choice], list[Work]]] = {
    "optimizers": optimizers,
    "models": models,
    "pipeline": pipeline,
    "small": small,
    "bytes": fewer_bytes,
    "dropout": dropout,
    "norms": norms,
    "activations": activations,
    "halves": half,
    "threads": threads,
    "between": between,
    "training": training,
    "sklearn": sklearn,
    "distributed": distributed,
}
