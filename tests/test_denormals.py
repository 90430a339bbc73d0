"""Denormal numbers are computed with, unless the thread that calls has chosen to flush them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

LARGE = 1 << 17  # shared among threads
TINY = {"float32": 1e-40, "float64": 1e-310}


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    before = _core.flush_denormals(False)
    yield
    _core.restore_denormals(before)


def tiny(dtype: str = "float32", size: int = LARGE) -> Any:
    return np.full(size, 1, dtype) * np.dtype(dtype).type(TINY[dtype])


def flushes() -> bool:
    """In this thread, by NumPy's arithmetic."""
    return not (tiny(size=8) * np.float32(1)).any()


def stepped(dtype: str) -> Any:
    w = np.full(LARGE, TINY[dtype], dtype)
    gs.SGD(w, lr=1.0).step(np.zeros_like(w))
    return w


@pytest.mark.parametrize("dtype", TINY)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_thread_of_a_call_follows(level: str, threads: int, dtype: str) -> None:
    w = np.full(LARGE, TINY[dtype], dtype)
    opt, zero = gs.SGD(w, lr=1.0), np.zeros_like(w)
    with gs.threads(threads):
        for _ in range(20):  # a worker may come too late for the first ones
            opt.step(zero)
            assert (w == TINY[dtype]).all() and w.all()
        with gs.flush_denormals():
            for _ in range(20):
                w.view(np.uint8)[:] = np.full(LARGE, TINY[dtype], dtype).view(np.uint8)
                opt.step(zero)
                assert not w.view(f"u{w.itemsize}").any()
        w[:] = TINY[dtype]
        for _ in range(20):
            opt.step(zero)
            assert w.view(f"u{w.itemsize}").all()


def test_a_block_ends_as_it_began() -> None:
    assert not flushes()
    with gs.flush_denormals():
        assert flushes()
        with gs.flush_denormals(False):
            assert not flushes()
            with gs.flush_denormals(True):
                assert flushes()
            assert not flushes()
        assert flushes()
    assert not flushes()
    with pytest.raises(ZeroDivisionError), gs.flush_denormals():
        raise ZeroDivisionError
    assert not flushes()


def test_a_call_holds_until_the_next() -> None:
    gs.flush_denormals()
    assert flushes() and not stepped("float32").any()
    gs.flush_denormals(False)
    assert not flushes() and stepped("float32").all()


def test_other_threads_are_left_alone() -> None:
    found, begun = [], threading.Event()

    def look() -> None:
        begun.wait()
        found.append((flushes(), stepped("float32")))

    thread = threading.Thread(target=look)
    thread.start()
    with gs.flush_denormals():
        begun.set()
        thread.join()
        assert flushes()
    assert not found[0][0] and found[0][1].view(np.uint32).all()


def test_a_wrong_kind_changes_nothing() -> None:
    with pytest.raises(TypeError, match=r"^on: int, expected True or False$"):
        gs.flush_denormals(1)  # type: ignore[arg-type]
    assert not flushes()


@pytest.mark.parametrize("dtype", TINY)
def test_without_denormal_numbers_the_bits_are_the_same(optimizer_class: Any, dtype: str) -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal(LARGE).astype(dtype)
    grads = [rng.standard_normal(LARGE).astype(dtype) for _ in range(3)]
    found = []
    for on in (False, True):
        w = start.copy()
        opt = optimizer_class(w, clip_norm=1.0)
        with gs.flush_denormals(on):
            for g in grads:
                opt.step(g)
        found.append((w.tobytes(), [a.tobytes() for a in opt.state[0].values()]))
    assert found[0] == found[1]


@pytest.mark.parametrize("on", [False, True])
def test_no_call_changes_the_state_of_its_thread(on: bool) -> None:
    x = np.ones((64, 2048), np.float32)
    with gs.flush_denormals(on), gs.threads(2):
        gs.AdamW(x.copy()).step(x)
        gs.dropout(x, 0.5, seed=1)
        gs.layer_norm(x, None, None)
        gs.batch_norm(x, None, None, None, None, training=True)
        gs.softmax(x)
        gs.gelu(x)
        gs.cross_entropy(x, np.zeros(64, np.int64))
        gs.global_norm(x)
        gs.describe(x)
        assert flushes() is on
