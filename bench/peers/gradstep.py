"""gradstep: optimizers with gradients given to every call and bound once; layers with `out=`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..layers import Layer, called, own
from ..steps import Step
from ..work import Contender, Inputs, Ready, Work

REQUIRES = ()


def contenders(work: Work) -> list[Contender]:
    """`step(grads)` and, after `bind(grads)`, `step()`; the function of a layer."""
    if isinstance(work, Layer):
        return [Contender("gradstep", partial(called, find=own, out=True))]
    if not isinstance(work, Step):
        return []
    return [
        Contender("gradstep step(grads)", given),
        Contender("gradstep bound step()", bound),
    ]


def given(work: Step, inputs: Inputs) -> Ready:
    """Gradients as an argument, checked at every call."""
    params, grads = work.parameters(inputs), inputs.arrays
    optimizer = work.build(params)
    return work.ready(_call(work, partial(optimizer.step, grads)), params, grads)


def bound(work: Step, inputs: Inputs) -> Ready:
    """Gradient buffers that never move."""
    params, grads = work.parameters(inputs), inputs.arrays
    optimizer = work.build(params)
    optimizer.bind(grads)
    return work.ready(_call(work, optimizer.step), params, grads)


def _call(work: Step, step: Callable[..., object]) -> Callable[[], object]:
    return step if work.clip_norm is None else partial(step, zero_grads=True)
