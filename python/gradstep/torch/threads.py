"""gradstep's kernels on the threads of torch's OpenMP.

torch's idle threads spin for milliseconds after their work. Threads of our own would wait for these
cores, until most of a call is done by one thread alone.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from gradstep import _core

__all__ = ["borrow_threads"]

NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_max_threads")


def borrow_threads() -> bool:
    """Lets gradstep compute on torch's team, where its OpenMP is found; tells whether it was."""
    if not torch.backends.openmp.is_available():
        return False
    for library in _runtimes():
        try:
            functions = [getattr(ctypes.CDLL(library), name) for name in NAMES]
        except (OSError, AttributeError):
            continue
        _core.borrow_threads(*(ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions))
        return True
    return False


def _runtimes() -> list[str | None]:
    """The library that torch's wheel brings, else what the process has loaded for all."""
    own = sorted((Path(torch.__file__).parent / "lib").glob("lib[gi]omp*"))
    return [*map(str, own), None]
