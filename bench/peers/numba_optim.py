"""Fused loops compiled by numba, one call for each tensor.

"parallel" is numba at its best: prange, fastmath, NumPy's division, and one thread for tensors that
are too small to share. "default" is a plain @njit: one thread, and no vectors where it has to look
for a division by zero. They have a process of their own: once numba's OpenMP has started, those
operators of torch that go through MKL take a hundred times as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import gradstep as gs
import numpy as np

from ..between import Between, apart
from ..remote import there
from ..steps import Step, zeroed
from ..work import Arrays, Contender, Inputs, Ready, Work

REQUIRES = ("numba",)

Hyper = Mapping[str, Any]
Numbers = tuple[float, ...]

FAST: dict[str, Any] = {"fastmath": True, "error_model": "numpy"}
INFINITIES = {"reassoc", "contract", "nsz", "arcp"}  # fastmath, but for values that are not finite
# Not cached on disk, where numba takes one function with other options for the same.
OPTIONS = {"default": {}, "fast": FAST, "parallel": {**FAST, "parallel": True}}
# Elements of a tensor. The largest of those on which contenders are checked has more, so that the
# parallel loop is checked too.
SERIAL_TO = 4_096


def contenders(work: Work) -> list[Contender]:
    """Both, for all optimizers; none where weight decay adds to the gradient."""
    if isinstance(work, Between):
        best = [c for c in contenders(work.work) if c.name == "numba parallel"]
        return [apart("numba", replace(c, make=partial(make, True))) for c in best if work.own]
    if not isinstance(work, Step) or work.kernel not in NUMBERS:
        return []
    if work.hyper["weight_decay"] != 0 and work.optimizer not in ("AdamW", "Lion"):
        return []
    return [
        Contender(f"numba {name}", partial(there, "numba", {}, partial(make, parallel)))
        for name, parallel in (("parallel", True), ("default", False))
    ]


@cache
def compiled(name: str, kind: str) -> Callable[..., Any]:
    """A loop of bench.numba_loops, compiled at its first call."""
    numba: Any = import_module("numba")
    loops = import_module("..numba_loops", __package__)
    options = dict(OPTIONS[kind])
    if name == "squares" and options:
        options["fastmath"] = INFINITIES
    function: Callable[..., Any] = numba.njit(**options)(getattr(loops, name))
    return function


def loop(name: str, parallel: bool, size: int) -> Callable[..., Any]:
    """The loop for tensors of this size."""
    if not parallel:
        return compiled(name, "default")
    return compiled(name, "parallel" if size > SERIAL_TO else "fast")


def shrink(h: Hyper) -> float:
    return float(1 - h["lr"] * h["weight_decay"])


def betas(h: Hyper) -> tuple[float, float, float, float]:
    beta1, beta2 = h["betas"]
    return beta1, 1 - beta1, beta2, 1 - beta2


def adam(h: Hyper) -> Iterator[Numbers]:
    beta1, _, beta2, _ = betas(h)
    power1 = power2 = 1.0
    while True:
        power1, power2 = power1 * beta1, power2 * beta2
        rate, root = h["lr"] / (1 - power1), 1 / math.sqrt(1 - power2)
        yield *betas(h), rate, root, h["eps"], shrink(h)


def nadam(h: Hyper) -> Iterator[Numbers]:
    (beta1, beta2), product, t = h["betas"], 1.0, 0
    while True:
        t += 1
        now, after = (beta1 * (1 - 0.5 * 0.96 ** (i * h["momentum_decay"])) for i in (t, t + 1))
        product *= now
        of_g = h["lr"] * (1 - now) / (1 - product)
        of_m = h["lr"] * after / (1 - product * after)
        yield *betas(h), of_g, of_m, 1 / math.sqrt(1 - beta2**t), h["eps"]


def radam(h: Hyper) -> Iterator[Numbers]:
    (beta1, beta2), t = h["betas"], 0
    last = 2 / (1 - beta2) - 1
    while True:
        t += 1
        rho = last - 2 * t * beta2**t / (1 - beta2**t)
        plain, rate = h["lr"] / (1 - beta1**t), 0.0
        if rho > 5:
            factor = (rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho)
            plain, rate = 0.0, plain * math.sqrt(factor * (1 - beta2**t))
        yield *betas(h), plain, rate, h["eps"]


def adamax(h: Hyper) -> Iterator[Numbers]:
    beta1, rest1, beta2, _ = betas(h)
    power = 1.0
    while True:
        power *= beta1
        yield beta1, rest1, beta2, h["lr"] / (1 - power), h["eps"]


def adagrad(h: Hyper) -> Iterator[Numbers]:
    t = 0
    while True:
        yield h["lr"] / (1 + t * h["lr_decay"]), h["eps"]
        t += 1


def constant(numbers: Callable[[Hyper], Numbers]) -> Callable[[Hyper], Iterator[Numbers]]:
    """The same at every step."""

    def steps(h: Hyper) -> Iterator[Numbers]:
        while True:
            yield numbers(h)

    return steps


# By `Step.kernel`: the numbers that the loop of that name in lower case takes, step after step.
NUMBERS: dict[str, Callable[[Hyper], Iterator[Numbers]]] = {
    "SGD": constant(lambda h: (h["lr"],)),
    "Momentum": constant(lambda h: (h["lr"], h["momentum"])),
    "Adagrad": adagrad,
    "RMSprop": constant(lambda h: (h["lr"], h["alpha"], 1 - h["alpha"], h["eps"])),
    "Adadelta": constant(lambda h: (h["lr"], h["rho"], 1 - h["rho"], h["eps"])),
    "Adam": adam,
    "AMSGrad": adam,
    "NAdam": nadam,
    "Adamax": adamax,
    "RAdam": radam,
    "Lion": constant(lambda h: (h["lr"], *betas(h), shrink(h))),
}


def make(parallel: bool, work: Step, inputs: Inputs) -> Ready:
    """The loops get flat views of the tensors."""
    threads: Callable[[int], None] = import_module("numba").set_num_threads
    params, grads = work.parameters(inputs), inputs.arrays
    threads(gs.get_num_threads())
    numbers, name = NUMBERS[work.kernel](dict(work.hyper)), work.kernel.lower()
    calls: list[tuple[Callable[..., Any], Arrays]] = []
    for p, g in zip(params, grads, strict=True):
        states = [np.zeros_like(p) for _ in range(work.states)]
        for state in states:
            state.fill(0)
        flat = [array.reshape(-1) for array in (p, g, *states)]
        calls.append((loop(name, parallel, p.size), flat))

    def step() -> None:
        now = tuple(map(np.float32, next(numbers)))
        for function, arrays in calls:
            function(*arrays, *now)

    def clipped() -> None:
        if scaled(parallel, work, [arrays[1] for _, arrays in calls]):
            step()
        zeroed(grads)

    return work.ready(step if work.clip_norm is None else clipped, params, grads)


def scaled(parallel: bool, work: Step, grads: Arrays) -> bool:
    """Unscales and clips gradients by their global L2 norm, unless that is not finite."""
    inverse = 1 / (work.loss_scale or 1.0)
    norm = inverse * math.sqrt(sum(loop("squares", parallel, g.size)(g) for g in grads))
    if not math.isfinite(norm):
        return False
    factor = np.float32(inverse * min(1.0, (work.clip_norm or math.inf) / (norm + 1e-6)))
    for g in grads:
        loop("scale", parallel, g.size)(g, factor)
    return True
