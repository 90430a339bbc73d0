"""Training goes on where it was saved: in our class, in torch's, in a copy."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

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
