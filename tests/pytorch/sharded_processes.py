"""A bfloat16 network under DDP, its optimizer in shards: what each process of
test_sharded_processes.py runs, `python sharded_processes.py FOLDER`, and the same in one.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from typing import Any

import gradstep.torch as gt
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

WORLD = 2
HYPER: dict[str, Any] = {
    "lr": 0.01,
    "master": "split",
    "state_dtype": "int8",
    "ema": "bfloat16",
    "ema_decay": 0.5,
    "clip_norm": 1.0,
}


def network() -> Any:
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 40))
    return made.bfloat16()


def backward(model: Any, rank: int, step: int) -> None:
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(16, 64, generator=generator).bfloat16()
    model(x).square().mean().backward()


def digest(parameters: Iterable[Any]) -> str:
    found = hashlib.sha256()
    for p in parameters:
        found.update(p.detach().view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:16]


def ends(net: Any, optimizer: Any) -> str:
    with optimizer.averaged():
        averages = digest(net.parameters())
    return f"{digest(net.parameters())} {averages} {optimizer.grad_norm}"


def alone(steps: int) -> str:
    """One process that has the gradients of both, and adds them in float32."""
    net = network()
    params = list(net.parameters())
    optimizer = gt.AdamW(params, **HYPER)
    optimizer.grad_scale = float(WORLD)  # it divides by that
    for p in params:
        p.grad_dtype = None
    for step in range(steps):
        total = [torch.zeros(p.shape) for p in params]
        for rank in range(WORLD):
            net.zero_grad()
            backward(net, rank, step)
            for own, p in zip(total, params, strict=True):
                own += p.grad.float()
        for p, own in zip(params, total, strict=True):
            p.grad = own
        optimizer.step()
        net.zero_grad()
    return ends(net, optimizer)


def main(folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    net = network()
    model = DistributedDataParallel(net)
    model.register_comm_hook(None, gt.distributed.unreduced)
    optimizer = gt.distributed.ShardedOptimizer(
        gt.AdamW, net.parameters(), reduce=True, timeout=60, **HYPER
    )
    for step in range(3):
        optimizer.zero_grad()
        backward(model, dist.get_rank(), step)
        optimizer.step()
    optimizer.save(folder)
    sys.stdout.write(f"{ends(net, optimizer)}\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
