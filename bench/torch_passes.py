"""The works of `passes` by torch, and by optimizers that step on torch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import gradstep as gs
import numpy as np

from .passes import DECAY, Averaged, Pipeline
from .work import Arrays, Inputs, Ready

__all__ = ["averaged", "deepspeed_pipeline", "tensor", "torch_pipeline"]


def started() -> Any:
    torch: Any = import_module("torch")
    torch.set_num_threads(gs.get_num_threads())
    return torch


def tensor(torch: Any, array: Any) -> Any:
    """A copy in memory that torch allocates."""
    return torch.from_numpy(array).clone()


def averaged(work: Averaged, inputs: Inputs) -> Ready:
    """torch's fused step, and its averaged model."""
    torch = started()
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(tensor(torch, inputs.arrays[0]))
    model.w.grad = tensor(torch, inputs.arrays[0])
    swa = torch.optim.swa_utils
    average = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn(DECAY))
    average.update_parameters(model)  # the first copies
    optimizer = torch.optim.AdamW([model.w], lr=0.1, fused=True)

    def run() -> None:
        optimizer.step()
        average.update_parameters(model)

    def fed(values: Arrays) -> None:
        model.w.grad.copy_(torch.from_numpy(values[0]))

    both = (model.w, average.module.w)
    return Ready(run, fed, lambda: [t.detach().numpy() for t in both])


class Arranged:
    """A pipeline's tensors: a bfloat16 gradient, float32 weights with a gradient, and a copy."""

    def __init__(self, torch: Any, work: Pipeline, inputs: Inputs) -> None:
        self.torch = torch
        self.given = tensor(torch, inputs.arrays[0]).bfloat16()
        self.w = torch.nn.Parameter(tensor(torch, work.weights(inputs)))
        self.w.grad = torch.zeros_like(self.w)
        self.copy = torch.zeros(work.size, dtype=torch.bfloat16)

    def ready(self, run: Callable[[], object]) -> Ready:
        def fed(values: Arrays) -> None:
            self.given.copy_(self.torch.from_numpy(values[0]))

        kept = (self.w, self.given, self.copy)
        return Ready(run, fed, lambda: [t.detach().float().numpy() for t in kept])


def torch_pipeline(work: Pipeline, inputs: Inputs) -> Ready:
    """What torch.amp.GradScaler calls, without its Python, around clip_grad_norm_."""
    torch = started()
    own = Arranged(torch, work, inputs)
    optimizer = torch.optim.AdamW([own.w], lr=0.1, fused=True)
    found, inverse = torch.zeros(1), torch.full((1,), 1 / work.loss_scale)

    def run() -> None:
        own.w.grad.copy_(own.given)  # fused takes the type of the weights
        found.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_([own.w.grad], found, inverse)
        if not found.item():
            torch.nn.utils.clip_grad_norm_([own.w], work.clip_norm)
            optimizer.step()
            with torch.no_grad():
                own.copy.copy_(own.w)
        own.given.zero_()

    return own.ready(run)


def deepspeed_pipeline(work: Pipeline, inputs: Inputs) -> Ready:
    """As its off-load in stage 2: norm, then one factor for scale and clipping in a pass."""
    torch = started()
    own = Arranged(torch, work, inputs)
    adam: Any = import_module("deepspeed.ops.adam")
    optimizer = adam.DeepSpeedCPUAdam([own.w], lr=0.1, weight_decay=0.01, adamw_mode=True)

    def run() -> None:
        own.w.grad.copy_(own.given)
        norm = float(torch.linalg.vector_norm(own.w.grad)) / work.loss_scale
        if np.isfinite(norm):
            clip = max(1.0, (norm + 1e-6) / work.clip_norm)
            own.w.grad.mul_(1 / (work.loss_scale * clip))
            optimizer.step()
            with torch.no_grad():
                own.copy.copy_(own.w)
        own.given.zero_()

    return own.ready(run)
