"""Averages of torch's parameters that steps move as they pass. Their bits in every layout are among
the tests of those."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402

BF16, F32 = torch.bfloat16, torch.float32


def parameters(dtype: Any = F32) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(70, 8), (5,)]
    return [torch.nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in shapes]


def give(params: list[Any], t: int) -> None:
    generator = torch.Generator().manual_seed(100 + t)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def trained(params: list[Any], opt: Any, first: int = 0, last: int = 4) -> None:
    for t in range(first, last):
        give(params, t)
        opt.step()


def test_averages_are_those_of_torchs_averaged_model() -> None:
    model = torch.nn.Linear(8, 3)
    model.weight.requires_grad_(True)
    swa = torch.optim.swa_utils
    average = swa.AveragedModel(model, multi_avg_fn=swa.get_ema_multi_avg_fn(0.75))
    average.update_parameters(model)  # its first only copies
    opt = gt.AdamW(model.parameters(), lr=0.1, ema="float32", ema_decay=0.75)
    for _ in range(5):
        opt.zero_grad()
        model(torch.ones(4, 8)).square().sum().backward()
        opt.step()
        average.update_parameters(model)
    before = [p.detach().clone() for p in model.parameters()]
    with opt.averaged():
        for p, own in zip(model.parameters(), average.module.parameters(), strict=True):
            torch.testing.assert_close(p, own)
            assert not torch.equal(p, before[0])
        with pytest.raises(RuntimeError, match="step: parameters hold their averages"):
            opt.step()
        with pytest.raises(RuntimeError, match="averaged: called in a block of it"):
            opt.averaged().__enter__()
        with pytest.raises(RuntimeError, match="reload_masters: parameters hold their averages"):
            opt.reload_masters()
    assert all(map(torch.equal, model.parameters(), before))
    opt.step()


def test_weights_come_back_to_memory_that_moved_meanwhile() -> None:
    params = parameters()
    opt = gt.AdamW(params, lr=0.1, ema="float32", ema_decay=0.5)
    trained(params, opt)
    before = [p.detach().clone() for p in params]
    with opt.averaged():
        for p in params:
            p.data = p.data.clone()  # as .to() does
    assert all(map(torch.equal, params, before))


def test_checkpoints_hold_averages_and_convert_them() -> None:
    for kind in ("float32", "bfloat16"):
        options: dict[str, Any] = {"lr": 0.1, "master": "split", "ema": kind, "ema_decay": 0.5}
        whole, begun, resumed = parameters(BF16), parameters(BF16), parameters(BF16)
        straight = gt.AdamW(whole, **options)
        trained(whole, straight)
        first, second = gt.AdamW(begun, **options), gt.AdamW(resumed, **options)
        trained(begun, first, 0, 2)
        with torch.no_grad():
            for p, q in zip(resumed, begun, strict=True):
                p.copy_(q)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        trained(resumed, second, 2, 4)
        both = pickle.loads(pickle.dumps((begun, first)))
        trained(*both, 2, 4)
        for params, opt in ((resumed, second), both):
            for p, q in zip(params, whole, strict=True):
                assert torch.equal(p, q)
                assert opt.state[p]["ema"].dtype == getattr(torch, kind)
                assert torch.equal(opt.state[p]["ema"], straight.state[q]["ema"])
    other = gt.AdamW(parameters(BF16), **{**options, "ema": "float32"})
    other.load_state_dict(straight.state_dict())
    for p, q in zip(other.param_groups[0]["params"], whole, strict=True):
        assert torch.equal(other.state[p]["ema"], straight.state[q]["ema"].float())


def test_averages_are_not_dropped_by_loading() -> None:
    params = parameters()
    opt = gt.AdamW(params, ema="float32")
    trained(params, opt, 0, 1)
    other = gt.AdamW(parameters())
    with pytest.raises(ValueError, match=r"\['ema'\]: an average, expected none as ema=None here"):
        other.load_state_dict(opt.state_dict())
    assert not other.state


def test_a_refused_step_leaves_averages() -> None:
    params = parameters()
    opt = gt.AdamW(params, lr=0.1, ema="bfloat16", on_nonfinite="skip")
    trained(params, opt)
    before = [opt.state[p]["ema"].clone() for p in params]
    params[1].grad[0] = torch.nan
    opt.step()
    assert opt.skipped
    assert all(torch.equal(opt.state[p]["ema"], own) for p, own in zip(params, before, strict=True))


def test_groups_may_differ_and_decays_may_change() -> None:
    a, b = parameters()
    opt = gt.SGD([{"params": [a], "ema": "float32"}, {"params": [b]}], lr=1.0, ema_decay=0.5)
    old = a.detach().clone()
    trained([a, b], opt, 0, 1)
    torch.testing.assert_close(opt.state[a]["ema"], (old + a.detach()) / 2)
    assert "ema" not in opt.state[b]
    opt.param_groups[0]["ema_decay"] = 0.0
    trained([a, b], opt, 1, 2)
    assert torch.equal(opt.state[a]["ema"], a)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"ema": "float64"}, ValueError, "^ema: 'float64', expected 'float32' or 'bfloat16'"),
        ({"ema_decay": 0.5}, ValueError, "^ema_decay: 0.5 without ema, expected ema="),
        ({"ema": "float32", "ema_decay": 1}, ValueError, r"^ema_decay: 1, expected a number in \["),
    ],
)
def test_what_does_not_fit_is_refused(options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        gt.AdamW(parameters(), **options)


def test_float64_has_no_average_in_the_step() -> None:
    params = parameters(torch.float64)
    opt = gt.SGD(params, ema="float32")
    with pytest.raises(TypeError, match=r"float64 with ema='float32', expected None"):
        trained(params, opt, 0, 1)
