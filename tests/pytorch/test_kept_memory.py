"""The memory of large results is used again, but never while a result lives in it."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from gradstep.torch import kept_memory as memory  # noqa: E402

N = memory.LARGE // 4


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    limit = memory._blocks.limit
    gt.keep_memory(0)
    gt.keep_memory(limit)
    yield
    gt.keep_memory(limit)


def test_memory_comes_back_once_the_result_is_gone() -> None:
    y = gt.Dropout()(torch.ones(N))
    first = y.data_ptr()
    view = y.view(2, -1)[1:].numpy()
    del y
    other = gt.Dropout()(torch.ones(N))
    kept = view.copy()
    assert other.data_ptr() != first and (view == kept).all()
    del view
    again = gt.Dropout()(torch.ones(N))
    assert again.data_ptr() == first


def test_what_autograd_saved_is_not_overwritten() -> None:
    x = torch.randn(N // 64, 64, requires_grad=True)
    y = gt.LayerNorm(64)(x).exp()
    expected = torch.autograd.grad(y.sum(), x, retain_graph=True)[0]
    for _ in range(3):
        gt.LayerNorm(64)(torch.randn(N // 64, 64))
    found = torch.autograd.grad(y.sum(), x)[0]
    assert found.data_ptr() != expected.data_ptr() and found.equal(expected)


HOLDS: dict[str, Any] = {
    "tensor": lambda y: y,
    "view": lambda y: y.view(2, -1)[1:],
    "detached": lambda y: y.detach(),
    "numpy": lambda y: y.numpy(),
    "storage": lambda y: y.untyped_storage(),
    "capsule": lambda y: y.__dlpack__(),
    "lazy copy": torch._lazy_clone,
    "saved": lambda y: y.requires_grad_().exp().sin(),
}


@pytest.mark.parametrize("held", HOLDS)
def test_memory_is_not_given_out_while_anything_holds_it(held: str) -> None:
    y = gt.Dropout()(torch.ones(N))
    address = y.data_ptr()
    holder = HOLDS[held](y)
    del y
    again = gt.Dropout()(torch.ones(N))
    assert again.data_ptr() != address
    del holder, again


def test_nothing_is_kept_where_references_are_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a version of Python or torch counts otherwise: tried at import."""
    assert memory._IDLE is not None and memory._idle_uses() == memory._IDLE
    with monkeypatch.context() as blind:
        blind.setattr(sys, "getrefcount", lambda storage: 2)
        assert memory._idle_uses() is None
    monkeypatch.setattr(memory, "_IDLE", None)
    with pytest.raises(RuntimeError, match="limit: 8388608, expected 0: with torch"):
        gt.keep_memory(memory.LARGE)
    gt.keep_memory(0)


def test_less_than_any_result_is_no_limit() -> None:
    """Bytes, not megabytes."""
    before = memory._blocks.limit
    with pytest.raises(ValueError, match=r"^limit: 512 bytes, expected 0, or at least 8388608"):
        gt.keep_memory(512)
    assert memory._blocks.limit == before


@pytest.mark.parametrize("change", ("resize", "share"))
def test_memory_that_was_resized_or_shared_is_not_used_again(change: str) -> None:
    y = gt.Dropout()(torch.ones(N))
    if change == "resize":
        y.untyped_storage().resize_(0)
    else:
        y.share_memory_()
    del y
    again = gt.Dropout()(torch.ones(N))
    assert not again.is_shared() and again.untyped_storage().nbytes() == 4 * N
    assert memory._blocks.total == 4 * N


def in_child(call: Any) -> int:
    """The exit code of a forked process, killed after 30 s."""
    child = multiprocessing.get_context("fork").Process(target=call)
    child.start()
    child.join(timeout=30)
    if child.exitcode is None:
        child.kill()
        child.join()
    assert child.exitcode is not None
    return child.exitcode


def test_a_child_forked_while_the_lock_is_held_goes_on() -> None:
    y = gt.Dropout()(torch.ones(N))

    def child() -> None:
        gt.keep_memory(1 << 30)
        assert memory._blocks.limit == 1 << 30 and memory._blocks.total == 0
        assert gt.keep_memory(0) is None and y[0] in (0, 2)

    with memory._lock:
        assert in_child(child) == 0


def test_the_limit_holds() -> None:
    gt.keep_memory(2 * memory.LARGE)
    results = [gt.Dropout()(torch.ones(N)) for _ in range(4)]
    assert len({y.data_ptr() for y in results}) == 4
    assert memory._blocks.total == 2 * memory.LARGE
    del results
    larger = gt.Dropout()(torch.ones(2 * N))  # the idle ones make room
    assert memory._blocks.total == 2 * memory.LARGE
    del larger
    gt.keep_memory(0)
    assert memory._blocks.total == 0


def test_bad_limits() -> None:
    with pytest.raises(TypeError, match="limit: str, expected an integer"):
        gt.keep_memory("1G")
    with pytest.raises(ValueError, match="limit: -1, expected an integer >= 0"):
        gt.keep_memory(-1)
