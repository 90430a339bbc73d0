"""Averages of the weights on several ranks: those of one process, and for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
import pytest
from gradstep.distributed import exchange
from sharded_cases import gradients, parameters, same

Ranks = Callable[..., list[Any]]


def made(dtype: Any, of: Callable[..., Any], **hyper: Any) -> tuple[dict[str, Any], Any]:
    weights = {name: p.astype(dtype) for name, p in parameters().items()}
    return weights, of(weights, lr=0.1, ema_decay=0.75, seed=5, **hyper)


def sharded(transport: Any, dtype: Any, **hyper: Any) -> tuple[dict[str, Any], Any]:
    def of(weights: Any, **given: Any) -> Any:
        return gd.ShardedOptimizer(gs.AdamW, weights, comm=transport, reduction="sum", **given)

    return made(dtype, of, **hyper)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "split"])
@pytest.mark.parametrize("ema", ["float32", "bfloat16"])
def test_averages_of_all_are_in_the_parameters_of_all(
    ranks: Ranks, kind: str, ema: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    monkeypatch.setattr(exchange, "BUCKET", 2**13)
    monkeypatch.setattr(exchange, "LEAST_BUCKET", 2**13)
    dtype = np.float32 if kind == "float32" else ml_dtypes.bfloat16
    hyper = {"ema": ema, "master": "split" if kind == "split" else None}
    alone, optimizer = made(dtype, gs.AdamW, **hyper)
    for step in range(3):
        optimizer.step(gradients(step, 0))
    with optimizer.averaged():
        averages = {name: p.copy(order="K") for name, p in alone.items()}
    assert not same(averages, alone)

    def work(transport: Any) -> Any:
        weights, own = sharded(transport, dtype, **hyper)
        for step in range(3):
            own.step(gradients(step, 0) if transport.rank == 0 else None)
        with own.averaged():
            assert same(weights, averages)
            for call in (
                own.step,
                lambda: own.accumulate(gradients(0, 0)),
                lambda: own.save(tmp_path / "run"),
                lambda: own.load(tmp_path / "run"),
                lambda: own.averaged().__enter__(),
            ):
                with pytest.raises(RuntimeError, match=r"hold their averages|in a block of it"):
                    call()
            assert same(weights, averages)
        assert same(weights, alone)
        own.step(gradients(3, 0) if transport.rank == 0 else None)
        return weights

    found = {n: ranks(n, work) for n in (1, 2, 3)}
    optimizer.step(gradients(3, 0))
    for each in found.values():
        assert all(same(weights, alone) for weights in each), each
    assert not (tmp_path / "run").exists()


def test_what_ends_a_block_on_one_rank_leaves_the_parameters_of_all(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, optimizer = made(np.float32, gs.AdamW, ema="float32")
    optimizer.step(gradients(0, 0))

    def work(transport: Any) -> Any:
        weights, own = sharded(transport, np.float32, ema="float32")
        own.step(gradients(0, 0) if transport.rank == 0 else None)
        with suppress(ZeroDivisionError), own.averaged():
            _ = 1 / (1 - transport.rank)
        assert same(weights, alone)
        if transport.rank == 1:
            own.own._holds_averages = True
        with pytest.raises((RuntimeError, gd.DistributedError)) as caught, own.averaged():
            pass
        own.own._holds_averages = False
        assert same(weights, alone)
        if transport.rank == 1:
            monkeypatch.setattr(exchange.Exchange, "_pass_round", ends)
        with pytest.raises((gd.DistributedError, OSError)), own.averaged():
            pass
        assert same(weights, alone)
        return str(caught.value)

    def ends(*_: Any) -> None:
        raise OSError("no way out")

    said = "averaged: called in a block of it, expected one"
    assert ranks(2, work) == [f"rank 1: RuntimeError: {said}", said]


def test_a_rank_that_does_not_enter_is_named(ranks: Ranks) -> None:
    def work(transport: Any) -> None:
        _, own = sharded(transport, np.float32, ema="float32")
        if transport.rank == 0:
            with own.averaged():
                pass
        else:
            own.step(gradients(0, 0))

    said = "rank 1: calls 'step' of step 1, expected 'averaged' of step 0 as rank 0"
    assert [str(each) for each in ranks(2, work)] == [said] * 2


def test_checkpoints_hold_averages_and_masters(ranks: Ranks, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    ml_dtypes = pytest.importorskip("ml_dtypes")
    hyper = {"ema": "bfloat16", "master": "split", "state_dtype": "int8"}
    alone, optimizer = made(ml_dtypes.bfloat16, gs.AdamW, **hyper)
    for step in range(3):
        optimizer.step(gradients(step, 0))

    def begun(transport: Any) -> None:
        _, own = sharded(transport, ml_dtypes.bfloat16, **hyper)
        for step in range(2):
            own.step(gradients(step, 0) if transport.rank == 0 else None)
        own.save(tmp_path / "run")

    def resumed(transport: Any) -> Any:
        weights, own = sharded(transport, ml_dtypes.bfloat16, **hyper)
        own.load(tmp_path / "run")
        own.step(gradients(2, 0) if transport.rank == 0 else None)
        with own.averaged():
            averages = {name: p.copy(order="K") for name, p in weights.items()}
        return weights, averages

    assert ranks(2, begun) == [None, None]
    found = ranks(3, resumed)
    with optimizer.averaged():
        assert all(same(averages, alone) for _, averages in found)
    assert all(same(weights, alone) for weights, _ in found)
