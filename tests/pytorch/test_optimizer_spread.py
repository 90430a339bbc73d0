"""Parameters in parts over two processes (FSDP2, DTensor): the same training as torch's classes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

if not torch.distributed.is_available():
    pytest.skip("this torch has no processes", allow_module_level=True)

SCRIPT = Path(__file__).with_name("spread_training.py")
WORLD = 2


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    results = tmp_path_factory.mktemp("spread") / "results"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "lo"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(port), str(results)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, "\n".join(said)
    return [torch.load(f"{results}.{rank}", weights_only=False) for rank in range(WORLD)]


@pytest.mark.parametrize("what", ["AdamW", "clipped", "resumed", "meshes", "flat", "original"])
def test_parts_train_as_with_torch(found: list[dict[str, Any]], what: str) -> None:
    for own in found:
        theirs, ours = own[what]
        assert len(ours) == len(theirs) > 0
        for p, q in zip(ours, theirs, strict=True):
            torch.testing.assert_close(p, q, rtol=2e-5, atol=2e-6)


def test_the_norm_is_that_of_all_parts_and_of_copies_once(found: list[dict[str, Any]]) -> None:
    for own in found:
        theirs, ours = own["norms"]
        assert len(theirs) == 5 and ours == pytest.approx(theirs, rel=1e-6)
        assert own["norm"][1] == pytest.approx(own["norm"][0], rel=1e-6)
    assert found[0]["norms"][1] == found[1]["norms"][1]


def test_state_is_spread_as_the_parameters_are(found: list[dict[str, Any]]) -> None:
    assert [own["state"] for own in found] == [(True, 5.0)] * WORLD
    assert [own["versions"] for own in found] == [[1] * 4] * WORLD


def test_all_processes_skip_together(found: list[dict[str, Any]]) -> None:
    for own in found:
        skipped, before, after = own["skipped"]
        assert skipped
        torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert "not finite on another process" in found[0]["raised"]
    assert "params['group 0, parameter 0'].grad: 15 of 15" in found[1]["raised"]


def test_gradients_that_are_spread_otherwise_are_refused(found: list[dict[str, Any]]) -> None:
    for own in found:
        placed, plain = own["refused"]
        assert placed.startswith("ValueError: params['group 0, parameter 0'].grad: placements")
        assert plain.startswith("TypeError: params['group 0, parameter 0'].grad: a plain tensor")
