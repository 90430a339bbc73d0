"""Trainings in shards of tensors in fewer bits, and the same in one process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gradstep.torch as gt
import torch

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
# Of 8-bit states and too small for them, of several shards, empty, and in another order than C's.
SHAPES = [(90, 100), (90,), (), (3, 41, 70), (0, 2), (8, 16, 6, 6)]
# (type of the parameters, master)
KINDS: dict[str, tuple[Any, str | None]] = {
    "float32": (F32, None),
    "bfloat16": (BF16, None),
    "bfloat16, split": (BF16, "split"),
    "bfloat16, float32 master": (BF16, "float32"),
    "float16, float32 master": (F16, "float32"),
}
STATES = ("float32", "bfloat16", "int8")
LAYOUTS = [
    (kind, states, (None, "float32", "bfloat16")[(i + j) % 3])
    for i, kind in enumerate(KINDS)
    for j, states in enumerate(STATES)
]
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adagrad": {"initial_accumulator_value": 0.1},  # no number of 16 bits
}


def tensors(dtype: Any, seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    made[5] = made[5].to(memory_format=torch.channels_last)
    return made


def parameters(dtype: Any) -> list[Any]:
    return [torch.nn.Parameter(t) for t in tensors(dtype, 0)]


def gradient(dtype: Any, step: int, rank: int) -> list[Any]:
    """None for a tensor in some steps, and on one of the ranks where the others have one."""
    made = tensors(dtype, 100 * step + rank + 1)
    made[1] = None if step == 0 or (rank == 1 and step == 1) else made[1]
    return made


def summed(dtype: Any, step: int, ranks: int) -> list[Any]:
    """Of all ranks, in their order and in float32."""
    total = gradient(dtype, step, 0)
    total = [None if t is None else t.float() for t in total]
    for rank in range(1, ranks):
        for i, t in enumerate(gradient(dtype, step, rank)):
            if t is not None:
                total[i] = t.float() if total[i] is None else total[i].add_(t.float())
    return total


def give(params: Sequence[Any], grads: Sequence[Any]) -> None:
    for p, grad in zip(params, grads, strict=True):
        if grad is not None and p.dtype != grad.dtype:
            p.grad_dtype = grad.dtype
        p.grad = grad


def hyper(name: str, kind: str, states: str, ema: str | None, **more: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {"master": KINDS[kind][1], "state_dtype": states, "ema": ema}
    kept |= {} if ema is None else {"ema_decay": 0.9}
    return {"lr": 0.01, "seed": 7, **kept, **OPTIONS.get(name, {}), **more}


def alone(
    name: str, kind: str, options: dict[str, Any], steps: Iterable[int], ranks: int = 0
) -> tuple[list[Any], Any]:
    """Trained by the class in one process: on the gradients of rank 0, or the sum of so many."""
    dtype = KINDS[kind][0]
    params = parameters(dtype)
    optimizer = gt.OPTIMIZERS[name](params, **options)
    if ranks:
        optimizer.grad_scale = float(ranks)  # it divides by that
    for step in steps:
        advance(
            params, optimizer, summed(dtype, step, ranks) if ranks else gradient(dtype, step, 0)
        )
    return params, optimizer


def advance(params: Sequence[Any], optimizer: Any, grads: Sequence[Any]) -> None:
    give(params, grads)
    optimizer.step()


def sharded(
    transport: Any, name: str, kind: str, options: dict[str, Any], reduce: bool = False
) -> tuple[list[Any], Any]:
    params = parameters(KINDS[kind][0])
    return params, gt.distributed.ShardedOptimizer(
        gt.OPTIMIZERS[name], params, group=transport, reduce=reduce, **options
    )


def memory(tensor: Any) -> Any:
    """A copy of a tensor's bytes, as they lie, elements in rows."""
    tensor = tensor.detach()
    flat = tensor.as_strided((tensor.numel(),), (1,)).contiguous().clone()
    return flat.view(torch.uint8).reshape(tensor.numel(), tensor.element_size())


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    return all(torch.equal(memory(p), memory(q)) for p, q in zip(found, expected, strict=True))


def check_states(optimizer: Any, whole: Any, params: Sequence[Any]) -> None:
    """The states of the own pieces are those of the whole there, to the bit."""
    for piece, member in zip(optimizer._exchange.pieces, optimizer.own.members, strict=True):
        own, theirs = (
            optimizer.own.state.get(member.parameter, {}),
            whole.state[params[piece.tensor]],
        )
        assert own.keys() == theirs.keys()
        for key, value in own.items():
            if key in ("step", "mu_product"):
                assert float(value) == float(theirs[key])
                continue
            unit = 256 if key.endswith("_scale") else 1
            part = memory(theirs[key])[piece.start // unit : -(-piece.stop // unit)]
            assert value.dtype == theirs[key].dtype
            assert torch.equal(memory(value), part), key


def of_bitsandbytes() -> dict[str, Any]:
    """A state of 8 bits in its format, of the largest tensor, and one of 32 bits."""
    generator = torch.Generator().manual_seed(4)
    state: dict[str, Any] = {"step": 5}
    for number, least in ((1, -1.0), (2, 0.0)):
        codes = torch.randint(256, (90, 100), dtype=torch.uint8, generator=generator)
        state[f"state{number}"] = codes
        state[f"qmap{number}"] = torch.linspace(least, 1, 256)
        state[f"absmax{number}"] = torch.rand(36, generator=generator)
    small = {"step": 5, "state1": torch.ones(90), "state2": torch.ones(90)}
    group = {"lr": 0.03, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.5}
    return {"state": {0: state, 1: small}, "param_groups": [{**group, "params": list(range(6))}]}
