"""Schedules: closed forms, edges, composition, errors, and agreement with PyTorch.

One list of schedules runs through all of it: hence the length.
"""

import copy
import dataclasses
import math
import pickle
import random
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import folded
from gradstep.optim import schedules
from gradstep.optim.schedules import SCHEDULES

SHORT = range(1, 60)
LONG = [1, 2, 3, 9, 10, 11, 99, 100, 101, 102, 999, 1_000, 1_001, 12_345, 10**6, 10**12]

EXAMPLES = [
    schedules.constant(0.1),
    schedules.piecewise([5, 9], [0.1, 0.05, 0.2]),
    schedules.step_decay(0.1, 7),
    schedules.step_decay(0.1, 3, factor=0.1),
    schedules.exponential(0.1, 0.9),
    schedules.exponential(0.1, 0.3, period=10),
    schedules.inverse_time(0.1, 0.5),
    schedules.inverse_time(0.1, 0.5, period=10),
    schedules.power(0.1),
    schedules.power(0.1, 0.7),
    schedules.power(0.1, 1.0),
    schedules.polynomial(0.1, 40),
    schedules.polynomial(0.1, 40, power=1.7, floor=0.03),
    schedules.cosine(0.1, 40),
    schedules.cosine(0.1, 40, floor=0.03),
    schedules.cosine_restarts(0.1, 12),
    schedules.cosine_restarts(0.1, 6, growth=2, floor=0.03),
    schedules.one_cycle(0.1, 40),
    schedules.one_cycle(0.1, 41, pct_start=0.25, div_factor=10, final_div_factor=100),
    schedules.warmup(10, 0.1),
    schedules.warmup(10, schedules.cosine(0.1, 30), start_factor=0.2),
    schedules.join([0.3, schedules.cosine(0.1, 10), schedules.power(0.2)], [4, 20]),
    schedules.per_epoch(8, schedules.inverse_time(0.1, 0.5)),
    0.5 * schedules.warmup(10, schedules.cosine(0.1, 30)),
    schedules.scaled(3, schedules.join([0.3, 2 * schedules.power(0.2)], [4])),
]
each_example = folded("schedule", EXAMPLES, ids=repr)


def test_examples_cover_the_registry() -> None:
    assert {type(schedule) for schedule in EXAMPLES} == set(SCHEDULES.values())


def test_the_package_exports_every_schedule() -> None:
    for name, schedule in SCHEDULES.items():
        assert getattr(gs, name) is schedule


def test_every_schedule_is_documented() -> None:
    page = Path(__file__).parents[1] / "docs" / "schedules.md"
    described = re.findall(r"^\| `(\w+)\(.*\| .* \| .* \|$", page.read_text("utf-8"), re.MULTILINE)
    assert set(SCHEDULES) <= set(described)


def test_an_optimizer_follows_its_schedule() -> None:
    schedule = gs.warmup(2, gs.cosine(0.5, 4))
    weights = np.zeros(3)
    optimizer = gs.SGD(weights, lr=schedule)
    rates = [optimizer.step(np.ones(3)).lr for _ in range(8)]
    assert rates == [schedule(t) for t in range(1, 9)]
    np.testing.assert_allclose(weights, -sum(rates), rtol=1e-12)


