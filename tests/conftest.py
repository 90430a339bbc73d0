"""What the tests share: a runtime put back after each test, and proofs that nothing was written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import gradstep as gs
import numpy as np
import pytest

LEVELS = gs.build_info()["simd_levels"]
# What steers the library from outside; a test that wants one sets it itself.
VARIABLES = ("GRADSTEP_SIMD", "GRADSTEP_NUM_THREADS", "OMP_NUM_THREADS")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    info = gs.build_info()
    terminalreporter.write_line(
        f"gradstep {info['version']}: levels {', '.join(LEVELS)}, "
        f"{info['simd_level']} by default, {info['threads']} threads"
    )


@pytest.fixture(autouse=True)
def runtime_put_back() -> Iterator[None]:
    level, threads = gs.simd_level(), gs.get_num_threads()
    yield
    gs.use_simd(level)
    gs.set_num_threads(threads)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    """Each instruction set of this machine, in use during the test."""
    gs.use_simd(request.param)
    return str(request.param)


@pytest.fixture(params=gs.OPTIMIZERS.values(), ids=gs.OPTIMIZERS)
def optimizer_class(request: pytest.FixtureRequest) -> type[gs.Optimizer]:
    return request.param  # type: ignore[no-any-return]


def owner(array: Any) -> Any:
    """The array whose memory this is a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def everything(optimizer: gs.Optimizer) -> Any:
    """All that an optimizer holds, parameters and what lies beside them in memory included."""
    saved = optimizer.state_dict()
    return (
        [owner(array).tobytes(order="A") for array in optimizer._arrays],
        {
            (key, name): value.tobytes(order="A") if isinstance(value, np.ndarray) else value
            for key, state in saved["state"].items()
            for name, value in state.items()
        },
        [array.ctypes.data for own in optimizer.state.values() for array in own.values()],
        (saved["step"], optimizer.step_count, list(optimizer._plan.steps)),
        [dict(group) for group in optimizer.param_groups],
        (optimizer.clip_norm, optimizer.grad_scale, optimizer.on_nonfinite),
        {key: getattr(optimizer, key) for key in optimizer.param_groups[0] if key != "params"},
    )


Refused = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def refused() -> Refused:
    """`with refused(optimizer, kind, message):` that error word for word, and nothing changed."""

    @contextmanager
    def check(optimizer: gs.Optimizer, kind: type[Exception], message: str) -> Iterator[None]:
        before = everything(optimizer)
        with pytest.raises(kind) as caught:
            yield
        assert type(caught.value) is kind
        assert str(caught.value) == message
        assert everything(optimizer) == before

    return check


@pytest.fixture
def contents() -> Callable[[gs.Optimizer], Any]:
    """All that an optimizer holds, to compare."""
    return everything


@pytest.fixture
def python() -> Callable[..., str]:
    """Runs code in a new interpreter; returns what it printed, fails if it failed or hung."""

    def run(code: str, /, fails: bool = False, timeout: float = 60, **variables: str) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in VARIABLES} | variables
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert (done.returncode != 0) == fails, done.stderr
        return done.stderr if fails else done.stdout.strip()

    return run
