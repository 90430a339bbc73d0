"""What of Python's POSIX is missing on Windows is not needed: imported, trained and saved without.

Such a system is imitated: a program takes the names away that Windows lacks, before it imports
anything of ours. This shows no more than that they are not asked for.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import importlib, os, pkgutil, select, socket, sys
import numpy as np
import safetensors.numpy

sys.modules["fcntl"] = None
LACKING = {
    os: "fork register_at_fork fchmod O_TMPFILE O_DIRECTORY sched_yield sched_getaffinity "
        "memfd_create MFD_CLOEXEC getuid geteuid getgid uname sysconf",
    socket: "AF_UNIX send_fds recv_fds",
    select: "poll POLLIN",
}
for module, names in LACKING.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
"""

IMPORTS = """
import gradstep

for package in ("checkpoint", "distributed", "nn", "ops", "optim", "spec", "train"):
    inside = importlib.import_module(f"gradstep.{package}")
    for found in pkgutil.walk_packages(inside.__path__, inside.__name__ + "."):
        if found.name not in ("gradstep.distributed.mpi", "gradstep.train.parquet"):
            importlib.import_module(found.name)
from gradstep.train import certify, places

places.check_space(__import__("pathlib").Path("."))
"""

SAVES = """
import gradstep as gs

opened, real = set(), (os.open, os.close, os.replace)

def opening(path, flags, *rest):
    assert not os.path.isdir(path), "Windows opens no folders"
    assert flags & BINARY, "Windows changes the ends of lines in text"
    file = real[0](path, flags & ~BINARY, *rest)
    opened.add(file)
    return file

def closing(file):
    real[1](file)
    opened.discard(file)

def replacing(old, new):
    assert not opened, "Windows renames no file that is open"
    real[2](old, new)

BINARY = os.O_BINARY = 1 << 30
os.open, os.close, os.replace = opening, closing, replacing
for size in (3, 1000):
    gs.save("run.safetensors", model=np.arange(size))
    assert gs.load("run.safetensors")["model"].size == size
assert os.listdir() == ["run.safetensors"]
"""


@pytest.mark.parametrize("code", [IMPORTS, SAVES])
def test_nothing_that_windows_lacks_is_asked_for(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
