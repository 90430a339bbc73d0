"""`copy_to=` of torch's optimizers: 16-bit copies of float32 parameters that a step writes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402

BF16, F16 = torch.bfloat16, torch.float16


def parameters() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(70, 80), (5,), (4, 8, 3, 3)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors[2] = tensors[2].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(t) for t in tensors]


def give(params: list[Any], t: int) -> None:
    generator = torch.Generator().manual_seed(100 + t)
    for p in params:
        p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))


def same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_a_step_writes_the_copies_and_nothing_else_differs(name: str) -> None:
    for states in ("float32", "int8") if name != "Adagrad" else ("float32",):
        params, plain = parameters(), parameters()
        copies = [
            torch.zeros_like(p, dtype=d) for p, d in zip(params, (BF16, F16, BF16), strict=True)
        ]
        copies[1].requires_grad_(True)
        options: dict[str, Any] = {"lr": 0.01, "state_dtype": states}
        opt = gt.OPTIMIZERS[name](params, copy_to=copies, **options)
        twin = gt.OPTIMIZERS[name](plain, **options)
        versions = [c._version for c in copies]
        for t in range(3):
            give(params, t)
            give(plain, t)
            opt.step()
            twin.step()
            assert same(params, plain)
            assert same(copies, [p.to(c.dtype) for p, c in zip(params, copies, strict=True)])
        assert all(c._version > v for c, v in zip(copies, versions, strict=True))


def test_what_is_skipped_or_has_no_gradient_is_not_copied() -> None:
    params = parameters()
    copies = [None, *(torch.zeros_like(p, dtype=BF16) for p in params[1:])]
    opt = gt.AdamW(params, lr=0.1, copy_to=copies, on_nonfinite="skip")
    give(params, 0)
    params[1].grad = None
    opt.step()
    assert not copies[1].any() and torch.equal(copies[2], params[2].to(BF16))
    before = copies[2].clone()
    give(params, 1)
    params[0].grad[0, 0] = torch.nan
    opt.step()
    assert opt.skipped and torch.equal(copies[2], before) and not copies[1].any()


def test_a_copy_of_an_optimizer_writes_its_own() -> None:
    params = parameters()
    copies = [torch.zeros_like(p, dtype=BF16) for p in params]
    opt = gt.AdamW(params, lr=0.1, copy_to=copies, ema="float32", ema_decay=0.5)
    give(params, 0)
    others, twins, again = copy.deepcopy((params, copies, opt))
    give(others, 0)
    again.step()
    assert same(twins, [p.to(BF16) for p in others]) and not any(c.any() for c in copies)
    before = [c.clone() for c in twins]
    with again.averaged():
        assert same(twins, [p.to(BF16) for p in others]) and not same(twins, before)
    assert same(twins, before)


def test_a_step_sees_that_a_copy_lies_elsewhere() -> None:
    (p,) = params = [torch.nn.Parameter(torch.ones(5))]
    c = torch.zeros(5, dtype=BF16)
    opt = gt.SGD(params, lr=1.0, copy_to=c)
    give(params, 0)
    opt.step()
    c.data = torch.zeros(5, dtype=BF16)
    opt.step()
    assert torch.equal(c, p.to(BF16))


def test_groups_have_copies_of_their_own() -> None:
    params, plain = parameters(), parameters()
    copies = [torch.zeros_like(p, dtype=d) for p, d in zip(params, (BF16, F16, BF16), strict=True)]
    given: list[Any] = [
        {"params": params[:1]},
        {"params": [("named", params[1])], "copy_to": copies[1]},
    ]
    given[0]["params"] = [("first", params[0])]
    opt = gt.AdamW(given, lr=0.1, copy_to=[copies[0], None])
    opt.add_param_group({"params": [("last", params[2])], "copy_to": [copies[2]]})
    twin = gt.AdamW(plain, lr=0.1)
    for t in range(2):
        give(params, t)
        give(plain, t)
        opt.step()
        twin.step()
        assert same(params, plain)
        assert same(copies, [p.to(c.dtype) for p, c in zip(params, copies, strict=True)])
    assert not any("copy_to" in group for group in opt.state_dict()["param_groups"])
    assert given[1]["copy_to"] is copies[1], "the caller's dict stays as it was"
    before, again = [c.clone() for c in copies], copy.deepcopy(opt)
    again.load_state_dict(opt.state_dict())
    for p in again.param_groups[2]["params"]:
        p.grad = torch.ones_like(p)
    again.step()
    assert same(copies, before)
    assert torch.equal(again._copies[2], again.param_groups[2]["params"][0].to(BF16))
    assert not torch.equal(again._copies[2], copies[2])


GROUPS: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "count": (
        lambda c: [c, c],
        None,
        ValueError,
        r"^param_groups\[1\]: copy_to: 2 tensors, expected 1, one or None for each of params$",
    ),
    "no sequence": (
        lambda c: 3,
        None,
        TypeError,
        r"^param_groups\[1\]: copy_to: int, expected a sequence$",
    ),
    "dtype": (
        lambda c: [c.float()],
        None,
        TypeError,
        r"^copy_to\['group 1, parameter 0'\]: torch.float32",
    ),
    "both": (
        lambda c: [c],
        lambda c: [None, c.clone()],
        ValueError,
        r"^param_groups\[1\]: copy_to: given, and the optimizer's copy_to too, expected one",
    ),
}


@pytest.mark.parametrize("case", GROUPS)
def test_what_does_not_fit_a_group_is_refused(case: str) -> None:
    own, all_, kind, message = GROUPS[case]
    params = [torch.nn.Parameter(torch.ones(5)) for _ in range(2)]
    c = torch.zeros(5, dtype=BF16)
    first, second = {"params": params[0]}, {"params": params[1], "copy_to": own(c)}
    with pytest.raises(kind, match=message):
        gt.AdamW([first, second], copy_to=all_ and all_(c))
    if all_:
        return
    opt = gt.AdamW([params[0]])
    with pytest.raises(kind, match=message):
        opt.add_param_group({"params": params[1], "copy_to": own(c)})
    assert len(opt.param_groups) == 1 and not opt._copies
    opt.add_param_group({"params": params[1], "copy_to": [c]})
    give(params, 0)
    opt.step()
    assert torch.equal(c, params[1].to(BF16))


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "count": (lambda p, c: [c], ValueError, r"^copy_to: 1 tensors, expected 2, one or None for"),
    "kind": (lambda p, c: [c, 1.0], TypeError, r"^copy_to\['group 0, parameter 1'\]: float, exp"),
    "no sequence": (lambda p, c: 3, TypeError, "^copy_to: int, expected a sequence"),
    "dtype": (
        lambda p, c: [c.float(), None],
        TypeError,
        r"^copy_to\['group 0, parameter 0'\]: torch.float32",
    ),
    "shape": (lambda p, c: [c[:3], None], ValueError, r"^copy_to\[.*0'\]: shape \(3,\), expected"),
    "half parameters": (
        lambda p, c: [None, torch.zeros(3)],
        TypeError,
        r"^params\['group 0, parameter 1'\]: torch.bfloat16 with copy_to, expected a whole torch",
    ),
    "strides": (
        lambda p, c: [torch.zeros(5, 3, dtype=BF16).t(), None],
        ValueError,
        r"^copy_to\[.*0'\]: strides \(1, 3\), expected \(5, 1\) as in the parameter",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    call, kind, message = REFUSED[case]
    shape = (3, 5) if case == "strides" else (5,)
    params = [torch.nn.Parameter(torch.ones(shape)), torch.nn.Parameter(torch.ones(3).to(BF16))]
    copies = call(params, torch.zeros(5, dtype=BF16))
    with pytest.raises(kind, match=message):
        gt.AdamW(params, copy_to=copies)


def test_copies_share_no_memory() -> None:
    params = parameters()[:1] * 1
    other = torch.nn.Parameter(torch.ones_like(params[0]))
    c = torch.zeros_like(params[0], dtype=BF16)
    opt = gt.SGD([params[0], other], lr=0.1, copy_to=[c, c])
    give([params[0], other], 0)
    with pytest.raises(ValueError, match="copy_to"):
        opt.step()
