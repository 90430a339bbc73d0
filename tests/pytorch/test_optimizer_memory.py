"""Which tensors a step takes, that it writes nothing where it refuses, and that it never writes to
memory that is no longer the parameter's."""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from optimizer_cases import (  # noqa: E402
    assert_same,
    assert_unchanged,
    give,
    ours,
    parameters,
    snapshot,
    theirs,
    twins,
)


def with_gradient(data: Any) -> Any:
    p = torch.nn.Parameter(data)
    p.grad = torch.ones_like(data)
    return p


def sparse_gradient() -> Any:
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    return table.weight


def other_strides() -> Any:
    p = torch.nn.Parameter(torch.ones(3, 4))
    p.grad = torch.ones(4, 3).t()
    return p


def other_dtype() -> Any:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    p.data = p.data.double()
    return p


def negated() -> Any:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch._neg_view(torch.ones(3))
    return p


REFUSALS = {
    "sparse gradient": (
        sparse_gradient,
        TypeError,
        "params['group 1, parameter 1'].grad: layout torch.sparse_coo, expected a dense tensor; "
        "sparse gradients are for SparseAdam, SGD and Adagrad of gradstep.torch, and an embedding "
        "gives dense ones with sparse=False",
    ),
    "another device": (
        lambda: with_gradient(torch.ones(3, device="meta")),
        TypeError,
        "params['group 1, parameter 1']: on meta, expected a CPU tensor; "
        "use torch.optim.Adam for it",
    ),
    "complex": (
        lambda: with_gradient(torch.ones(3, dtype=torch.complex64)),
        TypeError,
        "params['group 1, parameter 1']: torch.complex64, expected torch.float32, torch.float64, "
        "torch.bfloat16 or torch.float16; use torch.optim.Adam for it, or keep the parameters in "
        "float32 (torch.autocast)",
    ),
    "half": (
        lambda: with_gradient(torch.ones(3, dtype=torch.float16)),
        ValueError,
        "params['group 1, parameter 1']: float16 with master=None, expected master='float32', "
        "without which small steps are lost",
    ),
    "gaps": (
        lambda: with_gradient(torch.ones(3, 8)[:, ::2]),
        ValueError,
        "params['group 1, parameter 1']: shape (3, 4) with strides (8, 2), expected memory "
        "without gaps or repetition; make the parameter from .contiguous()",
    ),
    "repetition": (
        lambda: with_gradient(torch.ones(1).expand(3)),
        ValueError,
        "params['group 1, parameter 1']: shape (3,) with strides (0,), expected memory "
        "without gaps or repetition; make the parameter from .contiguous()",
    ),
    "a gradient in another order": (
        other_strides,
        ValueError,
        "params['group 1, parameter 1'].grad: strides (1, 3), expected (4, 1) as in the "
        "parameter; copy it: p.grad = torch.empty_like(p).copy_(p.grad)",
    ),
    "a gradient of another dtype": (
        other_dtype,
        TypeError,
        "params['group 1, parameter 1'].grad: torch.float32, expected torch.float64 as in the "
        "parameter",
    ),
    "a lazily negated gradient": (
        negated,
        TypeError,
        "params['group 1, parameter 1'].grad: a lazily negated view, expected memory; "
        "use .resolve_neg()",
    ),
}


@pytest.mark.parametrize("started", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize("what", REFUSALS)
def test_refused_tensors_are_named_and_nothing_is_written(what: str, started: bool) -> None:
    make, kind, message = REFUSALS[what]
    good = parameters()
    spare = torch.nn.Parameter(torch.ones(2))
    opt = ours("Adam", [{"params": good}, {"params": [spare]}])
    everyone = [*good, spare]
    give([everyone], 0)
    if started:
        opt.step()
    bad = make()
    opt.param_groups[1]["params"].append(bad)
    before = snapshot(everyone, opt)
    with pytest.raises(kind) as caught:
        opt.step()
    assert type(caught.value) is kind
    assert str(caught.value) == message
    assert_unchanged(before, everyone, opt)
    assert bad not in opt.state
    bad.grad = None  # and without that tensor, training goes on
    opt.step()
    assert float(opt.state[spare]["step"]) == 1 + started


def test_messages_use_the_names_of_the_parameters() -> None:
    model = torch.nn.Linear(2, 2).half()
    opt = ours("SGD", model.named_parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with pytest.raises(ValueError, match=r"^params\['weight'\]: float16 with master=None, "):
        opt.step()


def test_shared_memory_of_two_parameters_is_refused() -> None:
    data = torch.ones(6)
    one, two = torch.nn.Parameter(data[:4]), torch.nn.Parameter(data[3:])
    one.grad, two.grad = torch.ones(4), torch.ones(3)
    opt = ours("SGD", [one, two])
    with pytest.raises(ValueError, match="overlaps"):
        opt.step()
    assert data.tolist() == [1.0] * 6


@pytest.mark.parametrize("key", ["differentiable", "capturable"])
@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_what_no_native_step_can_do_is_refused(name: str, key: str) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    cls = gt.OPTIMIZERS[name]
    if key not in cls([p]).param_groups[0]:
        pytest.skip(f"{name} has no {key}")
    with pytest.raises(ValueError, match=f"^{key}: True, expected False"):
        ours(name, [p], **{key: True})
    with pytest.raises(ValueError, match=f"^param_group: {key}: True, expected False"):
        ours(name, [{"params": [p], key: True}])
    opt = ours(name, [p])
    opt.param_groups[0][key] = True
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=rf"^param_groups\[0\]: {key}: True, expected False"):
        opt.step()
    assert p.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"clip_norm": -1.0}, ValueError),
        ({"clip_norm": "1"}, TypeError),
        ({"on_nonfinite": "ignore"}, ValueError),
        ({"zero_grads": 1}, TypeError),
    ],
)
def test_extra_arguments_are_checked(options: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"^{next(iter(options))}: "):
        ours("Adam", parameters(), **options)


