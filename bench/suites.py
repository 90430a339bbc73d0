"""The suites: lists of works. To add one, write its function and its line in SUITES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradstep as gs

from . import layer_suites, shapes
from . import training as torch_training
from .steps import Step, single
from .work import Work

__all__ = ["SUITES", "Choice"]

# More than the defaults: what changes the number of state arrays.
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "SGD": ({}, {"momentum": 0.9}),
    "Adam": ({}, {"amsgrad": True}),
}

SIZES = (4_096, 65_536, 1 << 20, 1 << 24)
QUICK_SIZES = (1 << 20,)
LARGEST = 1 << 27
SMALL_SIZES = (1, 64, 1_024, 16_384)


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
    for name in choice.optimizers or gs.OPTIMIZERS:
        sizes = choice.sizes or (QUICK_SIZES if choice.quick else SIZES)
        if name == "AdamW" and not choice.sizes:
            sizes = SIZES if choice.quick else (*SIZES, LARGEST)
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
        for model in _models(choice)
    ]


def small(choice: Choice) -> list[Work]:
    """The cost of the call and of each tensor."""
    works: list[Work] = []
    for name in choice.optimizers or ("AdamW",):
        works += [single(name, size) for size in choice.sizes or SMALL_SIZES]
        works += [Step(name, place, tensors) for place, tensors in shapes.MANY_SMALL.items()]
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


def training(choice: Choice) -> list[Work]:
    """Training steps, optimizers and modules of PyTorch's users."""
    return [*torch_training.rows(choice.optimizers, choice.quick)]


def _models(choice: Choice) -> list[str]:
    """All, or all but the largest."""
    names = sorted(shapes.MODELS, key=lambda name: shapes.count(shapes.MODELS[name]))
    return names[:-1] if choice.quick else names


SUITES: dict[str, Callable[[Choice], list[Work]]] = {
    "optimizers": optimizers,
    "models": models,
    "pipeline": pipeline,
    "small": small,
    "dropout": dropout,
    "norms": norms,
    "activations": activations,
    "training": training,
}
