"""The memory of large results is used again, but never while a result lives in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from gradstep.torch import memory  # noqa: E402

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
    with pytest.raises(TypeError, match="limit: str, expected a number of bytes"):
        gt.keep_memory("1G")
    with pytest.raises(ValueError, match="limit: -1, expected a number of bytes >= 0"):
        gt.keep_memory(-1)
