"""Hyperparameters and parameter groups: what is accepted, what a change does, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import folded
from gradstep.arguments import shown

Refused = Callable[..., Any]
METHODS = ("step", "reference_step", "bind")
F4 = np.float32


def good(shape: Any = (2, 3), dtype: Any = F4, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def nested() -> dict[str, Any]:
    return {"w": good(), "layers": [good(seed=1), {"b": good((3,)), "x.y": (good(()),)}]}


ARRANGEMENTS: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "too few": ([0, 0], [0], ValueError, ": 1 arrays, expected 2, one for each of params"),
    "too many": ([0], (0, 0), ValueError, ": 2 arrays, expected 1, one for each of params"),
    "none of two": ([0, 0], [], ValueError, ": 0 arrays, expected 2, one for each of params"),
    "array for a list": ([0], 0, TypeError, ": ndarray, expected a sequence like params"),
    "mapping for a list": ([0], {0: 0}, TypeError, ": dict, expected a sequence like params"),
    "list for a mapping": ({"a": 0}, [0], TypeError, ": list, expected a mapping like params"),
    "string for a list": ([0, 0], "ab", TypeError, ": str, expected a sequence like params"),
    "missing": ({"a": 0, "b": 0}, {"b": 0}, ValueError, ": no 'a', expected the keys of params"),
    "unknown": (
        {"a": 0},
        {"a": 0, "c": 0},
        ValueError,
        ": an unknown 'c', expected the keys of params",
    ),
    "inner missing": (
        [{"a": 0}, {"a": 0}],
        [{"a": 0}, {}],
        ValueError,
        "[1]: no 'a', expected the keys of params",
    ),
    "inner count": (
        {"a": [0, 0], "b": 0},
        {"a": [0], "b": 0},
        ValueError,
        "['a']: 1 entries, expected 2 as in params",
    ),
    "inner too many": (
        {"a": (0,), "b": 0},
        {"a": [0, 0], "b": 0},
        ValueError,
        "['a']: 2 entries, expected 1 as in params",
    ),
    "inner kind": (
        {"a": {"b": [0]}},
        {"a": {"b": {0: 0}}},
        TypeError,
        "['a']['b']: dict, expected a sequence like params",
    ),
    "too deep": ({"a": 0}, {"a": [0]}, TypeError, "['a']: list, expected a numpy.ndarray"),
    "lone in a list": (0, [0], TypeError, ": list, expected a numpy.ndarray"),
}


def grown(tree: Any) -> Any:
    """The tree with an array in place of each 0."""
    if isinstance(tree, dict):
        return {key: grown(branch) for key, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(grown(branch) for branch in tree)
    return good() if tree == 0 else tree


@folded("method", METHODS)
@pytest.mark.parametrize("case", ARRANGEMENTS.values(), ids=ARRANGEMENTS)
def test_gradients_arranged_otherwise_are_refused(case: Any, method: str, refused: Refused) -> None:
    params, grads, kind, message = case
    optimizer = gs.Adam(grown(params))
    with refused(optimizer, kind, "grads" + message):
        getattr(optimizer, method)(grown(grads))


def test_a_nested_tree_is_updated_where_it_lies() -> None:
    tree, grads = nested(), nested()
    optimizer = gs.SGD(tree, lr=1.0)
    optimizer.step({"layers": tuple(grads["layers"]), "w": grads["w"]})
    optimizer.step(MappingProxyType(grads))
    optimizer.reference_step(grads)
    for p, g in (
        (tree["w"], grads["w"]),
        (tree["layers"][0], grads["layers"][0]),
        (tree["layers"][1]["x.y"][0], grads["layers"][1]["x.y"][0]),
    ):
        assert p.tobytes() == (g - g - g - g).tobytes()
    assert list(optimizer.state) == ["w", "layers.0", "layers.1.b", "layers.1.x.y.0"]


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (lambda bad: bad, ""),
        (lambda bad: [bad], "[0]"),
        (lambda bad: {"w": bad}, "['w']"),
        (lambda bad: {"a": [good(), {"b": bad}]}, "['a.1.b']"),
        (lambda bad: [{"params": bad}], "[0]"),
        (lambda bad: [{"params": [good()]}, {"params": [good(), bad]}], "[2]"),
        (lambda bad: [{"params": {"a": good()}}, {"params": {"b": bad}}], "['b']"),
    ],
)
def test_errors_name_a_tensor_as_it_was_given(tree: Any, name: str) -> None:
    with pytest.raises(TypeError) as caught:
        gs.Adam(tree(3))
    assert str(caught.value) == f"params{name}: int, expected a numpy.ndarray"


@pytest.mark.parametrize(
    "tree", [{"a.b": 0, "a": {"b": 0}}, {"a": {1: 0, "1": 0}}, {(1,): 0, "(1,)": 0}], ids=str
)
def test_two_arrays_of_one_name_are_refused(tree: Any) -> None:
    with pytest.raises(ValueError, match=r"^params\['.*'\]: two arrays of this name, expected one"):
        gs.Adam(grown(tree))


# Groups


def test_groups_are_as_many_optimizers(optimizer_class: type[gs.Optimizer]) -> None:
    settings: list[dict[str, Any]] = [{}, {"lr": 0.5}, {"weight_decay": 0.3, "maximize": True}]
    dtypes = ["f4", "f8", "f4"]
    together, apart = ([good(40, d, i) for i, d in enumerate(dtypes)] for _ in range(2))
    joint = optimizer_class(
        [{"params": p, **s} for p, s in zip(together, settings, strict=True)], l1=0.01
    )
    single = [optimizer_class(p, **s, l1=0.01) for p, s in zip(apart, settings, strict=True)]
    for t in range(3):
        grads = [good(40, d, 10 * t + i) for i, d in enumerate(dtypes)]
        joint.step(grads) if t else joint.reference_step(grads)
        for optimizer, g in zip(single, grads, strict=True):
            optimizer.step(g)
    assert [p.tobytes() for p in together] == [p.tobytes() for p in apart]


def test_a_class_of_ones_own_needs_no_more_than_a_dataclass() -> None:
    @dataclass
    class Fast(gs.SGD):
        lr: float = 0.5

    w = np.zeros(2)
    assert Fast(w).step(np.ones(2)) == (1, 0.5, None, False)
    assert w.tolist() == [-0.5] * 2
    with pytest.raises(TypeError, match=r"^Optimizer: has no formula, expected one of OPTIMIZERS$"):
        gs.Optimizer(w)


def test_clip_norm_is_over_all_groups() -> None:
    params = [np.zeros(1, F4), np.zeros(1), np.zeros(1)]
    optimizer = gs.SGD([{"params": p} for p in params], lr=1.0, clip_norm=6.5)
    grads = [np.full(1, 3.0, F4), np.full(1, 4.0), np.full(1, 12.0)]
    assert optimizer.step(grads) == (1, 1.0, 13.0, False)
    assert [float(p[0]) for p in params] == pytest.approx([-1.5, -2.0, -6.0], rel=1e-6)


def test_gradients_are_arranged_like_groups() -> None:
    w, b, c, d = (np.zeros(n) for n in (1, 2, 3, 4))
    optimizer = gs.SGD(
        [
            {"params": {"w": w, "more": [b]}},
            {"params": {}},
            {"params": [c], "lr": 2.0},
            {"params": d, "lr": 3.0},
        ],
        lr=1.0,
    )
    ones = [np.ones_like(a) for a in (w, b, c, d)]
    grads = [{"w": ones[0], "more": (ones[1],)}, {}, (ones[2],), ones[3]]
    optimizer.step(grads)
    optimizer.bind(tuple(grads))
    optimizer.step()
    optimizer.reference_step(grads)
    assert [a.tolist() for a in (w, b, c, d)] == [[-3.0], [-3.0] * 2, [-6.0] * 3, [-9.0] * 4]
    names = [group["params"] for group in optimizer.param_groups]
    assert names == [["w", "more.0"], [], [2], [3]]
    assert list(optimizer.state) == ["w", "more.0", 2, 3]


def test_hundreds_of_groups_have_each_their_own_rate() -> None:
    params = [np.zeros(3, F4 if i % 2 else float) for i in range(300)]
    optimizer = gs.SGD([{"params": p, "lr": i} for i, p in enumerate(params)])
    optimizer.step([np.ones_like(p) for p in params])
    assert [p.tolist() for p in params] == [[-float(i)] * 3 for i in range(300)]


def test_groups_may_need_different_kernels() -> None:
    params = [np.zeros(5, F4) for _ in range(3)]
    momenta = (0, 0.5, 1)
    groups = [{"params": p, "momentum": m} for p, m in zip(params, momenta, strict=True)]
    optimizer = gs.SGD(groups, lr=1.0)
    for _ in range(2):
        optimizer.step([np.ones(5, F4)] * 3)
    assert [float(p[0]) for p in params] == [-2.0, -2.5, -3.0]
    buffer = ["momentum_buffer"]
    assert [list(state) for state in optimizer.state.values()] == [[], buffer, buffer]


KNOWN = (
    "maximize, l1, clip_value, master, state_dtype, ema, ema_decay, seed, lr, momentum, dampening, "
    "weight_decay, nesterov, lr_in_momentum, decoupled_weight_decay, copy_to"
)
BAD_GROUPS: list[tuple[Any, type[Exception], str]] = [
    (
        [{"params": 0}, {"params": 0, "lrr": 1}],
        ValueError,
        "params[1]: unknown hyperparameter 'lrr', expected 'lr'",
    ),
    (
        [{"params": 0, "clip_norm": 1.0}],
        ValueError,
        f"params[0]: unknown hyperparameter 'clip_norm', expected one of {KNOWN}",
    ),
    ([{"params": 0, "lr": -1}], ValueError, "lr: -1, expected a number in [0, inf)"),
    ([{"params": 0, "nesterov": 1}], TypeError, "nesterov: int, expected True or False"),
    (
        [{"params": 0, "nesterov": True}],
        ValueError,
        "nesterov: True, expected a momentum > 0 with it",
    ),
    (
        [{"params": 0, "nesterov": True, "momentum": 0.5, "dampening": 0.5}],
        ValueError,
        "dampening: 0.5, expected 0 with nesterov",
    ),
    (
        [{"params": {"a": 0}}, {"params": {"b": 0, "a": 0}}],
        ValueError,
        "params['a']: two arrays of this name, expected one",
    ),
    (
        [{"params": {1: 0}}, {"params": 0}],
        ValueError,
        "params[1]: two arrays of this name, expected one",
    ),
]


@pytest.mark.parametrize(("groups", "kind", "message"), BAD_GROUPS)
def test_bad_groups_are_refused(groups: Any, kind: type[Exception], message: str) -> None:
    filled = [{**group, "params": grown(group["params"])} for group in groups]
    with pytest.raises(kind) as caught:
        gs.SGD(filled)
    assert str(caught.value) == message


def test_a_group_is_a_mapping_of_its_hyperparameters(refused: Refused) -> None:
    optimizer = gs.Adam([{"params": good(), "lr": 0.5}, {"params": good()}], betas=[0.8, 0.9])
    first, second = optimizer.param_groups
    assert list(first) == [
        "params", "maximize", "l1", "clip_value", "master", "state_dtype", "ema", "ema_decay",
        "seed", "lr", "betas", "eps", "weight_decay", "amsgrad", "decoupled_weight_decay",
    ]  # fmt: skip
    assert (dict(first)["lr"], second["lr"], optimizer.lr) == (0.5, 1e-3, 0.5)
    assert (first["betas"], optimizer.betas, len(first)) == ((0.8, 0.9), (0.8, 0.9), 15)
    second["lr"] = 0.25
    assert (first["lr"], second["lr"], optimizer.lr) == (0.5, 0.25, 0.5)
    first["eps"] = 0.75
    assert (first["eps"], second["eps"], optimizer.eps) == (0.75, 1e-8, 0.75)
    optimizer.lr = 0.125
    assert (first["lr"], second["lr"], optimizer.lr) == (0.125, 0.125, 0.125)
    known = ", ".join(key for key in first if key != "params")
    for key in ("lrr", "params", "clip_norm", 3):
        with refused(optimizer, KeyError, repr(f"{key!r}, expected one of {known}")):
            first[key] = 1
    with refused(optimizer, TypeError, "'lr': a hyperparameter cannot be removed"):
        del first["lr"]
    first["params"].append("mine")
    assert first["params"] == [0]
    with pytest.raises(TypeError, match="unexpected keyword argument 'lrr'"):
        gs.Adam(good(), lrr=1)


# Hyperparameters

INF = math.inf
HUGE = 10**400
TINY, LARGE = 5e-324, 1.7e308
BELOW_ONE, ABOVE_ONE = 1 - 2**-53, 1 + 2**-52
# name -> (values at the borders that are accepted, values beyond, what the error expects)
Borders = tuple[list[Any], list[Any], str]
POSITIVE: Borders = ([TINY, LARGE, INF], [0, -0.0, -1, -INF], "(0, inf]")
NOT_NEGATIVE: Borders = ([0, TINY, LARGE], [-TINY, INF, HUGE], "[0, inf)")
FINITE: Borders = ([-LARGE, 0, LARGE], [-INF, INF, -HUGE], "(-inf, inf)")
SHARE: Borders = ([0, 1], [-TINY, ABOVE_ONE, INF], "[0, 1]")
BORDERS: dict[str, Borders] = {
    "lr": NOT_NEGATIVE,
    "momentum": NOT_NEGATIVE,
    "dampening": FINITE,
    "lr_decay": NOT_NEGATIVE,
    "initial_accumulator_value": ([0, TINY, 1e38], *NOT_NEGATIVE[1:]),
    "alpha": SHARE,
    "rho": SHARE,
    "betas": ([0, BELOW_ONE], [-TINY, 1, INF], "[0, 1)"),
    "eps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "momentum_decay": ([0, 100], [-TINY, 100.00000000000001, INF], "[0, 100]"),
    "l1": NOT_NEGATIVE,
    "clip_value": POSITIVE,
    "clip_norm": POSITIVE,
    "grad_scale": FINITE,
}
OPTIONAL = ("clip_value", "clip_norm")
OPTIONS = ("clip_norm", "grad_scale", "on_nonfinite")


def numeric(cls: type[gs.Optimizer]) -> list[str]:
    return [
        name
        for name, default in cls._defaults().items()
        if name
        not in ("params", "on_nonfinite", "master", "state_dtype", "ema", "ema_decay", "seed")
        and not isinstance(default, bool)
    ]


NUMBERS = [(cls, name) for cls in gs.OPTIMIZERS.values() for name in numeric(cls)]
each_number = pytest.mark.parametrize(
    ("cls", "name"), NUMBERS, ids=[f"{cls.__name__}-{name}" for cls, name in NUMBERS]
)


def forms(name: str, value: Any) -> list[Any]:
    """The value as a hyperparameter; as either of a pair."""
    return [(value, 0.5), (0.5, value)] if name == "betas" else [value]


def setters(optimizer: gs.Optimizer, name: str, value: Any) -> list[Callable[[], Any]]:
    """All ways to give a hyperparameter to an optimizer."""
    cls = type(optimizer)
    ways = [lambda: cls(good(), **{name: value}), lambda: setattr(optimizer, name, value)]
    if name in OPTIONS:
        return ways
    return [
        *ways,
        lambda: cls([{"params": good(), name: value}]),
        lambda: optimizer.param_groups[-1].__setitem__(name, value),
    ]


def test_every_number_has_its_borders_tested() -> None:
    assert {name for _, name in NUMBERS} == set(BORDERS)


@each_number
def test_borders_are_inside(cls: type[gs.Optimizer], name: str) -> None:
    for value in BORDERS[name][0]:
        for form in forms(name, value):
            pair = []
            for method in ("step", "reference_step"):
                optimizer = cls([good(20), good(20, "f8")], **{name: form})
                for t in range(1, 4):
                    getattr(optimizer, method)([good(20, seed=t), good(20, "f8", t)])
                pair.append(optimizer)
            for a, b in zip(pair[0]._arrays, pair[1]._arrays, strict=True):
                np.testing.assert_array_equal(a, b, f"{name}={form}")
            for way in setters(pair[0], name, form):
                way()


@each_number
def test_numbers_beyond_the_borders_are_refused(
    cls: type[gs.Optimizer], name: str, refused: Refused
) -> None:
    optimizer = cls([{"params": good()}, {"params": good()}])
    for value in (*BORDERS[name][1], math.nan):
        shown = {HUGE: "inf", -HUGE: "-inf"}.get(value) or f"{value:g}"
        message = f"{name}: {shown}, expected a number in {BORDERS[name][2]}"
        for form in forms(name, value):
            for way in setters(optimizer, name, form):
                with refused(optimizer, ValueError, message):
                    way()


@each_number
def test_what_is_no_number_is_refused(cls: type[gs.Optimizer], name: str, refused: Refused) -> None:
    optimizer = cls([{"params": good()}, {"params": good()}])
    for value in (True, np.True_, "0.5", None, 0.5j, [0.5], np.array(0.5), {}):
        if value is None and name in OPTIONAL:
            continue
        message = f"{name}: {type(value).__name__}, expected a number"
        for form in forms(name, value):
            for way in setters(optimizer, name, form):
                with refused(optimizer, TypeError, message):
                    way()


def test_other_kinds_are_refused(refused: Refused) -> None:
    optimizer, modes = gs.Adam(good()), "'apply', 'skip' or 'raise'"
    for name, value, kind, message in (
        ("betas", 0.9, TypeError, "betas: 0.9, expected 2 numbers"),
        ("betas", (0.9,), TypeError, "betas: (0.9,), expected 2 numbers"),
        ("betas", lambda t: (0.9, 0.9), TypeError, None),
        ("amsgrad", 1, TypeError, "amsgrad: int, expected True or False"),
        ("amsgrad", None, TypeError, "amsgrad: NoneType, expected True or False"),
        ("maximize", "yes", TypeError, "maximize: str, expected True or False"),
        ("on_nonfinite", None, TypeError, "on_nonfinite: NoneType, expected a string"),
        ("on_nonfinite", np.zeros(2), TypeError, "on_nonfinite: ndarray, expected a string"),
        ("on_nonfinite", "stop", ValueError, f"on_nonfinite: 'stop', expected {modes}"),
    ):
        expected = message or f"betas: {shown(value)}, expected 2 numbers"
        for way in setters(optimizer, name, value):
            with refused(optimizer, kind, expected):
                way()
    message = "initial_accumulator_value: function, expected a number"
    with refused(optimizer, TypeError, message):
        gs.Adagrad(good(), initial_accumulator_value=lambda t: 0.1)


@pytest.mark.parametrize("value", [1, np.float32(0.5), np.int64(2), Fraction(1, 3)], ids=repr)
def test_any_real_number_will_do(value: Any) -> None:
    w = np.zeros(1)
    optimizer = gs.SGD(w, lr=value)
    optimizer.step(np.ones(1))
    assert w[0] == -float(value)
    assert type(optimizer.param_groups[0]["lr"]) is float


SCHEDULED = [pair for pair in NUMBERS if pair[1] != "initial_accumulator_value"]


@folded("how", ["step", "reference_step", "bound"])
@pytest.mark.parametrize(("cls", "name"), SCHEDULED, ids=lambda x: getattr(x, "__name__", x))
def test_a_schedule_gone_wrong_changes_nothing(
    cls: type[gs.Optimizer], name: str, how: str, refused: Refused
) -> None:
    _, beyond, expected = BORDERS[name]
    sick: list[Any] = []
    for form in forms(name, lambda t: sick[0] if sick else 0.5):
        sick.clear()
        optimizer = cls([good(), good(seed=1)], **{name: form})
        grads = [good(seed=2), good(seed=3)]
        optimizer.bind(grads)
        args = () if how == "bound" else (grads,)
        step = getattr(optimizer, "step" if how == "bound" else how)
        step(*args)
        for value, kind, message in (
            (math.nan, ValueError, f"{name}: nan, expected a number in {expected}"),
            (beyond[0], ValueError, f"{name}: {beyond[0]:g}, expected a number in {expected}"),
            ("1", TypeError, f"{name}: str, expected a number"),
            (None, TypeError, f"{name}: NoneType, expected a number"),
            (True, TypeError, f"{name}: bool, expected a number"),
        ):
            sick[:] = [value]
            with refused(optimizer, kind, message):
                step(*args)
        sick.clear()
        assert step(*args).step == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("learning_rate", "'lr'"),
        ("lrr", "'lr'"),
        ("foo", "one of maximize, l1, "),
        ("beta1", "'betas'"),
        ("weight_decy", "'weight_decay'"),
        ("max_grad_norm", "'clip_norm'"),
        ("nonfinite", "'on_nonfinite'"),
        ("params", "one of "),
    ],
)
def test_an_unknown_attribute_is_refused(name: str, meant: str, refused: Refused) -> None:
    optimizer = gs.Adam(good())
    with pytest.raises(AttributeError) as caught:
        setattr(optimizer, name, 5)
    assert str(caught.value).startswith(f"Adam has no attribute {name!r}, expected {meant}")
    assert not hasattr(optimizer, name)
    for read_only in ("param_groups", "step_count", "state"):
        with pytest.raises(AttributeError):
            setattr(optimizer, read_only, 5)


def test_a_method_may_be_wrapped() -> None:
    optimizer, called = gs.SGD(good()), []
    plain = optimizer.step
    optimizer.step = lambda *grads: called.append(1) or plain(*grads)  # type: ignore[method-assign]
    assert optimizer.step(good()).step == 1 and called == [1]
