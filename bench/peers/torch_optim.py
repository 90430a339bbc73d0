"""torch.optim on the CPU: fused, foreach and the default loop over tensors.

Tensors are in memory that torch allocates. With the environment variable THP_MEM_ALLOC_ENABLE=1,
set before Python starts, torch asks for huge pages, as NumPy always does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import gradstep as gs

from ..between import TEAM, Between, apart
from ..passes import Averaged, Pipeline, decoded
from ..ranks import Ranks
from ..scaling import ONE
from ..steps import Step
from ..stored import LAYOUTS, Stored, nothing
from ..torch_passes import averaged, torch_pipeline
from ..work import Arrays, Contender, Inputs, Ready, Work

REQUIRES = ("torch",)

TYPES = ("float32", "bfloat16")

# "default" is what a call without these keywords takes on the CPU.
VARIANTS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "default": {},
}


def contenders(work: Work) -> list[Contender]:
    """The variants that torch has of the optimizer; none if it lacks the optimizer."""
    if isinstance(work, Between):
        fused = [c for c in contenders(work.work) if c.name == "torch fused"]
        found = [apart("torch", c) for c in fused]
        if fused and not work.own:
            found.append(apart(TEAM, Contender(TEAM, on_team)))
            found.append(apart(TEAM, Contender(f"{TEAM}, {ONE}", on_team), threads=1))
        return found
    if isinstance(work, Stored):
        kinds = ["float32"] if LAYOUTS[work.layout].master or LAYOUTS[work.layout].copy else TYPES
        return [
            Contender(f"torch fused {kind}", partial(_in_type, kind), compared=nothing)
            for kind in kinds
        ]
    if isinstance(work, Averaged):
        return [Contender("torch fused + AveragedModel", averaged)] * (work.ema == "float32")
    if isinstance(work, Ranks):
        return work.contenders(False) if work.over == "gloo" else []
    if isinstance(work, Pipeline):
        return [Contender("torch fused, a pass for each", torch_pipeline, compared=decoded)]
    torch: Any = import_module("torch")
    cls = getattr(torch.optim, work.optimizer, None) if isinstance(work, Step) else None
    if cls is None:
        return []
    accepted = inspect.signature(cls).parameters
    return [
        Contender(f"torch {name}", partial(make, keywords))
        for name, keywords in VARIANTS.items()
        if all(key in accepted for key in keywords)
    ]


def _in_type(kind: str, work: Stored, inputs: Inputs) -> Ready:
    """Parameter, gradient and moments of one type."""
    torch: Any = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    w = torch.from_numpy(inputs.arrays[0]).to(getattr(torch, kind), copy=True)
    parameter = torch.nn.Parameter(w)
    parameter.grad = torch.from_numpy(inputs.arrays[0]).to(w.dtype, copy=True)
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)

    def fed(values: Arrays) -> None:
        parameter.grad.copy_(torch.from_numpy(values[0]))

    return Ready(optimizer.step, fed, lambda: [parameter.detach().float().numpy()])


def make(keywords: dict[str, bool], work: Step, inputs: Inputs, library: Any = None) -> Ready:
    """library: where the class is, unless torch.optim."""
    torch: Any = import_module("torch")
    cls = getattr(library or torch.optim, work.optimizer)
    return stepping(torch, partial(cls, **work.keywords, **keywords), work, inputs)


def on_team(work: Step, inputs: Inputs) -> Ready:
    """The same class of gradstep.torch."""
    return make({}, work, inputs, import_module("gradstep.torch"))


def stepping(torch: Any, build: Callable[[Any], Any], work: Step, inputs: Inputs) -> Ready:
    """What `build` makes of parameters; all optimizers of a process read the same gradients."""
    torch.set_num_threads(gs.get_num_threads())
    grads = inputs.once("torch", partial(tensors_of, torch))
    params = [torch.nn.Parameter(p) for p in tensors_of(torch, work.parameters(inputs))]
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    optimizer = build(params)
    run = optimizer.step if work.clip_norm is None else _pipeline(torch, work, params, optimizer)
    views = [p.detach().numpy() for p in params]
    return work.ready(run, views, [g.numpy() for g in grads])


def _pipeline(torch: Any, work: Step, params: list[Any], optimizer: Any) -> Callable[[], None]:
    """What torch.amp.GradScaler calls, without its Python, around clip_grad_norm_."""
    clip = partial(torch.nn.utils.clip_grad_norm_, params, work.clip_norm)
    grads = [p.grad for p in params]
    found, inverse = torch.zeros(1), torch.full((1,), 1 / (work.loss_scale or 1.0))

    def finite() -> bool:
        """Unscales as well."""
        found.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(grads, found, inverse)
        return not found.item()

    def run() -> None:
        if not work.skips_nonfinite or finite():
            clip()
            optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return run


def tensors_of(torch: Any, arrays: Arrays) -> list[Any]:
    tensors = [torch.empty(array.shape, dtype=torch.float32) for array in arrays]
    for tensor, array in zip(tensors, arrays, strict=True):
        tensor.copy_(torch.from_numpy(array))
    return tensors
