"""What each of several processes runs in these tests: `python sharded_program.py mpi WHAT ...`."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
from sharded_cases import train


def say(transport: Any, text: str) -> None:
    # One write: lines of several processes do not mix.
    sys.stdout.write(f"rank {transport.rank}: {text}\n")
    sys.stdout.flush()


def trained(transport: Any) -> None:
    weights, infos = train(transport, gs.AdamW, np.float32, 3, lr=0.01, clip_norm=0.5)
    found = hashlib.sha256(b"".join(w.tobytes() for w in weights.values())).hexdigest()
    say(transport, f"{found} {infos[-1].grad_norm!r}")


def main(kind: str, what: str, *given: str) -> None:
    transport = gd.MpiTransport(timeout=20)
    {"train": trained}[what](transport, *given)


main(*sys.argv[1:])
