"""Averages of weights that a step moves as it passes: what they are, where they stay, and what is
refused. Their bits in every layout are among the tests of storage."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import gradstep as gs
import ml_dtypes
import numpy as np
import pytest
from folded import folded
from gradstep import nn
from gradstep.spec import storage as spec
from gradstep.train import EMA

BF16 = ml_dtypes.bfloat16
F4 = np.float32
N = 2000


def good(seed: int = 0, dtype: Any = F4, n: int = N) -> Any:
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def test_one_pass_gives_the_bits_of_an_average_after_the_step() -> None:
    """Also of the masters of bfloat16 weights, and with a decay that changes."""

    def decay(t: int) -> float:
        return min(0.9, (1 + t) / (10 + t))

    for dtype, master in ((F4, None), (BF16, "float32"), (BF16, "split")):
        w = good(dtype=dtype)
        opt = gs.AdamW(w, lr=0.1, master=master, ema="float32", ema_decay=decay)
        apart = w.astype(F4)
        for t in range(1, 6):
            opt.step(good(t))
            own = opt.state[0]
            now = w
            if master == "float32":
                now = own["master"]
            elif master == "split":
                now = spec.from_split(w.view(np.uint16), own["master_low"])
            gs.ewma_(apart, now, decay(t))
        assert own["ema"].tobytes() == apart.tobytes(), (dtype, master)
        assert own["ema"].tobytes() != np.asarray(now).tobytes()


def test_an_average_in_bfloat16_moves_by_less_than_it_can_tell() -> None:
    """From 1 to 2: each step is a thousandth, where the next number is a 128th away."""
    w = np.ones(20_000, F4)
    opt = gs.SGD(w, lr=1.0, ema="bfloat16", ema_decay=0.999, seed=5)
    opt.step(np.full(20_000, -1, F4))
    average = opt.state[0]["ema"]
    still = np.zeros(20_000, F4)
    for _ in range(499):
        opt.step(still)
    assert abs(float(average.astype(F4).mean()) - (2 - 0.999**500)) < 1e-3
    nearest = F4(0.999) * F4(1) + F4(1 - 0.999) * F4(2)
    assert nearest.astype(BF16) == 1, "rounded to nearest it would stay"


@folded("kind", ["float32", "bfloat16"])
def test_a_refused_step_leaves_the_average(kind: str) -> None:
    w = good()
    opt = gs.AdamW(w, lr=0.1, ema=kind, on_nonfinite="skip")  # type: ignore[arg-type]
    opt.step(good(1))
    before = opt.state[0]["ema"].tobytes()
    bad = good(2)
    bad[-1] = np.inf
    assert opt.step(bad).skipped and opt.reference_step(bad).skipped
    assert opt.state[0]["ema"].tobytes() == before
    opt.step(good(3))
    assert opt.state[0]["ema"].tobytes() != before


def test_a_parameter_without_a_gradient_keeps_its_average() -> None:
    params = {"a": good(), "b": good(1)}
    opt = gs.SGD(params, lr=1.0, ema="float32", ema_decay=0.5)
    opt.step({"a": good(2), "b": good(3)})
    before = [opt.state[k]["ema"].tobytes() for k in "ab"]
    opt.step({"a": good(2), "b": None})
    after = [opt.state[k]["ema"].tobytes() for k in "ab"]
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)


@folded("kind", ["float32", "bfloat16"])
def test_training_resumes_with_its_average(tmp_path: Path, kind: Any) -> None:
    def begun() -> tuple[Any, Any]:
        w = {"w": good(dtype=BF16)}
        options: dict[str, Any] = {"master": "split", "state_dtype": "bfloat16", "seed": 3}
        return w, gs.AdamW(w, lr=0.1, ema=kind, ema_decay=0.9, **options)

    def steps(opt: Any, first: int, last: int) -> None:
        for t in range(first, last):
            opt.step({"w": good(t)})

    (w, straight), (saved, begin), (loaded, end) = begun(), begun(), begun()
    steps(straight, 0, 6)
    steps(begin, 0, 3)
    path = tmp_path / f"{kind}.gs"
    gs.save(path, w=saved, opt=begin)
    gs.load(path, w=loaded, opt=end)
    steps(end, 3, 6)
    copied = copy.deepcopy((saved, begin))
    again = pickle.loads(pickle.dumps((saved, begin)))
    for weights, opt in ((loaded, end), copied, again):
        if opt is not end:
            steps(opt, 3, 6)
        assert weights["w"].tobytes() == w["w"].tobytes()
        assert opt.state["w"]["ema"].tobytes() == straight.state["w"]["ema"].tobytes()


def test_in_a_block_the_parameters_are_their_averages() -> None:
    w, kept = good(dtype=BF16), good(1)
    opt = gs.SGD([w, kept], lr=1.0, master=None, ema="float32", ema_decay=0.5)
    opt.step([good(2), good(3)])
    before = [w.tobytes(), kept.tobytes()]
    own = [opt.state[i]["ema"] for i in range(2)]
    with pytest.raises(ZeroDivisionError), opt.averaged():
        assert w.tobytes() == own[0].astype(BF16).tobytes()
        assert kept.tobytes() == own[1].tobytes()
        with pytest.raises(RuntimeError, match="step: parameters hold their averages"):
            opt.step([good(2), good(3)])
        with pytest.raises(RuntimeError, match="averaged: called in a block of it"):
            opt.averaged().__enter__()
        with pytest.raises(RuntimeError, match="add_param_group: parameters hold their averages"):
            opt.add_param_group({"params": [good(4)]})
        raise ZeroDivisionError
    assert [w.tobytes(), kept.tobytes()] == before
    assert opt.step([good(2), good(3)]).step == 2


def test_weights_come_back_to_arrays_that_were_frozen_meanwhile() -> None:
    frozen, other = good(), good(1)
    opt = gs.SGD([frozen, other], lr=1.0, ema="float32")
    opt.step([good(2), good(3)])
    before = frozen.copy(), other.copy()
    with opt.averaged():
        frozen.flags.writeable = False
    assert np.array_equal(frozen, before[0]) and np.array_equal(other, before[1])
    frozen.flags.writeable = True
    opt.step([good(2), good(3)])


def test_masters_are_not_reloaded_from_averages() -> None:
    w = good(dtype=BF16)
    opt = gs.SGD(w, lr=1.0, master="float32", ema="float32", ema_decay=0.5)
    opt.step(good(2))
    before = opt.state[0]["master"].tobytes()
    with opt.averaged(), pytest.raises(RuntimeError, match="reload_masters: parameters hold"):
        opt.reload_masters()
    assert opt.state[0]["master"].tobytes() == before


def test_a_copy_that_is_made_in_a_block_goes_on_from_the_averages() -> None:
    w = good()
    opt = gs.SGD(w, lr=1.0, ema="float32", ema_decay=0.5)
    opt.step(good(2))
    with opt.averaged():
        copies = [copy.deepcopy((w, opt)), pickle.loads(pickle.dumps((w, opt)))]
    for weights, copied in copies:
        assert weights.tobytes() == opt.state[0]["ema"].tobytes()
        assert copied.step(good(3)).step == 2
        assert (weights == opt.state[0]["ema"] - good(3)).all()


def test_an_ema_of_a_model_takes_the_averages_of_its_optimizer() -> None:
    """What one pass does equals what `update` did; running statistics are still its work."""

    def network() -> Any:
        rng = np.random.default_rng(1)
        return nn.Sequential(nn.Linear(8, 4, rng=rng), nn.BatchNorm(4), nn.Linear(4, 2, rng=rng))

    options: dict[str, Any] = {"ema": "float32", "ema_decay": 0.75}
    found = []
    for fused in (False, True):
        net = network()
        opt = gs.AdamW(net.params, lr=0.1, **(options if fused else {}))
        ema = EMA(net, 0.75, optimizer=opt if fused else None)
        for t in range(5):
            y = net.forward(good(t, n=(16, 8)), True)
            net.backward(np.ones_like(y) * y)
            opt.step(net.grads)
            ema.update()
        with ema.swapped():
            swapped = {name: a.tobytes() for name, a in {**net.params, **net.buffers}.items()}
            if fused:
                with pytest.raises(RuntimeError, match="step: parameters hold their averages"):
                    opt.step(net.grads)
        assert ema.updates == 5
        assert opt.step(net.grads).step == 6
        found.append((swapped, {name: a.tobytes() for name, a in ema.averages.items()}))
    assert found[0][0] == found[1][0]
    moved = set(network().params)
    assert {k: v for k, v in found[0][1].items() if k not in moved} == {
        k: v for k, v in found[1][1].items() if k not in moved
    }


def group(**own: Any) -> Any:
    return {"params": good(), **own}


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "another type": (
        lambda: gs.AdamW(good(), ema="float16"),
        ValueError,
        "^ema: 'float16', expected 'float32' or 'bfloat16'",
    ),
    "float64": (
        lambda: gs.AdamW({"w": good(dtype=float)}, ema="float32"),
        TypeError,
        r"^params\['w'\]: float64 with ema='float32', expected None; gradstep.train.EMA averages",
    ),
    "a decay of nothing": (
        lambda: gs.AdamW(good(), ema_decay=0.99),
        ValueError,
        "^ema_decay: 0.99 without ema, expected ema='float32' or 'bfloat16' with it",
    ),
    "a decay of 1": (
        lambda: gs.AdamW(good(), ema="float32", ema_decay=1.0),
        ValueError,
        r"^ema_decay: 1, expected a number in \[0, 1\)",
    ),
    "a decay of a schedule": (
        lambda: gs.AdamW(good(), ema="float32", ema_decay=lambda t: 2.0),
        ValueError,
        r"^ema_decay: 2, expected a number in \[0, 1\)",
    ),
    "changed later": (
        lambda: setattr(gs.AdamW(good()), "ema", "float32"),
        AttributeError,
        "^ema: holds from when the optimizer was made on",
    ),
    "an EMA of another model": (
        lambda: EMA({"w": good()}, optimizer=gs.AdamW(good(), ema="float32")),
        ValueError,
        "^optimizer: averages none of the model's arrays, expected ema='float32' over them",
    ),
    "an EMA of no optimizer": (
        lambda: EMA({"w": good()}, optimizer=0.9),  # type: ignore[arg-type]
        TypeError,
        "^optimizer: float, expected one of gradstep.OPTIMIZERS",
    ),
}


@folded("case", BAD)
def test_what_does_not_fit_is_refused(case: str) -> None:
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        call()


def test_other_averages_are_not_loaded() -> None:
    w = good()
    opt = gs.AdamW(w, ema="bfloat16")
    opt.step(good(1))
    saved = opt.state_dict()
    for kind in (None, "float32"):
        other = gs.AdamW(good(), ema=kind)  # type: ignore[arg-type]
        expected = rf"\['ema'\]: 'bfloat16', expected {kind!r} as this optimizer has"
        with pytest.raises(ValueError, match=expected):
            other.load_state_dict(saved)
    with pytest.raises(ValueError, match=r"^optimizer: ema of bfloat16 for model\['w'\], expected"):
        EMA({"w": w}, optimizer=opt)


def test_groups_may_differ() -> None:
    head, body = good(), good(1)
    opt = gs.SGD([group(params=head, ema="float32"), group(params=body)], lr=1.0, ema_decay=0.5)
    opt.step([good(2), good(3)])
    assert [list(own) for own in opt.state.values()] == [["ema"], []]
    with opt.averaged():
        assert head.tobytes() == opt.state[0]["ema"].tobytes()
