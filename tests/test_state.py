"""Checkpoints and changes on the way: a run goes on with the bits it would have had."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from cases import label, variants
from folded import folded

Refused = Callable[..., Any]
F4 = np.float32
CASES = list(variants())
each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=label)


def good(shape: Any = (2, 3), dtype: Any = F4, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def tensors(seed: int) -> dict[str, Any]:
    return {
        "w": good((5, 7), seed=seed),
        "turned": np.asfortranarray(good((3, 4), seed=seed + 1)),
        "double": good(33, "f8", seed + 2),
        "empty": good((0, 2), seed=seed + 3),
        "scalar": good((), seed=seed + 4),
    }


def gradients(t: int) -> dict[str, Any]:
    """Those of a step; one tensor takes part in every second step only."""
    grads = tensors(100 * t)
    return {**grads, "double": grads["double"] if t % 2 else None}


def as_it_is(saved: Any, path: Any) -> Any:
    return saved


def pickled(saved: Any, path: Any) -> Any:
    return pickle.loads(pickle.dumps(saved))


def in_files(saved: Any, path: Any) -> Any:
    """Arrays through np.savez, the rest through JSON."""
    arrays = {
        f"{key}/{name}": value
        for key, state in saved["state"].items()
        for name, value in state.items()
        if isinstance(value, np.ndarray)
    }
    np.savez(path / "arrays.npz", **arrays)
    steps = {key: state["step"] for key, state in saved["state"].items()}
    text = json.dumps({**saved, "state": steps})
    restored = json.loads(text)
    restored["state"] = {key: {"step": step} for key, step in restored["state"].items()}
    with np.load(path / "arrays.npz") as found:
        for both in found.files:
            key, _, name = both.partition("/")
            restored["state"][key][name] = found[both]
    return restored


@folded("carry", [as_it_is, copy.deepcopy, pickled, in_files])
@each_case
def test_a_resumed_run_has_the_same_bits(
    name: str, options: Any, carry: Any, tmp_path: Any, contents: Any
) -> None:
    cls = gs.OPTIMIZERS[name]
    first = cls(tensors(0), **options, clip_norm=2.0)
    for t in range(1, 5):
        first.step(gradients(t))
    saved = first.state_dict()
    saved = carry(saved) if carry is copy.deepcopy else carry(saved, tmp_path)
    weights = dict(zip(tensors(0), (a.copy(order="K") for a in first._arrays), strict=True))
    resumed = cls(weights, clip_norm=2.0)  # without the options: they are in the checkpoint
    resumed.load_state_dict(saved)
    assert contents(resumed)[:2] == contents(first)[:2]
    for t in range(5, 9):
        method = "step" if t % 3 else "reference_step"
        assert getattr(resumed, method)(gradients(t)) == first.step(gradients(t))
    assert contents(resumed)[:2] == contents(first)[:2]
    assert contents(resumed)[3:] == contents(first)[3:]


@folded("carry", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@each_case
def test_a_copied_optimizer_goes_on_alone(
    name: str, options: Any, carry: Any, contents: Any
) -> None:
    params, grads = tensors(0), tensors(1)
    first = gs.OPTIMIZERS[name](params, **options, clip_value=0.5)
    first.bind(grads)
    first.step()
    twin_params, twin_grads, twin = carry((params, grads, first))
    assert contents(twin)[:2] == contents(first)[:2]
    before = contents(first)
    twin.lr = 0.25
    twin.step()
    assert contents(first) == before
    first.lr = 0.25
    first.step()
    for key, value in tensors(7).items():
        grads[key][...] = twin_grads[key][...] = value
    assert first.step() == twin.reference_step() == (3, 0.25, None, False)
    assert contents(twin)[:2] == contents(first)[:2]
    assert all(twin._arrays[i] is twin_params[key] for i, key in enumerate(twin_params))


def test_a_state_dict_is_a_copy(contents: Any) -> None:
    optimizer, other = gs.Adam(tensors(0)), gs.Adam(tensors(0))
    optimizer.step(tensors(1))
    saved, kept = optimizer.state_dict(), pickle.dumps(optimizer.state_dict())
    optimizer.step(tensors(2))
    assert pickle.dumps(saved) == kept
    other.load_state_dict(saved)
    before = contents(optimizer), contents(other)
    for state in saved["state"].values():
        state["exp_avg"].fill(7)
        state["step"] = 99
    saved["param_groups"][0]["lr"] = 99.0
    saved["param_groups"][0]["params"].clear()
    assert (contents(optimizer), contents(other)) == before


def test_state_holds_the_arrays_themselves() -> None:
    optimizer = gs.SGD(np.zeros(3), lr=1.0, momentum=0.5)
    optimizer.step(np.ones(3))
    assert optimizer.state[0]["momentum_buffer"].tolist() == [1.0] * 3
    optimizer.state[0]["momentum_buffer"].fill(4.0)
    optimizer.step(np.ones(3))
    assert optimizer.state[0]["momentum_buffer"].tolist() == [3.0] * 3


def test_nobody_can_move_or_freeze_the_memory_of_a_state() -> None:
    optimizer = gs.SGD(np.zeros(3), lr=1.0, momentum=0.5)
    buffer = optimizer.state[0]["momentum_buffer"]
    with pytest.raises(ValueError, match="does not own its data"):
        buffer.resize(1 << 20, refcheck=False)
    buffer.flags.writeable = False
    optimizer.step(np.ones(3))
    optimizer.load_state_dict(optimizer.state_dict())
    assert buffer.tolist() == [1.0] * 3


def at_step(optimizer: gs.Optimizer, taken: int) -> None:
    saved = optimizer.state_dict()
    saved["step"] = np.int64(taken)
    for state in saved["state"].values():
        state["step"] = taken
    optimizer.load_state_dict(saved)


@folded("step", [1, 2, 256, 257, 2**24 + 1, 2**53, 2**53 + 1, 2**62 - 1])
@each_case
def test_steps_are_counted_exactly(name: str, options: Any, step: int, contents: Any) -> None:
    pair = [gs.OPTIMIZERS[name]([good(20), good(20, "f8")], **options) for _ in range(2)]
    grads = [good(20, seed=1), good(20, "f8", 2)]
    for optimizer in pair:
        at_step(optimizer, step - 1)
    assert pair[0].step(grads).step == pair[1].reference_step(grads).step == step
    assert contents(pair[0])[:2] == contents(pair[1])[:2]
    assert pair[0].state_dict()["state"][1]["step"] == step


@folded("step", [257, 2**24 + 1, 2**27])
@pytest.mark.parametrize("name", [n for n, c in gs.OPTIMIZERS.items() if "betas" in c._defaults()])
def test_slow_averages_are_still_corrected_at_late_steps(
    name: str, step: int, contents: Any
) -> None:
    betas = (1 - 2**-26, 1 - 2**-27)  # their powers are not yet 0
    pair = [gs.OPTIMIZERS[name](good(20, "f8"), betas=betas) for _ in range(2)]
    for optimizer in pair:
        at_step(optimizer, step - 1)
    assert pair[0].step(good(20, "f8", 1)) == pair[1].reference_step(good(20, "f8", 1))
    assert contents(pair[0])[:2] == contents(pair[1])[:2]


def test_late_steps_still_change() -> None:
    rates = []
    for step in (2**24, 2**24 + 1, 2**24 + 2):
        w = np.zeros(1)
        optimizer = gs.Adagrad(w, lr=1.0, lr_decay=1.0)
        at_step(optimizer, step - 1)
        optimizer.step(np.ones(1))
        rates.append(float(w[0]) * step)
    assert rates == pytest.approx([-1.0] * 3, rel=1e-9)


Change = Callable[[dict[str, Any]], Any]


def put(*path: Any) -> Change:
    """Sets saved[...][...] = the last of `path`."""

    def change(saved: Any) -> Any:
        inner = saved
        for key in path[:-2]:
            inner = inner[key]
        inner[path[-2]] = path[-1]
        return saved

    return change


def drop(*path: Any) -> Change:
    def change(saved: Any) -> Any:
        inner = saved
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return saved

    return change


G, ABC = "param_groups", "'a', 'b', 'c'"
KEYS = ("optimizer", "step", "param_groups", "state")
NAMES = ["a", "b", "c"]
MALFORMED: list[tuple[Change, type[Exception], str]] = [
    (lambda saved: None, TypeError, "state_dict: NoneType, expected a mapping"),
    (lambda saved: [saved], TypeError, "state_dict: list, expected a mapping"),
    (lambda saved: {}, ValueError, "state_dict: no 'optimizer'"),
    *((drop(key), ValueError, f"state_dict: no {key!r}") for key in KEYS),
    (put("optimizer", "SGD"), ValueError, "state_dict: of SGD, expected AdamW"),
    (put("optimizer", None), ValueError, "state_dict: of None, expected AdamW"),
    *(
        (put("step", step), kind, f"state_dict['step']: {message}")
        for step, kind, message in (
            (-1, ValueError, "-1, expected an integer >= 0"),
            (2**62 + 1, ValueError, f"{2**62 + 1}, expected an integer <= 2**62"),
            (1.0, TypeError, "float, expected an integer"),
            (True, TypeError, "bool, expected an integer"),
            (None, TypeError, "NoneType, expected an integer"),
        )
    ),
    *(
        (put(G, groups), ValueError, "state_dict['param_groups']: expected a list of 1")
        for groups in (None, [], {}, [{}, {}], "x")
    ),
    (put(G, [3]), TypeError, "state_dict['param_groups'][0]: int, expected a mapping"),
    (drop(G, 0, "params"), ValueError, "state_dict['param_groups'][0]: no 'params'"),
    *(
        (put(G, 0, "params", names), kind, f"state_dict['param_groups'][0]['params']: {message}")
        for names, kind, message in (
            (["a", "b"], ValueError, "no 'c', expected the 3 of this optimizer"),
            ([], ValueError, "no 'a', 'b', 'c', expected the 3 of this optimizer"),
            ([*"abcd"], ValueError, "unknown 'd', expected the 3 of this optimizer"),
            ([0, 1, 2], ValueError, f"no {ABC}, unknown 0, 1, 2, expected the 3 of this optimizer"),
            ([*"aabc"], ValueError, f"4 names, expected each of {ABC} once"),
            (None, TypeError, "NoneType, expected a list of names or indices"),
            (3, TypeError, "int, expected a list of names or indices"),
            ("abc", TypeError, "str, expected a list of names or indices"),
            ([[]], TypeError, "list, expected a list of names or indices"),
        )
    ),
    (
        put(G, 0, "lrr", 1),
        ValueError,
        "state_dict['param_groups'][0]: unknown hyperparameter 'lrr'",
    ),
    (put(G, 0, "lr", -1), ValueError, "lr: -1, expected a number in [0, inf)"),
    (put(G, 0, "lr", None), TypeError, "lr: NoneType, expected a number"),
    (put(G, 0, "betas", [0.9]), TypeError, "betas: [0.9], expected 2 numbers"),
    (put(G, 0, "betas", [0.9, 1.0]), ValueError, "betas: 1, expected a number in [0, 1)"),
    (put(G, 0, "amsgrad", 1), TypeError, "amsgrad: int, expected True or False"),
    (put(G, 0, "amsgrad", True), ValueError, "state_dict['state']['a']: no 'max_exp_avg_sq'"),
    (put("state", None), TypeError, "state_dict['state']: NoneType, expected a mapping"),
    (put("state", []), TypeError, "state_dict['state']: list, expected a mapping"),
    (put("state", "d", {}), ValueError, "state_dict['state']: unknown parameter 'd'"),
    (put("state", {}), ValueError, "state_dict['state']: no 'a'"),
]  # fmt: skip
for which in NAMES:
    where = f"state_dict['state']['{which}']"
    array = f"{where}['exp_avg_sq']"
    MALFORMED += [
        (drop("state", which), ValueError, f"state_dict['state']: no '{which}'"),
        (put("state", which, 3), TypeError, f"{where}: int, expected a mapping"),
        (drop("state", which, "step"), ValueError, f"{where}: no 'step'"),
        (
            put("state", which, "step", -1),
            ValueError,
            f"{where}['step']: -1, expected an integer >= 0",
        ),
        (put("state", which, "step", "1"), TypeError, f"{where}['step']: str, expected an integer"),
        (drop("state", which, "exp_avg_sq"), ValueError, f"{where}: no 'exp_avg_sq'"),
    ]  # fmt: skip
    MALFORMED += [
        (put("state", which, "exp_avg_sq", value), kind, f"{array}: {message}")
        for value, kind, message in (
            ([[0.0] * 3] * 2, TypeError, "list, expected a numpy.ndarray"),
            (None, TypeError, "NoneType, expected a numpy.ndarray"),
            (F4(1), TypeError, "float32, expected a numpy.ndarray"),
            (good(dtype="f8"), TypeError, "dtype float64, expected float32"),
            (good(dtype=">f4"), TypeError, "dtype >f4, expected float32"),
            (np.ma.array(good()), TypeError, "a masked array, expected a plain numpy.ndarray"),
            (good((3, 2)), ValueError, "shape (3, 2), expected (2, 3)"),
            (good(()), ValueError, "shape (), expected (2, 3)"),
        )
    ]


@pytest.mark.parametrize("case", MALFORMED, ids=[message for _, _, message in MALFORMED])
def test_a_malformed_state_dict_changes_nothing(case: Any, refused: Refused, contents: Any) -> None:
    change, kind, message = case
    optimizer, twin = (
        gs.AdamW({name: good(seed=i) for i, name in enumerate(NAMES)}) for _ in range(2)
    )
    source = gs.AdamW({name: good(seed=5 + i) for i, name in enumerate(NAMES)}, lr=0.5)
    grads = {name: good(seed=10 + i) for i, name in enumerate(NAMES)}
    for each in (optimizer, twin, source):
        each.step(grads)
    with refused(optimizer, kind, message):
        optimizer.load_state_dict(change(source.state_dict()))
    assert optimizer.step(grads) == twin.step(grads)
    assert contents(optimizer)[:2] == contents(twin)[:2]


def test_a_group_without_tensors_is_verified_too(refused: Refused) -> None:
    optimizer = gs.SGD([{"params": []}, {"params": [good()]}])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["nesterov"] = True
    with refused(optimizer, ValueError, "nesterov: True, expected a momentum > 0 with it"):
        optimizer.load_state_dict(saved)


def test_any_layout_of_the_saved_arrays_will_do(contents: Any) -> None:
    source, turned = (gs.SGD(good(), momentum=0.9) for _ in range(2))
    target = gs.SGD(np.asfortranarray(good()))
    for optimizer in (source, turned):
        optimizer.step(good(seed=1))
    saved = source.state_dict()
    wide = np.zeros((2, 6), F4)
    wide[:, ::2] = saved["state"][0]["momentum_buffer"]
    saved["state"][0]["momentum_buffer"] = wide[:, ::2]
    for optimizer in (turned, target):
        optimizer.load_state_dict(saved)
        optimizer.step(np.asarray(good(seed=2), order="F" if optimizer is target else "C"))
    buffers = [optimizer.state[0]["momentum_buffer"] for optimizer in (turned, target)]
    np.testing.assert_array_equal(*buffers, strict=True)


def test_schedules_stay_and_go_on_at_the_right_step() -> None:
    def rates(optimizer: gs.Optimizer, steps: int) -> list[float]:
        return [optimizer.step(np.ones(2)).lr for _ in range(steps)]

    halving, betas = gs.exponential(1.0, 0.5), (0.9, gs.exponential(0.5, 0.5))
    first = gs.Adam(np.zeros(2), lr=halving, betas=betas, eps=0.5)
    assert rates(first, 3) == [halving(t) for t in (1, 2, 3)]
    saved = first.state_dict()
    assert not {"lr", "betas"} & set(saved["param_groups"][0])
    resumed = gs.Adam(np.zeros(2), lr=halving, betas=betas)
    resumed.load_state_dict(pickle.loads(pickle.dumps(saved)))
    assert (resumed.lr, resumed.betas, resumed.eps) == (halving, betas, 0.5)
    assert rates(resumed, 3) == [halving(t) for t in (4, 5, 6)]
    plain = gs.Adam(np.zeros(2), lr=3.0)
    plain.load_state_dict(saved)
    assert rates(plain, 1) == [3.0]
    scheduled = gs.Adam(np.zeros(2), lr=halving)
    scheduled.load_state_dict(plain.state_dict())
    assert rates(scheduled, 1) == [halving(5)]


def test_a_schedule_that_ends_before_the_loaded_step_stops_the_step(refused: Refused) -> None:
    source = gs.SGD(good())
    for t in range(3):
        source.step(good(seed=t))
    optimizer = gs.SGD(good(), lr=lambda t: 1.0 if t < 3 else -1.0)
    optimizer.load_state_dict(source.state_dict())
    assert optimizer.step_count == 3
    with refused(optimizer, ValueError, "lr: -1, expected a number in [0, inf)"):
        optimizer.step(good())


def test_loading_twice_without_a_step_between() -> None:
    pair = []
    for method in ("step", "reference_step"):
        plain, moving = gs.SGD(good()), gs.SGD(good(), momentum=0.9)
        optimizer = gs.SGD(good(), momentum=0.5)
        optimizer.bind(good(seed=3))
        for source in (plain, moving):
            source.step(good(seed=1))
        for source in (moving, plain, moving, plain, moving):
            optimizer.load_state_dict(source.state_dict())
        getattr(optimizer, method)()
        pair.append((optimizer._arrays[0], optimizer.state[0]["momentum_buffer"]))
    assert [a.tobytes() for a in pair[0]] == [b.tobytes() for b in pair[1]]
    expected = F4(0.9) * good(seed=1) + good(seed=3)
    assert pair[0][1].tobytes() == expected.tobytes()


def test_schedules_are_asked_once_for_each_step() -> None:
    asked: list[int] = []

    def rate(t: int) -> float:
        asked.append(t)
        if len(asked) == 4:
            raise ZeroDivisionError("of the schedule itself")
        return 1.0

    optimizer = gs.SGD([{"params": np.zeros(1), "lr": rate}, {"params": np.zeros(1)}])
    asked.clear()
    for t in (1, 2, 3):
        assert optimizer.step([np.ones(1), None]) == (t, 1.0, None, False)
    with pytest.raises(ZeroDivisionError, match="of the schedule itself"):
        optimizer.step([np.ones(1), None])
    assert optimizer.step_count == 3
    optimizer.reference_step([np.ones(1), None])
    assert asked == [1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("SGD", {"momentum": 0}, {"momentum": 0.9}),
        ("SGD", {"momentum": 0.9}, {"nesterov": True}),
        ("SGD", {"momentum": 0.9}, {"momentum": 0.0}),
        ("RMSprop", {}, {"centered": True}),
        ("RMSprop", {"centered": True}, {"momentum": 0.5}),
        ("RMSprop", {"momentum": 0.5, "centered": True}, {"centered": False}),
        ("Adam", {}, {"amsgrad": True}),
        ("AdamW", {"amsgrad": True}, {"amsgrad": False, "maximize": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("how", ["given", "bound"])
def test_another_kernel_from_the_next_step_on(
    name: str, before: Any, after: Any, how: str, contents: Any
) -> None:
    pair = [gs.OPTIMIZERS[name]([good(20), good(3)], **before) for _ in range(2)]
    grads = [good(20, seed=1), good(3, seed=2)]
    kept = pair[0].state
    for optimizer, method in zip(pair, ("step", "reference_step"), strict=True):
        optimizer.bind(grads)
        args = () if how == "bound" else (grads,)
        for settings in (after, before, after):
            getattr(optimizer, method)(*args)
            for key, value in settings.items():
                setattr(optimizer, key, value)
        getattr(optimizer, method)(*args)
    assert contents(pair[0])[:2] == contents(pair[1])[:2]
    assert [state["step"] for state in pair[0].state_dict()["state"].values()] == [4, 4]
    lasting = set(kept[0]) & {"exp_avg", "exp_avg_sq", "square_avg"}
    address = [[own[0][key].ctypes.data for key in lasting] for own in (pair[0].state, kept)]
    assert address[0] == address[1]


def test_flags_that_do_not_go_together_stop_the_step_only(refused: Refused) -> None:
    optimizer = gs.SGD([good(), good()])
    optimizer.nesterov = True
    message = "nesterov: True, expected a momentum > 0 with it"
    for method in ("step", "reference_step"):
        with refused(optimizer, ValueError, message):
            getattr(optimizer, method)([good(), good()])
    optimizer.momentum = 0.9
    assert optimizer.step([good(), good()]).step == 1
