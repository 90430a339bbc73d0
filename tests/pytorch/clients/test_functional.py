"""torch.autograd.functional over a network of our modules gives what it gives over torch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from torch.autograd import functional  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

CALLS: dict[str, Any] = {
    "jacobian": functional.jacobian,
    "jacobian, vectorized": lambda f, x: functional.jacobian(f, x, vectorize=True),
    "jacobian, forward mode": lambda f, x: functional.jacobian(
        f, x, vectorize=True, strategy="forward-mode"
    ),
    "hessian": lambda f, x: functional.hessian(lambda x: f(x).pow(3).sum(), x),
    "hessian, vectorized": lambda f, x: functional.hessian(
        lambda x: f(x).pow(3).sum(), x, vectorize=True
    ),
    "vjp": lambda f, x: functional.vjp(f, x, torch.ones(3, 6, dtype=x.dtype))[1],
    "jvp": lambda f, x: functional.jvp(f, x, torch.ones_like(x))[1],
    "hvp": lambda f, x: functional.hvp(lambda x: f(x).pow(3).sum(), x, torch.ones_like(x))[1],
    "vhp": lambda f, x: functional.vhp(lambda x: f(x).pow(3).sum(), x, torch.ones_like(x))[1],
}


@pytest.mark.parametrize("call", CALLS)
def test_functional(call: str) -> None:
    torch.manual_seed(0)
    stock = torch.nn.Sequential(
        torch.nn.Linear(6, 6),
        torch.nn.LayerNorm(6),
        torch.nn.SiLU(),
        torch.nn.BatchNorm1d(6),
        torch.nn.RMSNorm(6),
    ).double()
    ours = copy.deepcopy(stock)
    assert len(gt.accelerate(ours).replaced) == 3
    x = torch.randn(3, 6, dtype=torch.float64)
    expected = CALLS[call](stock, x)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(CALLS[call](ours, x), expected, rtol=1e-8, atol=1e-8)
