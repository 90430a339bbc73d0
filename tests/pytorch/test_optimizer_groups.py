"""What stands in the groups, in attributes and in loaded states is read, checked or refused."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import gradstep as gs
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from optimizer_cases import (  # noqa: E402
    NAMES,
    assert_same,
    assert_unchanged,
    give,
    ours,
    parameters,
    snapshot,
    theirs,
    twins,
)


def needed_keys(name: str) -> list[str]:
    """What torch's class reads in a group."""
    keys = ("lr", "betas", "eps", "momentum", "dampening", "rho", "alpha", "lr_decay")
    defaults = ours(name, parameters()).defaults
    return [key for key in (*keys, "weight_decay", "momentum_decay") if key in defaults]


@pytest.mark.parametrize("started", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize(("name", "key"), [(name, k) for name in NAMES for k in needed_keys(name)])
def test_a_missing_key_is_torchs_key_error(name: str, key: str, started: bool) -> None:
    mine, other = twins()
    for optimizer, params in ((ours(name, mine), mine), (theirs(name, other), other)):
        give([params], 0)
        if started:
            optimizer.step()
        del optimizer.param_groups[0][key]
        before = snapshot(params, optimizer)
        with pytest.raises(KeyError, match=f"^'{key}'$"):
            optimizer.step()
        if params is mine:
            assert_unchanged(before, params, optimizer)


def test_adams_checkpoint_in_sgd_says_what_is_missing() -> None:
    mine, other = twins()
    adam, sgd = ours("Adam", mine), ours("SGD", other, momentum=0.9)
    sgd.load_state_dict(adam.state_dict())
    give([other], 0)
    with pytest.raises(KeyError, match=r"^'momentum'$"):
        sgd.step()


def test_what_only_gradstep_knows_may_stand_in_a_group_or_not() -> None:
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = ours("SGD", [{"params": [p], "l1": 0.5}, {"params": [q]}], lr=1.0)
    p.grad = q.grad = torch.zeros(3)
    opt.step()
    assert p.tolist() == [0.5] * 3 and q.tolist() == [1.0] * 3


IMPOSSIBLE: list[tuple[str, Any, type[Exception], str]] = [
    (
        "ema_decay",
        2.0,
        ValueError,
        r"param_groups\[1\]: ema_decay: 2, expected a number in \[0, 1\)",
    ),
    ("ema_decay", math.nan, ValueError, r"param_groups\[1\]: ema_decay: nan, expected a number in"),
    ("ema_decay", "x", TypeError, r"param_groups\[1\]: ema_decay: str, expected a number"),
    ("ema_decay", torch.tensor(-1.0), ValueError, r"param_groups\[1\]: ema_decay: -1, expected"),
    ("l1", -1.0, ValueError, r"param_groups\[1\]: l1: -1, expected a number in \[0, inf\)"),
    (
        "clip_value",
        0.0,
        ValueError,
        r"param_groups\[1\]: clip_value: 0, expected a number in \(0, in",
    ),
    ("seed", -1, ValueError, "seed: -1, expected an integer"),
    ("seed", 0.5, TypeError, "seed: float, expected an integer"),
    ("state_dtype", "int4", ValueError, "state_dtype: 'int4', expected 'float32', 'bfloat16' or"),
    ("ema", "float16", ValueError, "ema: 'float16', expected 'float32' or 'bfloat16'"),
    ("master", 1, TypeError, "master: int, expected a string"),
]


@pytest.mark.parametrize(("key", "value", "kind", "message"), IMPOSSIBLE)
def test_what_torchs_class_does_not_know_is_checked_at_the_next_step(
    key: str, value: Any, kind: type[Exception], message: str
) -> None:
    p, q = params = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    opt = ours("AdamW", [{"params": [p]}, {"params": [q]}], ema="float32")
    for started in (False, True):
        give([params], started)
        before_it = dict(opt.param_groups[1])
        opt.param_groups[1][key] = value
        before = snapshot(params, opt)
        for _ in range(2):
            with pytest.raises(kind, match=f"^{message}"):
                opt.step()
            assert_unchanged(before, params, opt)
        opt.param_groups[1].clear()
        opt.param_groups[1].update(before_it)
        opt.step()


def one_rate(step: int) -> float:
    return 0.1 / step


@pytest.mark.parametrize("function", [one_rate, gs.cosine(0.1, 10)], ids=["function", "schedule"])
@pytest.mark.parametrize("key", ["lr", "eps", "betas", "weight_decay"])
def test_functions_in_a_group_are_refused(key: str, function: Any) -> None:
    mine = parameters()
    opt = ours("Adam", mine)
    opt.param_groups[0][key] = (function, 0.9) if key == "betas" else function
    give([mine], 0)
    before = snapshot(mine, opt)
    message = rf"^param_groups\[0\]: {key}: a function, expected a number; .*LambdaLR"
    with pytest.raises(TypeError, match=message):
        opt.step()
    assert_unchanged(before, mine, opt)


@pytest.mark.parametrize(
    ("key", "value", "kind", "message"),
    [
        ("lr", "0.1", TypeError, "lr: str, expected a number"),
        ("lr", None, TypeError, "lr: NoneType, expected a number"),
        ("lr", 1j, TypeError, "lr: complex, expected a number"),
        ("lr", torch.ones(2), ValueError, r"lr: shape \(2,\), expected one number"),
        ("betas", 0.9, TypeError, "betas: 0.9, expected 2 numbers"),
        ("betas", (0.9, 0.99, 0.999), TypeError, r"betas: \(0.9, 0.99, 0.999\), expected 2"),
        ("betas", ("0.9", 0.99), TypeError, "betas: str, expected a number"),
    ],
)
@pytest.mark.parametrize("started", [False, True], ids=["first step", "later step"])
def test_other_kinds_in_a_group_are_refused(
    key: str, value: Any, kind: type[Exception], message: str, started: bool
) -> None:
    mine = parameters()
    opt = ours("AdamW", mine)
    give([mine], 0)
    if started:
        opt.step()
    opt.param_groups[0][key] = value
    before = snapshot(mine, opt)
    with pytest.raises(kind, match=rf"^param_groups\[0\]: {message}"):
        opt.step()
    assert_unchanged(before, mine, opt)


@pytest.mark.parametrize(
    "value",
    [0.1, np.float32(0.1), np.array(0.1), torch.tensor(0.1), torch.tensor([0.1]), np.array([0.1])],
    ids=repr,
)
def test_numbers_of_other_libraries_are_taken(value: Any) -> None:
    mine, other = twins()
    x, y = ours("Adam", mine), theirs("Adam", other, lr=0.1)
    x.param_groups[0]["lr"] = value
    give((mine, other), 0)
    x.step()
    y.step()
    assert_same(mine, other)


@pytest.mark.parametrize("make", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_values_that_change_in_place_are_followed(make: Any) -> None:
    mine, other = twins()
    x, y = ours("Adam", mine, lr=0.1), theirs("Adam", other, lr=0.1)
    rates, betas = make([0.1, 0.2]), [0.9, 0.999]
    x.param_groups[0]["betas"] = betas
    x.param_groups[0]["lr"] = rates[:1] if make is not list else 0.1
    for t, beta in enumerate([0.9, 0.5, 0.1]):
        betas[0] = beta
        y.param_groups[0]["betas"] = (beta, 0.999)
        if make is not list:
            rates[0] = 0.1 * beta
            y.param_groups[0]["lr"] = 0.1 * beta
        give((mine, other), t)
        x.step()
        y.step()
        assert_same(mine, other, x, y)


# Attributes


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("clip_norm", -1.0, ValueError),
        ("clip_norm", 0.0, ValueError),
        ("clip_norm", "1", TypeError),
        ("clip_norm", one_rate, TypeError),
        ("on_nonfinite", "ignore", ValueError),
        ("on_nonfinite", None, TypeError),
        ("zero_grads", 1, TypeError),
    ],
)
def test_attributes_are_checked_when_they_are_assigned(
    key: str, value: Any, kind: type[Exception]
) -> None:
    opt = ours("Adam", parameters(), clip_norm=1.0)
    before = getattr(opt, key)
    with pytest.raises(kind, match=f"^{key}: "):
        setattr(opt, key, value)
    assert getattr(opt, key) == before
    with pytest.raises(kind, match=f"^{key}: "):
        ours("Adam", parameters(), **{key: value})


