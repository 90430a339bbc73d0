"""Ranks that are processes, over MPI and gloo: the bits of one process, and ends in time."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
import pytest
from gradstep.train.cli import main
from sharded_cases import HYPER, advance, digest, parameters, trained_alone

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("sharded_program.py")
NEEDS = {"mpi": "mpi4py", "gloo": "torch"}
# Ranks share few cores, and a container's user may be root.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "GRADSTEP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "GLOO_SOCKET_IFNAME": "lo",
}


class Ended(NamedTuple):
    """What a run printed, sorted, errors apart, and whether all ranks ended well."""

    lines: list[str]
    errors: str
    well: bool


def run(kind: str, n: int, *given: Any, timeout: float = 60) -> Ended:
    """Python in n processes, with these arguments."""
    if kind == "mpi":
        beside = str(Path(sys.executable).parent)
        command = shutil.which("mpirun", path=os.pathsep.join([beside, os.environ["PATH"]]))
        assert command, "mpi4py is installed, and no mpirun"
        commands = [[command, "-n", str(n), sys.executable, *map(str, given)]]
    else:
        commands = [[sys.executable, *map(str, given)]] * n
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            each,
            env={
                **ENVIRONMENT,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
                "WORLD_SIZE": str(n),
                "RANK": str(rank),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, each in enumerate(commands)
    ]
    try:
        said = [process.communicate(timeout=timeout) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    lines = sorted("".join(out for out, _ in said).splitlines())
    errors = "\n".join(err for _, err in said)
    return Ended(lines, errors, all(process.returncode == 0 for process in processes))


@pytest.fixture(params=NEEDS)
def kind(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"{NEEDS[request.param]} is not installed")
    return str(request.param)


def alone() -> str:
    """What one process comes to."""
    return digest(trained_alone(gs.AdamW, np.float32, 3, **HYPER)[0])


def test_processes_give_the_bits_of_one_process(kind: str) -> None:
    n = {"mpi": 4, "gloo": 2}[kind]
    ended = run(kind, n, PROGRAM, kind, "train")
    assert ended.lines == [f"rank {rank}: {alone()}" for rank in range(n)], ended.errors
    assert ended.well


@pytest.mark.parametrize("moment", ["kill_in_a_step", "kill_in_a_save"])
def test_the_checkpoint_before_a_kill_goes_on_to_the_same_bits(
    kind: str, moment: str, tmp_path: Path, ranks: Callable[..., list[Any]]
) -> None:
    ended = run(kind, 2, PROGRAM, kind, moment, tmp_path / "run")
    assert not ended.well
    if kind == "gloo":  # MPI's launcher ends the others itself
        assert re.match("rank 0: DistributedError: rank 1: gone", "\n".join(ended.lines))

    def resume(transport: Any) -> Any:
        weights = parameters()
        optimizer = gd.ShardedOptimizer(gs.AdamW, weights, comm=transport, **HYPER)
        optimizer.load(tmp_path / "run")
        assert optimizer.step_count == 2
        advance(transport, optimizer, 2)
        return digest(weights)

    assert ranks(3, resume) == [alone()] * 3


def test_a_rank_that_hangs_ends_the_others_in_time(kind: str) -> None:
    ended = run(kind, 2, PROGRAM, kind, "hang", timeout=30)
    assert not ended.well
    # It sleeps for longer than that, and then finds the other gone; mpirun does not wait for it.
    assert ended.lines[0] == (
        "rank 0: DistributedError: rank 1: no answer for 2 seconds; it hangs, is gone, or does "
        "other work"
    ), ended.errors
    assert [line.split(" (")[0] for line in ended.lines[1:]] == [
        "rank 1: DistributedError: rank 0: gone, or does other work"
    ] * (kind == "gloo"), ended.errors


def test_ranks_with_other_shapes_end_with_the_same_error(kind: str) -> None:
    ended = run(kind, 2, PROGRAM, kind, "unlike")
    assert not ended.well
    assert ended.lines == [
        f"rank {rank}: DistributedError: rank 1: parameters[1] 'b', float32 of shape (3,) in order "
        "C, expected 'b', float32 of shape (300,) in order C as on rank 0"
        for rank in range(2)
    ], ended.errors


def test_the_command_trains_with_mpirun(tmp_path: Path) -> None:
    pytest.importorskip("mpi4py")
    pytest.importorskip("safetensors")

    def options(name: str, *given: str) -> list[str]:
        files = ["--json", str(tmp_path / f"{name}.json"), "--save", str(tmp_path / name)]
        return ["train", "--no-output", *files, *given]

    def losses(name: str) -> list[float]:
        content = json.loads((tmp_path / f"{name}.json").read_text())
        [[history]] = [run["histories"] for run in content["runs"]]
        return [epoch["valid_loss"] for epoch in history["epochs"]]

    new = [
        "--layers=16",
        "--epochs=2",
        "--batch-norm",
        "--dropout=0.2",
        "--report",
        str(tmp_path / "page"),
    ]
    assert main([*options("one", *new), "--quiet"]) == 0
    ended = run("mpi", 2, "-m", "gradstep", *options("two", *new), "--distributed")
    assert ended.well, ended.errors
    assert len([line for line in ended.lines if line.startswith("network ")]) == 1
    assert losses("two") == pytest.approx(losses("one"), rel=2e-2)
    assert (tmp_path / "page" / "index.html").stat().st_size > 10_000
    # By one process from here on.
    on = ["--resume", str(tmp_path / "two"), "--epochs", "3", "--quiet"]
    assert main(options("three", *on)) == 0
    assert losses("three")[:2] == losses("two")
