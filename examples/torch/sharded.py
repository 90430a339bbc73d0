"""A classifier of digits in several processes, each with its share of the optimizer's states.

torchrun --nproc-per-node 2 examples/torch/sharded.py --engine ddp --checkpoint run
python examples/torch/sharded.py       the same training in one process

The batch is divided among the processes. With `ddp` every process has all parameters, and gradients
are summed once, into the shards of `gradstep.torch.distributed.ShardedOptimizer`; with `fsdp` the
parameters are in parts too (FSDP2), and gradstep's AdamW steps on these.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gradstep.torch as gt
import torch
import torch.distributed as dist
from images import Digits
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

WIDTHS = (784, 256, 128, 10)
BATCH = 128
HYPER: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01, "clip_norm": 1.0}


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def engine(name: str, model: nn.Module) -> tuple[nn.Module, Any]:
    """The model as this process runs it, and its optimizer."""
    if name == "fsdp":
        fully_shard(model)
        return model, gt.AdamW(model.parameters(), **HYPER)
    shared = DistributedDataParallel(model)
    shared.register_comm_hook(None, gt.distributed.unreduced)  # so that gradients are summed once
    return shared, gt.distributed.ShardedOptimizer(
        gt.AdamW, model.parameters(), reduce=True, timeout=60, **HYPER
    )


def train(
    name: str, steps: int, checkpoint: Path | None, say: Callable[[str], None]
) -> tuple[float, float]:
    """Returns loss and accuracy on the held-out digits."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    digits = Digits(seed=1, size=BATCH, flat=True)
    model, optimizer = engine(name, network())
    first = 0
    if checkpoint is not None and (checkpoint / "index.safetensors").exists():
        first = optimizer.load(checkpoint)["steps"]
        say(f"goes on after step {first} of {checkpoint}")
    for step in range(first, steps):
        x, y = (part[rank::ranks] for part in digits[step])
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            say(f"step {step + 1}: loss {loss.item():.4f} on this process's part")
    if checkpoint is not None:
        optimizer.save(checkpoint, extra={"steps": steps})
    return held_out(model, digits)


@torch.no_grad()
def held_out(model: nn.Module, digits: Digits) -> tuple[float, float]:
    losses, right = 0.0, 0
    for x, y in digits.held_out:
        outputs = model(x)
        losses += F.cross_entropy(outputs, y, reduction="sum").item()
        right += int((outputs.argmax(1) == y).sum())
    rows = sum(len(y) for _, y in digits.held_out)
    return losses / rows, right / rows


def main() -> int:
    parser = argparse.ArgumentParser(description="A sharded optimizer under DDP, and FSDP2.")
    parser.add_argument("--engine", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--checkpoint", type=Path, help="a folder that all processes see (ddp)")
    options = parser.parse_args()
    if options.checkpoint and options.engine == "fsdp":
        parser.error("--checkpoint: with fsdp, expected torch.distributed.checkpoint instead")
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in alone.items():  # torchrun sets these
        os.environ.setdefault(name, value)
    dist.init_process_group("gloo")

    def say(text: str) -> None:
        if dist.get_rank() == 0:
            print(text, flush=True)

    loss, accuracy = train(options.engine, options.steps, options.checkpoint, say)
    say(f"held out: loss {loss:.6f}, accuracy {accuracy:.4f}")
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
