"""The optimizers of bitsandbytes on the CPU: operators of torch in turn.

Their states of 8 bits, for which the library exists, are rounded in another way than those here, so
that of their results only whether they are finite is compared.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import gradstep as gs

from ..remote import there
from ..steps import Step
from ..stored import LAYOUTS, Stored, nothing
from ..torch_passes import tensor
from ..work import Arrays, Contender, Inputs, Ready, Work
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
    if isinstance(work, Stored) and LAYOUTS[work.layout].states == "int8":
        eight = partial(there, "bitsandbytes", {}, eight_bits)
        return [Contender("bitsandbytes 8-bit", eight, compared=nothing)]
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


def eight_bits(work: Stored, inputs: Inputs) -> Ready:
    """bfloat16 weights and gradient, 8-bit moments, no master."""
    torch: Any = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    w = torch.nn.Parameter(tensor(torch, inputs.arrays[0]).bfloat16())
    w.grad = w.detach().clone()
    optimizer = import_module("bitsandbytes").optim.AdamW8bit([w], lr=0.1)

    def fed(values: Arrays) -> None:
        w.grad.copy_(torch.from_numpy(values[0]))

    return Ready(optimizer.step, fed, lambda: [w.detach().float().numpy()])