@pytest.mark.parametrize("what", ["skip", "raise"])
@pytest.mark.parametrize("started", [False, True], ids=["first step", "later step"])
def test_gradients_that_are_not_finite_write_nothing(what: Any, started: bool) -> None:
    mine = parameters()
    opt = ours("AdamW", mine, on_nonfinite=what)
    give([mine], 0)
    if started:
        opt.step()
    mine[1].grad[2] = float("nan")
    before = [p.detach().clone() for p in mine], [p._version for p in mine]
    if what == "skip":
        opt.step()
        assert opt.skipped
    else:
        message = r"^params\['group 0, parameter 1'\]\.grad: 1 of 5 elements are not finite$"
        with pytest.raises(FloatingPointError, match=message):
            opt.step()
    after = [p.detach().clone() for p in mine], [p._version for p in mine]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert all(float(own["step"]) == started for own in opt.state.values())


# Memory that moves


def moved_by_data(p: Any) -> None:
    p.data = p.data.clone(memory_format=torch.preserve_format)


def moved_by_sharing(p: Any) -> None:
    p.share_memory_()


def moved_by_set(p: Any) -> None:
    with torch.no_grad():
        p.set_(p.detach().clone(memory_format=torch.preserve_format))


@pytest.mark.parametrize("move", [moved_by_data, moved_by_sharing, moved_by_set])
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_parameters_that_move_are_followed(name: str, move: Any) -> None:
    mine, other = twins()
    options: dict[str, Any] = {"momentum": 0.9} if name != "Adam" else {}
    x, y = ours(name, mine, lr=0.01, **options), theirs(name, other, lr=0.01, **options)
    old = []
    for t in range(6):
        if t in (2, 4):
            old += [(p.data.view(-1) if p.is_contiguous() else p.data) for p in mine]
            kept = [o.clone() for o in old]
            for p in mine:
                move(p)
        give((mine, other), t)
        x.step()
        y.step()
        assert_same(mine, other, x, y)
        if t in (2, 4) and move is not moved_by_sharing:
            torch.testing.assert_close(old, kept, rtol=0, atol=0)


def test_a_parameter_of_another_shape_in_the_same_memory_is_followed() -> None:
    p = torch.nn.Parameter(torch.zeros(2, 6))
    opt = ours("SGD", [p], lr=1.0)
    p.grad = torch.ones(2, 6)
    opt.step()
    p.grad = None
    p.data = p.data.view(3, 4)
    p.grad = torch.ones(3, 4)
    opt.step()
    assert p.tolist() == [[-2.0] * 4] * 3


def test_state_that_is_replaced_or_reset_is_followed() -> None:
    mine, other = twins()
    x, y = ours("Adam", mine), theirs("Adam", other)
    for t in range(10):
        for optimizer, params in ((x, mine), (y, other)):
            if t == 2:
                optimizer.state = defaultdict(dict)
            if t == 4:
                own = optimizer.state[params[0]]
                own["exp_avg"] = own["exp_avg"].clone() * 2
            if t == 5:
                optimizer.state[params[0]]["step"].fill_(100.0)
            if t == 6:
                optimizer.state[params[4]]["exp_avg_sq"].mul_(3)
            if t == 7:
                del optimizer.state[params[1]]
            if t == 8:
                new = torch.nn.Parameter(params[5].detach().clone())
                optimizer.state[new] = optimizer.state.pop(params[5])
                optimizer.param_groups[0]["params"][5] = params[5] = new
        give((mine, other), t)
        x.step()
        y.step()
        assert_same(mine, other, x, y)


def test_gradients_that_belong_to_a_graph_are_read() -> None:
    mine, other = twins(torch.float64)
    x, y = ours("SGD", mine, lr=0.1), theirs("SGD", other, lr=0.1)
    for params, optimizer in ((mine, x), (other, y)):
        loss = sum((p**3).sum() for p in params)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, once in a process, about create_graph
            loss.backward(create_graph=True)
        assert params[0].grad.requires_grad
        optimizer.step()
        optimizer.zero_grad()
    assert_same(mine, other)


def test_the_parameters_own_memory_is_written() -> None:
    mine = parameters()
    addresses = [p.data_ptr() for p in mine]
    views = [p.detach().numpy() for p in mine]
    x = ours("Adam", mine)
    give([mine], 0)
    x.step()
    assert [p.data_ptr() for p in mine] == addresses
    for p, view in zip(mine, views, strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), view)


def test_two_optimizers_step_in_two_threads() -> None:
    pairs = [(parameters(), parameters()) for _ in range(2)]
    jobs = []
    for mine, _ in pairs:
        opt = ours("Adam", mine)

        def work(params: list[Any] = mine, opt: Any = opt) -> None:
            for t in range(50):
                give([params], t)
                opt.step()

        jobs.append(threading.Thread(target=work))
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    for mine, other in pairs:
        y = ours("Adam", other)
        for t in range(50):
            give([other], t)
            y.step()
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
