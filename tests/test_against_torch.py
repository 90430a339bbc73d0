"""Trajectories against torch.optim, and against the rules of Keras, optax and the Lion paper."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

Array = NDArray[Any]
Gradient = Callable[[int, Array], Array]
Options = dict[str, Any]
Trajectory = dict[str, Array]

STEPS = 100

# Option sets of each optimizer. Rates are such that a loop through the gradient neither settles nor
# oscillates within STEPS; a large eps makes its place in the formula visible.
OPTIONS: dict[str, list[Options]] = {
    "SGD": [
        {"lr": 0.05},
        {"lr": 0.05, "momentum": 0.9},
        {"lr": 0.05, "momentum": 0.9, "dampening": 0.5},
        {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    ],
    "Adagrad": [
        {"lr": 0.01},
        {"lr": 0.01, "lr_decay": 0.05, "eps": 0.01},
        {"lr": 0.02, "initial_accumulator_value": 0.1},
    ],
    "RMSprop": [
        {"lr": 0.002, "eps": 0.01},
        {"lr": 0.002, "eps": 0.05, "alpha": 0.98, "centered": True},
        {"lr": 0.002, "eps": 0.01, "momentum": 0.5},
        {"lr": 0.002, "eps": 0.01, "centered": True, "momentum": 0.5},
    ],
    "Adadelta": [{"eps": 1e-5}, {"lr": 0.5, "rho": 0.95, "eps": 1e-4}],
    "Adam": [
        {"lr": 0.005},
        {"lr": 0.005, "betas": (0.8, 0.99), "eps": 0.01},
        {"lr": 0.005, "amsgrad": True, "eps": 0.01},
        {"lr": 0.005, "decoupled_weight_decay": True},
    ],
    "AdamW": [{"lr": 0.005}, {"lr": 0.005, "amsgrad": True, "betas": (0.9, 0.9)}],
    "NAdam": [
        {"lr": 0.005, "eps": 0.01},
        {"lr": 0.005, "momentum_decay": 0.1},
        {"lr": 0.005, "decoupled_weight_decay": True},
    ],
    "Adamax": [{"lr": 0.005}, {"lr": 0.005, "betas": (0.8, 0.9), "eps": 0.01}],
    "RAdam": [
        {"lr": 0.005, "eps": 0.01},
        {"lr": 0.005, "betas": (0.8, 0.95)},
        {"lr": 0.005, "decoupled_weight_decay": True},
    ],
    "Lion": [{"lr": 0.002}, {"lr": 0.002, "betas": (0.95, 0.98)}],
}
VARIANTS: list[Options] = [
    {},
    {"weight_decay": 0.1},
    {"maximize": True},
    {"weight_decay": 0.1, "maximize": True},
]


class PaperLion(torch.optim.Optimizer):
    """Chen et al. 2023 (arXiv:2302.06675), algorithm 2; torch.optim has no Lion."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, {"betas": (0.9, 0.99), "weight_decay": 0.0, **options})

    @torch.no_grad()
    def step(self) -> None:
        for h in self.param_groups:
            (beta1, beta2), (p,) = h["betas"], h["params"]
            g = -p.grad if h.get("maximize") else p.grad
            m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
            p.mul_(1 - h["lr"] * h["weight_decay"])
            p.sub_(h["lr"] * torch.sign(beta1 * m + (1 - beta1) * g))
            m.copy_(beta2 * m + (1 - beta2) * g)


def make_peer(name: str, params: Any, options: Options) -> Any:
    """The other side, one tensor and one operation at a time."""
    if name == "Lion":
        return PaperLion(params, **options)
    peer = getattr(torch.optim, name)
    known = inspect.signature(peer).parameters
    plain = {key: False for key in ("foreach", "fused") if key in known}
    return peer(params, **plain, **options)


