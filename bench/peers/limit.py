"""The limit: the bytes of the work moved by gradstep's own loop and threads, without arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import gradstep as gs
from gradstep import _core

from ..layers import Layer
from ..scaling import Threaded, by_threads
from ..steps import Step, copied, feed
from ..work import Contender, Inputs, Ready, Work

REQUIRES = ()

Call = Callable[[], object]

HYPER = {"maximize": 0.0, "clip_value": math.inf, "l1": 0.0, "l2": 0.0}


def contenders(work: Work) -> list[Contender]:
    """One loop for each number of state arrays that the kernels offer, or for a layer's arrays."""
    if isinstance(work, Threaded):
        return [c for one in contenders(work.work) for c in by_threads("limit", one)]
    if isinstance(work, Layer):
        known = work.streams in (2, 3) and work.names
        return [Contender("limit", pass_by, checked=False)] if known else []
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


def pass_by(work: Layer, inputs: Inputs) -> Ready:
    """One array goes to another, or onto itself, or two are read and a third is written.

    The first is the loop of relu, whose one comparison is free: nothing here moves large arrays
    faster, because its stores go past the caches. Relu itself is set against a plain copy. The
    last is the loop of a moving average, which reads its result before it writes it.
    """
    source = inputs.arrays[-1]
    target = source if work.in_place else copied([source])[0]
    if work.streams == 3:
        run = _plan("Average", {"beta": 0.5}, source, target)
    elif work.in_place or work.function == "relu":
        run = _plan("Traffic0", {}, source, target)
    else:
        run = partial(gs.relu, source, out=target)
    return Ready(run, lambda values: feed(inputs.arrays, values), lambda: [target])


def _plan(kernel: str, keywords: dict[str, float], source: Any, target: Any) -> Call:
    plan = _core.Plan([(kernel, [*HYPER, *keywords])], [(0, 0, target)])
    plan.set_hyper(0, [*HYPER.values(), *keywords.values()])
    plan.bind([source])
    return partial(plan.step, None, 1.0, 0.0, False)