def test_attributes_hold_from_the_next_step_on() -> None:
    mine, other = twins()
    x, y = ours("SGD", mine, lr=0.1), ours("SGD", other, lr=0.1, clip_norm=0.5)
    x.clip_norm = 0.5
    give((mine, other), 0)
    x.step()
    y.step()
    assert x.grad_norm == y.grad_norm is not None
    x.clip_norm = None
    x.on_nonfinite = "skip"
    mine[0].grad[0, 0] = float("nan")
    before = [p.detach().clone() for p in mine]
    x.step()
    assert x.skipped
    torch.testing.assert_close([p.detach() for p in mine], before, rtol=0, atol=0)


# Loading


@pytest.mark.parametrize("name", NAMES)
def test_two_optimizers_share_no_state_after_loading(name: str) -> None:
    mine, other = twins()
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    x, y = ours(name, mine, **options), ours(name, other, **options)
    give((mine, other), 0)
    x.step()
    saved = x.state_dict()
    kept = copy.deepcopy(saved["state"])
    y.load_state_dict(saved)
    y.step()
    y.step()
    torch.testing.assert_close(x.state_dict()["state"], kept, rtol=0, atol=0)
    addresses = [
        {v.data_ptr() for own in o.state.values() for v in own.values() if v.numel()}
        for o in (x, y)
    ]
    assert not addresses[0] & addresses[1]


def test_options_survive_pickling_and_are_checked_again() -> None:
    opt = ours("Adam", parameters(), clip_norm=2.0, on_nonfinite="skip", zero_grads=True)
    again = pickle.loads(pickle.dumps(opt))
    assert (again.clip_norm, again.on_nonfinite, again.zero_grads) == (2.0, "skip", True)
    with pytest.raises(ValueError, match=r"^clip_norm: "):
        again.clip_norm = -1.0
    assert again.state_dict()["state"] == {}
