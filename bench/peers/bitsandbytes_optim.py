"""The optimizers of bitsandbytes on the CPU with states of 32 bits: operators of torch in turn.

Their states of 8 bits, for which the library exists, are another algorithm: rounded, they give
other parameters than the formulas here, and less than a quarter of the bytes to move.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from ..remote import there
from ..steps import Step
from ..work import Contender, Inputs, Ready, Work
from .torch_optim import stepping

REQUIRES = ("bitsandbytes", "torch")

# By `Step.kernel`.
KEYWORDS = {
    "Momentum": ("lr", "momentum", "weight_decay"),
    "Adagrad": ("lr", "weight_decay", "eps"),
    "RMSprop": ("lr", "alpha", "eps", "weight_decay"),
    "Adam": ("lr", "betas", "eps", "weight_decay"),
    "Lion": ("lr", "betas", "weight_decay"),
}


def contenders(work: Work) -> list[Contender]:
    """Those that it has; without weight decay, except where the name tells how it is meant."""
    if not isinstance(work, Step) or work.kernel not in KEYWORDS:
        return []
    if work.hyper["weight_decay"] != 0 and work.optimizer not in ("AdamW", "Lion"):
        return []
    return [Contender("bitsandbytes", partial(there, "bitsandbytes", {}, make))]


def make(work: Step, inputs: Inputs) -> Ready:
    torch: Any = import_module("torch")
    cls = getattr(import_module("bitsandbytes").optim, work.optimizer)
    keywords = {name: work.hyper[name] for name in KEYWORDS[work.kernel]}
    return stepping(torch, partial(cls, **keywords, optim_bits=32), work, inputs)
