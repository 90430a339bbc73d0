"""Agreement with torch, with itself in float64 as the judge."""

from __future__ import annotations

from typing import Any

import gradstep as gs
import numpy as np
import pytest
from test_activations import ELEMENTWISE, LOGITS, LOSSES, drawn, loss_case

torch: Any = pytest.importorskip("torch")
F = torch.nn.functional
PEERS = {
    name: getattr(F, name, None) or getattr(torch, name)
    for name in ELEMENTWISE
    if "_tanh" not in name
}
PEERS["gelu_tanh"] = lambda x: F.gelu(x, approximate="tanh")
PEERS["tanh"], PEERS["sigmoid"] = torch.tanh, torch.sigmoid
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def near(found: Any, expected: Any, ulps: float = 64) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    unit = np.finfo(found.dtype).eps * np.maximum(1, np.abs(expected))
    assert (np.abs(found - expected) <= ulps * unit).all()


def leaf(x: Any) -> Any:
    return torch.from_numpy(x.copy()).requires_grad_()


@dtypes
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name: str, dtype: Any) -> None:
    forward, _, backward, _, saved, _ = ELEMENTWISE[name]
    for shape in [(0,), (1,), (3, 5), (2, 3, 4, 5), (1001,)]:
        x, dy = drawn(shape, dtype, 1), drawn(shape, dtype, 2)
        t = leaf(x)
        y = PEERS[name](t)
        y.backward(torch.from_numpy(dy))
        near(forward(x), y.detach().numpy())
        found = backward(dy, forward(x) if saved == "y" else x)
        scale = np.maximum(1, np.abs(dy))
        near(found / scale, t.grad.numpy() / scale)


@dtypes
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows(name: str, dtype: Any) -> None:
    for shape, axis in [((3, 10), -1), ((2, 300), 1), ((2, 5, 7), 1), ((4, 3), 0), ((0, 3), 1)]:
        x, dy = drawn(shape, dtype, 1), drawn(shape, dtype, 2)
        t = leaf(x)
        y = getattr(F, name)(t, axis)
        y.backward(torch.from_numpy(dy))
        found = getattr(gs, name)(x, axis)
        near(found, y.detach().numpy())
        size = np.abs(dy).sum(axis, keepdims=True) + 1
        dx = getattr(gs, f"{name}_backward")(dy, found, axis)
        near(dx / size, t.grad.numpy() / size)


@dtypes
@pytest.mark.parametrize("options", [o for o in LOSSES if "sample_weight" not in o], ids=str)
def test_cross_entropy(options: dict[str, Any], dtype: Any) -> None:
    for shape in LOGITS:
        logits, targets, given = loss_case(shape, options, dtype)
        loss, d = gs.cross_entropy(logits, targets, **given)
        t = leaf(logits)
        if "weight" in given:
            given["weight"] = torch.from_numpy(given["weight"])
        expected = F.cross_entropy(t, torch.from_numpy(targets.astype(np.int64)), **given)
        expected.sum().backward()
        tolerance = 1e-4 if dtype is np.float32 else 1e-12
        assert np.allclose(loss, expected.detach(), tolerance, tolerance, equal_nan=True), shape
        near(d, t.grad.numpy())


@dtypes
def test_mse_and_prelu(dtype: Any) -> None:
    x, dy = drawn((6, 4, 5), dtype, 1), drawn((6, 4, 5), dtype, 2)
    t = leaf(x)
    expected = F.mse_loss(t, torch.from_numpy(dy))
    expected.backward()
    loss, gradient = gs.mse(x, dy)
    assert abs(loss / expected.item() - 1) < 1e-5
    near(gradient, t.grad.numpy())
    weight = drawn(4, dtype, 3)
    t, w = leaf(x), leaf(weight)
    y = F.prelu(t, w)
    y.backward(torch.from_numpy(dy))
    near(gs.prelu(x, weight), y.detach().numpy(), 1)
    dx, dweight = gs.prelu_backward(dy, x, weight)
    near(dx, t.grad.numpy(), 1)
    assert np.allclose(dweight, w.grad.numpy(), 1e-3 if dtype is np.float32 else 1e-10)