@pytest.fixture(autouse=True)
def torch_in_double() -> Iterator[None]:
    """One thread, and float64 as the type of what torch keeps as tensors: NAdam's product of μ."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


# Problems: a starting point, and the gradient at step t and point p, in float64.


def random_sequence() -> tuple[Array, Gradient]:
    """Gradients of sizes 1e-3 to 10, the same for both sides whatever the point."""
    rng = np.random.default_rng(1)
    size = 77
    scales = 10 ** rng.uniform(-3, 1, size)
    gradients = rng.standard_normal((STEPS, size)) * scales
    return rng.standard_normal(size), lambda t, p: gradients[t - 1]


def quadratic() -> tuple[Array, Gradient]:
    """½ (p - c)ᵀ A (p - c) with eigenvalues of A from 0.01 to 1."""
    rng = np.random.default_rng(2)
    size = 45
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    curvature = basis * np.logspace(-2, 0, size) @ basis.T
    centre = rng.standard_normal(size)
    return rng.standard_normal(size), lambda t, p: curvature @ (p - centre)


def network() -> tuple[Array, Gradient]:
    """Mean square error of tanh(x W + b) V + c on 64 samples; p is W, b, V, c in a row."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((64, 5))
    y = np.sin(x @ rng.standard_normal((5, 2))) + 1
    start = np.concatenate([rng.standard_normal(80) / 2, np.zeros(16), rng.standard_normal(34) / 4])

    def gradient(t: int, p: Array) -> Array:
        w, b, v, c = p[:80].reshape(5, 16), p[80:96], p[96:128].reshape(16, 2), p[128:]
        hidden = np.tanh(x @ w + b)
        error = (hidden @ v + c - y) / len(x)
        inner = (error @ v.T) * (1 - hidden * hidden)
        parts = (x.T @ inner, inner.sum(0), hidden.T @ error, error.sum(0))
        return np.concatenate([part.ravel() for part in parts])

    return start, gradient


PROBLEMS = [random_sequence, quadratic, network]


def uphill(options: Options, gradient: Gradient) -> Gradient:
    """The gradient of the negated function where the optimizer maximizes."""
    return (lambda t, p: -gradient(t, p)) if options.get("maximize") else gradient


def our_trajectory(name: str, options: Options, start: Array, g: Gradient) -> Trajectory:
    p = start.copy()
    optimizer = gs.OPTIMIZERS[name](p, **options)
    rows = []
    for t in range(1, STEPS + 1):
        optimizer.step(g(t, p.astype(np.float64)).astype(p.dtype))
        rows.append({"p": p.copy(), **{k: s.copy() for k, s in optimizer.state[0].items()}})
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def torch_trajectory(name: str, options: Options, start: Array, g: Gradient) -> Trajectory:
    p = torch.from_numpy(start.copy())
    optimizer = make_peer(name, [p], options)
    rows = []
    for t in range(1, STEPS + 1):
        p.grad = torch.from_numpy(g(t, p.numpy().astype(np.float64)).astype(start.dtype))
        optimizer.step()
        states = {k: s for k, s in optimizer.state[p].items() if s is not None and s.ndim}
        rows.append({k: s.numpy().copy() for k, s in {"p": p, **states}.items()})
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


# How far apart two trajectories in float32 may be, in ULP of the largest value on the way: 3.5 σ of
# what roundings add up to, each of variance 1/12.
#
# p: both sides round p - step. The steps differ by a few of their own ULP, hundredths of one of p,
# so the roundings agree but for a few of 100 steps, worth 1 ULP each: σ = √3. In NAdam torch rounds
# twice where we round once, three independent roundings a step: σ = √(300 / 12) = 5.
# Averages: three roundings a side, of which a share β is kept: σ = √(6/12 / (1-β²)), 1.6 for
# β = 0.9 and 5 for β = 0.99; in a loop the gradients differ too, as p does.
# acc_delta: δ is a multiple of √acc_delta, so relative errors are never forgotten: eight roundings
# a side give σ = √(16 · 100 / 12) = 11.5.
ULPS = {"acc_delta": 40, "grad_avg": 18, "p": 6}
ULPS_NADAM = {**ULPS, "p": 18}
ULPS_OTHER = 10

# In float64, relative to the largest value. RAdam first adapts where ρ = 5 is the difference of
# two numbers near 2000, from a 1-β₂ᵗ that has lost two digits.
RELATIVE = {"RAdam": 5e-13}
RELATIVE_OTHER = 5e-14


