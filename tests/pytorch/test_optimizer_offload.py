"""Steps on the host for parameters elsewhere: the bits of the optimizer itself. The device here is
the CPU with other storage; no copy is asynchronous."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from gradstep.torch.optim import offload  # noqa: E402

BF16 = torch.bfloat16
LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "float32": (torch.float32, {}),
    "split, 8 bits": (BF16, {"master": "split", "state_dtype": "int8", "seed": 3}),
    "bfloat16": (BF16, {"state_dtype": "bfloat16"}),
    "float16": (torch.float16, {"master": "float32"}),
}
GUARDS: list[dict[str, Any]] = [
    {},
    {"clip_norm": 1.0},
    {"on_nonfinite": "raise"},
    {"clip_norm": 1.0, "on_nonfinite": "skip"},
]


def parameters(dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(70, 80), (5,), (0, 2), (4, 8, 3, 3), (300,)]
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    tensors[3] = tensors[3].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(t) for t in tensors]


def give(params: list[Any], t: int) -> None:
    generator = torch.Generator().manual_seed(100 + t)
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator)
        p.grad = None if i == 1 and t == 0 else torch.empty_like(p).copy_(g)


def same(a: list[Any], b: list[Any]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def states(optimizer: Any) -> list[Any]:
    return [v for own in optimizer.state_dict()["state"].values() for v in own.values()]


@pytest.mark.parametrize("bucket", [1, 4000, 2**30])
@pytest.mark.parametrize("guard", GUARDS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_are_those_of_the_optimizer_in_any_buckets(
    layout: str, guard: dict[str, Any], bucket: int
) -> None:
    dtype, options = LAYOUTS[layout]
    far, near = parameters(dtype), parameters(dtype)
    away = gt.OffloadOptimizer(far, lr=0.01, bucket=bucket, **options, **guard)
    here = gt.AdamW(near, lr=0.01, **options, **guard)
    pointers = [p.data_ptr() for p in far]
    for t in range(3):
        give(far, t)
        give(near, t)
        away.step()
        here.step()
        assert same(far, near) and away.grad_norm == here.grad_norm
    assert same(states(away), states(here))
    assert pointers == [p.data_ptr() for p in far]


@pytest.mark.parametrize("several", [False, True])
def test_parameters_may_lack_a_gradient_in_any_step(several: bool) -> None:
    """As experts do that no token was sent to."""
    far, near = parameters(BF16), parameters(BF16)
    away = gt.OffloadOptimizer(far, lr=0.1, master="split", bucket=1, clip_norm=1.0)
    here = gt.AdamW(near, lr=0.1, master="split", clip_norm=1.0)
    for t, absent in enumerate([(), (0,), (1, 4), (3,), ()]):
        for params in (far, near):
            give(params, t + 1)
            for i in absent:
                params[i].grad = None
        if several:
            away.accumulate()
        away.step()
        here.step()
        assert same(far, near)
    assert same(states(away), states(here))


def test_a_batch_that_fails_between_buckets_is_not_added_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far, near = parameters(torch.float32), parameters(torch.float32)
    failing, whole = (gt.OffloadOptimizer(p, lr=0.1, bucket=1) for p in (far, near))
    give(far, 1)
    give(near, 1)
    add, calls = offload.accumulate, []

    def once_without_memory(*given: Any, **named: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise MemoryError
        return add(*given, **named)

    monkeypatch.setattr(offload, "accumulate", once_without_memory)
    with pytest.raises(MemoryError):
        failing.accumulate()
    failing.accumulate()
    whole.accumulate()
    failing.step()
    whole.step()
    assert same(far, near)


@pytest.mark.parametrize("bucket", [0, 2])
def test_memory_missing_between_buckets_leaves_no_part_of_a_step(
    monkeypatch: pytest.MonkeyPatch, bucket: int
) -> None:
    far, near = parameters(torch.float32), parameters(torch.float32)
    failing, whole = (gt.OffloadOptimizer(p, lr=0.1, bucket=1) for p in (far, near))
    before = [p.detach().clone() for p in far]
    step, calls = failing.optimizer._step_natively, []

    def once_without_memory(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 1 + bucket:
            raise MemoryError
        step(*given)

    monkeypatch.setattr(failing.optimizer, "_step_natively", once_without_memory)
    give(far, 1)
    give(near, 1)
    if bucket == 0:
        with pytest.raises(MemoryError):
            failing.step()
        assert same(far, before) and len(calls) == 1
    else:
        failing.step()
        whole.step()
        assert same(far, near) and same(states(failing), states(whole))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("guard", [{}, {"clip_norm": 1.0}], ids=str)
def test_a_grad_scaler_works_as_with_a_fused_optimizer(guard: dict[str, Any], dtype: Any) -> None:
    """It finds the gradients on the device, and leaves out a step that is not finite."""
    far, near = parameters(dtype), parameters(dtype)
    options: dict[str, Any] = {"lr": 0.01, "master": "float32", **guard}
    away = gt.OffloadOptimizer(far, bucket=4000, **options)
    here = gt.AdamW(near, fused=True, **options)
    scalers = [torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2) for _ in range(2)]
    for t in range(5):
        for params, optimizer, scaler in zip((far, near), (away, here), scalers, strict=True):
            scaler.scale(torch.ones(()))
            give(params, t + 1)
            if t == 2:
                params[4].grad[3] = float("inf")
            if t == 3 and dtype == torch.float32:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            assert optimizer.skipped == (t == 2)
        assert same(far, near) and same(states(away), states(here))
        assert away.grad_norm == here.grad_norm
        assert scalers[0].get_scale() == scalers[1].get_scale()
    assert scalers[0].get_scale() != 8.0


def test_groups_have_the_parameters_that_were_given() -> None:
    far = parameters(torch.float32)
    away = gt.OffloadOptimizer([{"params": far[:2]}, {"params": far[2:]}], gt.SGD, lr=0.5)
    first, second = away.param_groups
    assert all(p is q for p, q in zip([*first["params"], *second["params"]], far, strict=True))
    first["lr"] = 0.0
    before = [p.detach().clone() for p in far]
    give(far, 1)
    away.step()
    assert same(far[:2], before[:2]) and not same(far[2:], before[2:])
    with pytest.raises(ValueError, match=r"^params: hold from when the optimizer was made on"):
        first["params"] = []


def test_averages_reach_the_device() -> None:
    far, near = parameters(BF16), parameters(BF16)
    options: dict[str, Any] = {"lr": 0.1, "master": "split", "ema": "float32", "ema_decay": 0.5}
    away, here = gt.OffloadOptimizer(far, **options), gt.AdamW(near, **options)
    for t in (1, 2):
        give(far, t)
        give(near, t)
        away.step()
        here.step()
    before = [p.detach().clone() for p in far]
    with away.averaged(), here.averaged():
        assert same(far, near) and not same(far, before)
    assert same(far, before)


def test_another_optimizer_named_groups_and_schedules() -> None:
    far, near = parameters(torch.float32), parameters(torch.float32)

    def groups(p: list[Any]) -> list[dict[str, Any]]:
        named = [(f"p{i}", q) for i, q in enumerate(p)]
        return [{"params": named[:2], "lr": 0.5}, {"params": named[2:]}]

    away = gt.OffloadOptimizer(groups(far), gt.SGD, lr=0.1, momentum=0.9)
    here = gt.SGD(groups(near), lr=0.1, momentum=0.9)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (away.optimizer, here)]
    for t in range(3):
        give(far, t)
        give(near, t)
        away.step()
        here.step()
        for schedule in schedules:
            schedule.step()
    assert same(far, near) and away.param_groups[0]["lr"] == 0.0625
    assert away.param_groups[0]["param_names"] == ["p0", "p1"]
    away.zero_grad(set_to_none=False)
    assert not any(p.grad.any() for p in far)
    away.zero_grad()
    assert all(p.grad is None for p in far)


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_gradients_of_several_batches_are_added_in_float32(guard: dict[str, Any]) -> None:
    far, near = parameters(BF16), parameters(BF16)
    away = gt.OffloadOptimizer(far, lr=0.01, bucket=4000, master="split", **guard)
    here = gt.AdamW(near, lr=0.01, master="split", **guard)
    for p in near:
        p.grad_dtype = torch.float32
    for step in range(2):
        totals = [torch.zeros_like(p, dtype=torch.float32) for p in near]
        for t in range(3):
            give(far, 10 * step + t)
            for total, p in zip(totals, far, strict=True):
                if p.grad is not None:
                    total += p.grad
            if t < 2:
                away.accumulate()
                assert all(p.grad is None for p in far)
        away.step()
        for p, total in zip(near, totals, strict=True):
            p.grad = total
        here.step()
        assert same(far, near) and away.grad_norm == here.grad_norm


@pytest.mark.parametrize("several", [False, True])
def test_gradients_that_are_not_finite_write_nothing(several: bool) -> None:
    far = parameters(BF16)
    away = gt.OffloadOptimizer(far, lr=0.01, bucket=1, master="split", on_nonfinite="raise")
    give(far, 1)
    away.step()
    before = [p.detach().clone() for p in far], copy.deepcopy(states(away))
    give(far, 2)
    far[4].grad[7] = float("nan")
    if several:
        away.accumulate()
    with pytest.raises(FloatingPointError, match=r"parameter 4'\].grad: 1 of 300 elements"):
        away.step()
    away.optimizer.on_nonfinite = "skip"
    if several:
        give(far, 2)
        far[4].grad[7] = float("inf")
        away.accumulate()
    away.step()
    assert away.skipped and same(far, before[0]) and same(states(away), before[1])
    give(far, 3)
    away.step()
    assert not away.skipped and not same(far, before[0])


@pytest.mark.parametrize("reload", [False, True])
def test_a_resumed_run_is_the_run_to_the_bit(reload: bool) -> None:
    far = parameters(BF16)
    options: dict[str, Any] = {"lr": 0.01, "master": "split", "state_dtype": "int8"}
    away = gt.OffloadOptimizer(far, **options)
    give(far, 1)
    away.step()
    file = io.BytesIO()
    torch.save([away.state_dict(), [p.detach() for p in far]], file)
    file.seek(0)
    saved, weights = torch.load(file, weights_only=True)
    others = [torch.nn.Parameter(torch.zeros_like(p)) for p in parameters(BF16)]
    again = gt.OffloadOptimizer(others, **options)
    with torch.no_grad():
        for p, w in zip(others, weights, strict=True):
            p.copy_(w)
    if reload:
        again.reload()
    again.load_state_dict(saved)
    for params, optimizer in ((far, away), (others, again)):
        give(params, 2)
        optimizer.step()
    assert same(far, others) and same(states(away), states(again))


def test_weights_changed_on_the_device_are_taken_by_reload() -> None:
    far = parameters(BF16)
    away = gt.OffloadOptimizer(far, gt.SGD, lr=1.0, master="float32")
    give(far, 1)
    away.step()
    with torch.no_grad():
        far[1].fill_(3)
    away.reload()
    for p in far:
        p.grad = torch.zeros_like(p)
    away.step()
    assert (far[1] == 3).all()


def test_nothing_is_written_where_a_later_bucket_is_refused() -> None:
    far = parameters(torch.float32)
    away = gt.OffloadOptimizer(far, lr=0.1, bucket=1)
    give(far, 1)
    far[4].grad = None
    far[4].grad_dtype = torch.float64
    far[4].grad = torch.ones(300, dtype=torch.float64)
    before = [p.detach().clone() for p in far]
    with pytest.raises(TypeError, match=r"parameter 4'\].grad: torch.float64, expected"):
        away.step()
    with pytest.raises(
        TypeError, match=r"parameter 4'\].grad: torch\.float64, expected torch\.float32, "
    ):
        away.accumulate()
    assert all(place.total is None for place in away._places[4:])
    assert same(far, before) and not any(map(len, away.optimizer.state.values()))


def test_a_step_without_gradients_is_none() -> None:
    far = parameters(torch.float32)
    before = [p.detach().clone() for p in far]
    away = gt.OffloadOptimizer(far, lr=0.1, clip_norm=1.0)
    away.step()
    away.accumulate()
    away.step()
    assert same(far, before)


def test_sparse_gradients_are_named_and_nothing_is_written() -> None:
    table, other = (torch.nn.Embedding(5, 2, sparse=sparse).weight for sparse in (True, False))
    away = gt.OffloadOptimizer([("other", other), ("table", table)], gt.SGD, lr=1.0)
    other.grad = torch.ones(5, 2)
    table.grad = torch.ones(5, 2).to_sparse(1)
    before = [p.detach().clone() for p in (other, table)]
    for call in (away.step, away.accumulate):
        with pytest.raises(TypeError, match=r"^params\['table'\]\.grad: layout torch\.sparse_coo"):
            call()
    assert same([other, table], before) and other.grad is not None
    assert all(place.total is None and place.grad is None for place in away._places)


def test_copies_go_on_alone() -> None:
    far = parameters(BF16)
    away = gt.OffloadOptimizer(far, lr=0.01, master="split", state_dtype="int8", clip_norm=1.0)
    give(far, 1)
    away.step()
    give(far, 2)
    away.accumulate()
    others = [copy.deepcopy(away), pickle.loads(pickle.dumps(away))]
    for optimizer in (away, *others):
        own = [p for group in optimizer.param_groups for p in group["params"]]
        give(own, 3)
        optimizer.step()
        assert same(own, far) and same(states(optimizer), states(away))
        assert optimizer is away or own[0] is not far[0]


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda w: gt.OffloadOptimizer([w], torch.optim.AdamW), TypeError, "^optimizer: .*expected a"),
    (lambda w: gt.OffloadOptimizer([w], zero_grads=True), ValueError, "^zero_grads: True"),
    (lambda w: gt.OffloadOptimizer([w], bucket=0), ValueError, "^bucket: 0, expected an integer"),
    (lambda w: gt.OffloadOptimizer([1.0]), TypeError, "^params: float, expected tensors"),
    (
        lambda w: gt.OffloadOptimizer([w, torch.ones(2, device="meta")]),
        ValueError,
        "^params: on meta, expected cpu as the first",
    ),
    (
        lambda w: gt.OffloadOptimizer([torch.ones(2, device="meta")]),
        TypeError,
        "^params: on meta, expected a device with memory",
    ),
    (
        lambda w: gt.OffloadOptimizer([{"params": [w]}, {"params": [w]}]),
        ValueError,
        "^params: a tensor that comes twice, expected each once",
    ),
    (lambda w: gt.OffloadOptimizer([{"lr": 1.0}]), ValueError, r"^params\[0\]: no 'params'"),
    (
        lambda w: gt.OffloadOptimizer([{"params": [w]}, w]),
        TypeError,
        r"^params\[1\]: Parameter, expected a mapping",
    ),
    (lambda w: gt.OffloadOptimizer(w), TypeError, "^params: a tensor, expected a sequence of them"),
    (lambda w: gt.OffloadOptimizer([w], state_dtype="int4"), ValueError, "^state_dtype: 'int4'"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_what_does_not_fit_is_refused(case: int) -> None:
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call(torch.nn.Parameter(torch.ones(2)))
