"""Bytes between ranks of one machine: through memory that two processes share.

Each pair has a ring of memory in either direction, without a name (memfd), and a socket (Unix,
abstract) that hands it over, says what lies in it, and ends with its process. So nothing is left
behind whatever ends a rank, and what is written before a message is sent is there when it comes.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import select
import socket
import struct
import sys
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from gradstep.distributed.transport import (
    Bytes,
    DistributedError,
    Loan,
    Parcel,
    Transport,
    gather,
    silent,
)

__all__ = ["SharedMemory", "connected"]

# Of one rank, for what it sends: RINGS bytes are divided among the others.
RINGS = 2**24
SMALLEST, LARGEST = 2**17, 2**23  # a ring; a quarter of it holds a block of sums in float64
LINE = 64
# Seconds of asking again before a rank sleeps, and for all to find each other.
PATIENCE = 0.002
MEETING = 30.0

NOTE = struct.Struct("cQQ")  # b"d", where in the stream, bytes; or b"a", all before is free again


class _Arriving:
    """A message in the ring, from `start` to `stop` of the stream."""

    __slots__ = ("done", "memory", "stop", "taken")

    def __init__(self, memory: Bytes, stop: int) -> None:
        self.memory, self.stop = memory, stop
        self.taken = 0  # bytes that receives have got
        self.done = False


class _Channel:
    """What goes to one other rank, and what comes from it."""

    def __init__(self, rank: int, connection: Any, to: Bytes, come: Bytes) -> None:
        self.rank, self.socket, self.gone = rank, connection, False
        self._to, self._from = to, come
        self._head = self._free = 0  # of what goes: written up to, used again from
        self._sends: deque[list[Any]] = deque()  # memory, bytes written, pending
        self._arrived: deque[_Arriving] = deque()  # not taken yet
        self._held: deque[_Arriving] = deque()  # not free yet
        self._receives: deque[list[Any]] = deque()  # memory or Loan, bytes there, pending
        self._tail = self._told = 0
        weakref.finalize(self, connection.close)

    def send(self, memory: Bytes, pending: _Pending) -> None:
        self._sends.append([memory, 0, pending])

    def receive(self, place: Bytes | Loan, pending: _Pending) -> None:
        self._receives.append([place, 0, pending])

    def progress(self) -> bool:
        """Does what can be done without waiting; whether that was anything."""
        moved = self._hear()
        moved |= self._take()
        moved |= self._push()
        if self._tail != self._told and self._tell(b"a", self._tail, 0):
            self._told = self._tail
        return moved

    def _tell(self, kind: bytes, at: int, size: int) -> bool:
        try:
            self.socket.send(NOTE.pack(kind, at, size))
        except BlockingIOError:
            return False
        except OSError:
            self.gone = True
            return kind == b"a"
        return True

    def _hear(self) -> bool:
        heard = False
        while True:
            try:
                note = self.socket.recv(NOTE.size)
            except BlockingIOError:
                return heard
            except ConnectionResetError:
                continue  # said once; what was sent before still comes
            except OSError:
                note = b""
            if not note:
                self.gone = True
                return heard
            heard = True
            kind, at, size = NOTE.unpack(note)
            if kind == b"a":
                self._free = at
                continue
            place = at % self._from.size
            arriving = _Arriving(self._from[place : place + size], at + _padded(size))
            self._arrived.append(arriving)
            self._held.append(arriving)

    def _take(self) -> bool:
        """Matches what has come with what is waited for."""
        moved = False
        while self._arrived and self._receives:
            arriving, (place, there, pending) = self._arrived[0], self._receives[0]
            size = arriving.memory.size
            if there + size > place.size:
                raise DistributedError(
                    f"rank {self.rank}: {there + size} bytes, expected {place.size}: it does "
                    "something else than this rank"
                )
            self._arrived.popleft()
            moved = True
            if isinstance(place, Loan):
                place.lent(arriving.memory, lambda one=arriving: self._done(one))  # type: ignore[misc]
            else:
                place[there : there + size] = arriving.memory
                self._done(arriving)
            self._receives[0][1] = there + size
            if there + size == place.size:
                self._receives.popleft()
                pending.left -= 1
        return moved

    def _done(self, arriving: _Arriving) -> None:
        arriving.done = True
        while self._held and self._held[0].done:
            self._tail = self._held.popleft().stop

    def _push(self) -> bool:
        moved = False
        ring = self._to.size
        while self._sends:
            memory, written, pending = self._sends[0]
            size = min(memory.size - written, ring // 4)
            start = self._head
            if start % ring + _padded(size) > ring:
                start += ring - start % ring  # a message lies in one piece
            if start + _padded(size) - self._free > ring:
                break
            place = start % ring
            self._to[place : place + size] = memory[written : written + size]
            if not self._tell(b"d", start, size):
                break
            self._head = start + _padded(size)
            self._sends[0][1] = written + size
            moved = True
            if written + size == memory.size:
                self._sends.popleft()
                pending.left -= 1
        return moved

    @property
    def waits(self) -> bool:
        return bool(self._sends or self._receives)


def _padded(size: int) -> int:
    return -(-size // LINE) * LINE


class _Pending:
    def __init__(self, owner: SharedMemory, left: int) -> None:
        self._owner, self.left = owner, left

    def wait(self) -> None:
        self._owner.finish(self)


class SharedMemory:
    """Moves bytes as a `Transport` does, between the ranks of one machine; see `connected`."""

    def __init__(self, timeout: float, channels: Sequence[_Channel], largest: int) -> None:
        self._timeout = timeout
        self._channels = {channel.rank: channel for channel in channels}
        self.largest = largest  # bytes of a message that can be lent
        self.bytes = 4 * largest * len(channels)  # of the rings that this rank fills

    def start(self, sends: Sequence[Parcel], receives: Sequence[Parcel]) -> _Pending:
        pending = _Pending(self, 0)
        for rank, memory in receives:
            if memory.size:
                pending.left += 1
                self._channels[rank].receive(memory, pending)
        for rank, memory in sends:
            if memory.size:
                pending.left += 1
                self._channels[rank].send(memory, pending)
        self._progress()
        return pending

    def _progress(self) -> bool:
        moved = False
        for channel in self._channels.values():
            moved |= channel.progress()
        return moved

    def finish(self, pending: _Pending) -> None:
        """Returns when all of it is done. Raises DistributedError."""
        last = time.monotonic()
        while pending.left:
            if self._progress():
                last = time.monotonic()
                continue
            if not pending.left:
                return
            waiting = [channel for channel in self._channels.values() if channel.waits]
            for channel in waiting:
                if channel.gone:
                    raise DistributedError(f"rank {channel.rank}: gone, or does other work")
            idle = time.monotonic() - last
            if idle > self._timeout:
                raise DistributedError(silent([channel.rank for channel in waiting], self._timeout))
            if idle < PATIENCE:
                os.sched_yield()
            else:
                self._sleep(min(self._timeout - idle, 0.5))

    def _sleep(self, seconds: float) -> None:
        poll = select.poll()
        for channel in self._channels.values():
            if not channel.gone:
                poll.register(channel.socket, select.POLLIN)
        poll.poll(1000 * seconds)


def connected(transport: Transport) -> SharedMemory | None:
    """Memory shared by all ranks of a transport, if they are on one machine; None otherwise.

    All ranks call it together. It is None too where the system lacks something, or one of them has
    GRADSTEP_SHARED_MEMORY=0. Raises DistributedError.
    """
    if transport.size == 1:
        return None
    own = {"host": _host(), "name": f"gradstep-{secrets.token_hex(16)}"}
    every = [json.loads(each) for each in gather(transport, json.dumps(own).encode())]
    if own["host"] is None or any(each["host"] != own["host"] for each in every):
        return None
    names = [f"\0{each['name']}" for each in every]
    found: list[_Channel] = []
    size = min(LARGEST, max(SMALLEST, RINGS // (transport.size - 1) // 4096 * 4096))
    with ExitStack() as closed:
        try:
            listener = closed.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            listener.bind(names[transport.rank])
            listener.listen(transport.size)
        except OSError:
            listener = None
        if not _all(transport, listener is not None):
            return None
        sockets: dict[int, Any] = {}
        try:
            found = _met(transport, listener, names, size, sockets)
        except (OSError, ValueError):
            for each in sockets.values():
                each.close()
            found = []
        if _all(transport, len(found) == transport.size - 1):
            return SharedMemory(transport.timeout, found, size // 4)
    for channel in found:
        channel.socket.close()
    return None


def _all(transport: Transport, well: bool) -> bool:
    return all(each == b"y" for each in gather(transport, b"y" if well else b"n"))


def _host() -> list[Any] | None:
    """What tells this machine, and what of it the process sees; None where there is no way."""
    if sys.platform != "linux" or os.environ.get("GRADSTEP_SHARED_MEMORY") == "0":
        return None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return [boot, socket.gethostname(), os.stat("/proc/self/ns/net").st_ino, os.getuid()]
    except OSError:
        return None


def _met(
    transport: Transport,
    listener: Any,
    names: Sequence[str],
    size: int,
    sockets: dict[int, Any],
) -> list[_Channel]:
    """A channel to every other rank; sockets: takes those that it opens.

    Raises OSError or ValueError.
    """
    deadline = time.monotonic() + min(MEETING, transport.timeout)
    rank = transport.rank
    for other in range(rank):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sockets[other] = connection
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        connection.connect(names[other])
        connection.send(names[rank].encode())
    while len(sockets) < transport.size - 1:
        listener.settimeout(max(0.1, deadline - time.monotonic()))
        connection, _ = listener.accept()
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        sockets[names.index(connection.recv(256).decode())] = connection
    rings = {other: _ring(size) for other in sockets}
    for other, connection in sockets.items():
        socket.send_fds(connection, [b"r"], [rings[other][0]])
        os.close(rings[other][0])
    channels = []
    for other, connection in sockets.items():
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
        [descriptor] = descriptors
        theirs = _mapped(descriptor, size)
        os.close(descriptor)
        connection.setblocking(False)
        channels.append(_Channel(other, connection, rings[other][1], theirs))
    return channels


def _ring(size: int) -> tuple[int, Bytes]:
    descriptor = os.memfd_create("gradstep", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor, _mapped(descriptor, size)


def _mapped(descriptor: int, size: int) -> Bytes:
    return np.frombuffer(mmap.mmap(descriptor, size), np.uint8)
