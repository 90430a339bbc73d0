"""Threads and instruction sets: what runs, and how to choose it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from gradstep import _core
from gradstep.arguments import flag, integer, text

__all__ = [
    "blas_threads",
    "build_info",
    "flush_denormals",
    "get_num_threads",
    "set_num_threads",
    "simd_level",
    "threads",
    "use_blas_threads",
    "use_simd",
]

MAX_THREADS = 1024


def simd_level() -> str:
    """The instruction set in use: "baseline", "avx2" or "avx512".

    The best that the CPU has, unless the environment variable GRADSTEP_SIMD or `use_simd` chose.
    """
    return _core.simd_level()


def use_simd(level: str) -> None:
    """Switches the instruction set of this process, for tests and benchmarks: results are the same.

    Raises ValueError for one that this build lacks or this CPU cannot run.

    >>> import gradstep as gs
    >>> best = gs.simd_level()
    >>> gs.use_simd("baseline")
    >>> gs.use_simd(best)
    """
    _core.use_simd(text("level", level))


def get_num_threads() -> int:
    """The number of threads that a step may use, the caller's included."""
    return _core.get_num_threads()


def set_num_threads(n: int) -> None:
    """Sets the number of threads, from 1 to 1024; results do not depend on it.

    At first it is GRADSTEP_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that the process may
    use. Raises TypeError or ValueError.
    """
    _core.set_num_threads(integer("n", n, 1, MAX_THREADS))


def threads(n: int) -> AbstractContextManager[None]:
    """Uses n threads inside the block (in the whole process), then as many as before.

    Raises TypeError or ValueError as `set_num_threads`.

    >>> import gradstep as gs
    >>> with gs.threads(1):
    ...     gs.get_num_threads()
    1
    """
    return _threads(integer("n", n, 1, MAX_THREADS))


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


def use_blas_threads(on: bool = True) -> bool:
    """Lets calls of this thread compute on the threads of NumPy's OpenBLAS while these are awake.

    After a matrix product they spin for some 25 ms on the cores that a step wants. With this, a
    step between products takes them, and is about as fast as in a tight loop. For training loops
    on NumPy; results do not depend on it.

    Returns False, and nothing changes, where NumPy computes on another BLAS. Call it only where no
    other Python thread is in a NumPy product or decomposition while this one computes: a step would
    wait for that one's end. A forked child starts without. Raises TypeError.

    >>> import gradstep as gs
    >>> there = gs.use_blas_threads()
    >>> gs.use_blas_threads(False)
    False
    """
    on = flag("on", on)
    return _core.use_blas_threads(on)


@contextmanager
def blas_threads() -> Iterator[bool]:
    """`use_blas_threads` inside the block, then as before in this thread; gives what it returned.

    >>> with blas_threads() as there:
    ...     pass
    """
    before = _core.uses_blas_threads()
    try:
        yield use_blas_threads()
    finally:
        if not before:
            use_blas_threads(False)


class flush_denormals:
    """Has calls of this thread take denormal numbers for zeros: as a call, or for a `with` block.

    Below 1.2e-38 in float32 and 2.2e-308 in float64 numbers are denormal, and many CPUs compute
    with them several times as slowly: the moments of a unit that is dead decay into that range and
    stay there. on: False has them computed with again. At the end of a block all is as before it.

    It is the state of the calling thread, which those that it starts inherit: Python's and NumPy's
    arithmetic there changes too, ours follows it on every thread of a call. Results are those of
    the specification wherever no denormal number appears. Nothing else in gradstep changes this
    state. Raises TypeError.

    >>> import numpy as np, gradstep as gs
    >>> tiny = np.full(3, 1e-40, np.float32)
    >>> with gs.flush_denormals():
    ...     gs.SGD(tiny, lr=1.0).step(np.zeros_like(tiny)).step
    1
    >>> tiny
    array([0., 0., 0.], dtype=float32)
    """

    def __init__(self, on: bool = True) -> None:
        self._before = _core.flush_denormals(flag("on", on))

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        _core.restore_denormals(self._before)


def build_info() -> dict[str, Any]:
    """Version, compiler, instruction sets that this CPU can run, the one in use, threads.

    simd_missing: for each other instruction set of this build, what the CPU lacks for it.
    """
    return {
        "version": _core.__version__,
        "compiler": _core.compiler,
        "simd_levels": tuple(_core.simd_levels()),
        "simd_level": _core.simd_level(),
        "simd_missing": dict(_core.missing_simd_features()),
        "threads": _core.get_num_threads(),
    }


def _register_with_threadpoolctl() -> None:
    """Lets `threadpoolctl.threadpool_limits` and `threadpool_info` see our threads.

    Only where threadpoolctl is already loaded: importing it here would cost everyone its time.
    """
    threadpoolctl: Any = sys.modules.get("threadpoolctl")
    if not hasattr(threadpoolctl, "register"):
        return
    base: Any = threadpoolctl.LibController

    class GradstepController(base):  # type: ignore[misc]
        user_api = "gradstep"
        internal_api = "gradstep"
        filename_prefixes = ("_core.", "_core.cpython")
        check_symbols = ("gradstep_num_threads",)

        def get_num_threads(self) -> int:
            return get_num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            set_num_threads(num_threads)

        def get_version(self) -> str:
            return str(_core.__version__)

    threadpoolctl.register(GradstepController)
