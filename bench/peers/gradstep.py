"""gradstep: optimizers with gradients given to every call and bound once; layers with `out=`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gradstep as gs

from ..between import Between, ours
from ..halves import Half
from ..layers import Layer, called, own
from ..passes import APART, Averaged, Pipeline, decoded
from ..ranks import Ranks
from ..scaling import Threaded, by_threads
from ..steps import Step, zeroed
from ..stored import FLOAT32, Stored, nothing
from ..work import Arrays, Contender, Inputs, Ready, Work

REQUIRES = ()

_layer = partial(called, find=own, out=True)


def contenders(work: Work) -> list[Contender]:
    """`step(grads)` and, after `bind(grads)`, `step()`; the function of a layer."""
    if isinstance(work, Between):
        return ours(work, bound if isinstance(work.work, Step) else _layer)
    if isinstance(work, Threaded):
        return by_threads("gradstep", contenders(work.work)[0])
    if isinstance(work, Layer):
        return [Contender("gradstep", _layer)]
    if isinstance(work, Half):
        return [Contender("gradstep", Half.make)]
    if isinstance(work, Stored):
        return [
            Contender("gradstep", Stored.make),
            Contender(FLOAT32, Stored.float32, compared=nothing),
        ]
    if isinstance(work, Averaged):
        found = [Contender("gradstep", Averaged.fused)]
        apart = Contender(APART, Averaged.apart)
        return [*found, apart] if work.ema == "float32" else found
    if isinstance(work, Ranks):
        return work.contenders(True)
    if isinstance(work, Pipeline):
        return [Contender("gradstep", Pipeline.native, compared=decoded)]
    if not isinstance(work, Step):
        return []
    return [
        Contender("gradstep step(grads)", given),
        Contender("gradstep bound step()", bound),
    ]


def given(work: Step, inputs: Inputs) -> Ready:
    """Gradients as an argument, checked at every call."""
    params, optimizer = _shared(work, inputs)
    return _ready(work, partial(optimizer.step, inputs.arrays), params, inputs.arrays)


def bound(work: Step, inputs: Inputs) -> Ready:
    """Gradient buffers that never move."""
    params, optimizer = _shared(work, inputs)
    optimizer.bind(inputs.arrays)
    return _ready(work, optimizer.step, params, inputs.arrays)


def _shared(work: Step, inputs: Inputs) -> tuple[Arrays, gs.Optimizer]:
    """The same memory for both calls.

    Where arrays all but fill the last cache, their place in it makes more of a difference than the
    call does.
    """

    def make(gradients: Arrays) -> tuple[Arrays, gs.Optimizer]:
        params = work.parameters(inputs)
        return params, work.build(params)

    made: tuple[Arrays, gs.Optimizer] = inputs.once("gradstep", make)
    return made


def _ready(work: Step, step: Callable[..., gs.StepInfo], params: Arrays, grads: Arrays) -> Ready:
    def unless_skipped() -> None:
        if step(zero_grads=True).skipped:
            zeroed(grads)

    run: Callable[[], object] = step
    if work.skips_nonfinite:
        run = unless_skipped
    elif work.clip_norm is not None:
        run = partial(step, zero_grads=True)
    return work.ready(run, params, grads)
