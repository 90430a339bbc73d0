"""The AdamW of prime-rl, a kernel for torch's tensors that is compiled where it runs.

It comes as sources alone: the variable PRIME_RL names a folder of them, a clone of
github.com/PrimeIntellect-ai/prime-rl, and the kernel is built from there when it is first used. It
has a process of its own, as its OpenMP may be another than that of torch here.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import gradstep as gs

from ..remote import there
from ..steps import Step
from ..stored import LAYOUTS, Stored
from ..torch_passes import tensor
from ..work import Arrays, Contender, Inputs, Ready, Work
from .deepspeed_optim import ENVIRONMENT
from .torch_optim import tensors_of

REQUIRES = ("torch",)

VARIABLE = "PRIME_RL"
PLACE = Path("src/prime_rl/trainer/optim/cpu_adam/__init__.py")
BUILT = {"PATH": ENVIRONMENT["PATH"]}


def found() -> dict[str, str | None]:
    """Whether the variable names its sources."""
    folder = os.environ.get(VARIABLE)
    there = folder is not None and (Path(folder) / PLACE).is_file()
    return {"prime-rl": f"of {VARIABLE}"} if there else {f"prime-rl ({VARIABLE})": None}


def contenders(work: Work) -> list[Contender]:
    """AdamW on float32 weights, with a bfloat16 gradient and copy where the work has these."""
    if isinstance(work, Stored) and LAYOUTS[work.layout].copy:
        make = partial(there, "prime-rl", BUILT, with_copy)
        return [Contender("prime-rl", make, compared=lambda fresh, outputs: outputs[:1])]
    if isinstance(work, Step) and work.optimizer == "AdamW" and work.clip_norm is None:
        return [Contender("prime-rl", partial(there, "prime-rl", BUILT, plain))]
    return []


def kernel() -> Any:
    """Its module, loaded from the sources."""
    if VARIABLE not in sys.modules:
        spec: Any = spec_from_file_location(VARIABLE, Path(os.environ[VARIABLE]) / PLACE)
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[VARIABLE] = module
    return sys.modules[VARIABLE]


class Optimizer:
    """Its step on these tensors."""

    def __init__(self, torch: Any, params: list[Any], grads: list[Any], copies: Any = None) -> None:
        states = [[torch.zeros_like(p) for p in params] for _ in range(2)]
        self.arrays = params, grads, *states, [torch.zeros(()) for _ in params], copies
        self.native = kernel()

    def step(self, lr: float, decay: float = 0.01) -> None:
        self.native.adamw_step(
            *self.arrays,
            lr=lr,
            beta1=0.9,
            beta2=0.999,
            weight_decay=decay,
            eps=1e-8,
            gradient_scale=1.0,
        )


def with_copy(work: Stored, inputs: Inputs) -> Ready:
    torch: Any = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    w = tensor(torch, inputs.arrays[0])
    grad, copy = w.bfloat16(), torch.zeros(work.size, dtype=torch.bfloat16)
    optimizer = Optimizer(torch, [w], [grad], [copy])

    def fed(values: Arrays) -> None:
        grad.copy_(torch.from_numpy(values[0]))

    return Ready(partial(optimizer.step, 0.1), fed, lambda: [w.numpy(), copy.float().numpy()])


def plain(work: Step, inputs: Inputs) -> Ready:
    torch: Any = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    grads = tensors_of(torch, inputs.arrays)
    params = tensors_of(torch, work.parameters(inputs))
    step = Optimizer(torch, params, grads).step
    run = partial(step, work.hyper["lr"], work.hyper["weight_decay"])
    return work.ready(run, [p.numpy() for p in params], [g.numpy() for g in grads])
