"""The example for torchrun: two processes under DDP, and with FSDP2, train as one does."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlxtend")
pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "torch" / "sharded.py"
LAUNCHER = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]


def held_out(*given: str, processes: int = 2) -> tuple[float, float]:
    """Loss and accuracy that a run printed at its end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, *([*LAUNCHER, port] if processes > 1 else []), str(EXAMPLE), *given],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"held out: loss ([\d.]+), accuracy ([\d.]+)", done.stdout)
    assert done.returncode == 0 and found, done.stderr
    return float(found[1]), float(found[2])


def test_two_processes_train_as_one() -> None:
    loss, accuracy = held_out("--steps", "20", processes=1)
    assert accuracy > 0.6
    for engine in ("ddp", "fsdp"):
        found = held_out("--steps", "20", "--engine", engine)
        assert found == pytest.approx((loss, accuracy), abs=2e-3)
