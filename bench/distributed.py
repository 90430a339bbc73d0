"""The processes of the suite `distributed`, and a model of more: python -m bench.distributed.

That starts `mpirun -n RANKS` and, where torch is installed, as many processes of torch.distributed
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

from .shapes import MODELS, count

__all__ = ["TASKS", "ZERO", "commands", "main", "modelled"]

# Bytes of an own element: another rank's gradient and the own one are read, then parameter and two
# moments read and written.
LOCAL_BYTES = 4 + 4 + 2 * 12
MESSAGE = 2**20
DDP_BUCKET = 25 * 2**20 // 4  # elements; torch's default
LR = 1e-3
GRADSTEP, LIMIT = "gradstep", "limit"
ROUNDED = "gradstep, gradients in bfloat16"
BESIDE = "DDP's all-reduce, gradstep"
ALL_REDUCE = "DDP's all-reduce"
ZERO = "DDP's all-reduce, ZeroRedundancyOptimizer, torch fused"
PLAIN = "DDP's all-reduce, torch fused"
TASKS = {"mpi": (GRADSTEP, LIMIT), "gloo": (GRADSTEP, ROUNDED, BESIDE, ZERO, PLAIN, LIMIT)}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0."""
    options = _options(argv)
    if options.worker:
        ranks = {"mpi": _mpi, "gloo": _gloo}[options.worker](options)
        if options.serve:
            ranks.serve()
        else:
            ranks.report(options.rounds)
        sys.stdout.flush()
        if options.worker == "gloo":
            os._exit(0)  # gloo's threads do not always end
        return 0
    found: dict[str, Any] = {"model": options.model, "ranks": options.ranks}
    found["parameters"] = count(MODELS[options.model])
    found["mpi"] = {**_started("mpi", options), "ranks": options.ranks}
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
    parser.add_argument("--clip", action="store_true", help="by the norm")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=["mpi", "gloo"], help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def commands(worker: str, ranks: int, *arguments: str) -> list[tuple[list[str], dict[str, str]]]:
    """What starts the ranks, with its environment: one command for MPI, as many as ranks for gloo.

    Raises FileNotFoundError without mpirun.
    """
    own = [sys.executable, "-m", f"{__package__}.distributed", "--worker", worker, *arguments]
    threads = str(max(1, len(os.sched_getaffinity(0)) // ranks))
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "GRADSTEP_NUM_THREADS": threads,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if worker == "gloo":
        return [(own, {**environment, "RANK": str(rank)}) for rank in range(ranks)]
    beside = str(Path(sys.executable).parent)
    mpirun = shutil.which("mpirun", path=os.pathsep.join([beside, os.environ["PATH"]]))
    if mpirun is None:
        raise FileNotFoundError("mpirun: not found, expected that of gradstep[mpi]")
    return [([mpirun, "-n", str(ranks), *own], environment)]


def _started(worker: str, options: argparse.Namespace) -> dict[str, Any]:
    """What rank 0 of so many processes printed."""
    given = ["--model", options.model, "--rounds", str(options.rounds)]
    given += ["--clip"] * options.clip
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for command, environment in commands(worker, options.ranks, *given)
    ]
    said = "".join(process.communicate()[0] for process in processes)
    found: dict[str, Any] = json.loads(said[said.index("{") :])
    return found


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Ranks:
    """What one of the processes can do.

    weights: those that a task steps on, which are zeros before its first call. about: what is known
    beside times.
    """

    def __init__(
        self,
        transport: Any,
        tasks: dict[str, Callable[[], object]],
        weights: dict[str, Sequence[Any]],
        about: dict[str, Any],
    ) -> None:
        self.transport, self.tasks, self.weights, self.about = transport, tasks, weights, about

    def serve(self) -> None:
        """Does what lines of standard input ask of rank 0: the name of a task, how many calls.

        An empty line ends all ranks, as mpirun does not pass on the end of its input.
        """
        while True:
            line = sys.stdin.readline() if self.transport.rank == 0 else ""
            asked = gd.transport.gather(self.transport, line.encode())[0]
            if not asked.strip():
                return
            name, calls = json.loads(asked)
            seconds = sum(self._seconds(name) for _ in range(calls))
            if self.transport.rank == 0:
                print(json.dumps(seconds), flush=True)

    def report(self, rounds: int) -> None:
        """Prints the median of each, and what else is known; a round before them warms up."""
        seconds: dict[str, list[float]] = {name: [] for name in self.tasks}
        for _ in range(rounds + 1):
            for name in self.tasks:
                seconds[name].append(self._seconds(name))
        if self.transport.rank == 0:
            medians = {name: median(each[1:]) for name, each in seconds.items()}
            print(json.dumps({**self.about, "seconds": medians}))

    def _seconds(self, name: str) -> float:
        """Of the slowest rank."""
        weights = self.weights.pop(name, [])
        for w in weights:
            w[...] = 0
        gd.transport.gather(self.transport, b"")
        start = perf_counter()
        self.tasks[name]()
        own = np.array([perf_counter() - start]).view(np.uint8)
        for w in weights:  # the first step of AdamW is as long as the rate
            if w.size and not abs(w + LR).max() <= 1e-3 * LR:
                raise RuntimeError(f"{name}: wrong weights after a step")
        every = gather_equal(self.transport, own, [8] * self.transport.size)
        return max(float(each.view(np.float64)[0]) for each in every)


def _limits(transport: Any, total: int) -> dict[str, Callable[[], object]]:
    """The bytes that a step must move: to and from other ranks, and in memory."""
    shard = total // transport.size
    peers = [rank for rank in range(transport.size) if rank != transport.rank]
    ours, target = np.ones(shard, np.float32), np.ones(shard, np.float32)
    staged = [np.ones(4 * MESSAGE, np.uint8) for _ in peers]
    whole = [np.ones(ours.nbytes, np.uint8) for _ in peers]
    flat = ours.view(np.uint8)

    def exchange() -> None:
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

    def copy() -> None:
        np.copyto(target, ours)

    def limit() -> None:
        exchange()
        for _ in range(LOCAL_BYTES // 8):  # a copy reads and writes 4 bytes an element
            copy()

    def latency() -> None:
        for _ in range(100):
            gd.transport.gather(transport, b"")

    return {LIMIT: limit, "exchange": exchange, "copy": copy, "latency": latency}


def _mpi(options: argparse.Namespace) -> Ranks:
    transport = gd.MpiTransport()
    shapes = MODELS[options.model]
    weights = [np.zeros(shape, np.float32) for shape in shapes]
    grads = [np.full(shape, 1e-3, np.float32) for shape in shapes]
    hyper: dict[str, Any] = {"clip_norm": 1.0} if options.clip else {}
    sharded = gd.ShardedOptimizer(gs.AdamW, weights, comm=transport, lr=LR, **hyper)
    tasks: dict[str, Callable[[], object]] = {GRADSTEP: lambda: sharded.step(grads)}
    tasks |= _limits(transport, count(shapes))
    states = sum(a.nbytes for own in sharded.own.state.values() for a in own.values())
    about = {
        "state bytes per rank": states,
        "beside states": sum(a.nbytes for a in sharded._exchange._staging.values())
        + (transport.near.bytes if transport.near else 0),
        "through": "shared memory" if transport.near else "MPI",
    }
    return Ranks(transport, tasks, {GRADSTEP: weights}, about)


def _gloo(options: argparse.Namespace) -> Ranks:
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
    parameters, at = [], 0
    for shape in shapes:
        p = torch.nn.Parameter(torch.zeros(shape))
        # Gradients are views of flat memory, as DDP's with gradient_as_bucket_view.
        p.grad = memory[at : at + p.numel()].view(shape)
        at += p.numel()
        parameters.append(p)
    weights = [p.detach().numpy() for p in parameters]

    def all_reduce() -> None:
        works = [dist.all_reduce(part, async_op=True) for part in memory.split(DDP_BUCKET)]
        for work in works:
            work.wait()
        memory.div_(dist.get_world_size())

    def after(step: Callable[[], object]) -> Callable[[], object]:
        return lambda: [f() for f in (all_reduce, step)]

    sharded = gt.distributed.ShardedOptimizer
    hyper: dict[str, Any] = {"lr": LR}
    if options.clip:
        hyper["clip_norm"] = 1.0
    reducing = sharded(gt.AdamW, parameters, reduce=True, **hyper)
    rounding = sharded(gt.AdamW, parameters, reduce=True, grad_dtype="bfloat16", **hyper)
    beside = sharded(gt.AdamW, parameters, **hyper)
    zero = ZeroRedundancyOptimizer(parameters, torch.optim.AdamW, lr=LR, fused=True)
    plain = torch.optim.AdamW(parameters, lr=LR, fused=True)
    steps: dict[str, Callable[[], object]] = {
        GRADSTEP: reducing.step,
        ROUNDED: rounding.step,
        BESIDE: after(beside.step),
        ZERO: after(zero.step),
        PLAIN: after(plain.step),
    }
    about = {"through": "shared memory" if transport.near else "gloo"}
    others = {ALL_REDUCE: all_reduce, **_limits(transport, total)}
    return Ranks(transport, {**steps, **others}, dict.fromkeys(steps, weights), about)


def modelled(parameters: int, ranks: int, measured: dict[str, Any]) -> float:
    """Seconds of a step on so many ranks, by a model; measured: what was printed over MPI.

    It assumes: a rank on each host; every message takes the latency, one after the other, and its
    bytes at the bandwidth measured between two ranks, in both directions at once and with all
    others at that; nothing overlaps; sums and step take the bytes they touch at the speed of a
    copy. Real networks are slower in the first and the last of these, and better in overlap.
    """
    per_rank = 4 * parameters / ranks
    messages = max(1, math.ceil(per_rank / MESSAGE))
    seconds, shard = measured["seconds"], 4 * parameters / measured["ranks"]
    latency, copy = seconds["latency"] / 200, 2 * shard / seconds["copy"]
    others = measured["ranks"] - 1
    bandwidth = 2 * shard * others / seconds["exchange"] if others else math.inf
    header = (ranks - 1) * latency
    moved = (ranks - 1) * (messages * latency + per_rank / bandwidth)
    local = per_rank / 4 * (LOCAL_BYTES + 4 * (ranks - 2) if ranks > 1 else 28) / copy
    return float(header + 2 * moved + local)


def markdown(found: dict[str, Any]) -> str:
    """The figures as tables."""
    mpi, ranks = found["mpi"], found["ranks"]
    lines = [
        f"AdamW on {found['model']} ({found['parameters']:,} parameters), {ranks} ranks",
        "",
        f"| over MPI, {mpi['through']} | ms | times the bytes |",
        "|---|---|---|",
    ]
    for name, seconds in mpi["seconds"].items():
        lines.append(f"| {name} | {1e3 * seconds:.1f} | {seconds / mpi['seconds'][LIMIT]:.2f} |")
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
