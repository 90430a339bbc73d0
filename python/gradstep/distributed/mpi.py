"""Bytes over MPI, by mpi4py: `pip install gradstep[mpi]`."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from gradstep.distributed.shared_memory import SharedMemory, connected
from gradstep.distributed.transport import (
    DistributedError,
    Parcel,
    Pending,
    Transport,
    check_timeout,
    silent,
)

__all__ = ["MpiTransport", "connect"]

# Seconds of waiting after which a rank leaves its core to others.
PATIENCE = 0.02
NAP = 5e-5
_give_way = getattr(os, "sched_yield", partial(time.sleep, 0))  # Windows has no such call


class MpiTransport:
    """Transport over a communicator of mpi4py, of which it makes a duplicate for itself.

    comm: an intracommunicator; all of its ranks must make one together. Where all are on one
    machine, bytes go through memory that they share (near: what does that, or None). timeout:
    seconds without a byte after which a rank gives up. After that, the end of the program ends all
    ranks (Abort): MPI's own end would wait for ranks that never come. Raises TypeError or
    ValueError, ImportError without mpi4py; DistributedError as a Transport does.
    """

    def __init__(self, comm: Any = None, *, timeout: float = 600.0) -> None:
        self.timeout = check_timeout(timeout)
        try:
            from mpi4py import MPI
        except ImportError:
            raise ImportError(
                "MPI needs mpi4py, which is not installed: pip install 'gradstep[mpi]'"
            ) from None
        if comm is not None and not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm: {type(comm).__name__}, expected a communicator of mpi4py")
        self._mpi = MPI
        self._comm = (MPI.COMM_WORLD if comm is None else comm).Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()
        self._failed = False
        self.near: SharedMemory | None = None
        self.near = connected(self)

    def start(self, sends: Sequence[Parcel], receives: Sequence[Parcel]) -> Pending:
        if self.near is not None:
            return _NearPending(self, self.near.start(sends, receives))
        # Receives first: what comes then goes straight to where it belongs.
        kept = [self._comm.Irecv([memory, self._mpi.BYTE], rank) for rank, memory in receives]
        kept += [self._comm.Isend([memory, self._mpi.BYTE], rank) for rank, memory in sends]
        ranks = [rank for rank, _ in (*receives, *sends)]
        return _MpiPending(self, kept, ranks, [memory for _, memory in (*receives, *sends)])

    def finish(self, requests: list[Any], ranks: list[int]) -> None:
        """Waits for requests. Raises DistributedError."""
        test = self._mpi.Request.Testall
        began = time.monotonic()
        try:
            while not test(requests):
                waited = time.monotonic() - began
                if waited > self.timeout:
                    left = [
                        rank
                        for rank, request in zip(ranks, requests, strict=True)
                        if not request.Test()
                    ]
                    raise DistributedError(silent(sorted({*left}), self.timeout))
                if waited > PATIENCE:
                    time.sleep(NAP)
                else:
                    _give_way()
        except self._mpi.Exception as error:
            self.fail()
            raise DistributedError(f"MPI: {error}: a rank is gone or does other work") from error
        except DistributedError:
            self.fail()
            raise

    def fail(self) -> None:
        """From now on the end of this program is that of all ranks."""
        if not self._failed:
            self._failed = True
            atexit.register(self._mpi.COMM_WORLD.Abort, 1)


class _NearPending:
    def __init__(self, transport: MpiTransport, pending: Pending) -> None:
        self._transport, self._pending = transport, pending

    def wait(self) -> None:
        try:
            self._pending.wait()
        except DistributedError:
            self._transport.fail()
            raise


class _MpiPending:
    def __init__(
        self, transport: MpiTransport, requests: list[Any], ranks: list[int], memory: list[Any]
    ) -> None:
        self._transport, self._requests, self._ranks = transport, requests, ranks
        self._memory = memory  # must live until the end

    def wait(self) -> None:
        self._transport.finish(self._requests, self._ranks)


def connect(comm: Any, timeout: float) -> Transport:
    """The transport that an argument `comm` means: itself, or over a communicator of mpi4py."""
    return comm if isinstance(comm, Transport) else MpiTransport(comm, timeout=timeout)
