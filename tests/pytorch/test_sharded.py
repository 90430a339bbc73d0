"""torch's optimizers in shards, over ranks that are threads: the bits of one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradstep.torch as gt
import pytest
import torch
from gradstep.spec.sums import SUM_BLOCK

from tests.ranks import on_ranks

SHAPES = [(90, 100), (90,), (), (3, 41, 70), (7,)]
RANKS = 3


def parameters(seed: int = 0) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def gradients(step: int, rank: int) -> list[Any]:
    return [p.detach() for p in parameters(100 * step + rank + 1)]


def together(work: Callable[[Any], Any], n: int = RANKS) -> list[Any]:
    return on_ranks(n, work)


@pytest.mark.parametrize("name", gt.OPTIMIZERS)
@pytest.mark.parametrize("reduce", [False, True])
def test_shards_give_the_bits_of_one_process(name: str, reduce: bool) -> None:
    cls = gt.OPTIMIZERS[name]

    def averaged(step: int) -> list[Any]:
        total = gradients(step, 0)
        for rank in range(1, RANKS):
            for own, other in zip(total, gradients(step, rank), strict=True):
                own += other
        return total

    alone = parameters()
    optimizer = cls(alone, lr=0.01, clip_norm=1.0)
    optimizer.grad_scale = float(RANKS) if reduce else 1.0  # divides by it
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for step in range(3):
        for p, grad in zip(alone, averaged(step), strict=True):
            p.grad = grad
        optimizer.step()
        schedule.step()

    def work(transport: Any) -> Any:
        own = parameters()
        sharded = gt.distributed.ShardedOptimizer(
            cls, own, group=transport, reduce=reduce, lr=0.01, clip_norm=1.0
        )
        rates = torch.optim.lr_scheduler.ExponentialLR(sharded, 0.9)
        for step in range(3):
            given = gradients(step, transport.rank) if reduce else averaged(step)
            for p, grad in zip(own, given, strict=True):
                p.grad = grad
            sharded.step()
            rates.step()
        elements = sum(s.numel() for st in sharded.own.state.values() for s in st.values())
        return own, sharded.grad_norm, elements

    found = together(work)
    for own, norm, _ in found:
        assert norm == optimizer.grad_norm
        for p, q in zip(own, alone, strict=True):
            assert torch.equal(p, q)
    states = sum(s.numel() for st in optimizer.state.values() for s in st.values())
    assert all(elements <= states / RANKS + 2 * SUM_BLOCK + 8 for _, _, elements in found)


def test_groups_and_tensors_without_gradients() -> None:
    def groups(own: list[Any]) -> list[dict[str, Any]]:
        return [{"params": own[:2], "lr": 0.1}, {"params": own[2:], "weight_decay": 0.1}]

    alone = parameters()
    optimizer = gt.AdamW(groups(alone), lr=0.01, clip_norm=1.0)
    for i, grad in enumerate(gradients(0, 0)):
        alone[i].grad = None if i == 3 else grad + grad if i != 1 else grad
    optimizer.step()

    def work(transport: Any) -> Any:
        own = parameters()
        sharded = gt.distributed.ShardedOptimizer(
            gt.AdamW, groups(own), group=transport, reduce=True, lr=0.01, clip_norm=1.0
        )
        for i, grad in enumerate(gradients(0, 0)):
            brings = i != 3 and (i != 1 or transport.rank == 1)
            own[i].grad = grad * 2 if brings else None
            if transport.rank == 1 and i == 1:
                own[i].grad = grad * 2
        sharded.step()
        return own

    for own in together(work, 2):
        for p, q in zip(own, alone, strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("mode", ["skip", "raise"])
def test_gradients_that_are_not_finite_stop_all(mode: str) -> None:
    def work(transport: Any) -> Any:
        own = parameters()
        sharded = gt.distributed.ShardedOptimizer(
            gt.AdamW, own, group=transport, reduce=True, on_nonfinite=mode
        )
        for p, grad in zip(own, gradients(0, 0), strict=True):
            p.grad = grad
        if transport.rank == 1:
            own[0].grad[0, 0] = torch.inf
        said = "skipped"
        try:
            sharded.step()
            assert sharded.skipped
        except FloatingPointError as error:
            said = str(error)
        for p, q in zip(own, parameters(), strict=True):
            assert torch.equal(p, q)
        for p, grad in zip(own, gradients(0, 0), strict=True):
            p.grad = grad
        sharded.step()
        return said

    found = together(work)
    assert all(("not finite" in said) == (mode == "raise") for said in found), found


def test_refusals_name_the_rank() -> None:
    def other_rate(transport: Any) -> Any:
        own = parameters()
        sharded = gt.distributed.ShardedOptimizer(gt.SGD, own, group=transport, lr=0.1)
        for p, grad in zip(own, gradients(0, 0), strict=True):
            p.grad = grad
        sharded.param_groups[0]["lr"] = 0.1 + transport.rank
        sharded.step()

    def unlike(transport: Any) -> Any:
        own = parameters()
        sharded = gt.distributed.ShardedOptimizer(gt.SGD, own, group=transport, lr=0.1)
        own[0].grad = gradients(0, 0)[0] if transport.rank == 0 else None
        sharded.step()

    def other_class(transport: Any) -> Any:
        cls = gt.SGD if transport.rank == 0 else gt.Adagrad
        gt.distributed.ShardedOptimizer(cls, parameters(), group=transport, lr=0.1)

    def few(transport: Any) -> Any:
        cls = gt.distributed.ShardedOptimizer
        cls(gt.AdamW, parameters(), group=transport, state_dtype="int8")

    def half(transport: Any) -> Any:
        own = [torch.nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))]
        gt.distributed.ShardedOptimizer(gt.AdamW, own, group=transport)

    def torchs(transport: Any) -> Any:
        gt.distributed.ShardedOptimizer(torch.optim.SGD, parameters(), group=transport, lr=0.1)

    assert [str(each) for each in together(other_rate, 2)] == [
        "rank 1: other hyperparameters at step 1, expected those of rank 0"
    ] * 2
    assert "None in some processes, expected averaged gradients" in str(together(unlike, 2)[1])
    assert [str(each) for each in together(other_class, 2)] == [
        "rank 1: optimizer Adagrad, expected SGD as on rank 0"
    ] * 2
    assert "kept in fewer bits, or with an average, expected neither" in str(together(few, 1)[0])
    assert "torch.bfloat16, expected float32 or float64" in str(together(half, 1)[0])
    assert "expected a class of gradstep.torch" in str(together(torchs, 1)[0])
    with pytest.raises(ValueError, match=r"expected init_process_group\('gloo'\) first"):
        gt.distributed.ShardedOptimizer(gt.SGD, parameters(), lr=0.1)


def trained(optimizer: Any, own: list[Any], steps: Any) -> None:
    for step in steps:
        for p, grad in zip(own, gradients(step, 0), strict=True):
            p.grad = grad
        optimizer.step()


@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_checkpoints_go_on_with_any_number_of_processes(name: str, tmp_path: Path) -> None:
    cls = gt.OPTIMIZERS[name]
    alone = parameters()
    optimizer = cls(alone, lr=0.01)
    trained(optimizer, alone, range(2))
    whole = copy.deepcopy(optimizer.state_dict())
    halfway = [p.detach().clone() for p in alone]
    trained(optimizer, alone, [2])

    def made(transport: Any) -> tuple[Any, Any]:
        own = parameters()
        return own, gt.distributed.ShardedOptimizer(cls, own, group=transport, lr=0.5)

    def first(transport: Any) -> Any:
        own, sharded = made(transport)
        with torch.no_grad():
            for p, q in zip(own, halfway, strict=True):
                p.copy_(q)
        sharded.load_state_dict(whole)  # of one process
        sharded.save(tmp_path / "run", extra="here")
        return own

    def second(transport: Any) -> Any:
        own, sharded = made(transport)
        assert sharded.load(tmp_path / "run") == "here"
        trained(sharded, own, [2])
        return own

    found = [together(work, n) for work, n in ((first, 3), (second, 1), (second, 2))]
    for p, q in zip(found[0][0], halfway, strict=True):
        assert torch.equal(p, q)
    for own in [*found[1], *found[2]]:
        for p, q in zip(own, alone, strict=True):
            assert torch.equal(p, q)
    values, state = gt.distributed.to_state_dict(tmp_path / "run")
    assert all(torch.equal(p, q) for p, q in zip(values, halfway, strict=True))
    again = [torch.nn.Parameter(p) for p in values]
    resumed = cls(again, lr=0.5)
    resumed.load_state_dict(state)
    trained(resumed, again, [2])
    for p, q in zip(again, alone, strict=True):
        assert torch.equal(p, q)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def work(transport: Any) -> Any:
        own = parameters()
        sharded = gt.distributed.ShardedOptimizer(gt.AdamW, own, group=transport, lr=0.1)
        sharded.save(tmp_path / "run")
        other = gt.distributed.ShardedOptimizer(gt.Adam, own, group=transport, lr=0.1)
        said = []
        for call in (
            lambda: other.load(tmp_path / "run"),
            lambda: sharded.load(tmp_path / "none"),
            lambda: sharded.load_state_dict(torch.optim.AdamW(own[:1]).state_dict()),
            lambda: sharded.state_dict(),
            lambda: sharded.add_param_group({"params": parameters()}),
        ):
            with pytest.raises((ValueError, OSError, RuntimeError)) as caught:
                call()
            said.append(str(caught.value))
        return said

    for said in together(work, 2):
        assert said[0] == "the checkpoint: of AdamW, expected Adam"
        assert "no checkpoint of shards there" in said[1]
        assert said[2] == "state_dict: groups of [1] parameters, expected [5]"
        assert said[3].startswith("state_dict: in parts over processes")
        assert said[4].startswith("add_param_group: the shards are cut")


def test_copies_are_refused_by_name() -> None:
    p, c = torch.nn.Parameter(torch.ones(4)), torch.zeros(4, dtype=torch.bfloat16)

    def work(transport: Any) -> None:
        make = partial(gt.distributed.ShardedOptimizer, gt.SGD, group=transport)
        for given, hyper in (([p], {"copy_to": [c]}), ([{"params": [p], "copy_to": [c]}], {})):
            with pytest.raises(ValueError, match=r"^copy_to: given, expected None: a shard keeps"):
                make(given, **hyper)

    together(work, 1)
