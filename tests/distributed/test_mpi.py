"""Ranks that are processes of MPI: the bits of one process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from sharded_cases import trained_alone

pytest.importorskip("mpi4py")
pytestmark = pytest.mark.slow

Mpirun = Callable[..., list[str]]


def digest(weights: dict[str, Any]) -> str:
    return hashlib.sha256(b"".join(w.tobytes() for w in weights.values())).hexdigest()


@pytest.mark.parametrize("n", [1, 2, 4])
def test_processes_of_mpi_give_the_bits_of_one_process(mpirun: Mpirun, n: int) -> None:
    weights, infos = trained_alone(gs.AdamW, np.float32, 3, lr=0.01, clip_norm=0.5)
    expected = f"{digest(weights)} {infos[-1].grad_norm!r}"
    assert mpirun(n, Path(__file__).with_name("sharded_program.py"), "mpi", "train") == [
        f"rank {rank}: {expected}" for rank in range(n)
    ]
