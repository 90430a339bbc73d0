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


def held_out(*given: str, processes: int = 2) -> tuple[float, float]:
    """Loss and accuracy that a run printed at its end; its processes get what torchrun gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {
        **os.environ,
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    started = [
        subprocess.Popen(
            [sys.executable, str(EXAMPLE), *given],
            env={**variables, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        said = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    found = re.search(r"held out: loss ([\d.]+), accuracy ([\d.]+)", said[0][0])
    assert found and not any(process.returncode for process in started), said
    return float(found[1]), float(found[2])


def test_two_processes_train_as_one() -> None:
    loss, accuracy = held_out("--steps", "20", processes=1)
    assert accuracy > 0.6
    for engine in ("ddp", "fsdp"):
        found = held_out("--steps", "20", "--engine", engine)
        assert found == pytest.approx((loss, accuracy), abs=2e-3)
