"""Batch norm of oneDNN, in the plain layout and in its own, which puts channels in blocks.

A C++ program, compiled when it is first needed, runs beside this process with as many threads
(OpenMP) and times its calls itself. It needs a compiler and oneDNN 2 or 3, of Debian libdnnl-dev.
oneDNN keeps no running statistics, and neither do the works it is compared on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import weakref
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradstep as gs
import numpy as np

from ..layers import Layer
from ..work import Arrays, Contender, Inputs, Ready, Work

REQUIRES = ()

SOURCE = Path(__file__).with_name("onednn_batch_norm.cpp")
FUNCTIONS = ("batch_norm", "batch_norm_backward")


def compiler() -> str | None:
    """The C++ compiler, of the environment variable CXX or `c++`."""
    return shutil.which(os.environ.get("CXX", "c++"))


@cache
def found() -> dict[str, str | None]:
    """The version of oneDNN, from its header."""
    command = compiler()
    if command is None:
        return {"C++ compiler": None}
    macros = [command, "-x", "c++", "-E", "-dM", "-include", "dnnl_version.h", os.devnull]
    text = subprocess.run(macros, capture_output=True, text=True, check=False).stdout
    numbers = [
        re.search(rf"define DNNL_VERSION_{part} (\d+)", text)
        for part in ("MAJOR", "MINOR", "PATCH")
    ]
    version = ".".join(number[1] for number in numbers if number)
    return {"oneDNN": version or None}


@cache
def program() -> tuple[Path, TemporaryDirectory[str]]:
    """The compiled program, and the folder that keeps it until this process ends."""
    folder = TemporaryDirectory(prefix="gradstep-bench-")
    target = Path(folder.name) / "onednn_batch_norm"
    command = [compiler() or "c++", "-std=c++17", "-O2", str(SOURCE), "-o", str(target), "-ldnnl"]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    if compiled.returncode != 0:
        raise RuntimeError(f"not compiled: {compiled.stderr[:200]}")
    return target, folder


def contenders(work: Work) -> list[Contender]:
    """Both layouts for batch norm out of place, where channels are first; else the order given."""
    if not isinstance(work, Layer) or work.function not in FUNCTIONS or work.in_place:
        return []
    if work.keywords.get("axis") == -1:
        return [Contender("oneDNN plain", partial(make, "nhwc"))]
    layouts = {"oneDNN plain": "nchw", "oneDNN blocked": "blocked"}
    return [Contender(name, partial(make, layout)) for name, layout in layouts.items()]


class Program:
    """The running program. Ends with the last reference to it."""

    def __init__(self, work: Layer, layout: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(gs.get_num_threads())}
        self.process = subprocess.Popen(
            [str(program()[0])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.end = weakref.finalize(self, _end, self.process)
        kind = "backward" if work.backward else "forward" if work.training else "inference"
        n, c, h, w = _sizes(work)
        self.tell(f"setup {kind} {layout} {n} {c} {h} {w}\n".encode())

    def tell(self, *parts: bytes) -> None:
        assert self.process.stdin is not None
        for part in parts:
            self.process.stdin.write(part)
        self.process.stdin.flush()

    def line(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().decode().strip()
        if not answer:
            raise RuntimeError(f"ended with status {self.process.wait()}")
        return answer

    def floats(self, count: int) -> Any:
        """As many as asked for, in an array."""
        assert self.process.stdout is not None
        data = self.process.stdout.read(4 * count)
        if len(data) != 4 * count:
            raise RuntimeError(f"ended with status {self.process.wait()}")
        return np.frombuffer(data, np.float32)

    def timed(self, calls: int) -> float:
        """The seconds of that many calls."""
        self.tell(f"run {calls}\n".encode())
        return float(self.line())


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait()


def _sizes(work: Layer) -> tuple[int, int, int, int]:
    """N, C, H, W."""
    n, c, h, w = (*work.shape, 1, 1)[:4]
    return (n, w, c, h) if work.channel_axis == 3 else (n, c, h, w)


def make(layout: str, work: Layer, inputs: Inputs) -> Ready:
    """The arrays are copied to the program; both layouts are fed from and give the plain order."""
    child = Program(work, layout)
    parameters = work.parameters()
    names = ["weight", "bias", *(["running_mean", "running_var"] if not work.training else [])]

    def fill(values: Arrays) -> None:
        arrays = [*values, *(parameters[name] for name in names)]
        child.tell(b"feed\n", *(np.ascontiguousarray(a, np.float32).tobytes() for a in arrays))
        child.line()

    def outputs() -> Arrays:
        child.tell(b"results\n")
        result = child.floats(work.elements).reshape(work.shape)
        gradients = [child.floats(work.channels) for _ in range(2 if work.backward else 0)]
        return [result, *gradients]

    fill(inputs.arrays)
    return Ready(partial(child.timed, 1), fill, outputs, child.timed)