def assert_close(name: str, ours: Trajectory, theirs: Trajectory) -> None:
    assert ours.keys() == theirs.keys()
    ulps = ULPS_NADAM if name == "NAdam" else ULPS
    for key, values in ours.items():
        assert values.dtype == theirs[key].dtype
        largest = np.abs(theirs[key]).max()
        bound = RELATIVE.get(name, RELATIVE_OTHER) * largest
        if values.dtype == np.float32:
            bound = ulps.get(key, ULPS_OTHER) * np.spacing(largest)
        np.testing.assert_allclose(values, theirs[key], rtol=0, atol=bound, err_msg=key)


CASES = [
    pytest.param(name, {**options, **variant}, id=f"{name}-{number}-{'-'.join(variant) or 'plain'}")
    for name, sets in OPTIONS.items()
    for number, options in enumerate(sets)
    for variant in VARIANTS
]


def test_every_optimizer_has_a_peer() -> None:
    assert OPTIONS.keys() == gs.OPTIMIZERS.keys()


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.__name__)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_parameters_and_states_follow_torch(
    name: str, options: Options, problem: Callable[[], tuple[Array, Gradient]], dtype: Any
) -> None:
    start, descent = problem()
    gradient = uphill(options, descent)
    start = start.astype(dtype)
    ours = our_trajectory(name, options, start, gradient)
    assert_close(name, ours, torch_trajectory(name, options, start, gradient))


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"Lion"}))
def test_defaults_are_those_of_torch(name: str) -> None:
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    ours = inspect.signature(gs.OPTIMIZERS[name]).parameters
    shared = ours.keys() & theirs.keys() - {"params"}
    assert shared >= {"lr", "weight_decay", "maximize"}
    for key in shared:
        assert ours[key].default == theirs[key].default, key


# Several tensors: `run` steps both sides with the same gradients.

SHAPES = [(), (3,), (5, 7), (2, 0), (2, 3, 11)]


def tensors(seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in SHAPES]


def pair(arrays: list[Array]) -> tuple[list[Array], list[Any]]:
    return [a.copy() for a in arrays], [torch.from_numpy(a.copy()) for a in arrays]


def give(peers: list[Any], gradients: list[Any]) -> None:
    for p, g in zip(peers, gradients, strict=True):
        p.grad = None if g is None else torch.from_numpy(g.copy())


def assert_same(ours: list[Array], peers: list[Any], rtol: float = 1e-13) -> None:
    for a, b in zip(ours, peers, strict=True):
        np.testing.assert_allclose(a, b.numpy(), rtol=rtol, atol=rtol)


def test_groups_keep_their_own_rates_when_they_change() -> None:
    ours, peers = pair(tensors(0))
    rates: list[Options] = [{"lr": 0.1}, {"weight_decay": 0.3}, {"lr": 0.01, "betas": (0.5, 0.9)}]
    cuts = [slice(0, 1), slice(1, 3), slice(3, 5)]
    rows = list(zip(rates, cuts, strict=True))
    opt = gs.AdamW([{"params": ours[cut], **own} for own, cut in rows], lr=0.02)
    peer_groups = [{"params": peers[cut], **own} for own, cut in rows]
    peer = torch.optim.AdamW(peer_groups, lr=0.02, foreach=False)
    for t in range(40):
        if t == 20:
            opt.param_groups[1]["lr"] = peer.param_groups[1]["lr"] = 0.2
        gradients = tensors(100 + t)
        give(peers, gradients)
        peer.step()
        opt.step([gradients[cut] for cut in cuts])
        assert_same(ours, peers)


def test_a_tensor_without_gradient_keeps_its_own_step_count() -> None:
    ours, peers = pair(tensors(1))
    opt, peer = gs.Adam(ours, lr=0.1), torch.optim.Adam(peers, lr=0.1, foreach=False)
    for t in range(20):
        gradients: list[Array | None] = [
            None if (t + i) % (i + 2) == 0 else g for i, g in enumerate(tensors(100 + t))
        ]
        give(peers, gradients)
        peer.step()
        opt.step(gradients)
        assert_same(ours, peers)
    counts = [opt.state_dict()["state"][i]["step"] for i in range(len(ours))]
    assert counts == [int(peer.state[p]["step"]) for p in peers]
    assert len(set(counts)) > 1


