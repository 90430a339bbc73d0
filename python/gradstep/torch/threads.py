"""gradstep's kernels on the threads of torch's OpenMP.

torch's idle threads spin for milliseconds after their work. Threads of our own would wait for these
cores, until most of a call is done by one thread alone.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

# The process that loaded torch by importing this package, if it did: this is its first module.
_LOADED_IN = None if "torch" in sys.modules else os.getpid()

import torch  # noqa: E402

from gradstep import _core  # noqa: E402

__all__ = ["borrow_threads", "on_team"]

P = ParamSpec("P")
R = TypeVar("R")

NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_max_threads")


_PF_FORKNOEXEC = 0x40  # Linux, include/linux/sched.h


def _is_forked() -> bool:
    """Whether this process is a copy of its parent, with the parent's libraries."""
    try:
        status = Path("/proc/self/stat").read_text()
    except OSError:
        return multiprocessing.parent_process() is not None
    return bool(int(status.rpartition(")")[2].split()[6]) & _PF_FORKNOEXEC)


def borrow_threads() -> bool:
    """Finds torch's OpenMP for `on_team`; tells whether it is there.

    Not in a forked process whose parent may have loaded torch: there OpenMP takes the parent's
    threads for its own and waits for them for ever.
    """
    if not torch.backends.openmp.is_available():
        return False
    if os.getpid() != _LOADED_IN and _is_forked():
        return False
    for library in _runtimes():
        try:
            functions = [getattr(ctypes.CDLL(library), name) for name in NAMES]
        except (OSError, AttributeError):
            continue
        _core.borrow_threads(*(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions))
        return True
    return False


def on_team(function: Callable[P, R]) -> Callable[P, R]:
    """Lets the kernels that the function calls compute on torch's team, if it was borrowed.

    Not all kernels of the process: beside NumPy's BLAS the team would be in the way.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _core.use_team(True)
        try:
            return function(*args, **kwargs)
        finally:
            _core.use_team(before)

    return call


def _runtimes() -> list[str | None]:
    """The library that torch's wheel brings, else what the process has loaded for all."""
    own = sorted((Path(torch.__file__).parent / "lib").glob("lib[gi]omp*"))
    return [*map(str, own), None]
