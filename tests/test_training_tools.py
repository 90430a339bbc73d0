"""Tools of training: when to stop, averages, a look inside, and their states."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import nn
from gradstep.train import (
    EMA,
    SWA,
    EarlyStopping,
    MiniBatches,
    ReduceOnPlateau,
    describe,
    overfit_test,
    update_batch_norm,
)

F4 = np.float32
Python = Callable[..., str]


def network(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    return nn.mlp([4, 8, 3], seed=seed, batch_norm=True, dropout=dropout)


def bits(network: nn.Layer) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in network.state_dict().items()}


def data(rows: int = 40, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 4), F4), rng.integers(0, 3, rows)


# Stopping and rates


@pytest.mark.parametrize(
    ("options", "values", "stops", "best"),
    [
        ({"patience": 2}, [3, 1, 2, 1, 0.5], [False, False, False, True, False], 4),
        ({"patience": 1, "mode": "max"}, [1, 2, 2, 3], [False, False, True, False], 3),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.0], [False, False, False, False], 2),
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.5, 2.0], [False, False, True, False], 3),
        ({"patience": 1}, [math.nan, 2, math.nan, 1], [True, False, True, False], 3),
    ],
)
def test_early_stopping_counts_epochs_since_the_best(
    options: dict[str, Any], values: list[float], stops: list[bool], best: int
) -> None:
    w = np.zeros(1)
    stopping = EarlyStopping([w], **options)
    for epoch, (value, stop) in enumerate(zip(values, stops, strict=True)):
        w[:] = epoch
        assert stopping.update(value) is stop
        assert stopping.stopped is stop
    assert (stopping.restore(), stopping.best_epoch, stopping.best) == (best, best, values[best])
    assert w.tolist() == [best]


def test_early_stopping_brings_back_all_of_a_network() -> None:
    net = network(dropout=0.5)
    net.forward(data()[0])
    stopping = EarlyStopping(net, 3)
    stopping.update(1.0)
    best = bits(net)
    net.forward(data()[0])
    net.params["0.weight"][:] = 0
    stopping.update(2.0)
    stopping.restore()
    assert bits(net) == best


def test_reduce_on_plateau_lowers_numbers_and_schedules() -> None:
    schedule = gs.warmup(2, gs.cosine(0.8, 10))
    groups = [{"params": [np.zeros(2)], "lr": 0.4}, {"params": [np.zeros(2)], "lr": schedule}]
    opt = gs.SGD(groups)
    plateau = ReduceOnPlateau(opt, factor=0.5, patience=2, min_lr=0.15)
    assert [plateau.update(v) for v in (3, 2, 2, 2, 2, 2)] == [*[False] * 3, True, False, True]
    assert (opt.param_groups[0]["lr"], plateau.scale, plateau.best) == (0.15, 0.25, 2)
    rate = opt.param_groups[1]["lr"]
    assert [rate(t) for t in (1, 3, 13)] == [
        max(0.25 * schedule(1), min(schedule(1), 0.15)),
        0.2,
        0.0,
    ]
    opt.step([[np.ones(2)], [np.ones(2)]])
    opt.param_groups[0]["lr"] = 1.0  # what the user sets meanwhile is what is lowered next
    assert [plateau.update(2), plateau.update(2), opt.param_groups[0]["lr"]] == [False, True, 0.5]


def test_reduce_on_plateau_waits_after_a_change() -> None:
    opt = gs.SGD(np.zeros(2), lr=1.0)
    plateau = ReduceOnPlateau(opt, factor=0.1, patience=1, cooldown=2, mode="max", min_delta=0.5)
    changes = [plateau.update(value) for value in (1, 1.4, 1.4, 1.4, 1.4, 1.4, 3, 3)]
    assert changes == [False, True, False, False, True, False, False, True]
    assert opt.lr == pytest.approx(1e-3)


# Averages


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ema_is_the_average_to_the_bit(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 5)).astype(dtype)
    ema, expected = EMA({"w": w}, decay=0.9), w.copy()
    for _ in range(5):
        w += rng.standard_normal((3, 5)).astype(dtype)
        ema.update()
        expected = dtype(0.9) * expected + dtype(1 - 0.9) * w
    assert ema.averages["w"].tobytes() == expected.tobytes()
    assert ema.updates == 5


@pytest.mark.parametrize("kind", [EMA, SWA])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_of_an_average_follows_its_own_model(kind: Any, copied: Any) -> None:
    net = network()
    average = kind(net)
    average.update()
    own, other = copied((net, average))
    own.params["0.weight"] += 1
    before = average.averages["0.weight"].copy()
    other.update()
    assert (average.averages["0.weight"] == before).all()
    assert (other.averages["0.weight"] > before).all()


def test_ema_takes_a_function_and_a_warmup() -> None:
    for options, shares in (
        ({"decay": lambda t: 1 / (1 + t)}, [1 / 2, 1 / 3]),
        ({"decay": 0.99, "warmup": True}, [2 / 11, 3 / 12]),
        ({"decay": 0.2, "warmup": True}, [2 / 11, 0.2]),
    ):
        w, expected = np.zeros(1), 0.0
        ema = EMA([w], **options)
        for share in shares:
            w += 1
            ema.update()
            expected = share * expected + (1 - share) * w[0]
        assert ema.averages["0"][0] == pytest.approx(expected)


def test_swa_is_the_mean() -> None:
    rng = np.random.default_rng(0)
    w, seen = np.zeros((4, 3)), []
    swa = SWA([w])
    for _ in range(7):
        w[:] = rng.standard_normal((4, 3))
        seen.append(w.copy())
        swa.update()
    np.testing.assert_allclose(swa.averages["0"], np.mean(seen, axis=0), rtol=1e-13)


@pytest.mark.parametrize("order", ["C", "F"])
def test_averages_come_and_go_in_place(order: Any) -> None:
    net = network()
    net.params["0.weight"][:] = 1
    tree = {"w": np.ones((2, 3), order=order)}
    for model, kind in ((net, EMA), (net, SWA), (tree, EMA), (tree, SWA)):
        arrays = model if isinstance(model, dict) else model.params
        average = kind(model)
        before = {name: array.copy() for name, array in arrays.items()}
        for array in arrays.values():
            array += 1
        live = {name: array.tobytes() for name, array in arrays.items()}
        with average.swapped():
            assert all((array == before[name]).all() for name, array in arrays.items())
            for call in (average.update, average.state_dict, average.swapped().__enter__):
                with pytest.raises(RuntimeError, match="called while swapped, expected swap"):
                    call()
        assert {name: array.tobytes() for name, array in arrays.items()} == live
        with pytest.raises(KeyError), average.swapped():
            raise KeyError
        assert {name: array.tobytes() for name, array in arrays.items()} == live


def test_an_average_gives_better_weights_than_the_last_noisy_ones() -> None:
    rng = np.random.default_rng(0)
    w = np.full(50, 5.0)
    opt, ema, swa = gs.SGD([w], lr=0.2), EMA([w], 0.95), SWA([w])
    for step in range(300):
        opt.step([w + rng.standard_normal(50)])
        ema.update()
        if step >= 100:
            swa.update()
    last = np.linalg.norm(w)
    for average in (ema, swa):
        with average.swapped():
            assert np.linalg.norm(w) < 0.5 * last


def test_running_statistics_are_made_anew() -> None:
    net = network(dropout=0.5)
    x, _ = data(60)
    net.forward(x)
    calls, params = net.buffers["2.calls"].copy(), bits(net)
    update_batch_norm(net, [(x[:20], 0), x[20:40], [x[40:]]])
    first = [x[i : i + 20] @ net.params["0.weight"].T for i in (0, 20, 40)]
    mean = np.mean([h.mean(0) for h in first], axis=0)
    np.testing.assert_allclose(net.buffers["1.running_mean"], mean, rtol=1e-4, atol=1e-6)
    assert net.buffers["1.num_batches_tracked"] == 3
    assert net.buffers["2.calls"] == calls
    assert bits(net)["0.weight"] == params["0.weight"]
    after = bits(net)
    for wrong in ([], [x, x[:, :2]]):
        with pytest.raises(ValueError):
            update_batch_norm(net, wrong)
        assert bits(net) == after
    net.forward(x)  # the momentum is what it was
    changed = 0.9 * mean + 0.1 * (x @ net.params["0.weight"].T).mean(0)
    np.testing.assert_allclose(net.buffers["1.running_mean"], changed, rtol=1e-4, atol=1e-6)


# A look inside


def test_describe_finds_the_layer_where_signals_end() -> None:
    rng = np.random.default_rng(0)
    net = nn.Sequential(
        nn.Linear(4, 5, rng), nn.Residual(nn.Linear(5, 5, rng), nn.ReLU()), nn.Linear(5, 3, rng)
    )
    net.params["1.0.bias"][:] = -1e6
    net.params["2.weight"][0, 0] = np.nan
    x, y = data()
    before = bits(net)
    layers = describe(net, x)
    assert bits(net) == before
    assert [layer.name for layer in layers] == ["0", "1.0", "1.1", "2"]
    assert [layer.kind for layer in layers] == ["Linear", "Linear", "ReLU", "Linear"]
    assert [layer.size for layer in layers] == [25, 30, 0, 18]
    assert (layers[2].zeros, layers[2].params, layers[2].grads) == (1.0, None, None)
    weights = np.concatenate([net.params["0.weight"].ravel(), net.params["0.bias"]])
    found = layers[0].params
    assert found is not None and found.size == 25
    np.testing.assert_allclose(found[:2], [weights.min(), weights.max()])
    np.testing.assert_allclose(found.mean, weights.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.rms, np.sqrt((weights**2).mean()), rtol=1e-5)
    assert layers[3].params is not None and layers[3].params.nonfinite == 1
    assert layers[3].outputs is not None and layers[3].outputs.nonfinite == 40
    assert all("forward" not in vars(layer) for layer in nn.layer.walk(net))
    lines = str(layers).splitlines()
    assert lines[0].split()[:3] == ["layer", "kind", "parameters"]
    assert lines[3].split()[-2:] == ["0", "100%"]
    net.params["2.weight"][0, 0] = 0
    net.parameter_gradients(gs.cross_entropy(net.forward(x), y)[1])
    layers = describe(net)
    assert layers[1].grads is not None and layers[1].grads.max == layers[1].grads.min == 0
    assert layers[3].grads is not None and layers[3].grads.rms > 0
    assert layers[0].outputs is None


def test_a_network_that_can_learn_does_and_is_left_alone() -> None:
    net = network(dropout=0.5)
    x, y = data()
    before = bits(net)
    found = overfit_test(net, x, y)
    assert found.reached and found.losses[-1] <= 0.01 < found.losses[0]
    assert found.steps == len(found.losses) < 500
    assert bits(net) == before
    assert [layer.p for layer in net.layers if isinstance(layer, nn.Dropout)] == [0.5]


def test_a_network_that_cannot_learn_is_found_out() -> None:
    x, y = data()
    frozen = nn.Sequential(nn.Linear(4, 3, np.random.default_rng(0)))
    assert not overfit_test(frozen, x, y, rows=30, steps=50).reached
    found = overfit_test(network(), x, y, make_optimizer=lambda p: gs.SGD(p, lr=1e30))
    assert not found.reached and not math.isfinite(found.losses[-1])


def test_a_regression_can_be_tested_too() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4), F4), rng.standard_normal((30, 1), F4)
    net = nn.Sequential(nn.Linear(4, 32, rng), nn.Tanh(), nn.Linear(32, 1, rng))
    assert overfit_test(net, x, y, loss=gs.mse, rows=8, target=1e-3).reached


# Checkpoints, errors


def test_tools_go_into_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")

    def tools() -> dict[str, Any]:
        net = network()
        opt = gs.SGD(net.params, lr=gs.constant(0.1))
        return {
            "model": net,
            "optimizer": opt,
            "stopping": EarlyStopping(net, 3),
            "plateau": ReduceOnPlateau(opt, patience=1, factor=0.5, cooldown=1),
            "ema": EMA(net, 0.5),
            "swa": SWA(net),
            "rows": MiniBatches(*data(), size=16),
        }

    def run(parts: dict[str, Any], losses: list[float]) -> list[Any]:
        net, seen = parts["model"], []
        for loss in losses:
            for x, y in parts["rows"]:
                net.parameter_gradients(gs.cross_entropy(net.forward(x, True), y)[1])
                parts["optimizer"].step(net.grads)
                parts["ema"].update()
            parts["swa"].update()
            seen += [parts["stopping"].update(loss), parts["plateau"].update(loss)]
            seen.append(parts["optimizer"].param_groups[0]["lr"](1))
        averages = [a.tobytes() for of in ("ema", "swa") for a in parts[of].averages.values()]
        return [seen[-6:], bits(net), averages]

    losses = [3, 2, 2.5, 2.4, 2.3, 2.2]
    whole, first, second = tools(), tools(), tools()
    expected = run(whole, losses)
    run(first, losses[:4])
    gs.save(tmp_path / "run", **first)
    gs.load(tmp_path / "run", **second)
    assert run(second, losses[4:]) == expected
    for parts in (whole, second):
        assert parts["stopping"].restore() == 1
    assert bits(whole["model"]) == bits(second["model"])


NET = network()
OPT = gs.SGD(np.zeros(2), lr=1.0)
X, Y = data()
FROZEN = np.zeros(2)
FROZEN.flags.writeable = False
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: EarlyStopping(NET, 0), ValueError, "patience: 0, expected an integer >= 1"),
    (
        lambda: EarlyStopping(NET, 1, mode="best"),
        ValueError,
        "mode: 'best', expected 'min' or 'max'",
    ),
    (
        lambda: EarlyStopping(NET, 1, min_delta=-1),
        ValueError,
        "min_delta: -1, expected a number >= 0",
    ),
    (lambda: EarlyStopping(3, 1), TypeError, "model: int, expected an array"),
    (lambda: EarlyStopping([], 1), ValueError, "model: no arrays, expected at least one"),
    (lambda: EarlyStopping(NET, 1).update("low"), TypeError, "value: str, expected a number"),
    (lambda: EarlyStopping(NET, 1).load_state_dict({}), ValueError, "state_dict: no 'best'"),
    (
        lambda: EarlyStopping([X], 1).load_state_dict(EarlyStopping([Y], 1).state_dict()),
        TypeError,
        "state_dict['arrays']['0']: dtype int64, expected float32",
    ),
    (
        lambda: EarlyStopping([X], 1).load_state_dict(EarlyStopping([X[:3]], 1).state_dict()),
        ValueError,
        "state_dict['arrays']['0']: shape (3, 4), expected (40, 4)",
    ),
    (
        lambda: EarlyStopping([X], 1).load_state_dict(EarlyStopping({"x": X}, 1).state_dict()),
        ValueError,
        "state_dict['arrays']: unknown 'x', expected one of 0",
    ),
    (lambda: ReduceOnPlateau(NET), TypeError, "optimizer: Sequential, expected an optimizer of"),
    (lambda: ReduceOnPlateau(OPT, factor=1), ValueError, "factor: 1, expected a number in (0, 1)"),
    (
        lambda: ReduceOnPlateau(OPT, cooldown=-1),
        ValueError,
        "cooldown: -1, expected an integer >= 0",
    ),
    (lambda: EMA(NET, 1.0), ValueError, "decay: 1.0, expected a number in [0, 1)"),
    (lambda: EMA([X], lambda t: 2).update(), ValueError, "decay: 2, expected a number in [0, 1)"),
    (lambda: EMA([X[:, ::2]]), ValueError, "model['0']: not contiguous, expected C or F order"),
    (lambda: SWA([X.astype("f2")]), TypeError, "model['0']: float16, expected float32 or float64"),
    (lambda: EMA([FROZEN]), ValueError, "model[0]: read-only, expected a writable array"),
    (lambda: EarlyStopping(FROZEN, 1), ValueError, "model: read-only, expected a writable array"),
    (lambda: SWA([X]).load_state_dict({"updates": -1}), ValueError, "state_dict['updates']: -1"),
    (
        lambda: update_batch_norm([X], [X]),
        TypeError,
        "model: list, expected a layer of gradstep.nn",
    ),
    (lambda: describe([X]), TypeError, "model: list, expected a layer of gradstep.nn"),
    (lambda: overfit_test([X], X, Y), TypeError, "model: list, expected a layer of gradstep.nn"),
    (lambda: overfit_test(NET, X, Y[1:]), ValueError, "y: 39 rows, expected 40 as in x"),
    (lambda: overfit_test(NET, X, Y, rows=1), ValueError, "rows: 1, expected an integer from 2 to"),
    (lambda: overfit_test(NET, X, Y, target=0), ValueError, "target: 0, expected a number > 0"),
]


@pytest.mark.parametrize(("call", "kind", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_wrong_arguments_are_named(
    call: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(message)


def test_import_gradstep_does_not_pay(python: Python) -> None:
    code = """
import sys
import gradstep as gs
print(*sorted(name for name in sys.modules if name.startswith("gradstep.train")))
print(gs.train.EMA.__module__, gs.train.metrics.f1([1, 0], [1, 0]), gs.train.class_weights([0]))
try:
    gs.train.Nothing
except AttributeError as error:
    print(error)
"""
    assert python(code).splitlines() == [
        "gradstep.train gradstep.train.lr_search",
        "gradstep.train.averages 1.0 [1.]",
        "module 'gradstep.train' has no attribute 'Nothing'",
    ]