SCHEDULES = {
    "cosine": (
        gs.cosine(0.1, 30),
        lambda peer: torch.optim.lr_scheduler.CosineAnnealingLR(peer, T_max=30),
    ),
    "staircase": (
        gs.step_decay(0.1, 7, factor=0.3),
        lambda peer: torch.optim.lr_scheduler.StepLR(peer, step_size=7, gamma=0.3),
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"momentum": 0.9}), ("Adam", {}), ("AdamW", {"amsgrad": True})]
)
def test_a_schedule_is_a_torch_scheduler(name: str, options: Options, schedule: str) -> None:
    rate, make_scheduler = SCHEDULES[schedule]
    ours, peers = pair(tensors(2))
    opt = gs.OPTIMIZERS[name](ours, lr=rate, **options)
    peer = make_peer(name, peers, {"lr": 0.1, **options})
    scheduler = make_scheduler(peer)
    for t in range(30):
        gradients = tensors(100 + t)
        give(peers, gradients)
        peer.step()
        scheduler.step()
        opt.step(gradients)
        assert_same(ours, peers)


@pytest.mark.parametrize("size", [1e-2, 1e2, 1e20], ids=["below", "above", "far above"])
def test_clip_norm_is_clip_grad_norm(size: float) -> None:
    ours, peers = pair(tensors(3))
    opt = gs.SGD(ours, lr=0.1, momentum=0.9, clip_norm=1.5)
    peer = make_peer("SGD", peers, {"lr": 0.1, "momentum": 0.9})
    for t in range(20):
        gradients = [np.asarray(size * g) for g in tensors(100 + t)]
        give(peers, gradients)
        norm = float(torch.nn.utils.clip_grad_norm_(peers, 1.5))
        peer.step()
        assert opt.step(gradients).grad_norm == pytest.approx(norm, rel=1e-14)
        assert_same(ours, peers)
        assert gs.clip_norm_(gradients, 1.5) == pytest.approx(norm, rel=1e-14)
        assert_same(gradients, [p.grad for p in peers])


def test_clip_value_is_clip_grad_value() -> None:
    ours, peers = pair(tensors(4))
    opt = gs.Adagrad(ours, lr=0.1, clip_value=0.5)
    peer = make_peer("Adagrad", peers, {"lr": 0.1})
    for t in range(20):
        gradients = tensors(100 + t)
        give(peers, gradients)
        torch.nn.utils.clip_grad_value_(peers, 0.5)
        peer.step()
        opt.step(gradients)
        assert_same(ours, peers)


# Rules of other libraries, written as their documents give them: each takes the parameter, the
# gradient, the step t, the rate and a dict that starts with zeros, and returns the new parameter.
# Keras 3: keras/src/optimizers; optax 0.2: optax/_src/transform.py.

State = dict[str, Any]
Rule = Callable[[Array, Array, int, float, State], Array]


def keras_momentum(w: Array, g: Array, t: int, lr: float, s: State) -> Array:
    s["v"] = 0.9 * s["v"] - lr * g
    return w + s["v"]


def keras_nesterov(w: Array, g: Array, t: int, lr: float, s: State) -> Array:
    s["v"] = 0.9 * s["v"] - lr * g
    return w + 0.9 * s["v"] - lr * g


def keras_adam(w: Array, g: Array, t: int, lr: float, s: State) -> Array:
    s["m"] = s["m"] + (g - s["m"]) * 0.1
    s["v"] = s["v"] + (g * g - s["v"]) * 0.001
    return w - lr * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * s["m"] / (np.sqrt(s["v"]) + 1e-2)


