"""Two processes train with parameters that are spread over them, and say what came out.

Run by test_optimizer_spread.py in each process: `python spread_training.py RANK PORT RESULTS`.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import gradstep.torch as gt
import torch
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict as checkpoints
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

WORLD = 2


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 7), torch.nn.Tanh(), torch.nn.LayerNorm(7), torch.nn.Linear(7, 1)
    )


def batch(rank: int, t: int) -> Any:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(10 * t + rank))


def whole(model: Any) -> list[Any]:
    return [p.full_tensor().detach().clone() for p in model.parameters()]


def fsdp(rank: int, make: Any, steps: int = 5, **then: Any) -> tuple[Any, Any, list[Any]]:
    """A model in parts, its optimizer, and the norm of each step's gradients."""
    model = network()
    fully_shard(model[0])
    fully_shard(model)
    optimizer = make(model.parameters())
    norms = advance(rank, model, optimizer, range(steps), **then)
    return model, optimizer, norms


def advance(rank: int, model: Any, optimizer: Any, steps: Any, clip: Any = None) -> list[Any]:
    norms = []
    for t in steps:
        optimizer.zero_grad()
        model(batch(rank, t)).square().mean().backward()
        if clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            norms.append(float(norm.full_tensor()))
        optimizer.step()
        norms += [optimizer.grad_norm] if getattr(optimizer, "clip_norm", None) else []
    return norms


def train(rank: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    stock = fsdp(rank, lambda params: torch.optim.AdamW(params, lr=0.1))
    mine = fsdp(rank, lambda params: gt.AdamW(params, lr=0.1))
    found["AdamW"] = whole(stock[0]), whole(mine[0])
    own = next(iter(mine[1].state.values()))
    found["state"] = isinstance(own["exp_avg"], DTensor), float(own["step"])

    stock = fsdp(rank, lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9), clip=0.1)
    mine = fsdp(rank, lambda params: gt.SGD(params, lr=0.1, momentum=0.9, clip_norm=0.1))
    found["clipped"] = whole(stock[0]), whole(mine[0])
    found["norms"] = stock[2], mine[2]

    # A checkpoint of torch's goes on in ours, by the tools for that.
    model, optimizer, _ = fsdp(rank, lambda params: torch.optim.AdamW(params, lr=0.1), 3)
    options = checkpoints.StateDictOptions(full_state_dict=True, cpu_offload=True)
    saved = checkpoints.get_state_dict(model, optimizer, options=options)
    everywhere = checkpoints.StateDictOptions(full_state_dict=True)
    again = network()
    fully_shard(again[0])
    fully_shard(again)
    resumed = gt.AdamW(again.parameters(), lr=0.1)
    box = [saved]
    dist.broadcast_object_list(box, src=0)
    checkpoints.set_state_dict(
        again,
        resumed,
        model_state_dict=box[0][0],
        optim_state_dict=box[0][1],
        options=everywhere,
    )
    advance(rank, model, optimizer, range(3, 6))
    advance(rank, again, resumed, range(3, 6))
    found["resumed"] = whole(model), whole(again)

    # One process's gradient is not finite: none of them steps.
    model, optimizer, _ = fsdp(rank, lambda params: gt.Adam(params, on_nonfinite="skip"), 2)
    before = whole(model)
    model(batch(rank, 9)).square().mean().backward()
    if rank == 1:
        next(model.parameters()).grad.to_local().fill_(float("nan"))
    optimizer.step()
    found["skipped"] = optimizer.skipped, before, whole(model)
    optimizer.on_nonfinite = "raise"
    try:
        optimizer.step()
    except FloatingPointError as error:
        found["raised"] = str(error)
    found.update(other_meshes(rank))
    found.update(flat_parameters(rank))
    return found


def flat_parameters(rank: int) -> dict[str, Any]:
    """FSDP1, which resizes the storages of parameters."""
    found: dict[str, Any] = {}
    for whose, original in (("flat", False), ("original", True)):
        ends = []
        for make in (torch.optim.AdamW, gt.AdamW):
            model = FullyShardedDataParallel(
                network(), use_orig_params=original, device_id=torch.device("cpu")
            )
            optimizer = make(model.parameters(), lr=0.1)
            advance(rank, model, optimizer, range(5))
            with FullyShardedDataParallel.summon_full_params(model):
                ends.append([p.detach().clone() for p in model.parameters()])
        found[whose] = tuple(ends)
    return found


def other_meshes(rank: int) -> dict[str, Any]:
    """Parts along another dimension, copies, plain tensors, and what is refused."""
    found: dict[str, Any] = {}
    mesh = init_device_mesh("cpu", (WORLD,))
    full = [torch.arange(12.0).view(4, 3), torch.arange(5.0), torch.ones(3), torch.ones(1, 2)]
    where = [[Shard(1)], [Shard(0)], [Replicate()], [Shard(0)]]  # the last: nothing on rank 1

    def spread(tensor: Any, placements: Any) -> Any:
        return distribute_tensor(tensor, mesh, placements)

    params = [torch.nn.Parameter(spread(t.clone(), w)) for t, w in zip(full, where, strict=True)]
    plain = torch.nn.Parameter(torch.ones(2))
    twins = [torch.nn.Parameter(t.clone()) for t in (*full, torch.ones(2))]
    x = gt.SGD([*params, plain], lr=0.1, clip_norm=1.0)
    y = torch.optim.SGD(twins, lr=0.1)
    for p, w in zip(params, where, strict=True):
        p.grad = spread(torch.ones(p.shape), w)
    plain.grad = torch.ones(2)
    for q in twins:
        q.grad = torch.ones_like(q)
    versions = [p._version for p in params]
    x.step()
    found["norm"] = float(torch.nn.utils.clip_grad_norm_(twins, 1.0)), x.grad_norm
    y.step()
    found["meshes"] = [t.detach() for t in twins], [*(p.full_tensor() for p in params), plain]
    found["versions"] = [p._version - v for p, v in zip(params, versions, strict=True)]
    found["refused"] = []
    wrong = [spread(torch.ones(4, 3), [Shard(0)]), torch.ones(4, 3)]
    for grad in wrong:
        p = torch.nn.Parameter(spread(torch.ones(4, 3), [Shard(1)]))
        opt = gt.SGD([p])
        try:
            p.grad = grad
            opt.step()
        except (TypeError, ValueError, RuntimeError) as error:
            found["refused"].append(f"{type(error).__name__}: {error}")
    return found


def main(rank: int, port: str, results: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    try:
        found = train(rank)
        torch.save(found, f"{results}.{rank}")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
