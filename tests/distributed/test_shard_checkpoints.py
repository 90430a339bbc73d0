"""Checkpoints of shards: any number of ranks goes on to the bit, and none is half written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
import pytest
from gradstep.distributed import checkpoint
from sharded_cases import HYPER, advance, gradients, parameters, same, train, trained_alone

pytest.importorskip("safetensors")

Ranks = Callable[..., list[Any]]


def made(transport: Any, cls: Any = gs.AdamW, **hyper: Any) -> tuple[Any, Any]:
    weights = parameters()
    return weights, gd.ShardedOptimizer(cls, weights, comm=transport, **{**HYPER, **hyper})


@pytest.fixture
def saved(ranks: Ranks, tmp_path: Path) -> Path:
    """A checkpoint of three ranks after two steps."""

    def work(transport: Any) -> None:
        _, optimizer = made(transport)
        for step in range(2):
            advance(transport, optimizer, step)
        optimizer.save(tmp_path / "run", extra={"epoch": np.arange(3), "names": ("a", None)})

    assert ranks(3, work) == [None] * 3
    return tmp_path / "run"


@pytest.mark.parametrize("n", [1, 2, 3, 8])
@pytest.mark.parametrize("part", [2**24, 5000])
def test_any_number_of_ranks_goes_on_to_the_bit(
    ranks: Ranks, saved: Path, n: int, part: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint, "PART", part)
    expected, infos = trained_alone(gs.AdamW, np.float32, 4, **HYPER)

    def work(transport: Any) -> Any:
        weights, optimizer = made(transport, lr=0.5)
        extra = optimizer.load(saved)
        third = advance(transport, optimizer, 2)
        optimizer.save(tmp_path / "again")  # by n ranks, in parts
        return weights, [third, advance(transport, optimizer, 3)], extra

    def back(transport: Any) -> Any:
        weights, optimizer = made(transport)
        optimizer.load(tmp_path / "again")
        return weights, advance(transport, optimizer, 3)

    for weights, own, extra in ranks(n, work):
        assert same(weights, expected) and own == infos[2:]
        assert extra["epoch"].tolist() == [0, 1, 2] and extra["names"] == ("a", None)
    for weights, info in ranks(2, back):
        assert same(weights, expected) and info == infos[3]


@pytest.mark.parametrize("state_dtype", ["float32", "int8"])
def test_from_and_to_a_plain_checkpoint(ranks: Ranks, tmp_path: Path, state_dtype: Any) -> None:
    hyper = {"lr": 0.01, "state_dtype": state_dtype}
    weights = {name: np.ascontiguousarray(p) for name, p in parameters().items()}
    optimizer = gs.AdamW(weights, **hyper)
    grads = {name: np.ascontiguousarray(g) for name, g in gradients(0, 0).items()}
    optimizer.step(grads)
    gs.save(tmp_path / "plain", model=weights, optimizer=optimizer, extra=[1])
    gd.from_plain(tmp_path / "plain", tmp_path / "shards")

    def work(transport: Any) -> Any:
        own = {name: np.ascontiguousarray(p) for name, p in parameters().items()}
        sharded = gd.ShardedOptimizer(gs.AdamW, own, comm=transport, reduction="sum", **hyper)
        assert sharded.load(tmp_path / "shards") == [1]
        sharded.step(grads if transport.rank == 1 else None)
        sharded.save(tmp_path / "shards", extra="there")
        return own

    for gradient in grads.values():
        gradient.flags.writeable = False
    found = ranks(3, work)
    optimizer.step(grads)
    assert all(same(own, weights) for own in found)
    gd.to_plain(tmp_path / "shards", tmp_path / "back")
    other = {name: np.zeros_like(p) for name, p in weights.items()}
    resumed = gs.AdamW(other, **hyper)
    assert gs.load(tmp_path / "back", model=other, optimizer=resumed)["extra"] == "there"
    assert same(other, weights)
    for opt in (optimizer, resumed):
        opt.step(grads)
    assert same(other, weights)


@pytest.mark.parametrize("state_dtype", ["float32", "int8"])
def test_a_state_dict_of_the_whole_goes_on_with_any_number(ranks: Ranks, state_dtype: Any) -> None:
    hyper = {**HYPER, "state_dtype": state_dtype}
    expected, infos = trained_alone(gs.AdamW, np.float32, 3, **hyper)
    states, weights = [], parameters()

    def first(transport: Any) -> None:
        own, optimizer = made(transport, **hyper)
        for step in range(2):
            advance(transport, optimizer, step)
        state = optimizer.state_dict()
        if transport.rank == 0:
            states.append(state)
            weights.update(own)

    assert ranks(3, first) == [None] * 3
    [state] = states
    alone = gs.AdamW({name: p.copy(order="K") for name, p in weights.items()}, **hyper)
    alone.load_state_dict(state)
    assert alone.step_count == 2
    plain = alone.state_dict()

    def second(transport: Any) -> Any:
        own, optimizer = made(transport, **{**hyper, "lr": 0.5})
        for name, p in own.items():
            p[...] = weights[name]
        optimizer.load_state_dict(plain if transport.size == 2 else state)
        return own, advance(transport, optimizer, 2)

    def unlike(transport: Any) -> Any:
        _, optimizer = made(transport, **hyper)
        other = {**plain["state"], "v": {**plain["state"]["v"], "exp_avg": np.zeros(3)}}
        if transport.rank == 1:
            optimizer.load_state_dict({**plain, "state": other})
        optimizer.load_state_dict({**plain, "step": 2 + transport.rank})

    for n in (1, 2, 8):
        for own, info in ranks(n, second):
            assert same(own, expected) and info == infos[2]
    first_, second_ = map(str, ranks(2, unlike))
    assert second_.startswith("state_dict: 'exp_avg' of 'v' has 3 elements, expected 8610")
    assert first_ == f"rank 1: ValueError: {second_}"


def test_lists_and_groups_come_back(ranks: Ranks, tmp_path: Path) -> None:
    arrays = [np.ones(3, np.float32), np.ones(5000, np.float32)]

    def groups(own: list[Any]) -> list[dict[str, Any]]:
        return [{"params": [own[0]], "lr": 0.1}, {"params": [own[1]]}]

    def work(transport: Any) -> None:
        own = [a.copy() for a in arrays]
        sharded = gd.ShardedOptimizer(gs.Adam, groups(own), comm=transport, lr=0.2)
        sharded.step([[own[0] * 2], [own[1] * 3]])
        sharded.save(tmp_path / "run")

    assert ranks(2, work) == [None, None]
    gd.to_plain(tmp_path / "run", tmp_path / "plain")
    own = [a.copy() for a in arrays]
    optimizer = gs.Adam(groups(own), lr=0.3)
    gs.load(tmp_path / "plain", model=[[own[0]], [own[1]]], optimizer=optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert own[0][0] == np.float32(1 - 0.1)


def test_the_checkpoint_before_stays_until_all_ranks_have_written(
    ranks: Ranks, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    write = checkpoint.write

    def full(path: Any, *given: Any) -> None:
        if "-00001-" in Path(path).name:
            raise OSError(28, "No space left on device", str(path))
        write(path, *given)

    monkeypatch.setattr(checkpoint, "write", full)

    def work(transport: Any) -> Any:
        _, optimizer = made(transport)
        optimizer.load(saved)
        advance(transport, optimizer, 2)
        with pytest.raises((OSError, gd.DistributedError)) as caught:
            optimizer.save(saved)
        advance(transport, optimizer, 3)  # they go on
        return str(caught.value)

    for said in ranks(3, work):
        assert "No space left on device" in said
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_folders_that_are_not_the_same_are_refused(ranks: Ranks, tmp_path: Path) -> None:
    def work(transport: Any) -> Any:
        _, optimizer = made(transport)
        with pytest.raises((OSError, gd.DistributedError)) as caught:
            optimizer.save(tmp_path / f"disk of {transport.rank}")
        return str(caught.value)

    for said in ranks(2, work):
        assert "rank 0 does not see what rank 1 wrote, expected one folder of all" in said
    assert not list(tmp_path.glob("*/*"))


def test_files_of_earlier_checkpoints_are_removed(ranks: Ranks, saved: Path) -> None:
    (saved / "shard-dead-00000-00000.safetensors").write_bytes(b"half")
    before = {path.name for path in saved.glob("shard-*")}

    def work(transport: Any) -> None:
        _, optimizer = made(transport)
        optimizer.load(saved)
        optimizer.save(saved)

    assert ranks(2, work) == [None, None]
    after = {path.name for path in saved.glob("shard-*")}
    assert len(after) == 3 and not after & before  # two, and one of the empty tensor


def refused(ranks: Ranks, folder: Path, make: Callable[[Any], tuple[Any, Any]] = made) -> list[str]:
    def work(transport: Any) -> str:
        weights, optimizer = make(transport)
        before = {name: p.copy() for name, p in weights.items()}
        with pytest.raises((OSError, TypeError, ValueError, gd.DistributedError)) as caught:
            optimizer.load(folder)
        assert same(weights, before) and optimizer.step_count == 0
        return f"{type(caught.value).__name__}: {caught.value}"

    return ranks(2, work)


def test_what_does_not_fit_is_refused_on_all_ranks(
    ranks: Ranks, saved: Path, tmp_path: Path
) -> None:
    assert "no checkpoint of shards there" in refused(ranks, tmp_path / "none")[0]
    of_adam = refused(ranks, saved, lambda transport: made(transport, gs.Adam))
    assert of_adam == ["ValueError: state_dict: of AdamW, expected Adam"] * 2

    def others(transport: Any) -> tuple[Any, Any]:
        weights = {"w": np.zeros(3, np.float32)}
        return weights, gd.ShardedOptimizer(gs.AdamW, weights, comm=transport)

    assert "params: 1, expected 6 as in the checkpoint" in refused(ranks, saved, others)[0]
    [*_, last] = sorted(saved.glob("shard-*-00002-*"))
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    said = refused(ranks, saved)
    assert "damaged" in "".join(said)
    last.unlink()
    assert "FileNotFoundError" in "".join(refused(ranks, saved))


def test_extra_that_is_no_plain_value_is_refused(ranks: Ranks, tmp_path: Path) -> None:
    def work(transport: Any) -> Any:
        _, optimizer = made(transport)
        with pytest.raises((TypeError, gd.DistributedError)) as caught:
            optimizer.save(tmp_path / "run", extra=object() if transport.rank == 0 else None)
        return str(caught.value)

    assert all("object" in said for said in ranks(2, work))
    assert not list(tmp_path.glob("run/*"))


def test_a_training_alone_and_by_ranks_agree(ranks: Ranks) -> None:
    expected, _ = trained_alone(gs.AdamW, np.float32, 2, **HYPER)
    for weights, _ in ranks(2, lambda t: train(t, gs.AdamW, np.float32, 2, **HYPER)):
        assert same(weights, expected)
