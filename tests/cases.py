"""Optimizers with their options, as data that the tests run through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradstep as gs

DECOUPLED = {"decoupled_weight_decay": True, "weight_decay": 0.1}

# Options that choose another kernel or another path in it, beside the defaults.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.9},
        {"momentum": 0.9, "lr_in_momentum": True},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "nesterov": True, "lr_in_momentum": True},
        DECOUPLED,
        {"momentum": 0.9, **DECOUPLED},
        {"momentum": 0.9, "nesterov": True, **DECOUPLED},
    ],
    "Adagrad": [{"lr_decay": 0.1, "initial_accumulator_value": 0.5}, DECOUPLED],
    "RMSprop": [
        {"centered": True},
        {"momentum": 0.5},
        {"centered": True, "momentum": 0.5},
        DECOUPLED,
        {"centered": True, "momentum": 0.5, **DECOUPLED},
    ],
    "Adadelta": [{"rho": 0.5, "lr": 0.1}, DECOUPLED],
    "Adamax": [DECOUPLED],
    "Adam": [{"amsgrad": True}, DECOUPLED],
    "AdamW": [{"amsgrad": True}],
    "NAdam": [DECOUPLED],
    "RAdam": [DECOUPLED],
}

# Every preparation of the gradient alone, and all together.
PREPARATIONS: list[dict[str, Any]] = [
    {"maximize": True},
    {"grad_scale": 0.37},
    {"clip_norm": 1.5},
    {"clip_value": 0.5},
    {"l1": 0.01},
    {"weight_decay": 0.1},
    {
        "maximize": True,
        "grad_scale": 0.37,
        "clip_norm": 1.5,
        "clip_value": 0.01,
        "l1": 0.01,
        "weight_decay": 0.1,
    },
]


def variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, options): each optimizer with its defaults and each of its variants."""
    for name in gs.OPTIMIZERS:
        yield name, {}
        for options in VARIANTS.get(name, []):
            yield name, options


def label(case: Any) -> str:
    """A readable test id."""
    if isinstance(case, dict):
        return ",".join(f"{key}={value}" for key, value in case.items()) or "plain"
    return str(getattr(case, "__name__", case))
