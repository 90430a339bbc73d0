"""Every optimizer against its paper in Python floats, and the numbers at the edges of a format."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import each_level, folded
from gradstep import _core
from numpy.typing import NDArray

Array = NDArray[Any]
Options = dict[str, Any]
Floats = Iterator[float]

# Shorter than a vector, whole vectors of every width, and vectors with a tail.
LENGTHS = range(1, 41)
GRADIENTS = [1.5, -0.25, -2.0, 0.5, 1.0, 3.0, 0.125, -4.0]

DTYPES = (np.float32, np.float64)
each_dtype = folded("dtype", DTYPES)

# The papers, for one number: the parameter after each gradient. Defaults are written out again.

ADAM: Options = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
DEFAULTS: dict[str, Options] = {
    "SGD": {"lr": 1e-3, "dampening": 0.0, "nesterov": False, "lr_in_momentum": False},
    "Adagrad": {"lr": 1e-2, "lr_decay": 0.0, "initial_accumulator_value": 0.0, "eps": 1e-10},
    "RMSprop": {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False},
    "Adadelta": {"lr": 1.0, "rho": 0.9, "eps": 1e-6},
    "Adam": {**ADAM, "amsgrad": False},
    "AdamW": {**ADAM, "amsgrad": False, "weight_decay": 1e-2, "decoupled_weight_decay": True},
    "NAdam": {**ADAM, "lr": 2e-3, "momentum_decay": 4e-3},
    "Adamax": {**ADAM, "lr": 2e-3},
    "RAdam": {**ADAM},
    "Lion": {"lr": 1e-4, "betas": (0.9, 0.99), "decoupled_weight_decay": True},
}
# Settings far from the defaults.
UNUSUAL: dict[str, Options] = {
    "SGD": {"lr": 0.1},
    "Adagrad": {"lr": 0.2, "lr_decay": 0.3, "initial_accumulator_value": 0.5, "eps": 0.1},
    "RMSprop": {"lr": 0.03, "alpha": 0.8, "eps": 0.1},
    "Adadelta": {"lr": 0.7, "rho": 0.8, "eps": 0.01},
    "Adam": {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.1},
    "AdamW": {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.1},
    "NAdam": {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.1, "momentum_decay": 2.0},
    "Adamax": {"lr": 0.1, "betas": (0.8, 0.9), "eps": 0.1},
    "RAdam": {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.1},
    "Lion": {"lr": 0.1, "betas": (0.6, 0.8)},
}


def sgd(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Polyak 1964; Sutskever et al. 2013 for nesterov."""
    b = 0.0
    inner, outer = (h.lr, 1.0) if h.lr_in_momentum else (1.0, h.lr)
    for t, g in enumerate(gradients, 1):
        g = inner * (g + h.l2 * p)
        b = h.momentum * b + (g if t == 1 else (1 - h.dampening) * g)
        p -= outer * (g + h.momentum * b if h.nesterov else b) + h.lr * h.decay * p
        yield p


