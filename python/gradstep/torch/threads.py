"""gradstep's kernels on the threads of torch's OpenMP.

torch's idle threads spin for milliseconds after their work. Threads of our own would wait for these
cores, until most of a call is done by one thread alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from gradstep import _core

__all__ = ["borrow_threads", "on_team"]

P = ParamSpec("P")
R = TypeVar("R")

NAMES = ("GOMP_parallel", "omp_get_thread_num", "omp_get_max_threads")


def borrow_threads() -> bool:
    """Finds torch's OpenMP for `on_team`; tells whether it is there."""
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
