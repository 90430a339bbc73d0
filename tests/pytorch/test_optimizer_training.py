"""Our classes in the loops that people write: schedulers, scalers, hooks, closures, averages."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from optimizer_cases import NAMES, assert_same, give, ours, parameters, theirs, twins  # noqa: E402
from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

schedules = torch.optim.lr_scheduler

# Every scheduler of torch, made so that it changes something within 12 steps.
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "ChainedScheduler": lambda opt: schedules.ChainedScheduler(
        [schedules.ExponentialLR(opt, 0.9), schedules.StepLR(opt, 3)], optimizer=opt
    ),
    "ConstantLR": lambda opt: schedules.ConstantLR(opt, 0.5, total_iters=4),
    "CosineAnnealingLR": lambda opt: schedules.CosineAnnealingLR(opt, T_max=10),
    "CosineAnnealingWarmRestarts": lambda opt: schedules.CosineAnnealingWarmRestarts(opt, 4),
    "CyclicLR": lambda opt: schedules.CyclicLR(opt, 0.001, 0.1, step_size_up=3),
    "ExponentialLR": lambda opt: schedules.ExponentialLR(opt, 0.8),
    "LambdaLR": lambda opt: schedules.LambdaLR(opt, lambda t: 1 / (1 + t)),
    "LinearLR": lambda opt: schedules.LinearLR(opt, 0.1, total_iters=6),
    "MultiStepLR": lambda opt: schedules.MultiStepLR(opt, [2, 5]),
    "MultiplicativeLR": lambda opt: schedules.MultiplicativeLR(opt, lambda t: 0.7),
    "OneCycleLR": lambda opt: schedules.OneCycleLR(opt, 0.1, total_steps=13),
    "PolynomialLR": lambda opt: schedules.PolynomialLR(opt, total_iters=8),
    "ReduceLROnPlateau": lambda opt: schedules.ReduceLROnPlateau(opt, patience=1),
    "SequentialLR": lambda opt: schedules.SequentialLR(
        opt,
        [schedules.ConstantLR(opt, 0.1, total_iters=3), schedules.ExponentialLR(opt, 0.8)],
        milestones=[4],
    ),
    "StepLR": lambda opt: schedules.StepLR(opt, 3),
    "SWALR": lambda opt: torch.optim.swa_utils.SWALR(opt, swa_lr=0.2, anneal_epochs=5),
}


def test_every_scheduler_of_torch_is_here() -> None:
    found = {
        name
        for name, thing in vars(schedules).items()
        if inspect.isclass(thing)
        and not name.startswith("_")
        and name != "LRScheduler"
        and (issubclass(thing, schedules.LRScheduler) or name == "ReduceLROnPlateau")
    }
    assert found <= SCHEDULERS.keys()


def advance(scheduler: Any, loss: float) -> None:
    if isinstance(scheduler, schedules.ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()


# Momentum, where a scheduler changes it, is that of SGD or the first of betas.
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["number", "tensor"])
@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {"momentum": 0.9}), ("AdamW", {}), ("RMSprop", {"momentum": 0.8})]
)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_change_our_rate(
    scheduler: str, name: str, options: dict[str, Any], tensor_lr: bool
) -> None:
    mine, other = twins()
    lr: Any = torch.tensor(0.05) if tensor_lr else 0.05
    x, y = ours(name, mine, lr=lr, **options), theirs(name, other, lr=lr + 0, **options)
    a, b = SCHEDULERS[scheduler](x), SCHEDULERS[scheduler](y)
    rates = set()
    for t in range(12):
        give((mine, other), t)
        x.step()
        y.step()
        assert_same(mine, other, x, y)
        rates.add(float(x.param_groups[0]["lr"]))
        advance(a, 1.0)
        advance(b, 1.0)
    assert len(rates) > 1


def test_a_tensor_rate_that_changes_in_place_is_seen() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    rate = torch.tensor(1.0)
    opt = ours("SGD", [p], lr=rate)
    p.grad = torch.ones(3)
    opt.step()
    rate.fill_(0.25)
    opt.step()
    assert p.tolist() == [-1.25] * 3


@pytest.mark.parametrize("name", NAMES)
def test_hyperparameters_of_a_group_are_read_at_every_step(name: str) -> None:
    mine, other = twins()
    x, y = ours(name, mine, lr=0.02), theirs(name, other, lr=0.02)
    changes: list[dict[str, Any]] = [
        {},
        {"lr": 0.1},
        {"weight_decay": 0.3},
        {"maximize": True},
        {"betas": (0.8, 0.95), "rho": 0.8, "alpha": 0.9, "lr_decay": 0.2},
        {"eps": 1e-3},
        {"maximize": False, "weight_decay": 0.0},
    ]
    for t, change in enumerate(changes):
        for optimizer in (x, y):
            group = optimizer.param_groups[0]
            # Our NAdam takes the product of the present momenta, see docs/torch.md.
            group.update({k: v for k, v in change.items() if k in group and name != "NAdam"})
        give((mine, other), t)
        x.step()
        y.step()
        assert_same(mine, other, x, y)


def test_momentum_switched_on_and_off_starts_its_buffer_as_torch_does() -> None:
    mine, other = twins()
    options = {"lr": 0.1, "dampening": 0.5}
    x, y = ours("SGD", mine, **options), theirs("SGD", other, **options)
    for t, momentum in enumerate([0, 0, 0.9, 0.9, 0, 0.9, 0.5]):
        x.param_groups[0]["momentum"] = y.param_groups[0]["momentum"] = momentum
        give((mine, other), t, (2,) if t < 4 else ())
        x.step()
        y.step()
        assert_same(mine, other, x, y)


def test_nesterov_without_momentum_is_plain_as_in_torch() -> None:
    mine, other = twins()
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": True}
    x, y = ours("SGD", mine, **options), theirs("SGD", other, **options)
    for t, momentum in enumerate([0.9, 0.0, 0.9]):
        x.param_groups[0]["momentum"] = y.param_groups[0]["momentum"] = momentum
        give((mine, other), t)
        x.step()
        y.step()
        assert_same(mine, other, x, y)


@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_a_closure_gives_the_loss_with_gradients_enabled(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    opt = ours(name, [p])

    def closure() -> Any:
        opt.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert opt.step(closure).item() == 3.0
    assert opt.step(closure).item() < 3.0


def test_hooks_run_around_the_step_in_torchs_order() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    opt = ours("Adam", [p])
    seen: list[tuple[str, float]] = []

    def note(what: str) -> Callable[..., None]:
        return lambda *_: seen.append((what, float(p.detach()[0])))

    handles = [
        opt.register_step_pre_hook(note("pre")),
        opt.register_step_post_hook(note("post")),
        register_optimizer_step_pre_hook(note("all pre")),
        register_optimizer_step_post_hook(note("all post")),
    ]
    p.grad = torch.ones(2)
    opt.step()
    assert [what for what, _ in seen] == ["all pre", "pre", "post", "all post"]
    assert seen[1][1] == 1.0 and seen[2][1] < 1.0
    for handle in handles:
        handle.remove()
    opt.step()
    assert len(seen) == 4


def test_a_profiler_sees_the_step_by_name() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    opt = ours("Adam", [p])
    p.grad = torch.ones(2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        opt.step()
    assert "Optimizer.step#Adam.step" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("fused", [None, True], ids=["unscaled by torch", "fused"])
@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_a_grad_scaler_gives_the_steps_of_unscaled_gradients(name: str, fused: Any) -> None:
    mine, other = parameters(), parameters()
    options = {}
    if fused:
        if "fused" not in inspect.signature(gt.OPTIMIZERS[name]).parameters:
            pytest.skip(f"{name} has no fused")
        options["fused"] = True
    x, y = ours(name, mine, **options), ours(name, other)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for t in range(6):
        give((mine, other), t)
        scale = float(scaler.scale(torch.tensor(1.0)))
        for i, p in enumerate(mine):
            p.grad.mul_(scale)
            if t == 3 and i == 1:
                p.grad[0] = float("inf")
        before = [p.detach().clone() for p in mine]
        grad = mine[0].grad.clone()
        scaler.step(x)
        scaler.update()
        assert torch.equal(mine[0].grad, grad if fused else grad / scale)
        if t == 3:
            assert x.skipped == bool(fused)  # else torch does not call the step
            torch.testing.assert_close([p.detach() for p in mine], before, rtol=0, atol=0)
            assert scaler.get_scale() < scale
        else:
            y.step()
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    assert not hasattr(x, "grad_scale")


@pytest.mark.parametrize("unscaled", [False, True], ids=["", "unscaled before"])
@pytest.mark.parametrize("fused", [None, True], ids=["", "fused"])
def test_a_step_that_a_grad_scaler_skips_is_seen_and_not_counted(
    fused: Any, unscaled: bool
) -> None:
    """By torch's rules the scaler itself leaves out the step of a class that is not fused."""
    mine = parameters()
    x = ours("AdamW", mine, clip_norm=0.5, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    seen = []
    for t, bad in enumerate([False, True, True, False]):
        give([mine], t)
        for p in mine:
            p.grad.mul_(scaler.scale(torch.tensor(1.0)))
        if bad:
            mine[-1].grad.view(-1)[-1] = float("inf")
        before = [p.detach().clone() for p in mine], copy.deepcopy(x.state_dict())
        if unscaled:
            scaler.unscale_(x)
        scaler.step(x)
        scaler.update()
        counts = {int(x.state[p]["step"]) for p in mine}
        seen.append((x.skipped, x.grad_norm is None, counts))
        if bad:
            torch.testing.assert_close([p.detach() for p in mine], before[0], rtol=0, atol=0)
            torch.testing.assert_close(x.state_dict(), before[1], rtol=0, atol=0)
    skip = (bool(fused), bool(fused), {1})
    assert seen == [(False, False, {1}), skip, skip, (False, False, {2})]
    assert scaler.get_scale() == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_amp_scaling_is_claimed_where_torchs_class_claims_it(name: str) -> None:
    """Lightning's precision plugin refuses to clip the gradients of a class that claims it."""
    p = torch.nn.Parameter(torch.ones(2))
    claim = "_step_supports_amp_scaling"
    for fused in (None, False, True):
        if fused is not None and "fused" not in inspect.signature(gt.OPTIMIZERS[name]).parameters:
            continue
        options = {} if fused is None else {"fused": fused}
        peer = getattr(torch.optim, name)([p], **options)
        assert getattr(ours(name, [p], **options), claim, False) == getattr(peer, claim, False)
        assert getattr(peer, claim, False) == bool(fused)


def test_a_grad_scaler_after_unscale_and_clip() -> None:
    mine, other = twins()
    x, y = ours("SGD", mine, lr=0.1, clip_norm=0.5), theirs("SGD", other, lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    give((mine, other), 0)
    for p in mine:
        p.grad.mul_(scaler.scale(torch.tensor(1.0)))
    scaler.unscale_(x)
    scaler.step(x)
    norm = torch.nn.utils.clip_grad_norm_(other, 0.5)
    y.step()
    assert x.grad_norm == pytest.approx(float(norm), rel=1e-6)
    assert_same(mine, other)


def test_clip_norm_is_torchs_and_leaves_the_gradients() -> None:
    mine, other = twins(torch.float64)
    x, y = ours("AdamW", mine, clip_norm=0.7), theirs("AdamW", other)
    for t in range(4):
        give((mine, other), t)
        kept = [p.grad.clone() for p in mine]
        x.step()
        norm = torch.nn.utils.clip_grad_norm_(other, 0.7)
        y.step()
        assert x.grad_norm == pytest.approx(float(norm), rel=1e-12)
        torch.testing.assert_close([p.grad for p in mine], kept, rtol=0, atol=0)
        assert_same(mine, other)


@pytest.mark.parametrize("bad", [False, True], ids=["finite", "skipped"])
def test_zero_grads_leaves_zeros(bad: bool) -> None:
    mine = parameters()
    x = ours("Adam", mine, zero_grads=True, on_nonfinite="skip")
    give([mine], 0, (1,))
    if bad:
        mine[0].grad[0, 0] = float("nan")
    grads = [p.grad for p in mine]
    x.step()
    assert x.skipped == bad
    for p, grad in zip(mine, grads, strict=True):
        assert p.grad is grad and (grad is None or not grad.any())


@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_backward_through_a_changed_parameter_is_torchs_error(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    opt = ours(name, [p])
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_step_without_gradients_bumps_no_version() -> None:
    mine = parameters()
    x = ours("Adam", mine)
    give([mine], 0, (1, 3))
    before = [p._version for p in mine]
    x.step()
    changed = [p._version - v for p, v in zip(mine, before, strict=True)]
    assert changed == [1, 0, 1, 0, 1, 1]
    x.zero_grad()
    x.step()
    assert [p._version - v for p, v in zip(mine, before, strict=True)] == changed


@pytest.mark.parametrize("name", NAMES)
def test_groups_added_later_take_part(name: str) -> None:
    mine, other = twins()
    x, y = ours(name, mine[:2]), theirs(name, other[:2])
    for t in range(6):
        if t == 2:
            x.add_param_group({"params": mine[2:], "lr": 0.03})
            y.add_param_group({"params": other[2:], "lr": 0.03})
        give((mine, other), t)
        x.step()
        y.step()
        assert_same(mine, other, x, y)


def test_an_averaged_model_follows() -> None:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    average = torch.optim.swa_utils.AveragedModel(model)
    opt = ours("SGD", model.parameters(), lr=0.1)
    seen = []
    for _ in range(3):
        opt.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        opt.step()
        average.update_parameters(model)
        seen.append(model.weight.detach().clone())
    torch.testing.assert_close(average.module.weight.detach(), sum(seen) / 3)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_torch_optimizer_with_torchs_arguments(name: str) -> None:
    mine = gt.OPTIMIZERS[name]
    peer = getattr(torch.optim, name)
    assert issubclass(mine, peer)
    own, known = inspect.signature(mine).parameters, inspect.signature(peer).parameters
    extra = ["clip_norm", "on_nonfinite", "zero_grads", "master", "state_dtype", "ema", "ema_decay"]
    assert list(own) == [*known, *extra, "seed", "copy_to"]
    assert all(own[key].default == known[key].default for key in known)


@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_fused_and_foreach_change_nothing(name: str) -> None:
    mine, other = parameters(), parameters()
    keys = inspect.signature(gt.OPTIMIZERS[name]).parameters.keys() & {"foreach", "fused"}
    x = ours(name, mine)
    for key in keys:
        again = parameters()
        y = ours(name, again, **{key: True})
        other = parameters()
        x = ours(name, other)
        for t in range(3):
            give((again, other), t)
            x.step()
            y.step()
        torch.testing.assert_close(again, other, rtol=0, atol=0)


def test_lion_is_the_papers() -> None:
    """Chen et al. 2023 (arXiv:2302.06675), algorithm 2."""
    mine, other = twins(torch.float64)
    x = ours("Lion", mine, lr=0.01, weight_decay=0.1)
    momenta = [torch.zeros_like(p) for p in other]
    for t in range(5):
        give((mine, other), t)
        x.step()
        with torch.no_grad():
            for p, m in zip(other, momenta, strict=True):
                p.mul_(1 - 0.01 * 0.1).sub_(0.01 * torch.sign(0.9 * m + 0.1 * p.grad))
                m.mul_(0.99).add_(p.grad, alpha=0.01)
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)
        states = [x.state[p]["exp_avg"] for p in mine]
        torch.testing.assert_close(states, momenta, rtol=1e-12, atol=1e-13)
