"""Training goes on where it was saved: in our class, in torch's, in a copy."""

from __future__ import annotations

import copy
import io
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.distributed as gd  # noqa: E402
import gradstep.torch as gt  # noqa: E402
from optimizer_cases import (  # noqa: E402
    CASES,
    Options,
    assert_same,
    give,
    ours,
    parameters,
    theirs,
    twins,
)


def train(pairs: list[tuple[list[Any], Any]], first: int, last: int) -> None:
    for t in range(first, last):
        give([params for params, _ in pairs], t, (1,) if t < 3 else ())
        for _, optimizer in pairs:
            optimizer.step()


def written(state_dict: Any) -> Any:
    """Through a file, as checkpoints go."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def moved(source: list[Any]) -> list[Any]:
    return [torch.nn.Parameter(p.detach().clone()) for p in source]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_checkpoint_of_torchs_class_goes_on_in_ours(
    name: str, options: Options, dtype: Any
) -> None:
    torch.set_default_dtype(dtype)
    theirs_params = parameters(dtype)
    y = theirs(name, theirs_params, **options)
    train([(theirs_params, y)], 0, 5)
    mine = moved(theirs_params)
    x = ours(name, mine)
    x.load_state_dict(written(y.state_dict()))
    assert x.param_groups[0]["lr"] == options["lr"]
    train([(mine, x), (theirs_params, y)], 5, 12)
    assert_same(mine, theirs_params, x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_checkpoint_of_ours_goes_on_in_torchs_class(
    name: str, options: Options, dtype: Any
) -> None:
    torch.set_default_dtype(dtype)
    mine = parameters(dtype)
    x = ours(name, mine, **options)
    train([(mine, x)], 0, 5)
    other = moved(mine)
    y = theirs(name, other)
    y.load_state_dict(written(x.state_dict()))
    train([(mine, x), (other, y)], 5, 12)
    assert_same(mine, other, x, y)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_dicts_have_torchs_keys_and_types(name: str, options: Options) -> None:
    mine, other = twins()
    x, y = ours(name, mine, **options), theirs(name, other, **options)
    train([(mine, x), (other, y)], 0, 2)
    a, b = x.state_dict(), y.state_dict()
    assert a["param_groups"][0].keys() == b["param_groups"][0].keys()
    assert a["state"].keys() == b["state"].keys()
    for key, own in b["state"].items():
        described = {k: (v.dtype, v.shape, v.stride()) for k, v in own.items()}
        assert {k: (v.dtype, v.shape, v.stride()) for k, v in a["state"][key].items()} == described


@pytest.mark.parametrize(
    ("name", "options"), [*CASES, pytest.param("Lion", {"lr": 0.01}, id="Lion")]
)
def test_copies_go_on_by_themselves(name: str, options: Options) -> None:
    mine = parameters()
    x = ours(name, mine, clip_norm=2.0, on_nonfinite="skip", **options)
    train([(mine, x)], 0, 3)
    for copied in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        params = copied.param_groups[0]["params"]
        assert all(p is not q for p, q in zip(params, mine, strict=True))
        assert (copied.clip_norm, copied.on_nonfinite, copied.zero_grads) == (2.0, "skip", False)
        before = [p.detach().clone() for p in mine]
        train([(params, copied)], 3, 6)
        torch.testing.assert_close([p.detach() for p in mine], before, rtol=0, atol=0)
        again = moved(mine)
        y = ours(name, again, clip_norm=2.0, **options)
        y.load_state_dict(copy.deepcopy(x.state_dict()))
        train([(again, y)], 3, 6)
        torch.testing.assert_close(params, again, rtol=0, atol=0)


def test_loading_does_not_write_to_the_donor() -> None:
    mine, other = twins()
    x = ours("Adam", mine)
    train([(mine, x)], 0, 3)
    y = ours("Adam", other)
    y.load_state_dict(x.state_dict())
    train([(other, y)], 3, 6)
    assert [float(x.state[p]["step"]) for p in mine if p in x.state] == [3.0] * 5


def test_old_checkpoints_with_numbers_for_steps_load() -> None:
    mine = parameters()
    x = ours("Adam", mine)
    train([(mine, x)], 0, 4)
    saved = copy.deepcopy(x.state_dict())
    for own in saved["state"].values():
        own["step"] = int(own["step"])
    again = moved(mine)
    y = ours("Adam", again)
    y.load_state_dict(saved)
    train([(mine, x), (again, y)], 4, 7)
    assert_same(mine, again, x, y)


def test_a_state_in_another_order_of_memory_is_laid_out_anew() -> None:
    mine, other = twins()
    x, y = ours("Adam", mine), theirs("Adam", other)
    train([(mine, x), (other, y)], 0, 4)
    saved = copy.deepcopy(y.state_dict())
    own = saved["state"][4]
    own["exp_avg"] = own["exp_avg"].contiguous()  # the parameter is in channels-last order
    assert own["exp_avg"].stride() != mine[4].stride()
    x.load_state_dict(saved)
    train([(mine, x), (other, y)], 4, 7)
    assert_same(mine, other, x, y)


def test_an_optimizer_that_never_stepped_has_an_empty_state() -> None:
    for name in gt.OPTIMIZERS:
        mine, other = twins()
        x = ours(name, mine)
        x.step()
        if name not in ("Adagrad", "Lion"):  # torch's Adagrad makes its state at once
            y = theirs(name, other)
            y.step()
            assert x.state_dict()["state"] == y.state_dict()["state"] == {}
        torch.testing.assert_close(mine, other, rtol=0, atol=0)


Spoil = Callable[[dict[str, Any]], Any]
NO_STATES: list[tuple[Spoil, type[Exception], str]] = [
    (lambda saved: None, TypeError, "state_dict: NoneType, expected a mapping"),
    (lambda saved: {}, ValueError, "state_dict: no 'param_groups'"),
    (lambda saved: {**saved, "param_groups": 3}, TypeError, "state_dict['param_groups']: int, exp"),
    (lambda saved: {**saved, "param_groups": [3]}, TypeError, "state_dict['param_groups'][0]: int"),
    (
        lambda saved: {**saved, "param_groups": [{"lr": 0.1}]},
        ValueError,
        "state_dict['param_groups'][0]: no 'params'",
    ),
    (
        lambda saved: {**saved, "param_groups": [{"params": 0}]},
        TypeError,
        "state_dict['param_groups'][0]['params']: int, expected a sequence",
    ),
    (
        lambda saved: {"param_groups": saved["param_groups"]},
        ValueError,
        "state_dict: no 'state'",
    ),
    (
        lambda saved: {**saved, "state": 3},
        TypeError,
        "state_dict['state']: int, expected a mapping",
    ),
    (
        lambda saved: {**saved, "state": {0: 3}},
        TypeError,
        "state_dict['state'][0]: int, expected a",
    ),
]
# A loop over a negative number of steps would have no end.
NO_STEPS: list[Any] = [-1, torch.tensor(-4.0), float("nan"), 1e300, "x", torch.ones(2)]


def with_step(step: Any) -> Spoil:
    return lambda saved: {**saved, "state": {0: {**saved["state"][0], "step": step}}}


def optimizers_of(parameter: Any) -> list[Any]:
    [alone] = gd.in_process(1)
    return [
        gt.AdamW([parameter], lr=0.5),
        gt.OffloadOptimizer([parameter], lr=0.5),
        gt.distributed.ShardedOptimizer(gt.AdamW, [parameter], group=alone, lr=0.5),
    ]


@pytest.mark.parametrize("case", range(len(NO_STATES) + len(NO_STEPS)))
def test_what_is_no_state_is_named_and_changes_nothing(case: int) -> None:
    cases = [*NO_STATES, *[(with_step(n), (TypeError, ValueError), "") for n in NO_STEPS]]
    spoil, kind, message = cases[case]
    message = message or "state_dict['state'][0]['step']: "
    w = torch.nn.Parameter(torch.ones(2))
    w.grad = torch.ones(2)
    donor = gt.AdamW([w], lr=0.1)
    donor.step()
    for optimizer in optimizers_of(w):
        with pytest.raises(kind, match=f"^{re.escape(message)}"):
            optimizer.load_state_dict(spoil(donor.state_dict()))
        assert optimizer.param_groups[0]["lr"] == 0.5
        within = getattr(optimizer, "optimizer", getattr(optimizer, "own", optimizer))
        assert not any(map(len, within.state.values()))


def test_a_number_of_steps_that_cannot_be_stops_the_step() -> None:
    for sparse in (False, True):
        w = torch.nn.Parameter(torch.ones(3, 2))
        optimizer = (gt.SparseAdam if sparse else gt.Adam)([w], lr=0.5)
        grad = torch.ones(3, 2)
        w.grad = grad.to_sparse(1) if sparse else grad
        optimizer.step()
        before = w.detach().clone()
        for bad in (-3.0, float("inf")):
            optimizer.state[w]["step"] = torch.tensor(bad)
            with pytest.raises(ValueError, match=r"^state\['group 0, parameter 0'\]\['step'\]: "):
                optimizer.step()
        assert torch.equal(w, before)
        optimizer.state[w]["step"] = torch.tensor(1.0)
        optimizer.step()
        assert float(optimizer.state[w]["step"]) == 2.0


def test_a_state_of_another_shape_is_not_cut_into_shards() -> None:
    w = torch.nn.Parameter(torch.ones(3))
    larger = torch.nn.Parameter(torch.ones(5))
    larger.grad = torch.ones(5)
    donor = gt.AdamW([larger])
    donor.step()
    for optimizer in optimizers_of(w)[2:]:
        with pytest.raises(
            ValueError, match=r"^state_dict\['state'\]\[0\]\['exp_avg'\]: shape \(5,\)"
        ):
            optimizer.load_state_dict(donor.state_dict())
        saved = gt.AdamW([{"params": []}, {"params": [larger]}]).state_dict()
        with pytest.raises(
            ValueError, match=r"^state_dict: groups of \[0, 1\] parameters, expected"
        ):
            optimizer.load_state_dict(saved)


def test_shards_take_a_state_in_another_order_of_memory() -> None:
    for laid_out in (torch.contiguous_format, torch.channels_last):
        ones = torch.ones(2, 3, 4, 5).to(memory_format=laid_out)
        w, v = (torch.nn.Parameter(ones.clone()) for _ in range(2))
        grad = torch.arange(120.0).reshape(2, 3, 4, 5)
        w.grad, v.grad = (torch.empty_like(p).copy_(grad) for p in (w, v))
        alone = gt.SGD([v], lr=0.5, momentum=0.5)
        alone.step()
        saved = copy.deepcopy(alone.state_dict())
        own = saved["state"][0]
        for order in (torch.contiguous_format, torch.channels_last):
            own["momentum_buffer"] = own["momentum_buffer"].contiguous(memory_format=order)
            with torch.no_grad():
                w.copy_(v)
            [one] = gd.in_process(1)
            sharded = gt.distributed.ShardedOptimizer(gt.SGD, [w], group=one, lr=1.0)
            sharded.load_state_dict(saved)
            sharded.step()
            twin = copy.deepcopy(alone)
            [other] = twin.param_groups[0]["params"]
            other.grad = v.grad.clone(memory_format=torch.preserve_format)
            twin.step()
            assert torch.equal(w, other)
