"""A step of several ranks beside the bytes it must move, and beside torch's: python -m
bench.distributed.

Starts `mpirun -n RANKS` and, where torch is installed, as many processes of torch.distributed
(gloo), all on this machine. In every round each contender makes one step on gradients that are
there, after a barrier; the time is that of the slowest rank, the figure the median of the rounds.
Ends with a model of more ranks, from what was measured: see `modelled` for what it assumes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
from gradstep.distributed.transport import gather_equal

from bench.shapes import MODELS, count

__all__ = ["main", "modelled"]

# Bytes of an own element: another rank's gradient and the own one are read, then parameter and two
# moments read and written.
LOCAL_BYTES = 4 + 4 + 2 * 12
MESSAGE = 2**20
DDP_BUCKET = 25 * 2**20 // 4  # elements; torch's default
ZERO = "DDP's all-reduce, ZeroRedundancyOptimizer, torch's fused AdamW"
SHARDED = "ShardedOptimizer"
BYTES = "the bytes that must move"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    options = _options(argv)
    if options.worker:
        {"mpi": _mpi, "gloo": _gloo}[options.worker](options)
        return 0
    found: dict[str, Any] = {"model": options.model, "ranks": options.ranks}
    found["parameters"] = count(MODELS[options.model])
    found["mpi"] = _started("mpi", options)
    if not options.mpi_only:
        found["gloo"] = _started("gloo", options)
    found["modelled"] = [
        {"ranks": n, "seconds": modelled(found["parameters"], n, found["mpi"])}
        for n in (1, 2, 4, 8, 32, 128, 512, 1024)
    ]
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(markdown(found))
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.distributed")
    parser.add_argument("--model", choices=MODELS, default="GPT-2 small")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--mpi-only", action="store_true")
    parser.add_argument("--worker", choices=["mpi", "gloo"], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _started(worker: str, options: argparse.Namespace) -> dict[str, Any]:
    """What rank 0 of so many processes printed."""
    own = [sys.executable, "-m", "bench.distributed", "--worker", worker]
    own += ["--model", options.model, "--rounds", str(options.rounds)]
    threads = str(max(1, len(os.sched_getaffinity(0)) // options.ranks))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "GRADSTEP_NUM_THREADS": threads,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "WORLD_SIZE": str(options.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if worker == "mpi":
        command = shutil.which("mpirun")
        if command is None:
            raise SystemExit("mpirun: not found, expected that of gradstep[mpi]")
        commands = [[command, "-n", str(options.ranks), *own]]
    else:
        commands = [own] * options.ranks
    processes = [
        subprocess.Popen(
            each, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank, each in enumerate(commands)
    ]
    said = "".join(process.communicate()[0] for process in processes)
    found: dict[str, Any] = json.loads(said[said.index("{") :])
    return found


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _timed(transport: Any, rounds: int, tasks: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each, of the slowest rank; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            gd.transport.gather(transport, b"")
            start = perf_counter()
            task()
            own = np.array([perf_counter() - start]).view(np.uint8)
            every = gather_equal(transport, own, [8] * transport.size)
            seconds[name].append(max(float(each.view(np.float64)[0]) for each in every))
    return {name: median(each[1:]) for name, each in seconds.items()}


def _mpi(options: argparse.Namespace) -> None:
    transport = gd.MpiTransport()
    shapes = MODELS[options.model]
    weights = [np.zeros(shape, np.float32) for shape in shapes]
    grads = [np.full(shape, 1e-3, np.float32) for shape in shapes]
    plain = gd.ShardedOptimizer(gs.AdamW, weights, comm=transport)
    clipped = gd.ShardedOptimizer(gs.AdamW, weights, comm=transport, clip_norm=1.0)
    shard = sum(piece.size for piece in plain.pieces)
    peers = [rank for rank in range(transport.size) if rank != transport.rank]
    ours, target = np.ones(shard, np.float32), np.ones(shard, np.float32)
    staged = [np.ones(4 * MESSAGE, np.uint8) for _ in peers]
    # The other shards are as long, to a block: all send what all receive.
    whole = [np.ones(ours.nbytes, np.uint8) for _ in peers]
    flat = ours.view(np.uint8)

    def exchanged() -> None:
        """As many bytes as a step sends: gradients into the cache, then parameters into memory."""
        for places in (staged, whole):
            pending = []
            for turn, start in enumerate(range(0, flat.size, MESSAGE)):
                part = flat[start : start + MESSAGE]
                at = start if places is whole else turn % 4 * MESSAGE
                pending.append(
                    transport.start(
                        [(rank, part) for rank in peers],
                        [
                            (rank, place[at : at + part.size])
                            for rank, place in zip(peers, places, strict=True)
                        ],
                    )
                )
                if turn > 2:
                    pending.pop(0).wait()
            for last in pending:
                last.wait()

    sizes = gather_equal(transport, np.array([shard]).view(np.uint8), [8] * transport.size)
    even = min(int(each.view(np.int64)[0]) for each in sizes)
    flat = flat[: 4 * even]
    found = _timed(
        transport,
        options.rounds,
        {
            SHARDED: lambda: plain.step(grads),
            f"{SHARDED}, clipped": lambda: clipped.step(grads),
            "exchange": exchanged,
            "copy": lambda: np.copyto(target, ours),
            "latency": lambda: [gd.transport.gather(transport, b"") for _ in range(100)],
        },
    )
    local = LOCAL_BYTES / 8 * found["copy"]  # a copy reads and writes 4 bytes an element
    found[BYTES] = found["exchange"] + local
    states = sum(a.nbytes for own in plain.own.state.values() for a in own.values())
    if transport.rank == 0:
        sent = 2 * 4 * even * len(peers)
        result = {
            "seconds": found,
            "state bytes per rank": states,
            "beside states": sum(a.nbytes for a in plain._exchange._staging.values()),
            "latency": found.pop("latency") / 200,
            "exchange bytes per second": sent / found["exchange"] if peers else math.inf,
            "copy bytes per second": 8 * shard / found["copy"],
        }
        print(json.dumps(result))


def _gloo(options: argparse.Namespace) -> None:
    import gradstep.torch as gt
    import torch
    import torch.distributed as dist
    from torch.distributed.optim import ZeroRedundancyOptimizer

    dist.init_process_group("gloo")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    transport = gt.distributed.GlooTransport()
    shapes = MODELS[options.model]
    total = count(shapes)
    memory = torch.full((total,), 1e-3)

    def parameters() -> list[Any]:
        made, at = [], 0
        for shape in shapes:
            p = torch.nn.Parameter(torch.zeros(shape))
            # Gradients are views of flat memory, as DDP's with gradient_as_bucket_view.
            p.grad = memory[at : at + p.numel()].view(shape)
            at += p.numel()
            made.append(p)
        return made

    def all_reduce() -> None:
        works = [dist.all_reduce(part, async_op=True) for part in memory.split(DDP_BUCKET)]
        for work in works:
            work.wait()
        memory.div_(dist.get_world_size())

    sharded = gt.distributed.ShardedOptimizer
    reducing = sharded(gt.AdamW, parameters(), reduce=True, lr=1e-3)
    rounding = sharded(gt.AdamW, parameters(), reduce=True, grad_dtype="bfloat16", lr=1e-3)
    beside = sharded(gt.AdamW, parameters(), lr=1e-3)
    zero = ZeroRedundancyOptimizer(parameters(), torch.optim.AdamW, lr=1e-3, fused=True)
    found = _timed(
        transport,
        options.rounds,
        {
            f"{SHARDED}, reduce=True": reducing.step,
            f"{SHARDED}, reduce=True, gradients in bfloat16": rounding.step,
            "DDP's all-reduce": all_reduce,
            f"DDP's all-reduce, {SHARDED}": lambda: [f() for f in (all_reduce, beside.step)],
            ZERO: lambda: [f() for f in (all_reduce, zero.step)],
        },
    )
    if dist.get_rank() == 0:
        print(json.dumps({"seconds": found}))
    sys.stdout.flush()
    os._exit(0)  # gloo's threads do not always end


def modelled(parameters: int, ranks: int, measured: dict[str, Any]) -> float:
    """Seconds of a step on so many ranks, by a model; measured: what `_mpi` printed.

    It assumes: a rank on each host; every message takes the latency, one after the other, and its
    bytes at the bandwidth measured between two ranks, in both directions at once and with all
    others at that; nothing overlaps; sums and step take the bytes they touch at the speed of a
    copy. Real networks are slower in the first and the last of these, and better in overlap.
    """
    per_rank = 4 * parameters / ranks
    messages = max(1, math.ceil(per_rank / MESSAGE))
    latency, copy = measured["latency"], measured["copy bytes per second"]
    header = (ranks - 1) * latency
    moved = (ranks - 1) * (messages * latency + per_rank / measured["exchange bytes per second"])
    local = per_rank / 4 * (LOCAL_BYTES + 4 * (ranks - 2) if ranks > 1 else 28) / copy
    return float(header + 2 * moved + local)


def markdown(found: dict[str, Any]) -> str:
    """The figures as tables."""
    mpi, ranks = found["mpi"], found["ranks"]
    lines = [
        f"AdamW on {found['model']} ({found['parameters']:,} parameters), {ranks} ranks",
        "",
        "| over MPI | ms | times the bytes |",
        "|---|---|---|",
    ]
    bytes_ = mpi["seconds"][BYTES]
    for name, seconds in mpi["seconds"].items():
        lines.append(f"| {name} | {1e3 * seconds:.1f} | {seconds / bytes_:.2f} |")
    share = 8 * found["parameters"] / ranks
    more = mpi["state bytes per rank"] - share + mpi["beside states"]
    lines += ["", f"States per rank: {mpi['state bytes per rank'] / 2**20:.1f} MiB, "]
    lines[-1] += f"total / ranks and {more / 2**20:.1f} MiB with the memory of messages."
    if "gloo" in found:
        gloo = found["gloo"]["seconds"]
        lines += ["", "| over gloo | ms | torch's time / this |", "|---|---|---|"]
        for name, seconds in gloo.items():
            lines.append(f"| {name} | {1e3 * seconds:.1f} | {gloo[ZERO] / seconds:.2f} |")
    lines += ["", "| ranks, modelled | ms |", "|---|---|"]
    lines += [f"| {each['ranks']} | {1e3 * each['seconds']:.1f} |" for each in found["modelled"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
