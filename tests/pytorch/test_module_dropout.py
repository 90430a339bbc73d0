"""gradstep.torch's dropouts: their masks, torch's generator, memory, in-place use."""

from __future__ import annotations

import threading
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

ALL = (gt.Dropout, gt.Dropout1d, gt.Dropout2d, gt.Dropout3d, gt.AlphaDropout)
SHAPES = {
    gt.Dropout1d: (8, 16, 6),
    gt.Dropout2d: (8, 16, 3, 4),
    gt.Dropout3d: (4, 16, 3, 2, 3),
}


def ones(kind: Any, dtype: Any = torch.float32) -> Any:
    return torch.ones(SHAPES.get(kind, (32, 48)), dtype=dtype)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("p", (0.1, 0.5, 0.9))
def test_share_kept_and_scale(p: float, dtype: Any) -> None:
    torch.manual_seed(0)
    x = torch.ones(1 << 18, dtype=dtype)
    y = gt.Dropout(p)(x)
    kept = y != 0
    # Five standard deviations of the binomial share.
    assert abs(kept.double().mean() - (1 - p)) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    torch.testing.assert_close(y[kept], x[kept] / (1 - p), rtol=1e-3, atol=0)


def test_alpha_dropout_keeps_mean_and_variance() -> None:
    torch.manual_seed(0)
    y = gt.AlphaDropout(0.3)(torch.randn(1 << 18))
    assert abs(y.mean()) < 0.02 and abs(y.var() - 1) < 0.02


@pytest.mark.parametrize("kind", (gt.Dropout1d, gt.Dropout2d, gt.Dropout3d))
@pytest.mark.parametrize("channels_last", (False, True))
def test_whole_channels(kind: Any, channels_last: bool) -> None:
    x = ones(kind)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    y = kind(0.5)(x).flatten(2)
    assert (y == y[:, :, :1]).all() and 0 < y.ne(0).float().mean() < 1


@pytest.mark.parametrize("kind", ALL)
def test_manual_seed_gives_the_mask(kind: Any) -> None:
    module, x = kind(), ones(kind)
    torch.manual_seed(3)
    first, second = module(x), module(x)
    torch.manual_seed(3)
    again = module(x)
    assert again.equal(first) and not second.equal(first)
    state = torch.get_rng_state()
    third = module(x)
    torch.set_rng_state(state)
    assert module(x).equal(third)
    with torch.random.fork_rng():
        inside = module(x)
    assert module(x).equal(inside)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "strided"))
def test_backward_makes_the_same_mask(kind: Any, layout: str) -> None:
    x = ones(kind, torch.float64)
    if layout == "channels_last":
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "strided":
        x = torch.stack((x, x), -1)[..., 0]
    x.requires_grad_()
    y = kind(0.5)(x)
    dy = torch.arange(1.0, 1.0 + y.numel(), dtype=y.dtype).reshape(y.shape)
    y.backward(dy)
    low, high = y.min(), y.max()
    scale = x.grad.max() / dy[x.grad == x.grad.max()]
    torch.testing.assert_close(x.grad, torch.where(y == high, dy * scale, 0.0))
    assert low != high


@pytest.mark.parametrize("kind", (gt.Dropout, gt.Dropout2d))
@pytest.mark.parametrize("channels_last", (False, True))
def test_in_place(kind: Any, channels_last: bool) -> None:
    leaf = ones(kind).requires_grad_()
    x = leaf * 2
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    version, memory = x._version, x.data_ptr()
    y = kind(0.5, inplace=True)(x)
    assert y is x and y.data_ptr() == memory and y._version == version + 1
    y.sum().backward()
    torch.testing.assert_close(leaf.grad, y.detach())
    with torch.no_grad():
        assert kind(0.5, inplace=True)(x) is x and x._version == version + 2


@pytest.mark.parametrize("view", (False, True))
def test_in_place_on_a_leaf_is_refused_untouched(view: bool) -> None:
    leaf = torch.ones(8, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf Variable"):
        gt.Dropout(inplace=True)(leaf.view(2, 4) if view else leaf)
    assert (leaf == 1).all()


@pytest.mark.parametrize("kind", ALL)
def test_nothing_to_drop(kind: Any) -> None:
    x = ones(kind)
    assert kind(0.5).eval()(x) is x or kind(0.5).eval()(x).equal(x)
    assert kind(0.0)(x).equal(x)
    assert kind(1.0)(x).eq(0).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        kind(1.5)


def test_a_thread_that_begins_in_inference_mode() -> None:
    found: list[Any] = []

    def draw() -> None:
        with torch.inference_mode():
            found.append(gt.Dropout()(torch.ones(64)))
        found.append(gt.Dropout()(torch.ones(64)))

    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    assert len(found) == 2 and not found[0].equal(found[1])


@pytest.mark.parametrize("reentrant", (False, True))
def test_checkpointing_reproduces_the_mask(reentrant: bool) -> None:
    block = nn.Sequential(nn.Linear(16, 16), gt.Dropout(0.5), gt.LayerNorm(16), gt.AlphaDropout())
    x = torch.randn(8, 16, requires_grad=True)
    torch.manual_seed(1)
    block(x).pow(2).sum().backward()
    expected = x.grad.clone(), block[0].weight.grad.clone()
    x.grad = None
    block.zero_grad()
    torch.manual_seed(1)
    checkpoint(block, x, use_reentrant=reentrant).pow(2).sum().backward()
    torch.testing.assert_close((x.grad, block[0].weight.grad), expected)


def test_twice_differentiable() -> None:
    for function in (gt.functional.dropout, gt.functional.alpha_dropout):
        x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)

        def fixed(x: Any, function: Any = function) -> Any:
            torch.manual_seed(0)
            return function(x, 0.5, True)

        assert torch.autograd.gradgradcheck(fixed, (x,))
        assert torch.autograd.gradgradcheck(fixed, (x.detach().t().requires_grad_(),))


def test_no_mask_is_kept() -> None:
    saved: list[Any] = []
    x = torch.ones(100, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        gt.Dropout()(x)
    assert not saved


class Dropped(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return gt.BatchNorm1d(3)(gt.Dropout()(torch.ones(1 << 17, 3))).detach()


def test_works_in_forked_workers_of_a_data_loader() -> None:
    gt.Dropout()(torch.ones(1 << 20))  # our threads exist before the fork
    loader = torch.utils.data.DataLoader(
        Dropped(), num_workers=2, multiprocessing_context="fork", timeout=60
    )
    batches = list(loader)
    assert len(batches) == 4 and not batches[0].equal(batches[1])
