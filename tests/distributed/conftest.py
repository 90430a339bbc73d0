"""What the tests of several ranks share: ranks that are threads of this process, or
processes of MPI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradstep.distributed as gd
import pytest

Ranks = Callable[..., list[Any]]


@pytest.fixture
def ranks() -> Ranks:
    """`ranks(n, work)`: what `work(transport)` returned, or raised, on each of n threads."""

    def run(n: int, work: Callable[[Any], Any], timeout: float = 20) -> list[Any]:
        found: list[Any] = [None] * n

        def one(transport: gd.LocalTransport) -> None:
            try:
                found[transport.rank] = work(transport)
            except Exception as error:
                found[transport.rank] = error
            finally:
                transport.leave()

        threads = [
            threading.Thread(target=one, args=[each], daemon=True)
            for each in gd.in_process(n, timeout=timeout)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout + 40)
            assert not thread.is_alive(), "a rank hangs"
        return found

    return run


# Ranks share few cores, and a container's user may be root.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "GRADSTEP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}


@pytest.fixture
def mpirun() -> Callable[..., list[str]]:
    """`mpirun(n, program, ...)`: the lines that n processes printed, sorted."""
    beside = str(Path(sys.executable).parent)
    command = shutil.which("mpirun", path=os.pathsep.join([beside, os.environ["PATH"]]))
    assert command, "mpi4py is installed, and no mpirun"

    def run(n: int, program: Path, *given: str, fails: bool = False) -> list[str]:
        done = subprocess.run(
            [command, "-n", str(n), sys.executable, str(program), *given],
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert (done.returncode != 0) == fails, done.stderr
        return sorted((done.stdout + done.stderr * fails).splitlines())

    return run
