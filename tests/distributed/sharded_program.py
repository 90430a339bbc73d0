"""What each of several processes runs in these tests: `sharded_program.py mpi|gloo WHAT ...`.

Ends with 3, after a line that tells the error, where it could not go on with the others.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
from gradstep.distributed import checkpoint, exchange
from gradstep.distributed.exchange import Exchange
from sharded_cases import HYPER, advance, digest, parameters, same

TIMEOUTS = {"hang": 2.0}
# Many small messages, more than are under way at once.
exchange.BUCKET = exchange.LEAST_BUCKET = 2**13
exchange.STAGED = 2**15


def say(transport: Any, text: str) -> None:
    # One write: lines of several processes do not mix.
    sys.stdout.write(f"rank {transport.rank}: {text}\n")
    sys.stdout.flush()


def made(transport: Any) -> tuple[Any, Any]:
    weights = parameters()
    return weights, gd.ShardedOptimizer(gs.AdamW, weights, comm=transport, **HYPER)


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(transport: Any) -> None:
    weights, optimizer = made(transport)
    for step in range(3):
        advance(transport, optimizer, step)
    say(transport, digest(weights))


def kill_in_a_step(transport: Any, folder: str) -> None:
    _, optimizer = made(transport)
    for step in range(2):
        advance(transport, optimizer, step)
    optimizer.save(folder)
    if transport.rank == 1:
        Exchange._pass_round = die  # type: ignore[method-assign]
    advance(transport, optimizer, 2)


def kill_in_a_save(transport: Any, folder: str) -> None:
    _, optimizer = made(transport)
    for step in range(3):
        advance(transport, optimizer, step)
        if step == 2 and transport.rank == 1:
            checkpoint.write = die  # type: ignore[assignment]
        if step:
            optimizer.save(folder)


def hang(transport: Any) -> None:
    weights, optimizer = made(transport)
    advance(transport, optimizer, 0)
    before = {name: w.copy() for name, w in weights.items()}
    if transport.rank == 1:
        time.sleep(5)
    try:
        advance(transport, optimizer, 1)
    finally:
        assert same(weights, before)


def unlike(transport: Any) -> None:
    weights = parameters()
    if transport.rank == 1:
        weights["b"] = np.zeros(3, np.float32)
    gd.ShardedOptimizer(gs.AdamW, weights, comm=transport)


def connected(kind: str, timeout: float) -> Any:
    if kind == "mpi":
        return gd.MpiTransport(timeout=timeout)
    import torch.distributed as dist
    from gradstep.torch.distributed import GlooTransport

    dist.init_process_group("gloo")
    return GlooTransport(timeout=timeout)


def main(kind: str, what: str, *given: str) -> None:
    transport = connected(kind, TIMEOUTS.get(what, 20.0))
    try:
        globals()[what](transport, *given)
    except gd.DistributedError as error:
        say(transport, f"{type(error).__name__}: {error}")
        if kind == "gloo":
            os._exit(3)  # as a launcher would end it, not waiting for who is gone
        sys.exit(3)


main(*sys.argv[1:])
