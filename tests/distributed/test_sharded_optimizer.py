"""Ranks that share one optimizer: the bits of one process, refusals of all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
import pytest
from gradstep.distributed import exchange
from gradstep.distributed.plan import Piece, buckets, cut, overlaps
from gradstep.spec.sums import SUM_BLOCK
from sharded_cases import gradients, parameters, same, train, trained_alone

Ranks = Callable[..., list[Any]]
RANKS = (1, 2, 3, 8)


def trained_together(ranks: Ranks, n: int, *given: Any, **hyper: Any) -> list[tuple[Any, Any]]:
    return ranks(n, lambda transport: train(transport, *given, **hyper))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("cls", "hyper"),
    [
        (gs.AdamW, {"lr": 0.01, "clip_norm": 0.5}),
        (gs.SGD, {"lr": gs.cosine(0.1, 10), "momentum": 0.9, "grad_scale": 1 / 1024}),
        (gs.NAdam, {"lr": 0.01, "on_nonfinite": "raise", "weight_decay": 0.1}),
    ],
)
def test_any_number_of_ranks_gives_the_bits_of_one_process(
    ranks: Ranks, cls: Any, hyper: dict[str, Any], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "BUCKET", 2**13)
    monkeypatch.setattr(exchange, "LEAST_BUCKET", 2**13)
    monkeypatch.setattr(exchange, "STAGED", 2**15)
    expected, infos = trained_alone(cls, dtype, 3, **hyper)
    for n in RANKS:
        for found, own in trained_together(ranks, n, cls, dtype, 3, **hyper):
            assert same(found, expected), n
            assert own == infos, n


@pytest.mark.parametrize("cls", gs.OPTIMIZERS.values(), ids=gs.OPTIMIZERS)
def test_every_optimizer_can_be_sharded(ranks: Ranks, cls: Any) -> None:
    expected, infos = trained_alone(cls, np.float32, 2, lr=0.01, clip_norm=1.0)
    for found, own in trained_together(ranks, 3, cls, np.float32, 2, lr=0.01, clip_norm=1.0):
        assert same(found, expected)
        assert own == infos


@pytest.mark.parametrize("state_dtype", ["bfloat16", "int8"])
def test_states_of_fewer_bits_have_the_random_bits_of_the_whole(
    ranks: Ranks, state_dtype: str
) -> None:
    pytest.importorskip("ml_dtypes")
    hyper = {"lr": 0.01, "state_dtype": state_dtype, "seed": 7}
    expected, _ = trained_alone(gs.AdamW, np.float32, 3, **hyper)
    for n in (2, 5):
        for found, _ in trained_together(ranks, n, gs.AdamW, np.float32, 3, **hyper):
            assert same(found, expected), n


def test_groups_have_random_bits_of_their_own_seeds(ranks: Ranks) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    halves = [["w", "b", "scalar", "empty"], ["v", "c"]]

    def trained(seeds: list[int], rank: int, make: Any) -> dict[str, Any]:
        weights = {name: p.astype(ml_dtypes.bfloat16) for name, p in parameters().items()}
        groups = [
            {"params": {name: weights[name] for name in names}, "seed": seed}
            for names, seed in zip(halves, seeds, strict=True)
        ]
        optimizer = make(groups)
        for step in range(2):
            grads = gradients(step, 0)
            given = [{name: grads[name] for name in names} for names in halves]
            optimizer.step(None if rank else given)
            getattr(optimizer, "own", optimizer).param_groups[0]["seed"] = 5
        return weights

    def sharded(groups: Any, transport: Any) -> Any:
        return gd.ShardedOptimizer(gs.SGD, groups, comm=transport, lr=0.01)

    expected = trained([3, 7], 0, partial(gs.SGD, lr=0.01))
    assert not same(trained([3, 3], 0, partial(gs.SGD, lr=0.01)), expected)
    for n in (1, 3):
        for found in ranks(n, lambda t: trained([3, 7], t.rank, partial(sharded, transport=t))):
            assert same(found, expected), n


@pytest.mark.parametrize("master", ["split", "float32"])
def test_bfloat16_parameters_travel_as_they_are(ranks: Ranks, master: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")

    def started() -> dict[str, Any]:
        return {name: p.astype(ml_dtypes.bfloat16) for name, p in parameters().items()}

    alone = started()
    optimizer = gs.AdamW(alone, lr=0.01, master=master, clip_norm=1.0)
    for step in range(3):
        optimizer.step(gradients(step, 0))

    def work(transport: Any) -> Any:
        weights = started()
        own = gd.ShardedOptimizer(
            gs.AdamW, weights, comm=transport, lr=0.01, master=master, clip_norm=1.0
        )
        for step in range(3):
            own.step(gradients(step, 0) if transport.rank == 1 else None)
        return weights

    for found in ranks(3, work):
        assert same(found, alone)


def test_gradients_in_bfloat16_are_rounded_once_each(ranks: Ranks) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")

    def rounded(tree: dict[str, Any]) -> dict[str, Any]:
        return {k: a.astype(ml_dtypes.bfloat16).astype(np.float32) for k, a in tree.items()}

    expected = parameters()
    alone = gs.Adam(expected, lr=0.01)
    for step in range(2):
        parts = [rounded(gradients(step, rank)) for rank in range(3)]
        for name, total in parts[0].items():
            total[...] += parts[1][name]
            total[...] += parts[2][name]
        alone.step(parts[0])

    def work(transport: Any) -> Any:
        weights = parameters()
        optimizer = gd.ShardedOptimizer(
            gs.Adam, weights, comm=transport, reduction="sum", grad_dtype="bfloat16", lr=0.01
        )
        for step in range(2):
            optimizer.step(gradients(step, transport.rank))
        return weights

    for found in ranks(3, work):
        assert same(found, expected)


def test_without_ml_dtypes_bfloat16_gradients_are_refused_on_all_ranks(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradstep.distributed import checks

    ml_dtypes = pytest.importorskip("ml_dtypes")
    found = iter([True, False])

    def one_lacks_it(what: str) -> Any:
        if not next(found):
            raise ImportError(f"{what} needs ml_dtypes")
        return np.dtype(ml_dtypes.bfloat16)

    monkeypatch.setattr(checks, "bfloat16", one_lacks_it)

    def work(transport: Any) -> None:
        gd.ShardedOptimizer(gs.Adam, parameters(), comm=transport, grad_dtype="bfloat16")

    said = sorted(type(each).__name__ for each in ranks(2, work))
    assert said == ["DistributedError", "ImportError"]


def test_groups_lists_and_tensors_without_gradient(ranks: Ranks) -> None:
    def made() -> list[Any]:
        rng = np.random.default_rng(3)
        return [rng.standard_normal(n).astype(np.float32) for n in (9000, 10, 5000)]

    def groups(arrays: list[Any]) -> list[dict[str, Any]]:
        return [{"params": arrays[:2], "lr": 0.1}, {"params": [arrays[2]], "weight_decay": 0.1}]

    alone = made()
    optimizer = gs.AdamW(groups(alone), lr=0.01, clip_norm=1.0)
    grads = made()
    optimizer.step([[grads[0] + grads[0], None], [grads[2]]])
    optimizer.step([[grads[0] + grads[0], grads[1]], [None]])

    def work(transport: Any) -> Any:
        own, first = made(), transport.rank == 0
        sharded = gd.ShardedOptimizer(
            gs.AdamW, groups(own), comm=transport, reduction="sum", lr=0.01, clip_norm=1.0
        )
        a, b, c = made()
        sharded.step([[a, None], [c if first else None]])
        a = made()[0]
        sharded.step([[a, None if first else b], [None]])
        return own

    for found in ranks(2, work):
        assert all(p.tobytes() == q.tobytes() for p, q in zip(found, alone, strict=True))


@pytest.mark.parametrize("mode", ["skip", "raise"])
def test_gradients_that_are_not_finite_on_one_rank_stop_all(ranks: Ranks, mode: Any) -> None:
    def work(transport: Any) -> Any:
        weights = parameters()
        optimizer = gd.ShardedOptimizer(gs.Adam, weights, comm=transport, on_nonfinite=mode)
        grads = gradients(0, transport.rank)
        if transport.rank == 1:
            grads["v"][0, 0, 0] = np.nan
        try:
            info = optimizer.step(grads)
        except FloatingPointError as error:
            info = str(error)
        assert same(weights, parameters())
        assert optimizer.step_count == 0
        assert optimizer.step(gradients(0, transport.rank)).step == 1  # it goes on
        return info

    for info in ranks(3, work):
        if mode == "skip":
            assert info.skipped and np.isnan(info.grad_norm) and info.step == 0
        else:
            assert info.startswith("grads['v']: 1 of elements 0 to ")
            assert info.endswith("are not finite in the sum of all ranks")


def test_read_only_gradients_are_left_alone(ranks: Ranks) -> None:
    def work(transport: Any) -> Any:
        weights = parameters()
        optimizer = gd.ShardedOptimizer(gs.SGD, weights, comm=transport, lr=0.1)
        grads = gradients(0, transport.rank)
        for gradient in grads.values():
            gradient.flags.writeable = False
        optimizer.step(grads)
        return same(grads, gradients(0, transport.rank)), weights

    (left, first), (also_left, second) = ranks(2, work)
    assert left and also_left and same(first, second)


# Refusals


def refusals(ranks: Ranks, n: int, work: Callable[[Any], Any]) -> list[str]:
    return [f"{type(each).__name__}: {each}" for each in ranks(n, work)]


def test_other_parameters_and_hyperparameters_are_named(ranks: Ranks) -> None:
    def refused(change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> str:
        def work(transport: Any) -> Any:
            weights, hyper = parameters(), {"lr": 0.1}
            if transport.rank == 1:
                change(weights, hyper)
            gd.ShardedOptimizer(gs.SGD, weights, comm=transport, **hyper)

        found = refusals(ranks, 3, work)
        assert len(set(found)) == 1
        return found[0]

    assert refused(lambda w, h: w.update(b=np.zeros(4, np.float32))) == (
        "DistributedError: rank 1: parameters[1] 'b', float32 of shape (4,) in order C, expected "
        "'b', float32 of shape (300,) in order C as on rank 0"
    )
    assert refused(lambda w, h: w.pop("c")).endswith(
        "rank 1: parameters[5] none, expected 'c', float32 of shape (5,) in order C as on rank 0"
    )
    assert refused(lambda w, h: h.update(lr=0.2)).endswith(
        "rank 1: hyperparameters['lr'] 0.2, expected 0.1 as on rank 0"
    )
    assert "rank 1: values of parameters" in refused(lambda w, h: w["b"].fill(0))


def test_other_versions_are_named(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradstep.distributed import optimizer

    described = optimizer.description

    def work(transport: Any) -> Any:
        gd.ShardedOptimizer(gs.SGD, parameters(), comm=transport)

    versions = iter(["1.0", "1.0", "2.0"])
    monkeypatch.setattr(
        optimizer,
        "description",
        lambda *given: {**described(*given), "version of gradstep": next(versions)},
    )
    for text in refusals(ranks, 3, work):
        assert "version of gradstep" in text and text.endswith("as on rank 0")


def test_what_one_rank_refuses_is_an_error_of_all(ranks: Ranks) -> None:
    def work(transport: Any) -> Any:
        weights = parameters()
        optimizer = gd.ShardedOptimizer(gs.SGD, weights, comm=transport, lr=0.1)
        grads = gradients(0, transport.rank)
        if transport.rank == 1:
            grads["b"] = grads["b"][:-1]
        try:
            optimizer.step(grads)
        except (ValueError, gd.DistributedError) as error:
            assert same(weights, parameters())
            assert optimizer.step(gradients(0, 0)).step == 1  # they go on
            return str(error)

    own = "grads['b']: shape (299,), expected (300,)"
    assert ranks(2, work) == [f"rank 1: ValueError: {own}", own]


def test_whatever_a_schedule_raises_on_one_rank_is_an_error_of_all(ranks: Ranks) -> None:
    def work(transport: Any) -> Any:
        def rate(step: int) -> float:
            return 1 / (0 if fails and transport.rank == 1 else 10)

        fails, said = True, []
        weights = parameters()
        for _ in range(2):
            try:
                optimizer = gd.ShardedOptimizer(gs.SGD, weights, comm=transport, lr=rate)
                fails = True
                optimizer.step(gradients(0, transport.rank))
            except (ZeroDivisionError, gd.DistributedError) as error:
                said.append(f"{type(error).__name__}: {error}")
            fails = False
        return said, optimizer.step(gradients(0, transport.rank)).step

    (first, step), (second, other) = ranks(2, work)
    assert first == ["DistributedError: rank 1: ZeroDivisionError: division by zero"] * 2
    assert second == ["ZeroDivisionError: division by zero"] * 2
    assert step == other == 1


def test_a_rank_that_does_something_else_is_named(ranks: Ranks) -> None:
    def other_call(transport: Any) -> Any:
        optimizer = gd.ShardedOptimizer(gs.SGD, parameters(), comm=transport, lr=0.1)
        (optimizer.step if transport.rank == 0 else optimizer.accumulate)(gradients(0, 0))

    def other_rate(transport: Any) -> Any:
        optimizer = gd.ShardedOptimizer(gs.SGD, parameters(), comm=transport, lr=0.1)
        optimizer.own.lr = 0.1 * (1 + transport.rank)
        optimizer.step(gradients(0, 0))

    assert (
        refusals(ranks, 2, other_call)
        == [
            "DistributedError: rank 1: calls 'accumulate' of step 1, expected 'step' of step 1 as "
            "rank 0"
        ]
        * 2
    )
    assert (
        refusals(ranks, 2, other_rate)
        == ["DistributedError: rank 1: other hyperparameters at step 1, expected those of rank 0"]
        * 2
    )


@pytest.mark.parametrize("gone", [True, False])
def test_a_rank_that_is_gone_or_hangs_ends_the_others_in_time(ranks: Ranks, gone: bool) -> None:
    def work(transport: Any) -> Any:
        weights = parameters()
        optimizer = gd.ShardedOptimizer(gs.SGD, weights, comm=transport, lr=0.1)
        optimizer.step(gradients(0, 0))
        before = {name: p.copy() for name, p in weights.items()}
        if transport.rank == 2:
            if not gone:
                import time

                time.sleep(1.5)
            return None
        with pytest.raises(gd.DistributedError) as caught:
            optimizer.step(gradients(1, 0))
        assert same(weights, before)
        with pytest.raises(gd.DistributedError, match="ranks have lost each other before"):
            optimizer.step(gradients(1, 0))
        return str(caught.value)

    found = ranks(3, work, timeout=20 if gone else 0.5)
    expected = "rank 2: gone, expected its bytes" if gone else "rank 2: no answer for 0.5 seconds"
    assert found[0].startswith(expected)


def test_a_step_that_ends_halfway_is_not_gone_on_with(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: Any) -> None:
        raise gd.DistributedError("rank 1: gone")

    def work(transport: Any) -> Any:
        optimizer = gd.ShardedOptimizer(gs.SGD, parameters(), comm=transport, lr=0.1)
        with pytest.raises(gd.DistributedError, match="rank 1: gone"):
            optimizer.step(gradients(0, 0))
        with pytest.raises(gd.DistributedError, match="it ended halfway, so parameters may be"):
            optimizer.step(gradients(0, 0))

    monkeypatch.setattr(exchange.Exchange, "_pass_round", ends)
    assert ranks(2, work) == [None, None]


def test_arguments_are_checked_on_all_ranks(ranks: Ranks) -> None:
    def refused(*given: Any, **keywords: Any) -> str:
        found = refusals(
            ranks, 1, lambda transport: gd.ShardedOptimizer(*given, comm=transport, **keywords)
        )
        return found[0]

    w = np.zeros(3, np.float32)
    assert refused(3, w) == "TypeError: optimizer: int, expected a class of gradstep.OPTIMIZERS"
    assert refused(gs.SGD, w, reduction="max").startswith("ValueError: reduction: 'max', expected")
    assert refused(gs.SGD, w, grad_dtype="int8").startswith("ValueError: grad_dtype: 'int8'")
    assert refused(gs.SGD, w, copy_to=w).startswith("ValueError: copy_to: given, expected None")
    group = [{"params": {"w": w}, "copy_to": {"w": w.astype(np.float16)}}]
    assert refused(gs.SGD, group).startswith("ValueError: copy_to: given, expected None")
    assert refused(gs.SGD, [w, w[::2]]).startswith("ValueError: params[1]: not contiguous")
    assert refused(gs.SGD, [1.0]).startswith("TypeError: params[0]: float, expected a numpy")
    assert refused(gs.SGD, w.astype(np.int32)).startswith("TypeError: params")
    assert refused(gs.SGD, w, lr="x").startswith("TypeError: lr")
    with pytest.raises(ValueError, match="ranks: 0, expected"):
        gd.in_process(0)
    with pytest.raises(ValueError, match="timeout: 0, expected seconds above 0"):
        gd.in_process(2, timeout=0)
    with pytest.raises(TypeError, match="timeout: str, expected seconds"):
        gd.in_process(2, timeout="1")  # type: ignore[arg-type]


# The plan


@pytest.mark.parametrize("n", [1, 2, 3, 8, 40])
def test_shards_are_equal_and_end_with_blocks(n: int) -> None:
    sizes = [11100, 300, 1, 0, 8610, 5, 100_000, 0]
    shards = cut(sizes, n)
    assert len(shards) == n
    together = [piece for shard in shards for piece in shard]
    assert sorted(together) == together
    for tensor, size in enumerate(sizes):
        own = [piece for piece in together if piece.tensor == tensor]
        assert own[0].start == 0 and own[-1].stop == size
        assert all(a.stop == b.start for a, b in pairwise(own))
        assert all(piece.start % SUM_BLOCK == 0 for piece in own)
    mean = sum(sizes) / n
    for shard in shards:
        assert abs(sum(piece.size for piece in shard) - mean) <= SUM_BLOCK


def test_buckets_hold_everything_once_and_are_small() -> None:
    pieces = [Piece(0, 4096, 20000), Piece(1, 0, 3), Piece(2, 0, 7), Piece(3, 0, 50000)]
    items = [4, 8, 2, 4]
    found = list(buckets(pieces, items, 16384))
    parts = [part for bucket in found for part in bucket]
    for number, piece in enumerate(pieces):
        own = [part for i, part in parts if i == number]
        assert own[0].start == piece.start and own[-1].stop == piece.stop
        assert all(a.stop == b.start for a, b in pairwise(own))
    for bucket in found:
        assert sum(-(-p.size * items[p.tensor] // 8) * 8 for _, p in bucket) <= 16384 + 8
    assert any(len(bucket) > 1 for bucket in found)


def test_overlaps_are_found() -> None:
    sizes = [9000, 0, 5000]
    for mine in cut(sizes, 3):
        covered = []
        for theirs in cut(sizes, 2):
            covered += [part for _, _, part in overlaps(mine, theirs)]
        assert sum(part.size for part in covered) == sum(piece.size for piece in mine)