# Each formula is written for t = 1, 2, ... and without the code under test.
EXACT = {
    "constant": (schedules.constant(0.3), lambda t: 0.3),
    "staircase of halves": (schedules.step_decay(0.3, 10), lambda t: 0.3 * 0.5 ** ((t - 1) // 10)),
    "inverse time": (schedules.inverse_time(0.3, 2.0), lambda t: 0.3 / (1 + 2.0 * (t - 1))),
    "inverse time in epochs": (
        schedules.inverse_time(0.3, 0.1, period=100),
        lambda t: 0.3 / (1 + 0.1 * ((t - 1) / 100)),
    ),
    "inverse square root": (schedules.power(0.3), lambda t: 0.3 / math.sqrt(t)),
    "inverse step": (schedules.power(0.3, alpha=1), lambda t: 0.3 / t),
    "manual": (
        schedules.piecewise([10, 100], [0.3, 0.2, 0.1]),
        lambda t: 0.3 if t <= 10 else 0.2 if t <= 100 else 0.1,
    ),
    "inverse time per epoch": (
        schedules.per_epoch(10, schedules.inverse_time(0.3, 0.5)),
        lambda t: 0.3 / (1 + 0.5 * ((t - 1) // 10)),
    ),
    "joined": (
        schedules.join([schedules.power(0.3), 0.2, schedules.step_decay(0.1, 5)], [9, 100]),
        lambda t: (
            0.3 / math.sqrt(t) if t <= 9 else 0.2 if t <= 100 else 0.1 * 0.5 ** ((t - 101) // 5)
        ),
    ),
    "warm-up by equal increments": (
        schedules.warmup(99, 0.3),
        lambda t: 0.3 * t / 100 if t < 100 else 0.3,
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_rational_formulas_hold_to_the_bit(name: str) -> None:
    schedule, formula = EXACT[name]
    steps = (*SHORT, *LONG)
    assert [schedule(t) for t in steps] == [formula(t) for t in steps]


CLOSE = {
    "x0.1 stairs": (
        schedules.step_decay(0.3, 4, factor=0.1),
        lambda t: 0.3 * float(Fraction(0.1) ** ((t - 1) // 4)),
    ),
    "exponential": (
        schedules.exponential(0.3, 0.9),
        lambda t: 0.3 * math.exp((t - 1) * math.log(0.9)),
    ),
    "exponential per period": (
        schedules.exponential(0.3, 0.5, period=10),
        lambda t: 0.3 * 2.0 ** (-(t - 1) / 10),
    ),
    "power": (schedules.power(0.3, 0.7), lambda t: 0.3 * t**-0.7),
    "power above one": (schedules.power(0.3, 2.5), lambda t: 0.3 * t**-2.5),
    "linear": (schedules.polynomial(0.3, 50), lambda t: 0.3 * max(1 - (t - 1) / 50, 0)),
    "polynomial": (
        schedules.polynomial(0.3, 50, power=2.3, floor=0.1),
        lambda t: 0.1 + 0.2 * max(1 - (t - 1) / 50, 0) ** 2.3,
    ),
    "cosine": (
        schedules.cosine(0.3, 50, floor=0.1),
        lambda t: 0.1 + 0.2 * math.cos(math.pi / 2 * min(t - 1, 50) / 50) ** 2,
    ),
    "restarts": (
        schedules.cosine_restarts(0.3, 10),
        lambda t: 0.3 * math.cos(math.pi / 2 * ((t - 1) % 10) / 10) ** 2,
    ),
    "one cycle": (
        schedules.one_cycle(0.3, 100, pct_start=0.2, div_factor=3, final_div_factor=10),
        lambda t: (
            0.1 + 0.2 * math.sin(math.pi / 2 * (t - 1) / 19) ** 2
            if t <= 20
            else 0.01 + 0.29 * math.cos(math.pi / 2 * (min(t, 100) - 20) / 80) ** 2
        ),
    ),
    "warm-up": (
        schedules.warmup(20, schedules.power(0.3), start_factor=0.1),
        lambda t: 0.03 + 0.27 * (t - 1) / 20 if t <= 20 else 0.3 / math.sqrt(t - 20),
    ),
}


@pytest.mark.parametrize("name", CLOSE)
def test_other_formulas_hold_to_rounding(name: str) -> None:
    schedule, formula = CLOSE[name]
    for t in (*SHORT, 99, 100, 101, 250):
        assert schedule(t) == pytest.approx(formula(t), rel=1e-13, abs=1e-17), t


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.constant(0.1), 0.1),
        (schedules.piecewise([3], [0.1, 0.7]), 0.1),
        (schedules.step_decay(0.1, 1), 0.1),
        (schedules.exponential(0.1, 0.7, period=3), 0.1),
        (schedules.inverse_time(0.1, 3.0), 0.1),
        (schedules.power(0.1, 0.77), 0.1),
        (schedules.polynomial(3e-3, 7, power=0.3, floor=1e-5), 3e-3),
        (schedules.cosine(3e-3, 7, floor=1e-5), 3e-3),
        (schedules.cosine_restarts(3e-3, 7, floor=1e-5), 3e-3),
        (schedules.one_cycle(3e-3, 70), 3e-3 / 25),
        (schedules.one_cycle(3e-3, 70, pct_start=1 / 70), 3e-3),
        (0.5 * schedules.cosine(3e-3, 7), 0.5 * 3e-3),
        (schedules.warmup(9, 0.7), 0.7 / 10),
        (schedules.warmup(9, 0.7, start_factor=0.1), 0.7 * 0.1),
        (schedules.warmup(9, 0.7, start_factor=0), 0.0),
        (schedules.warmup(0, schedules.step_decay(0.7, 1)), 0.7),
        (schedules.join([0.7, 0.1], [1]), 0.7),
        (schedules.per_epoch(9, schedules.power(0.7)), 0.7),
    ],
    ids=repr,
)
def test_the_rate_at_step_one_is_exactly_the_documented_one(
    schedule: schedules.Schedule, expected: float
) -> None:
    assert schedule(1) == expected


@pytest.mark.parametrize(
    ("schedule", "end", "expected"),
    [
        (schedules.polynomial(0.3, 10, power=3, floor=0.1), 11, 0.1),
        (schedules.cosine(0.3, 10, floor=0.1), 11, 0.1),
        (schedules.cosine(0.3, 1), 2, 0.0),
        (schedules.one_cycle(0.3, 10), 10, 0.3 / 25 / 1e4),
        (schedules.one_cycle(0.3, 10, pct_start=1), 10, 0.3),
        (schedules.one_cycle(0.3, 2), 2, 0.3 / 25 / 1e4),
        (schedules.piecewise([4], [0.1, 0.2]), 5, 0.2),
        (schedules.warmup(5, 0.3), 6, 0.3),
        (schedules.join([0.1, 0.2], [4]), 5, 0.2),
    ],
    ids=repr,
)
def test_the_last_value_is_reached_at_its_step_and_held(
    schedule: schedules.Schedule, end: int, expected: float
) -> None:
    assert schedule(end - 1) != expected
    assert {schedule(t) for t in (end, end + 1, end + 2, 10**9, 2**63 - 1)} == {expected}


def test_one_cycle_reaches_its_highest_rate() -> None:
    schedule = schedules.one_cycle(0.7, 100, pct_start=0.3)
    assert max(range(1, 200), key=schedule) == 30
    assert schedule(30) == 0.7


def test_restarts_begin_every_cycle_at_the_full_rate() -> None:
    longer = schedules.cosine_restarts(0.3, 5, growth=3, floor=0.1)
    assert [t for t in range(1, 300) if longer(t) == 0.3] == [1, 6, 21, 66, 201]
    equal = schedules.cosine_restarts(0.3, 5)
    assert [t for t in range(1, 20) if equal(t) == 0.3] == [1, 6, 11, 16]
    assert equal(5 * 10**17 + 1) == 0.3


def test_exponential_has_the_bits_of_the_staircase_where_an_epoch_begins() -> None:
    smooth, stairs = schedules.exponential(0.3, 0.83, 7), schedules.step_decay(0.3, 7, 0.83)
    assert all(smooth(t) == stairs(t) for t in range(1, 1_000, 7))
    assert all(smooth(t) < stairs(t) for t in range(1, 1_000) if t % 7 != 1)


@pytest.mark.parametrize(
    "schedule",
    [
        s
        for s in EXAMPLES
        if type(s).__name__ not in ("piecewise", "join", "warmup", "one_cycle", "scaled")
    ],
    ids=repr,
)
def test_decays_never_rise_within_a_cycle(schedule: schedules.Schedule) -> None:
    restarts = {12 * i + 1 for i in range(5)} | {7, 19, 43}
    skipped = restarts if isinstance(schedule, schedules.cosine_restarts) else set()
    assert all(schedule(t) <= schedule(t - 1) for t in range(2, 60) if t not in skipped)


def test_warm_up_rises_by_equal_increments_and_joins_without_a_jump() -> None:
    then = schedules.cosine(3e-3, 20_000)
    schedule = schedules.warmup(50, then)
    np.testing.assert_allclose(np.diff([schedule(t) for t in range(1, 52)]), 3e-3 / 51, rtol=1e-10)
    assert [schedule(50 + t) for t in (1, 1_000, 20_001)] == [3e-3, then(1_000), 0.0]


def test_compositions_nest_and_take_numbers_and_functions() -> None:
    def ramp(step: int) -> float:
        return 0.01 * step

    inner = schedules.join([schedules.warmup(2, 0.6), ramp], [4])
    schedule = schedules.per_epoch(2, inner)
    expected = [0.2, 0.4, 0.6, 0.6, 0.01, 0.02]
    assert [schedule(t) for t in range(1, 13)] == pytest.approx(np.repeat(expected, 2), rel=1e-15)


@each_example
def test_rates_are_finite_floats_at_every_step(schedule: schedules.Schedule) -> None:
    for t in (*SHORT, *LONG, 2**53 + 1, 2**63 - 1):
        rate = schedule(t)
        assert type(rate) is float
        assert 0 <= rate < math.inf


@each_example
def test_rates_do_not_depend_on_the_order_of_calls(schedule: schedules.Schedule) -> None:
    in_order = {t: schedule(t) for t in SHORT}
    shuffled = random.Random(0).sample(list(SHORT), len(SHORT))
    assert {t: schedule(t) for t in shuffled} == in_order


@each_example
def test_schedules_survive_pickling_and_copying(schedule: schedules.Schedule) -> None:
    for twin in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert twin == schedule
        assert hash(twin) == hash(schedule)
        assert [twin(t) for t in SHORT] == [schedule(t) for t in SHORT]


@each_example
def test_repr_is_the_call_that_makes_an_equal_schedule(schedule: schedules.Schedule) -> None:
    assert eval(repr(schedule), dict(SCHEDULES)) == schedule


def test_a_number_times_a_schedule_is_a_schedule() -> None:
    inner = schedules.cosine(0.3, 10)
    assert 0.5 * inner == inner * 0.5 == schedules.scaled(0.5, inner)
    assert [(2 * (0.5 * inner))(t) for t in SHORT] == [inner(t) for t in SHORT]
    assert schedules.scaled(0.5, lambda t: 1 / t)(4) == 0.125
    with pytest.raises(TypeError, match=r"^factor: str, expected a number >= 0$"):
        "x" * inner  # type: ignore[operator]


def test_repr_is_readable() -> None:
    expected = "warmup(steps=500, then=cosine(lr=0.003, steps=20000, floor=0.0), start_factor=None)"
    assert repr(schedules.warmup(500, schedules.cosine(3e-3, 20_000))) == expected


def test_schedules_with_other_arguments_differ() -> None:
    assert len(set(EXAMPLES)) == len(EXAMPLES)
    assert schedules.cosine(1, 10) == schedules.cosine(1.0, np.int64(10), floor=np.float32(0))
    assert schedules.exponential(0.1, 0.5) != schedules.step_decay(0.1, 1, 0.5)


@each_example
def test_schedules_cannot_be_changed(schedule: schedules.Schedule) -> None:
    name = dataclasses.fields(schedule)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(schedule, name, 1)


def test_a_list_changed_later_changes_no_schedule() -> None:
    boundaries, values = [5], [0.1, 0.2]
    schedule = schedules.piecewise(boundaries, values)
    values[0], boundaries[0] = 9.0, 1
    assert schedule(1) == 0.1
    assert schedule(5) == 0.1


def test_only_the_documented_schedules_call_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    exact_parts = ("inf", "isfinite", "modf", "pi", "sqrt")
    exact = SimpleNamespace(**{name: getattr(math, name) for name in exact_parts})
    monkeypatch.setattr(schedules, "math", exact)
    for schedule, _ in EXACT.values():
        schedule(17)
    schedules.exponential(0.1, 0.9)(1_001)
    schedules.exponential(0.1, 0.9, period=10)(6)
    schedules.polynomial(0.1, 40, power=2.5)(17)
    inexact = schedules.cosine(0.1, 40), schedules.power(0.1, 0.7), schedules.power(0.1, 1.3)
    for schedule in inexact:
        with pytest.raises(AttributeError):
            schedule(17)


def test_factors_shrink_to_zero_without_an_exception() -> None:
    assert schedules.step_decay(0.1, 1)(2**63 - 1) == 0.0
    assert schedules.exponential(0.1, 1e-300, period=2)(2**63 - 1) == 0.0
    assert schedules.power(0.1, alpha=1e300)(2) == 0.0
    assert schedules.step_decay(0.1, 1, factor=1)(2**63 - 1) == 0.1


@each_example
@pytest.mark.parametrize(
    ("step", "kind", "message"),
    [
        (0, ValueError, "step: 0, expected an integer >= 1"),
        (-3, ValueError, "step: -3, expected an integer >= 1"),
        (np.int64(0), ValueError, "step: 0, expected an integer >= 1"),
        (2**63, ValueError, "step: 9223372036854775808, expected an integer <= 2**63 - 1"),
        (1.0, TypeError, "step: float, expected an integer"),
        (True, TypeError, "step: bool, expected an integer"),
        (None, TypeError, "step: NoneType, expected an integer"),
        ("1", TypeError, "step: str, expected an integer"),
    ],
    ids=repr,
)
def test_a_step_must_be_a_whole_number_from_one(
    schedule: schedules.Schedule, step: object, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        schedule(step)  # type: ignore[arg-type]


@each_example
def test_a_numpy_integer_is_a_step(schedule: schedules.Schedule) -> None:
    assert schedule(np.int64(9)) == schedule(9)


# The schedule, the name of PyTorch's scheduler, its arguments; the optimizer's own rate is 0.3.
TORCH = [
    (schedules.constant(0.3), "ConstantLR", {"factor": 1.0}),
    (schedules.step_decay(0.3, 7, 0.1), "StepLR", {"step_size": 7, "gamma": 0.1}),
    (schedules.piecewise([5, 9], [0.3, 0.03, 0.003]), "MultiStepLR", {"milestones": [5, 9]}),
    (schedules.exponential(0.3, 0.93), "ExponentialLR", {"gamma": 0.93}),
    (schedules.inverse_time(0.3, 0.1), "LambdaLR", {"lr_lambda": lambda k: 1 / (1 + 0.1 * k)}),
    (schedules.power(0.3, 0.6), "LambdaLR", {"lr_lambda": lambda k: (k + 1) ** -0.6}),
    (schedules.polynomial(0.3, 40, 1.7), "PolynomialLR", {"total_iters": 40, "power": 1.7}),
    (schedules.cosine(0.3, 59, 0.01), "CosineAnnealingLR", {"T_max": 59, "eta_min": 0.01}),
    (schedules.cosine_restarts(0.3, 8, 2), "CosineAnnealingWarmRestarts", {"T_0": 8, "T_mult": 2}),
    (schedules.one_cycle(0.3, 59), "OneCycleLR", {"max_lr": 0.3, "total_steps": 59}),
    *(
        (
            schedules.one_cycle(0.3, 59, pct_start),
            "OneCycleLR",
            dict(max_lr=0.3, total_steps=59, pct_start=pct_start),
        )
        for pct_start in (0.0, 0.001, 0.016)
    ),
    (
        schedules.one_cycle(0.3, 59, pct_start=0.41, div_factor=7.0, final_div_factor=90.0),
        "OneCycleLR",
        dict(max_lr=0.3, total_steps=59, pct_start=0.41, div_factor=7.0, final_div_factor=90.0),
    ),
    (schedules.warmup(9, 0.3, 0.2), "LinearLR", {"start_factor": 0.2, "total_iters": 9}),
]


def torch_rates(make_scheduler: Callable[[Any, Any], Any], count: int) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = make_scheduler(optimizer, torch.optim.lr_scheduler)
    rates = []
    for _ in range(count):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("schedule", "name", "arguments"), TORCH, ids=[repr(t[0]) for t in TORCH])
def test_rates_are_those_of_the_torch_scheduler(
    schedule: schedules.Schedule, name: str, arguments: dict[str, Any]
) -> None:
    # PyTorch multiplies the rate up step by step, hence its rounding errors grow with the steps.
    expected = torch_rates(lambda opt, torch: getattr(torch, name)(opt, **arguments), 58)
    assert [schedule(t) for t in range(1, 59)] == pytest.approx(expected, rel=1e-11, abs=1e-16)


def test_warm_up_and_join_compose_like_torch_sequential() -> None:
    def sequence(optimizer: Any, torch: Any) -> Any:
        parts = [
            torch.LinearLR(optimizer, start_factor=0.1, total_iters=10),
            torch.CosineAnnealingLR(optimizer, T_max=20),
            torch.ExponentialLR(optimizer, gamma=0.9),
        ]
        return torch.SequentialLR(optimizer, parts, milestones=[10, 25])

    decay = schedules.join([schedules.cosine(0.3, 20), schedules.exponential(0.3, 0.9)], [15])
    schedule = schedules.warmup(10, decay, start_factor=0.1)
    expected = torch_rates(sequence, 40)
    assert [schedule(t) for t in range(1, 41)] == pytest.approx(expected, rel=1e-11)


A_SCHEDULE = "a number >= 0 or a schedule (a function of the step)"
WRONG_KIND = [
    ("constant", ("0.1",), "lr: str, expected a number >= 0"),
    ("constant", (True,), "lr: bool, expected a number >= 0"),
    ("constant", (None,), "lr: NoneType, expected a number >= 0"),
    ("constant", (1j,), "lr: complex, expected a number >= 0"),
    ("piecewise", (3, [1, 2]), "boundaries: int, expected a sequence"),
    ("piecewise", ([3], "12"), "values: str, expected a sequence"),
    ("piecewise", ([3.0], [1, 2]), "boundaries[0]: float, expected an integer"),
    ("exponential", (0.1, "x"), "factor: str, expected a number in (0, 1]"),
    ("exponential", (0.1, 0.9, 2.5), "period: float, expected an integer"),
    ("inverse_time", (0.1, 1, True), "period: bool, expected an integer"),
    ("cosine", (0.1, 5e3), "steps: float, expected an integer"),
    ("cosine_restarts", (0.1, 5, 1.5), "growth: float, expected an integer"),
    ("warmup", (5, "x"), f"then: str, expected {A_SCHEDULE}"),
    ("warmup", (5, int), f"then: type, expected {A_SCHEDULE}"),
    ("join", ([0.1, None], [3]), f"schedules[1]: NoneType, expected {A_SCHEDULE}"),
    ("per_epoch", (9, True), f"then: bool, expected {A_SCHEDULE}"),
]
WRONG_VALUE = [
    ("constant", (-0.1,), "lr: -0.1, expected a number >= 0"),
    ("constant", (math.nan,), "lr: nan, expected a finite number >= 0"),
    ("constant", (math.inf,), "lr: inf, expected a finite number >= 0"),
    ("constant", (10**5_000,), "lr: an integer of many digits, expected a finite number >= 0"),
    ("piecewise", ([], []), "values: empty, expected at least one"),
    ("piecewise", ([3], [1, -2]), "values[1]: -2, expected a number >= 0"),
    ("piecewise", ([0], [1, 2]), "boundaries[0]: 0, expected an integer >= 1"),
    (
        "piecewise",
        ([3, 3], [1, 2, 3]),
        "boundaries[1]: 3, expected more than the boundary before, 3",
    ),
    ("piecewise", ([3, 4], [1, 2]), "boundaries: 2 of them, expected 1, one fewer than values"),
    ("step_decay", (0.1, 0), "every: 0, expected an integer >= 1"),
    ("step_decay", (0.1, 2**63), f"every: {2**63}, expected an integer <= 2**63 - 1"),
    ("step_decay", (0.1, 5, 0), "factor: 0, expected a number in (0, 1]"),
    ("step_decay", (0.1, 5, 1.5), "factor: 1.5, expected a number in (0, 1]"),
    ("inverse_time", (0.1, -1), "decay: -1, expected a number >= 0"),
    ("power", (0.1, -0.5), "alpha: -0.5, expected a number >= 0"),
    ("polynomial", (0.1, 0), "steps: 0, expected an integer >= 1"),
    ("polynomial", (0.1, 5, 0), "power: 0, expected a number > 0"),
    ("polynomial", (0.1, 5, 1, 0.2), "floor: 0.2, expected a number from 0 to lr = 0.1"),
    ("cosine", (0.1, 5, 0.2), "floor: 0.2, expected a number from 0 to lr = 0.1"),
    ("cosine", (0.1, 5, -1), "floor: -1, expected a number >= 0"),
    ("cosine_restarts", (0.1, 5, 0), "growth: 0, expected an integer >= 1"),
    ("one_cycle", (0.1, 1), "steps: 1, expected an integer >= 2"),
    ("one_cycle", (0.1, 9, 1.1), "pct_start: 1.1, expected a number in [0, 1]"),
    ("one_cycle", (0.1, 9, 0.3, 0.5), "div_factor: 0.5, expected a number >= 1"),
    ("one_cycle", (0.1, 9, 0.3, 25, 0), "final_div_factor: 0, expected a number >= 1"),
    ("warmup", (-1, 0.1), "steps: -1, expected an integer >= 0"),
    ("warmup", (5, -0.1), f"then: -0.1, expected {A_SCHEDULE}"),
    ("warmup", (5, 1, 2), "start_factor: 2, expected a number in [0, 1] or None"),
    ("join", ([], []), "schedules: empty, expected at least one"),
    ("join", ([0.1, 0.2], []), "boundaries: 0 of them, expected 1, one fewer than schedules"),
    ("per_epoch", (0, 0.1), "period: 0, expected an integer >= 1"),
    ("scaled", (-1, 0.1), "factor: -1, expected a number >= 0"),
    ("scaled", (math.inf, 0.1), "factor: inf, expected a finite number >= 0"),
]
WRONG = [(TypeError, *row) for row in WRONG_KIND] + [(ValueError, *row) for row in WRONG_VALUE]


@pytest.mark.parametrize(
    ("kind", "name", "arguments", "message"), WRONG, ids=[f"{w[1]}-{w[3]}" for w in WRONG]
)
def test_a_wrong_argument_is_named_with_what_was_expected(
    kind: type[Exception], name: str, arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        SCHEDULES[name](*arguments)


def test_every_schedule_has_a_wrong_argument_above() -> None:
    assert {name for _, name, *_ in WRONG} == set(SCHEDULES)
