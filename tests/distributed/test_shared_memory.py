"""Memory that ranks of one machine share, here between threads: bytes, ends, and doing without."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import gradstep as gs
import gradstep.distributed as gd
import numpy as np
import pytest
from gradstep.distributed import shared_memory
from gradstep.distributed.shared_memory import connected
from gradstep.distributed.transport import Loan
from sharded_cases import HYPER, same, train, trained_alone

pytestmark = pytest.mark.skipif(
    shared_memory._host() is None, reason="the system has none, or was told so"
)

Ranks = Callable[..., list[Any]]


class Near:
    """A rank whose bytes all go through shared memory."""

    def __init__(self, transport: Any) -> None:
        self.rank, self.size, self.timeout = transport.rank, transport.size, transport.timeout
        self.near = connected(transport)

    def start(self, sends: Any, receives: Any) -> Any:
        assert self.near is not None
        return self.near.start(sends, receives)


def test_bytes_of_any_size_arrive_in_order(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "RINGS", 2**18)  # what is larger goes in parts
    sizes = [0, 1, 63, 64, 65, 4096, 2**15, 2**17 + 5, 700_001, 3]

    def work(transport: Any) -> None:
        near = Near(transport)
        peers = [rank for rank in range(near.size) if rank != near.rank]
        pending = []
        for i, size in enumerate(sizes * 3):
            mine = np.full(size, 7 * i + near.rank, np.uint8)
            places = {rank: np.zeros(size, np.uint8) for rank in peers}
            exchange = near.start([(rank, mine) for rank in peers], list(places.items()))
            pending.append((i, exchange, places))
            if i % 3 == 2:
                for number, each, found in pending:
                    each.wait()
                    for rank, memory in found.items():
                        assert (memory == (7 * number + rank) % 256).all()
                pending = []

    assert ranks(3, work) == [None] * 3


def test_the_bits_are_those_of_one_process(ranks: Ranks) -> None:
    expected, infos = trained_alone(gs.AdamW, np.float32, 3, **HYPER)
    plain, _ = trained_alone(gs.Adam, np.float64, 3, lr=0.01)
    for n in (2, 3):
        for own, found in ranks(n, lambda t: train(Near(t), gs.AdamW, np.float32, 3, **HYPER)):
            assert same(own, expected) and found == infos
        for own, _ in ranks(n, lambda t: train(Near(t), gs.Adam, np.float64, 3, lr=0.01)):
            assert same(own, plain)


def test_what_is_lent_stays_until_it_is_released(ranks: Ranks) -> None:
    def work(transport: Any) -> Any:
        near = Near(transport)
        assert near.near is not None
        size, other = near.near.largest, 1 - near.rank
        if near.rank:
            for i in range(8):  # twice as many as there is room for
                near.start([(other, np.full(size, i, np.uint8))], []).wait()
            return None
        loans = [Loan(size) for _ in range(8)]
        pending = [near.start([], [(other, loan)]) for loan in loans]
        for each in pending[:4]:  # all that there is room for
            each.wait()
        for loan in loans[1:4]:
            loan.release()
        end = time.monotonic() + 0.1
        while time.monotonic() < end:  # the sender could go on if it was told so
            near.near._progress()
        assert (loans[0].memory == 0).all()
        loans[0].release()
        for number, each in enumerate(pending[4:], 4):
            each.wait()
            assert (loans[number].memory == number).all()
            loans[number].release()
        return len(loans)

    assert ranks(2, work) == [8, None]


def test_a_rank_that_is_gone_or_silent_ends_the_others(ranks: Ranks) -> None:
    late = threading.Event()

    def work(transport: Any) -> Any:
        near = Near(transport)
        assert near.near is not None
        place = np.zeros(8, np.uint8)
        if near.rank == 1:
            late.wait(10)
            near.near._channels[0].socket.close()
            return None
        with pytest.raises(gd.DistributedError) as silent:
            near.start([], [(1, place)]).wait()
        late.set()
        with pytest.raises(gd.DistributedError) as gone:
            near.start([], [(1, place)]).wait()
        return str(silent.value), str(gone.value)

    (silent, gone), _ = ranks(2, work, timeout=0.4)
    assert silent.startswith("rank 1: no answer for 0.4 seconds")
    assert gone == "rank 1: gone, or does other work"


def test_other_sizes_are_named(ranks: Ranks) -> None:
    def work(transport: Any) -> None:
        near, other = Near(transport), 1 - transport.rank
        sent = np.zeros(8 + near.rank, np.uint8)
        near.start([(other, sent)], [(other, np.zeros(8, np.uint8))]).wait()

    first, _ = ranks(2, work)
    assert str(first).startswith("rank 1: 9 bytes, expected 8: it does something else")


def test_where_one_rank_cannot_none_does(ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> None:
    met, hosts = shared_memory._met, iter([["a"], ["b"], ["a"]])

    def fails(transport: Any, *given: Any) -> Any:
        found = met(transport, *given)
        if transport.rank == 1:
            raise OSError("no memory")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(shared_memory, "_met", fails)
        assert ranks(3, connected) == [None] * 3
    with monkeypatch.context() as patched:
        patched.setattr(shared_memory, "_host", lambda: next(hosts))
        assert ranks(3, connected) == [None] * 3
    monkeypatch.setenv("GRADSTEP_SHARED_MEMORY", "0")
    assert ranks(2, connected) == [None] * 2