def adagrad(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Duchi, Hazan & Singer 2011."""
    total = h.initial_accumulator_value
    for t, g in enumerate(gradients, 1):
        g += h.l2 * p
        total += g * g
        rate = h.lr / (1 + (t - 1) * h.lr_decay)
        p -= rate * g / (math.sqrt(total) + h.eps) + h.lr * h.decay * p
        yield p


def rmsprop(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Hinton 2012; Graves 2013, equations 38 to 40, for centered."""
    square = mean = b = 0.0
    for g in gradients:
        g += h.l2 * p
        square = h.alpha * square + (1 - h.alpha) * g**2
        mean = h.alpha * mean + (1 - h.alpha) * g
        b = h.momentum * b + g / (math.sqrt(square - mean**2 * h.centered) + h.eps)
        p -= h.lr * (b + h.decay * p)
        yield p


def adadelta(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Zeiler 2012, algorithm 1."""
    square = moved = 0.0
    for g in gradients:
        g += h.l2 * p
        square = h.rho * square + (1 - h.rho) * g**2
        change = -math.sqrt(moved + h.eps) / math.sqrt(square + h.eps) * g
        moved = h.rho * moved + (1 - h.rho) * change**2
        p += h.lr * (change - h.decay * p)
        yield p


def adam(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Kingma & Ba 2015, algorithm 1; Reddi et al. 2018; Loshchilov & Hutter 2019, algorithm 2."""
    m = v = largest = 0.0
    for t, g in enumerate(gradients, 1):
        g += h.l2 * p
        m = h.betas[0] * m + (1 - h.betas[0]) * g
        v = h.betas[1] * v + (1 - h.betas[1]) * g**2
        largest = max(largest, v)
        m_hat = m / (1 - h.betas[0] ** t)
        v_hat = (largest if h.amsgrad else v) / (1 - h.betas[1] ** t)
        p -= h.lr * (m_hat / (math.sqrt(v_hat) + h.eps) + h.decay * p)
        yield p


def nadam(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Dozat 2016, algorithm 2, with the schedule of its section 3.2."""
    m = v = 0.0

    def mu(t: int) -> float:
        return float(h.betas[0] * (1 - 0.5 * 0.96 ** (t * h.momentum_decay)))

    for t, g in enumerate(gradients, 1):
        g += h.l2 * p
        m = h.betas[0] * m + (1 - h.betas[0]) * g
        v = h.betas[1] * v + (1 - h.betas[1]) * g**2
        product = math.prod(mu(i) for i in range(1, t + 1))
        m_bar = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
        v_hat = v / (1 - h.betas[1] ** t)
        p -= h.lr * (m_bar / (math.sqrt(v_hat) + h.eps) + h.decay * p)
        yield p


def adamax(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Kingma & Ba 2015, algorithm 2."""
    m = u = 0.0
    for t, g in enumerate(gradients, 1):
        g += h.l2 * p
        m = h.betas[0] * m + (1 - h.betas[0]) * g
        u = max(h.betas[1] * u, abs(g) + h.eps)
        p -= h.lr * (m / (1 - h.betas[0] ** t) / u + h.decay * p)
        yield p


def radam(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Liu et al. 2020, algorithm 2."""
    m = v = 0.0
    most = 2 / (1 - h.betas[1]) - 1
    for t, g in enumerate(gradients, 1):
        g += h.l2 * p
        m = h.betas[0] * m + (1 - h.betas[0]) * g
        v = h.betas[1] * v + (1 - h.betas[1]) * g**2
        rho = most - 2 * t * h.betas[1] ** t / (1 - h.betas[1] ** t)
        step = m / (1 - h.betas[0] ** t)
        if rho > 5:
            step *= math.sqrt(1 - h.betas[1] ** t) / (math.sqrt(v) + h.eps)
            step *= math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
        p -= h.lr * (step + h.decay * p)
        yield p


def lion(h: Any, p: float, gradients: Iterable[float]) -> Floats:
    """Chen et al. 2023, algorithm 2."""
    m = 0.0
    for g in gradients:
        c = h.betas[0] * m + (1 - h.betas[0]) * g
        p -= h.lr * ((c > 0) - (c < 0) + h.decay * p)
        m = h.betas[1] * m + (1 - h.betas[1]) * g
        yield p


BY_HAND: dict[str, Callable[..., Floats]] = {
    "SGD": sgd,
    "Adagrad": adagrad,
    "RMSprop": rmsprop,
    "Adadelta": adadelta,
    "Adam": adam,
    "AdamW": adam,
    "NAdam": nadam,
    "Adamax": adamax,
    "RAdam": radam,
    "Lion": lion,
}


def by_hand(name: str, options: Options, p: float, gradients: Iterable[float]) -> list[float]:
    h = {"weight_decay": 0.0, "decoupled_weight_decay": False, **DEFAULTS[name], **options}
    decoupled, decay = h["decoupled_weight_decay"], h["weight_decay"]
    h["l2"], h["decay"] = (0.0, decay) if decoupled else (decay, 0.0)
    return list(BY_HAND[name](SimpleNamespace(**h), p, gradients))


def combinations(name: str) -> list[Options]:
    """Every setting of the optimizer's switches, with and without momentum."""
    shared = {field.name for field in dataclasses.fields(gs.Optimizer)}
    switches: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(gs.OPTIMIZERS[name]):
        if field.name not in shared and (field.default is True or field.default is False):
            switches[field.name] = (False, True)
        elif field.name == "momentum":
            switches[field.name] = (0.0, 0.75)
    settings = [
        dict(zip(switches, values, strict=True)) for values in itertools.product(*switches.values())
    ]
    return [s for s in settings if not (s.get("nesterov") and s["momentum"] == 0)]


VARIANTS = [(name, options) for name in gs.OPTIMIZERS for options in combinations(name)]
each_variant = pytest.mark.parametrize(
    ("name", "options"),
    VARIANTS,
    ids=["-".join([name, *(k for k, on in options.items() if on)]) for name, options in VARIANTS],
)


def filled(n: int, value: Any, dtype: Any) -> Array:
    return np.full(n, value, dtype)


def after(name: str, options: Options, p: Array, *gradients: Array) -> Any:
    """The optimizer after these steps."""
    optimizer = gs.OPTIMIZERS[name](p, **options)
    for g in gradients:
        optimizer.step(g)
    return optimizer


def test_every_optimizer_is_written_out() -> None:
    assert BY_HAND.keys() == DEFAULTS.keys() == UNUSUAL.keys() == gs.OPTIMIZERS.keys()


@each_dtype
@folded("decay", [{}, {"weight_decay": 0.3}])
@folded("settings", [{}, UNUSUAL])
@each_variant
def test_first_steps_are_those_of_the_paper(
    name: str, options: Options, settings: dict[str, Options], decay: Options, dtype: Any
) -> None:
    """Within sixteen roundings, two for each step, of a number below 2."""
    chosen = {**settings.get(name, {}), **options, **decay}
    p = filled(37, 1.75, dtype)
    optimizer = gs.OPTIMIZERS[name](p, **chosen)
    for g, expected in zip(GRADIENTS, by_hand(name, chosen, 1.75, GRADIENTS), strict=True):
        optimizer.step(filled(37, g, dtype))
        np.testing.assert_allclose(p, expected, rtol=0, atol=16 * np.finfo(dtype).eps)


@each_dtype
def test_dampening_spares_the_first_gradient(dtype: Any) -> None:
    options = {"lr": 0.5, "momentum": 0.5, "dampening": 0.25}
    p = filled(37, 8.0, dtype)
    after("SGD", options, p, filled(37, 1, dtype), filled(37, 1, dtype))
    assert set(p) == {8.0 - 0.5 - 0.5 * (0.5 + 0.75)} == {by_hand("SGD", options, 8.0, [1, 1])[-1]}


# Both sides of the code


@each_level
def test_both_sides_list_the_same_kernels_and_states(level: str) -> None:
    listed: dict[str, tuple[str, ...]] = {}
    for cls in gs.OPTIMIZERS.values():
        for kernel, states in cls.KERNELS.items():
            assert listed.setdefault(kernel, states) == states
    assert listed == _core.optimizer_kernels()


def test_no_kernel_is_unused() -> None:
    used = set()
    for name, options in VARIANTS:
        optimizer = gs.OPTIMIZERS[name](np.zeros(1), **options)
        kernel = optimizer.kernel(optimizer.param_groups[0])
        assert tuple(optimizer.state[0]) == optimizer.KERNELS[kernel]
        used.add(kernel)
    assert used == _core.optimizer_kernels().keys()


@each_dtype
@each_variant
@each_level
def test_weight_decay_acts_in_every_body_and_tail(
    name: str, options: Options, dtype: Any, level: str
) -> None:
    steps = [0.5, -1.5]
    chosen = {"lr": 0.1, **options, "weight_decay": 0.25}
    expected = by_hand(name, chosen, 2.0, steps)[-1]
    without = by_hand(name, {**chosen, "weight_decay": 0.0}, 2.0, steps)[-1]
    bound = 16 * np.finfo(dtype).eps
    assert abs(expected - without) > 20 * bound
    for n in (*LENGTHS, 1023, 1025, 40_007):
        p = filled(n, 2, dtype)
        after(name, chosen, p, *(filled(n, g, dtype) for g in steps))
        assert np.abs(p - expected).max() < bound, n


@each_dtype
@each_level
def test_lion_takes_the_sign_in_every_body_and_tail(dtype: Any, level: str) -> None:
    info = np.finfo(dtype)
    sizes = [1, -1, 0.0, -0.0, info.tiny, -info.tiny, info.max, -info.max]
    for n in LENGTHS:
        for shift in range(len(sizes)):
            g = np.resize(np.roll(np.array(sizes, dtype), shift), n)
            p = np.zeros(n, dtype)
            after("Lion", {"lr": 0.25}, p, g)
            np.testing.assert_array_equal(p, -0.25 * np.sign(g))


# Gradients that are not ordinary numbers


@each_variant
@each_level
def test_zero_gradients_move_nothing(name: str, options: Options, level: str) -> None:
    for dtype, n, zero in itertools.product(DTYPES, (1, 16, 37), (0.0, -0.0)):
        p = np.linspace(-2, 2, n, dtype=dtype)
        before = p.copy()
        g = filled(n, zero, dtype)
        after(name, {**options, "weight_decay": 0.0}, p, g, g, g)
        np.testing.assert_array_equal(p, before)


@each_variant
@each_level
def test_a_negative_zero_parameter_counts_as_zero(name: str, options: Options, level: str) -> None:
    penalties = {"l1": 0.5, "weight_decay": 0.5}
    for dtype in DTYPES:
        p = filled(37, -0.0, dtype)
        after(name, {**options, **penalties}, p, filled(37, 0, dtype), filled(37, -0.0, dtype))
        np.testing.assert_array_equal(p, 0)


@folded("bad", [math.nan, math.inf, -math.inf])
@folded("penalties", [{}, {"l1": 0.01, "weight_decay": 0.1, "clip_value": 9.0}])
@each_variant
def test_what_is_not_finite_stays_in_its_element(
    name: str, options: Options, penalties: Options, bad: float
) -> None:
    rng = np.random.default_rng(0)
    levels = itertools.cycle(gs.build_info()["simd_levels"])
    for dtype, n in itertools.product(DTYPES, (7, 37)):
        gs.use_simd(next(levels))
        start, first, second = rng.standard_normal((3, n)).astype(dtype)
        clean = start.copy()
        after(name, {**options, **penalties}, clean, first, second)
        for at in (0, n // 2, n - 1):
            p, g = start.copy(), first.copy()
            g[at] = bad
            state = after(name, {**options, **penalties}, p, g, second).state[0]
            others = np.arange(n) != at
            np.testing.assert_array_equal(p[others], clean[others])
            if math.isnan(bad):
                assert np.isnan([p[at], *(array[at] for array in state.values())]).all()


@each_dtype
def test_clip_norm_spreads_what_is_not_finite(dtype: Any) -> None:
    g = np.array([1, math.nan, 2], dtype)
    p = np.ones(3, dtype)
    after("SGD", {"clip_norm": 1.0}, p, g)
    assert np.isnan(p).all()


# The ends of the range


@each_variant
@each_level
def test_squares_beyond_float32_give_no_nan(name: str, options: Options, level: str) -> None:
    """A second moment that overflows stops its element."""
    p = np.ones(37, np.float32)
    big, one = filled(37, 1e30, np.float32), filled(37, 1, np.float32)
    optimizer = after(name, options, p, big, one, big, one)
    assert np.isfinite(p).all()
    assert not np.isnan(list(optimizer.state[0].values())).any()


@each_variant
def test_clip_norm_brings_gradients_beyond_float32_back(name: str, options: Options) -> None:
    directions = np.random.default_rng(0).standard_normal((4, 37))
    ends = []
    for size in (1.0, 1e30):
        p = np.ones(37, np.float32)
        gradients = [(size * d).astype(np.float32) for d in directions]
        after(name, {"lr": 0.1, **options, "clip_norm": 0.5}, p, *gradients)
        ends.append(p)
    np.testing.assert_allclose(ends[1], ends[0], rtol=2e-5)


@each_dtype
@each_level
def test_denormals_are_not_flushed(dtype: Any, level: str) -> None:
    least = np.finfo(dtype).smallest_subnormal
    p, g = least * np.arange(37, dtype=dtype), filled(37, 3 * least, dtype)
    after("SGD", {"lr": 2.0}, p, g)
    np.testing.assert_array_equal(p, least * (np.arange(37, dtype=dtype) - 6))


@each_variant
@each_level
def test_denormal_gradients_are_harmless(name: str, options: Options, level: str) -> None:
    for dtype in DTYPES:
        p = np.ones(37, dtype)
        g = filled(37, 64 * np.finfo(dtype).smallest_subnormal, dtype)
        optimizer = after(name, options, p, g, -g, g)
        state = optimizer.state[0]
        assert np.isfinite([p, *state.values()]).all()
        assert "exp_avg" not in state or (state["exp_avg"] > 0).all()


def test_beta2_and_eps_are_not_rounded_away() -> None:
    p = np.zeros(37, np.float32)
    optimizer = after("Adam", {}, p, filled(37, 1, np.float32))
    for _ in range(500):
        optimizer.step(np.zeros(37, np.float32))
    np.testing.assert_allclose(optimizer.state[0]["exp_avg_sq"], 0.001 * 0.999**500, rtol=1e-4)
    p = np.zeros(37, np.float32)
    after("Adam", {"lr": 1.0, "eps": 1e-8}, p, filled(37, 1e-10, np.float32))
    np.testing.assert_allclose(p, -1 / 101, rtol=1e-6)


# Steps


@folded("taken", [2**24, 2**53, 2**62])
@each_variant
def test_steps_go_on_beyond_what_floats_count(name: str, options: Options, taken: int) -> None:
    p = np.ones(37, np.float32)
    optimizer = gs.OPTIMIZERS[name](p, **{"lr": 0.1, **options})
    saved = optimizer.state_dict()
    saved["step"] = saved["state"][0]["step"] = taken
    optimizer.load_state_dict(saved)
    for extra in (1, 2, 3):
        before = p.copy()
        assert optimizer.step(filled(37, 1, np.float32)).step == taken + extra
        assert optimizer.state_dict()["state"][0]["step"] == taken + extra
        assert np.isfinite(p).all()
        assert (p < before).all()


UNIT_STEPS = [
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"weight_decay": 0.0}),
    ("Adamax", {}),
]


@each_dtype
@pytest.mark.parametrize(("name", "options"), [*UNIT_STEPS, ("Adagrad", {})])
@each_level
def test_the_first_step_is_the_rate(name: str, options: Options, dtype: Any, level: str) -> None:
    """With eps 0 every size of gradient gives lr sign(g); ten roundings of half an ULP."""
    sizes = 10.0 ** np.arange(-15, 16)
    g = np.concatenate([sizes, -sizes]).astype(dtype)
    p = np.zeros(g.size, dtype)
    after(name, {**options, "lr": 0.25, "eps": 0.0}, p, g)
    np.testing.assert_allclose(p, -0.25 * np.sign(g), rtol=5 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("name", "options"), UNIT_STEPS)
def test_a_constant_gradient_gives_the_rate_at_every_step(name: str, options: Options) -> None:
    """Corrected moments of a constant are that constant, which no other correction gives."""
    p = np.zeros(37)
    optimizer = gs.OPTIMIZERS[name](p, **{**options, "lr": 0.25, "eps": 0.0})
    for t in range(1, 2001):
        optimizer.step(filled(37, -3.0, np.float64))
        np.testing.assert_allclose(p, 0.25 * t, rtol=1e-12)


@pytest.mark.parametrize("method", ["step", "reference_step"])
def test_gradients_are_prepared_in_the_documented_order(method: str) -> None:
    """Each operation changes what the next one sees; the numbers are exact in binary."""
    common = {"maximize": True, "grad_scale": 0.5, "clip_value": 1.0, "l1": 0.25}
    p = filled(37, 2, np.float32)
    optimizer = gs.SGD(p, lr=1.0, weight_decay=0.125, **common)
    getattr(optimizer, method)(filled(37, 3, np.float32))
    assert set(p) == {2 - (-1 + 0.25 + 0.125 * 2)}
    p = np.array([2.0, 0.0])
    optimizer = gs.SGD(p, lr=1.0, clip_norm=1.0, **{**common, "clip_value": 0.75})
    info = getattr(optimizer, method)(np.array([6.0, 8.0]))
    assert info.grad_norm == 5.0
    np.testing.assert_allclose(p, [2 - (-0.6 + 0.25), 0.75], rtol=1e-6)
