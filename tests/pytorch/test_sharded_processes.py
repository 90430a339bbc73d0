"""Two processes of torchrun's kind, over gloo: a bfloat16 network under DDP, in shards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sharded_processes import WORLD, alone

if not torch.distributed.is_available():
    pytest.skip("this torch has no processes", allow_module_level=True)

PROGRAM = Path(__file__).with_name("sharded_processes.py")


def test_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {
        **os.environ,
        "WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        "GRADSTEP_SHARED_MEMORY": "0",  # so that bytes go through gloo
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(PROGRAM), str(tmp_path / "run")],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, said
    assert [out for out, _ in said] == [f"{alone(3)}\n"] * WORLD
