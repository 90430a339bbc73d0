"""The limit: the bytes of the work moved by gradstep's own loop and threads, without arithmetic."""

from __future__ import annotations

import math
from functools import partial

from gradstep import _core

from bench.steps import Step
from bench.work import Contender, Inputs, Ready, Work

REQUIRES = ()

HYPER = {"maximize": 0.0, "clip_value": math.inf, "l1": 0.0, "l2": 0.0}


def contenders(work: Work) -> list[Contender]:
    """One loop for each number of state arrays that the kernels offer."""
    if not isinstance(work, Step) or _kernel(work) not in _core.assignment_kernels():
        return []
    return [Contender("limit", move, checked=False)]


def _kernel(work: Step) -> str:
    # Clipping and zeroing read and write the gradient once more: the bytes of one more state.
    return f"Traffic{work.states + (0 if work.clip_norm is None else 1)}"


def move(work: Step, inputs: Inputs) -> Ready:
    """Parameter <- first state <- second state ... <- gradient."""
    kernel, params, grads = _kernel(work), work.parameters(inputs), inputs.arrays
    arrays = [params, *(work.parameters(inputs) for _ in _core.assignment_kernels()[kernel])]
    tensors = [(i, 0, *own) for i, own in enumerate(zip(*arrays, strict=True))]
    plan = _core.Plan([(kernel, list(HYPER))], tensors)
    plan.set_hyper(0, list(HYPER.values()))
    plan.bind(grads)
    return work.ready(partial(plan.step, None, 1.0, 0.0, False), params, grads)
