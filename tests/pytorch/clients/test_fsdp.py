"""FSDP1 and FSDP2 over two processes train accelerated models as stock ones."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def network() -> Any:
    nn = torch.nn
    torch.manual_seed(0)
    block = [
        nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.SiLU(), nn.RMSNorm(8)) for _ in range(2)
    ]
    return nn.Sequential(*block, nn.Linear(8, 3))


def spread(model: Any, way: str) -> Any:
    if way == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        for layer in model:
            fully_shard(layer)
        fully_shard(model)
        return model
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    return FullyShardedDataParallel(
        model,
        device_id=torch.device("cpu"),
        use_orig_params=True,
        sharding_strategy=ShardingStrategy.FULL_SHARD,
    )


def train(way: str, ours: bool, rank: int) -> list[float]:
    import gradstep.torch as gt

    model = network()
    if ours:
        assert len(gt.accelerate(model).replaced) == 4
    model = spread(model, way)
    # FSDP1's parameters have gaps, which ours refuse.
    kind = gt.AdamW if ours and way == "fsdp2" else torch.optim.AdamW
    optimizer, losses = kind(model.parameters(), lr=1e-2), []
    for step in range(4):
        x = torch.randn(6, 8, generator=torch.Generator().manual_seed(2 * step + rank))
        loss = model(x).pow(2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def worker(rank: int, port: int, way: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    losses = [train(way, ours, rank) for ours in (False, True)]
    torch.save(losses, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("way", ("fsdp1", "fsdp2"))
def test_two_processes(way: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=worker, args=(rank, port, way, str(tmp_path))) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        if process.is_alive():
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
    for rank in range(2):
        stock, ours = torch.load(tmp_path / f"{rank}.pt")
        assert stock[0] != stock[-1]
        assert ours == pytest.approx(stock, rel=1e-4)
