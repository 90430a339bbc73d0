"""PyTorch training the networks of scikit-learn's users: the same weights, batches and penalty."""

from __future__ import annotations

import math
from functools import partial
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from ..fits import Fit
from ..steps import feed
from ..work import Arrays, Contender, Inputs, Ready, Work

REQUIRES = ("torch", "scikit-learn")

ALPHA, LR, BETA2, EPSILON = 1e-4, 1e-3, 0.999, 1e-8  # scikit-learn's defaults


def contenders(work: Work) -> list[Contender]:
    """The fused Adam, on as many threads as gradstep has and on one."""
    if not isinstance(work, Fit):
        return []
    return [
        Contender("torch fused", partial(fit, None)),
        Contender("torch fused, 1 thread", partial(fit, 1)),
    ]


def fit(threads: int | None, work: Fit, inputs: Inputs) -> Ready:
    """A loop as one writes it: rows by index, cross-entropy, backward, step."""
    torch: Any = import_module("torch")
    shuffle: Any = import_module("sklearn.utils").shuffle
    count = threads or torch.get_num_threads()
    layers: list[Any] = []

    def run() -> None:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            layers[:] = _trained(torch, shuffle, work, inputs.arrays[0])
        finally:
            torch.set_num_threads(before)

    def outputs() -> Arrays:
        weights = [np.ascontiguousarray(layer.weight.detach().numpy().T) for layer in layers]
        return [*weights, *(layer.bias.detach().numpy() for layer in layers)]

    return Ready(run, partial(feed, inputs.arrays), outputs)


def _trained(torch: Any, shuffle: Any, work: Fit, rows: Any) -> list[Any]:
    random = np.random.RandomState(0)
    layers = []
    for fan_in, fan_out in pairwise(work.layers):
        bound = np.sqrt(6.0 / (fan_in + fan_out))
        weight = random.uniform(-bound, bound, (fan_in, fan_out))
        bias = random.uniform(-bound, bound, fan_out)
        layer = torch.nn.Linear(fan_in, fan_out, dtype=getattr(torch, work.dtype))
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
        layers += [layer, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    linear = layers[::2]
    optimizer = torch.optim.Adam(
        [
            {"params": [layer.weight for layer in linear], "weight_decay": ALPHA / work.batch},
            {"params": [layer.bias for layer in linear]},
        ],
        lr=LR,
        fused=True,
    )
    x, y = torch.from_numpy(rows), torch.from_numpy(work.labels.astype(np.int64))
    order, step = np.arange(len(rows)), 0
    for _ in range(work.epochs):
        order = shuffle(order, random_state=random)
        for index in torch.from_numpy(order).split(work.batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(x[index]), y[index])
            loss.backward()
            step += 1
            for group in optimizer.param_groups:  # scikit-learn adds it before the correction
                group["eps"] = EPSILON / math.sqrt(1 - BETA2**step)
            optimizer.step()
    return linear
