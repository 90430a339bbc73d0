"""A training that one process and several ranks can do: parameters, gradients, the rule of sums."""

from __future__ import annotations

import hashlib
from typing import Any

import gradstep.distributed as gd
import numpy as np

MICRO_BATCHES = 8
HYPER: dict[str, Any] = {"lr": 0.01, "clip_norm": 0.5}
SHAPES = {"w": (37, 300), "b": (300,), "scalar": (), "empty": (0,), "v": (3, 41, 70), "c": (5,)}


def parameters(dtype: Any = np.float32, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    made = {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()}
    made["v"] = np.asfortranarray(made["v"])
    return made


def gradients(step: int, micro_batch: int, dtype: Any = np.float32) -> dict[str, Any]:
    return parameters(dtype, 1000 * step + micro_batch + 1)


def trained_alone(cls: Any, dtype: Any, steps: int, **hyper: Any) -> tuple[Any, Any]:
    """The specification: one process adds up the micro-batches in order, and steps."""
    weights = parameters(dtype)
    scale = hyper.pop("grad_scale", 1.0) * (1.0 / MICRO_BATCHES)
    optimizer = cls(weights, grad_scale=scale, **hyper)
    infos = []
    for step in range(steps):
        total = gradients(step, 0, dtype)
        for micro_batch in range(1, MICRO_BATCHES):
            for name, gradient in gradients(step, micro_batch, dtype).items():
                total[name][...] += gradient
        infos.append(optimizer.step(total))
    return weights, infos


def train(transport: Any, cls: Any, dtype: Any, steps: int, **hyper: Any) -> tuple[Any, Any]:
    """What one rank does: its weights and infos; micro-batch i is of rank i mod ranks."""
    weights = parameters(dtype)
    optimizer = gd.ShardedOptimizer(cls, weights, comm=transport, **hyper)
    return weights, [advance(transport, optimizer, step, dtype) for step in range(steps)]


def advance(transport: Any, optimizer: Any, step: int, dtype: Any = np.float32) -> Any:
    """A step of one rank."""
    own = [gradients(step, i, dtype) for i in range(transport.rank, MICRO_BATCHES, transport.size)]
    own += [None] * (-(-MICRO_BATCHES // transport.size) - len(own))
    for each in own[:-1]:
        optimizer.accumulate(each)
    return optimizer.step(own[-1])


def same(found: Any, expected: Any) -> bool:
    return all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def digest(weights: Any) -> str:
    return hashlib.sha256(b"".join(w.tobytes() for w in weights.values())).hexdigest()
