"""Moving bytes between ranks: what a transport must do, one for the threads of a process, and what
is made of it.
"""

from __future__ import annotations

import math
import queue
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gradstep.arguments import integer, kind

__all__ = [
    "DistributedError",
    "Loan",
    "Pending",
    "Transport",
    "gather",
    "gather_equal",
    "in_process",
    "largest_loan",
]

Bytes: TypeAlias = NDArray[np.uint8]


class Loan:
    """A place for a message where a transport may leave it, to be read until `release`.

    size: bytes. memory: once it has come.
    """

    def __init__(self, size: int) -> None:
        self.size, self.memory = size, np.zeros(0, np.uint8)
        self._give_back: Callable[[], None] | None = None

    def lent(self, memory: Bytes, give_back: Callable[[], None]) -> None:
        """The transport's memory, and what takes it back."""
        self.memory, self._give_back = memory, give_back

    def release(self) -> None:
        """Nobody reads it any more."""
        if self._give_back is not None:
            self._give_back()
            self._give_back = None


# A rank, and the memory that goes there or is filled from there; for messages of at most
# `largest_loan` bytes that come, also a Loan.
Parcel: TypeAlias = tuple[int, Any]


class DistributedError(RuntimeError):
    """Ranks that cannot go on together: one is gone, hangs, or does not do what the others do."""


class Pending(Protocol):
    """An exchange under way."""

    def wait(self) -> None:
        """Returns when all is sent and received. Raises DistributedError, in time."""


@runtime_checkable
class Transport(Protocol):
    """Moves bytes between `size` ranks, of which this is number `rank`.

    Between two ranks, messages arrive in the order in which they were sent, and fill what was
    started first. No call blocks for
    longer than `timeout` seconds without a byte: it raises DistributedError.
    """

    rank: int
    size: int
    timeout: float

    def start(self, sends: Sequence[Parcel], receives: Sequence[Parcel]) -> Pending:
        """Starts an exchange with other ranks. The memory belongs to it until `wait` returns.

        Raises DistributedError.
        """


def largest_loan(transport: Transport) -> int:
    """Bytes of the largest message that it lends; 0: none."""
    return int(getattr(getattr(transport, "near", None), "largest", 0))


def check_timeout(timeout: Any) -> float:
    """Raises TypeError or ValueError for what is no number of seconds above 0."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout: {kind(timeout)}, expected seconds")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout: {timeout}, expected seconds above 0")
    return float(timeout)


# What every transport can do


def gather_equal(transport: Transport, own: Bytes, sizes: Sequence[int]) -> list[Bytes]:
    """What every rank has, by rank; sizes: the bytes of each, which all know."""
    found = [np.empty(size, np.uint8) for size in sizes]
    found[transport.rank] = own
    peers = [rank for rank in range(transport.size) if rank != transport.rank]
    transport.start(
        [(rank, own) for rank in peers if own.size],
        [(rank, found[rank]) for rank in peers if found[rank].size],
    ).wait()
    return found


def gather(transport: Transport, own: bytes) -> list[bytes]:
    """What every rank has, of whatever lengths, by rank."""
    length = np.array([len(own)], np.int64).view(np.uint8)
    lengths = gather_equal(transport, length, [8] * transport.size)
    sizes = [int(each.view(np.int64)[0]) for each in lengths]
    return [each.tobytes() for each in gather_equal(transport, np.frombuffer(own, np.uint8), sizes)]


# Threads of one process


class _Hub:
    """Queues between the ranks of one process."""

    def __init__(self, ranks: int) -> None:
        self.queues: dict[tuple[int, int], queue.SimpleQueue[Bytes]] = {
            (a, b): queue.SimpleQueue() for a in range(ranks) for b in range(ranks)
        }
        self.gone: set[int] = set()


class LocalTransport:
    """A rank that is a thread, made by `in_process`. Errors as of Transport."""

    def __init__(self, hub: _Hub, rank: int, size: int, timeout: float) -> None:
        self._hub, self.rank, self.size, self.timeout = hub, rank, size, timeout
        self._waiting: dict[int, deque[Bytes]] = {}

    def start(self, sends: Sequence[Parcel], receives: Sequence[Parcel]) -> Pending:
        for rank, memory in sends:
            self._hub.queues[self.rank, rank].put(memory.copy())
        for rank, memory in receives:
            self._waiting.setdefault(rank, deque()).append(memory)
        return _LocalPending(self, receives)

    def leave(self) -> None:
        """This rank answers no more, as if its process had ended."""
        self._hub.gone.add(self.rank)

    def fill(self, rank: int, memory: Bytes) -> None:
        """Returns when this memory is filled, and all that was to be filled before it.

        Raises DistributedError where the rank is gone, silent, or sent bytes of another number.
        """
        waiting = self._waiting[rank]
        while any(each is memory for each in waiting):
            found = self._take(rank, time.monotonic() + self.timeout)
            first = waiting.popleft()
            if found.size != first.size:
                raise DistributedError(
                    f"rank {rank}: {found.size} bytes, expected {first.size}: it does something "
                    "else than this rank"
                )
            first[...] = found

    def _take(self, rank: int, deadline: float) -> Bytes:
        while True:
            gone = rank in self._hub.gone  # asked first: what it sent before is there then
            try:
                return self._hub.queues[rank, self.rank].get(timeout=0.005)
            except queue.Empty:
                if gone:
                    raise DistributedError(f"rank {rank}: gone, expected its bytes") from None
                if time.monotonic() > deadline:
                    raise DistributedError(silent([rank], self.timeout)) from None


class _LocalPending:
    def __init__(self, transport: LocalTransport, receives: Sequence[Parcel]) -> None:
        self._transport, self._receives = transport, receives

    def wait(self) -> None:
        for rank, memory in self._receives:
            self._transport.fill(rank, memory)


def silent(ranks: Sequence[int], timeout: float) -> str:
    """What an error says of ranks that have not answered in time."""
    named = ", ".join(map(str, ranks))
    return f"rank {named}: no answer for {timeout:g} seconds; it hangs, is gone, or does other work"


def in_process(ranks: int, *, timeout: float = 60.0) -> list[LocalTransport]:
    """Transports of so many threads of this process, one for each; for trials and tests.

    Raises TypeError or ValueError.

    >>> import gradstep.distributed as gd
    >>> [transport.rank for transport in gd.in_process(3)]
    [0, 1, 2]
    """
    integer("ranks", ranks, 1)
    hub = _Hub(ranks)
    return [LocalTransport(hub, rank, ranks, check_timeout(timeout)) for rank in range(ranks)]
