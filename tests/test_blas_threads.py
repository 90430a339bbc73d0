"""Steps on the threads of NumPy's BLAS: the same bits, and only where the caller asked for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

N = 300_000


@pytest.fixture
def blas_threads() -> Iterator[None]:
    if not gs.use_blas_threads():
        pytest.skip("NumPy's BLAS has no threads of its own here")
    yield
    gs.use_blas_threads(False)


def step_after_a_product(threads: int) -> bytes:
    """The parameters after ten steps, each behind a product whose threads are still awake."""
    gs.set_num_threads(threads)
    random = np.random.default_rng(0)
    matrix = random.standard_normal((300, 300)).astype(np.float32)
    params, grads = random.standard_normal((2, N)).astype(np.float32)
    optimizer = gs.AdamW(params, clip_norm=1.0)
    for _ in range(10):
        matrix @ matrix
        optimizer.step(grads)
    return params.tobytes()


@pytest.mark.usefixtures("blas_threads")
def test_same_bits_on_blas_threads() -> None:
    expected = step_after_a_product(1)
    assert step_after_a_product(2) == expected
    assert step_after_a_product(7) == expected


@pytest.mark.usefixtures("blas_threads")
def test_products_are_as_before_between_steps() -> None:
    matrix = np.random.default_rng(0).standard_normal((300, 300))
    expected = (matrix @ matrix).tobytes()
    params, grads = np.ones((2, N), np.float32)
    optimizer = gs.SGD(params)
    for _ in range(50):
        optimizer.step(grads)
        assert (matrix @ matrix).tobytes() == expected


@pytest.mark.usefixtures("blas_threads")
def test_the_choice_is_the_threads_own() -> None:
    """Another thread's products and steps go on beside those of the one that chose."""
    done = []
    thread = threading.Thread(target=lambda: done.append(step_after_a_product(2)))
    thread.start()
    thread.join(60)
    assert done == [step_after_a_product(1)]


def test_a_forked_child_starts_without(python: Callable[..., str]) -> None:
    if sys.platform == "win32":
        pytest.skip("no fork")
    code = """
import os, numpy as np, gradstep as gs
gs.use_blas_threads()
def steps():
    matrix = np.ones((300, 300), np.float32)
    optimizer = gs.SGD(np.ones(300_000, np.float32))
    for _ in range(20):
        matrix @ matrix
        optimizer.step(np.ones(300_000, np.float32))
steps()
if (child := os.fork()) == 0:
    steps()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(code) == "0"


def test_a_change_of_their_number_is_survived(python: Callable[..., str]) -> None:
    pytest.importorskip("threadpoolctl")
    code = """
import numpy as np, gradstep as gs, threadpoolctl
gs.use_blas_threads()
matrix, grads = np.ones((300, 300), np.float32), np.ones(300_000, np.float32)
optimizer = gs.SGD(np.ones(300_000, np.float32))
for n in (2, 1, 3, 2, 4):
    with threadpoolctl.threadpool_limits(n, user_api="blas"):
        for _ in range(20):
            matrix @ matrix
            optimizer.step(grads)
print(optimizer.step_count)
"""
    assert python(code) == "100"


def test_a_wrong_kind_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^on: int, expected True or False$"):
        gs.use_blas_threads(1)  # type: ignore[arg-type]


def test_a_process_without_openblas_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "use_blas_threads", lambda on: False)
    assert gs.use_blas_threads() is False