def keras_nadam(w: Array, g: Array, t: int, lr: float, s: State) -> Array:
    now, after = 0.9 * (1 - 0.5 * 0.96**t), 0.9 * (1 - 0.5 * 0.96 ** (t + 1))
    s["product"] = now * (s["product"] if t > 1 else 1)
    s["m"] = s["m"] + (g - s["m"]) * 0.1
    s["v"] = s["v"] + (g * g - s["v"]) * 0.001
    mean = after * s["m"] / (1 - s["product"] * after) + (1 - now) * g / (1 - s["product"])
    return w - lr * mean / (np.sqrt(s["v"] / (1 - 0.999**t)) + 1e-2)


def keras_adagrad(w: Array, g: Array, t: int, lr: float, s: State) -> Array:
    s["sum"] = (s["sum"] if t > 1 else 0.1) + g * g
    return w - lr * g / np.sqrt(s["sum"] + 1e-2)


def keras_adadelta(w: Array, g: Array, t: int, lr: float, s: State) -> Array:
    s["g"] = 0.95 * s["g"] + 0.05 * g * g
    delta = -np.sqrt(s["d"] + 1e-7) * g / np.sqrt(s["g"] + 1e-7)
    s["d"] = 0.95 * s["d"] + 0.05 * delta * delta
    return w + lr * delta


def optax_radam(w: Array, g: Array, t: int, lr: float, s: State) -> Array:
    s["m"] = 0.9 * s["m"] + 0.1 * g
    s["v"] = 0.999 * s["v"] + 0.001 * g * g
    mean, most = s["m"] / (1 - 0.9**t), 2 / (1 - 0.999) - 1
    rho = most - 2 * t * 0.999**t / (1 - 0.999**t)
    if rho < 5:
        return w - lr * mean
    r = math.sqrt((rho - 4) * (rho - 2) * most / ((most - 4) * (most - 2) * rho))
    return w - lr * r * mean / (np.sqrt(s["v"] / (1 - 0.999**t)) + 1e-2)


RULES: list[tuple[Rule, str, Options]] = [
    (keras_momentum, "SGD", {"momentum": 0.9, "lr_in_momentum": True}),
    (keras_nesterov, "SGD", {"momentum": 0.9, "lr_in_momentum": True, "nesterov": True}),
    (keras_adam, "Adam", {"eps": lambda t: 1e-2 / math.sqrt(1 - 0.999**t)}),
    (keras_nadam, "NAdam", {"momentum_decay": 1.0, "eps": 1e-2}),
    (keras_adagrad, "Adagrad", {"initial_accumulator_value": 0.1 + 1e-2, "eps": 0.0}),
    (keras_adadelta, "Adadelta", {"rho": 0.95, "eps": 1e-7}),
    (optax_radam, "RAdam", {"eps": lambda t: 1e-2 * math.sqrt(1 - 0.999**t)}),
]


@pytest.mark.parametrize(
    ("rule", "name", "options"), RULES, ids=lambda x: getattr(x, "__name__", "")
)
def test_other_libraries_can_be_expressed(rule: Rule, name: str, options: Options) -> None:
    """With a rate that changes, which is where rates inside and outside a buffer part."""
    start, gradient = quadratic()
    rate = gs.cosine(0.05, 80, floor=0.001)
    ours, theirs = start.copy(), start.copy()
    opt = gs.OPTIMIZERS[name](ours, lr=rate, **options)
    state: State = {key: np.zeros_like(start) for key in ("m", "v", "g", "d", "sum", "product")}
    for t in range(1, STEPS + 1):
        opt.step(gradient(t, ours))
        theirs = rule(theirs, gradient(t, theirs), t, rate(t), state)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=RELATIVE.get(name, RELATIVE_OTHER))


def test_the_place_of_the_rate_matters_only_where_it_changes() -> None:
    ends = []
    for rate in (0.05, gs.cosine(0.05, 80, floor=0.001)):
        for inside in (False, True):
            p, gradient = quadratic()
            opt = gs.SGD(p, lr=rate, momentum=0.9, lr_in_momentum=inside)
            for t in range(1, STEPS + 1):
                opt.step(gradient(t, p))
            ends.append(p)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-13)
    assert np.abs(ends[2] - ends[3]).max() > 1e-3
