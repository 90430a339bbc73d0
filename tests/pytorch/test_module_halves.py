"""Modules on bfloat16 and float16 tensors, and under autocast: torch's types, by our kernels."""

from __future__ import annotations

from typing import Any

import gradstep.torch as gt
import pytest
import torch
from folded import folded
from module_cases import NORMS, Case, NativeCalls, copied
from torch import nn

# Of torch, about the types that it has no fused kernel for.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
HALVES = (torch.bfloat16, torch.float16)
CASES = [case for case in NORMS if case.layout in ("contiguous", "channels_last")][::3]


def run(module: Any, x: torch.Tensor, autocast: bool = False) -> list[torch.Tensor]:
    """The result, gradients of the input and the parameters, buffers."""
    x = copied(x)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = module(x)
    dy = torch.linspace(-1, 2, y.numel()).reshape(y.shape).to(torch.bfloat16)
    y.backward(dy.to(y.dtype))
    return [y.detach(), x.grad, *(p.grad for p in module.parameters()), *module.buffers()]


def assert_near(found: list[torch.Tensor], true: list[torch.Tensor], kind: torch.dtype) -> None:
    """Within half a unit in the last place, but for what cancels."""
    step = 2.0**-8 if kind is torch.bfloat16 else 2.0**-11
    for a, b in zip(found, true, strict=True):
        close = {"rtol": 1.01 * step, "atol": 1e-5 * (float(b.double().abs().max()) + 1)}
        torch.testing.assert_close(a.double(), b.double(), **close)


@pytest.mark.parametrize("case", CASES, ids=str)
@folded(
    ("kind", "weights", "autocast"),
    [
        (torch.bfloat16, torch.float32, True),
        (torch.bfloat16, torch.bfloat16, False),
        (torch.float16, torch.float32, False),
    ],
)
def test_results_have_torchs_types(
    case: Case, kind: torch.dtype, weights: torch.dtype, autocast: bool
) -> None:
    x = case.x(torch.float32).to(kind)
    found, stock = (run(case.module(space, weights), x, autocast) for space in (gt, nn))
    for a, b in zip(found, stock, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
    # torch itself is further off: it keeps the statistics of some norms in 16 bits.
    if case.layout == "contiguous" or "Batch" in case.name:
        true = run(case.module(nn, weights).double(), x.double())
        assert_near(found, true, kind)


@pytest.mark.parametrize("name, args", (
    ("LayerNorm", (8,)), ("RMSNorm", (8,)), ("GroupNorm", (2, 4)), ("BatchNorm1d", (4,)),
    ("InstanceNorm1d", (4,)),
))  # fmt: skip
@folded(("kind", "weights"), [(a, b) for a in HALVES for b in (torch.float32, a)])
def test_our_kernels_compute(
    name: str, args: Any, kind: torch.dtype, weights: torch.dtype, monkeypatch: Any
) -> None:
    with monkeypatch.context() as patch:
        calls = NativeCalls(patch)
        y = getattr(gt, name)(*args).to(weights)(torch.randn(3, 4, 8).to(kind))
    assert y.dtype == kind and len(calls.taken) == 1


@folded("kind", HALVES)
def test_a_second_derivative_is_torchs(kind: torch.dtype) -> None:
    found = []
    for space in (gt, nn):
        x = copied(torch.linspace(-1, 2, 24).reshape(3, 8).to(kind))
        module = space.LayerNorm(8)
        (dx,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        dx.float().square().sum().backward()
        found.append(x.grad)
    assert found[0].dtype == kind
    step = float(torch.finfo(kind).eps)
    torch.testing.assert_close(found[0], found[1], rtol=8 * step, atol=8 * step)


@folded(
    ("name", "kind"),
    [(name, kind) for name in ("Dropout", "Dropout1d", "AlphaDropout") for kind in HALVES],
)
def test_dropouts(name: str, kind: torch.dtype) -> None:
    x = torch.randn(8, 64, 33).to(kind).requires_grad_()
    module = getattr(gt, name)(0.25)
    torch.manual_seed(3)
    y = module(x)
    assert y.dtype == kind and "_Dropout" in type(y.grad_fn).__name__
    torch.manual_seed(3)
    wide = module(x.detach().float())
    assert torch.equal(y, wide.to(kind))  # the same mask, rounded once
    y.sum().backward()
    assert x.grad.dtype == kind
    kept = x.grad != 0
    if name == "AlphaDropout":
        assert wide[~kept].unique().numel() == 1
    else:
        assert torch.equal(kept, wide != 0)
    assert 0.6 < float(kept.float().mean()) < 0.9
    # Batched gradients are torch's products with the same mask.
    again = torch.autograd.grad(
        module(x), x, torch.ones(2, *x.shape, dtype=kind), is_grads_batched=True
    )
    assert again[0].dtype == kind


def test_a_network_under_autocast() -> None:
    torch.manual_seed(0)
    stock = nn.Sequential(
        *(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 32), nn.RMSNorm(32)),
        *(nn.Dropout(0.0), nn.Linear(32, 4)),
    )
    ours = nn.Sequential(*stock)
    x = torch.randn(64, 16)
    expected = run(stock, x, True)
    for parameter in stock.parameters():
        parameter.grad = None
    gt.accelerate(ours)
    found = run(ours, x, True)
    gt.restore(ours)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0.02 * (float(b.abs().max()) + 1))


def test_weights_of_another_type_are_refused_by_torch() -> None:
    with pytest.raises(RuntimeError, match=r"mixed dtype|expected scalar type"):
        gt.LayerNorm(4).half()(torch.randn(2, 4, dtype=torch.bfloat16))
