"""The CPU optimizers of DeepSpeed, which compiles them when they are first used (a minute each).

They have one setting. Their OpenMP may be another than that of torch here, so they have a process
of their own.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from ..passes import Pipeline, decoded
from ..remote import there
from ..steps import Step
from ..torch_passes import deepspeed_pipeline
from ..work import Contender, Inputs, Ready, Work
from .onednn import compiler
from .torch_optim import stepping

REQUIRES = ("deepspeed", "torch")

# torch looks for ninja, which is installed with it, on the path.
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "DEEPSPEED_LOG_LEVEL": "error",
    "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]),
}


def adam(h: Mapping[str, Any]) -> dict[str, Any]:
    keywords = {name: h[name] for name in ("lr", "betas", "eps", "weight_decay")}
    return {**keywords, "adamw_mode": h["decoupled_weight_decay"]}


def only(*names: str) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    return lambda h: {name: h[name] for name in names}


# By `Step.kernel`: module, class, and what it is given of the hyperparameters.
CLASSES: dict[str, tuple[str, str, Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "Adam": ("adam", "DeepSpeedCPUAdam", adam),
    "Adagrad": ("adagrad", "DeepSpeedCPUAdagrad", only("lr", "eps", "weight_decay")),
    "Lion": ("lion", "DeepSpeedCPULion", only("lr", "betas", "weight_decay")),
}


def found() -> dict[str, str | None]:
    """Only what is missing."""
    return {} if compiler() else {"C++ compiler": None}


def contenders(work: Work) -> list[Contender]:
    """Adam and AdamW, Adagrad, Lion, and the first between its own passes."""
    if isinstance(work, Pipeline):
        passes = partial(there, "deepspeed", ENVIRONMENT, deepspeed_pipeline)
        return [Contender("DeepSpeed CPUAdam, its clipping", passes, compared=decoded)]
    if not isinstance(work, Step) or work.kernel not in CLASSES:
        return []
    name = CLASSES[work.kernel][1].replace("DeepSpeed", "DeepSpeed ")
    return [Contender(name, partial(there, "deepspeed", ENVIRONMENT, make))]


def make(work: Step, inputs: Inputs) -> Ready:
    torch: Any = import_module("torch")
    module, name, keywords = CLASSES[work.kernel]
    cls = getattr(import_module(f"deepspeed.ops.{module}"), name)
    return stepping(torch, partial(cls, **keywords(work.hyper)), work, inputs)
