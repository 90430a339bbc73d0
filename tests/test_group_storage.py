"""`seed` and `copy_to` of a group: random bits and rounded copies of its own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gradstep as gs
import ml_dtypes
import numpy as np
import pytest

BF16, F4 = ml_dtypes.bfloat16, np.float32
N = 4096 + 77
Contents = Callable[[gs.Optimizer], Any]
METHODS = ("step", "reference_step")


def weights(dtype: Any = BF16) -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(N).astype(dtype) for _ in range(3)]


def gradients(t: int) -> list[Any]:
    rng = np.random.default_rng(100 + t)
    return [[rng.standard_normal(N).astype(F4) for _ in range(2)], [rng.standard_normal(N)]]


def made(first: dict[str, Any], second: dict[str, Any], **options: Any) -> gs.Optimizer:
    """Rounds weights, states and averages by random bits."""
    params = weights()
    groups = [{"params": params[:2], **first}, {"params": params[2:], **second}]
    return gs.AdamW(groups, lr=0.01, state_dtype="int8", ema="bfloat16", **options)


def run(optimizer: gs.Optimizer, t: int, method: str = "step") -> None:
    one, [two] = gradients(t)
    getattr(optimizer, method)([one, [two.astype(F4)]])


def arrays(optimizer: gs.Optimizer, i: int) -> list[bytes]:
    """Those of a parameter, in which a seed can be told."""
    own = optimizer.state[i].values()
    return [optimizer._arrays[i].tobytes(), *(array.tobytes() for array in own)]


@pytest.mark.parametrize("method", METHODS)
def test_a_group_has_the_random_bits_of_its_own_seed(method: str) -> None:
    mixed, seven, three = made({}, {"seed": 7}, seed=3), made({}, {}, seed=7), made({}, {}, seed=3)
    for t in range(2):
        run(mixed, t, method)
        run(seven, t)
        run(three, t)
    assert arrays(mixed, 2) == arrays(seven, 2) != arrays(three, 2)
    for i in range(2):
        assert arrays(mixed, i) == arrays(three, i) != arrays(seven, i)
    assert mixed.seed == 3 and [group["seed"] for group in mixed.param_groups] == [3, 7]


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_changes_between_steps(method: str) -> None:
    changed, kept, other = made({}, {}), made({}, {}), made({}, {}, seed=5)
    for optimizer in (changed, kept, other):
        run(optimizer, 0)
        optimizer.load_state_dict({**changed.state_dict(), "param_groups": kept_groups(optimizer)})
        for array, own in zip(optimizer._arrays, changed._arrays, strict=True):
            array[...] = own
    changed.param_groups[1]["seed"] = 5
    for optimizer in (changed, kept, other):
        run(optimizer, 1, method if optimizer is changed else "step")
    assert arrays(changed, 2) == arrays(other, 2) != arrays(kept, 2)
    assert arrays(changed, 0) == arrays(kept, 0) != arrays(other, 0)
    changed.seed = 9
    assert [group["seed"] for group in changed.param_groups] == [9, 9]


def kept_groups(optimizer: gs.Optimizer) -> list[dict[str, Any]]:
    return [dict(group) for group in optimizer.param_groups]


def test_a_checkpoint_holds_the_seeds_of_groups(tmp_path: Any) -> None:
    first = made({"seed": 1}, {"seed": 2})
    run(first, 0)
    saved = first.state_dict()
    assert [group["seed"] for group in saved["param_groups"]] == [1, 2]
    assert "seed" not in saved["options"]
    gs.save(tmp_path / "it.safetensors", params=list(first._arrays), optimizer=first)
    run(first, 1)
    second = made({}, {})
    gs.load(tmp_path / "it.safetensors", params=list(second._arrays), optimizer=second)
    twin = pickle.loads(pickle.dumps(second))
    for optimizer in (second, twin):
        run(optimizer, 1)
        assert [arrays(optimizer, i) for i in range(3)] == [arrays(first, i) for i in range(3)]


def before_groups_had_seeds(saved: dict[str, Any], seed: Any) -> dict[str, Any]:
    """As the versions wrote it that had one seed for all."""
    groups = [{k: v for k, v in group.items() if k != "seed"} for group in saved["param_groups"]]
    return {**saved, "options": {**saved["options"], "seed": seed}, "param_groups": groups}


def test_a_seed_of_all_groups_is_loaded(contents: Contents) -> None:
    first, second = made({}, {}, seed=4), made({}, {"seed": 8}, seed=6)
    run(first, 0)
    second.load_state_dict(before_groups_had_seeds(first.state_dict(), 4))
    for array, own in zip(second._arrays, first._arrays, strict=True):
        array[...] = own
    for optimizer in (first, second):
        run(optimizer, 1)
    assert contents(first)[:2] == contents(second)[:2] and second.seed == 4
    for wrong, kind in ((-1, ValueError), ("x", TypeError)):
        before = contents(second)
        with pytest.raises(kind, match=r"^seed: "):
            second.load_state_dict(before_groups_had_seeds(first.state_dict(), wrong))
        assert contents(second) == before


def tree() -> dict[str, Any]:
    w = weights(F4)
    return {"a": w[0], "b": [w[1], w[2]]}


def zeros(dtype: Any = BF16) -> dict[str, Any]:
    return {"a": np.zeros(N, dtype), "b": [None, np.zeros(N, dtype)]}


@pytest.mark.parametrize("method", METHODS)
def test_a_group_has_copies_of_its_own(method: str) -> None:
    params, alone, copies = tree(), np.ones(N, F4), zeros()
    optimizer = gs.AdamW(
        [{"params": {"alone": alone}}, {"params": params, "copy_to": copies}], lr=0.1
    )
    whole, all_copies = gs.AdamW([alone.copy(), *weights(F4)], lr=0.1), copies
    for t in range(2):
        [first, second], [third] = gradients(t)
        third = third.astype(F4)
        getattr(optimizer, method)([{"alone": third}, {"a": first, "b": [second, third]}])
        whole.step([third, first, second, third])
    for mine, theirs in zip(optimizer._arrays, whole._arrays, strict=True):
        assert mine.tobytes() == theirs.tobytes()
    assert all_copies["a"].tobytes() == params["a"].astype(BF16).tobytes()
    assert all_copies["b"][1].tobytes() == params["b"][1].astype(BF16).tobytes()
    twin, twins = copy.deepcopy((optimizer, copies))
    twin.step([{"alone": third}, {"a": first, "b": [second, third]}])
    assert twins["a"].tobytes() == twin._arrays[1].astype(BF16).tobytes() != copies["a"].tobytes()


@pytest.mark.parametrize("several", [False, True])
def test_copies_of_some_groups_stand_with_the_optimizer(several: bool) -> None:
    """And those of another with that group."""
    a, b, one, two = np.ones(3, F4), np.ones(3, F4), np.zeros(3, BF16), np.zeros(3, np.float16)
    groups: list[Any] = [{"params": [a]}, {"params": [b] if several else b, "copy_to": two}]
    if several:
        groups[1]["copy_to"] = (two,)
    optimizer = gs.SGD(groups, lr=1.0, copy_to=[[one], [None] if several else None])
    g = np.full(3, 2, F4)
    optimizer.step([[g], [g] if several else g])
    assert one.tolist() == two.tolist() == [-1.0] * 3
    assert "copy_to" not in optimizer.param_groups[1]
    assert "copy_to" in groups[1], "the caller's mapping stays as it was"


def test_an_added_group_brings_seed_and_copies(contents: Contents) -> None:
    w, more, out = weights(F4)[0], weights(F4)[1], np.zeros(N, BF16)
    options: dict[str, Any] = {"lr": 0.01, "state_dtype": "bfloat16"}
    last = {"params": {"more": more.copy()}, "seed": 7, "copy_to": {"more": out.copy()}}
    both = gs.AdamW([{"params": {"w": w.copy()}}, last], **options)
    later = gs.AdamW([{"params": {"w": w}}], **options)
    later.add_param_group({"params": {"more": more}, "seed": 7, "copy_to": {"more": out}})
    for t in range(2):
        [first, second], _ = gradients(t)
        for optimizer in (both, later):
            optimizer.step([{"w": first}, {"more": second}])
    assert contents(both)[:2] == contents(later)[:2]
    assert out.tobytes() == more.astype(BF16).tobytes()


W, H = np.ones(3, F4), np.zeros(3, BF16)
TWICE = r"^params\[0\]\['copy_to'\]: given, and the optimizer's copy_to too, expected one of them"
WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "seed": ({"params": [W], "seed": -1}, {}, ValueError, "^seed: -1, expected"),
    "kind of seed": (
        {"params": [W], "seed": 0.5},
        {},
        TypeError,
        "^seed: float, expected an integer",
    ),
    "both": ({"params": [W], "copy_to": [H]}, {"copy_to": [[H]]}, ValueError, TWICE),
    "tree": (
        {"params": {"w": W}, "copy_to": [H]},
        {},
        TypeError,
        r"^WHERE\['copy_to'\]: list, expected a mapping like WHERE\['params'\]$",
    ),
    "names": (
        {"params": {"w": W}, "copy_to": {"v": H}},
        {},
        ValueError,
        r"^WHERE\['copy_to'\]: no 'w', expected the keys of WHERE\['params'\]$",
    ),
    "count": (
        {"params": [W], "copy_to": [H, H]},
        {},
        ValueError,
        r"^WHERE\['copy_to'\]: 2 entries, expected 1 as in WHERE\['params'\]$",
    ),
    "type": (
        {"params": {"w": W}, "copy_to": {"w": W.copy()}},
        {},
        TypeError,
        r"^copy_to\['w'\]: float32, expected bfloat16 or float16 arrays$",
    ),
    "shape": (
        {"params": {"w": W}, "copy_to": {"w": np.zeros(4, BF16)}},
        {},
        ValueError,
        r"^copy_to\['w'\]: shape \(4,\), expected \(3,\) as in params",
    ),
    "no array": (
        {"params": {"w": W}, "copy_to": {"w": "x"}},
        {},
        TypeError,
        r"^copy_to\['w'\]: str, expected bfloat16 or float16 arrays$",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_a_group_is_refused(case: str, contents: Contents) -> None:
    group, options, kind, message = WRONG[case]
    with pytest.raises(kind, match=message.replace("WHERE", r"params\[0\]")):
        gs.AdamW([group], **options)
    if options:
        return
    optimizer = gs.AdamW({"first": np.ones(5, F4)})
    before = contents(optimizer)
    with pytest.raises(kind, match=message.replace("WHERE", "group")):
        optimizer.add_param_group(group)
    assert contents(optimizer) == before and len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": {"w": np.ones(3, F4)}, "copy_to": None})


def test_seeds_are_checked_where_they_are_set(contents: Contents) -> None:
    optimizer = made({}, {})
    for wrong, kind in ((-1, ValueError), (2**64, ValueError), (True, TypeError), (1.0, TypeError)):
        before = contents(optimizer)
        with pytest.raises(kind, match=r"^seed: "):
            optimizer.param_groups[1]["seed"] = wrong
        assert contents(optimizer) == before
    with pytest.raises(KeyError, match="copy_to"):
        optimizer.param_groups[1]["copy_to"] = None
