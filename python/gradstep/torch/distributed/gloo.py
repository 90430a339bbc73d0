"""Bytes over the processes of torch.distributed on the CPU."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from gradstep.distributed.shared_memory import SharedMemory, connected
from gradstep.distributed.transport import (
    DistributedError,
    Parcel,
    Pending,
    check_timeout,
    silent,
)

__all__ = ["GlooTransport"]


class GlooTransport:
    """Transport over a process group of torch.distributed on the CPU.

    group: a group, or None for all processes. Where all are on one machine, bytes go through memory
    that they share (near: what does that, or None). timeout: seconds without a byte after which a
    process gives up. Raises TypeError or ValueError; DistributedError as a Transport does.
    """

    def __init__(self, group: Any = None, *, timeout: float = 600.0) -> None:
        self.timeout: float = check_timeout(timeout)
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError("group: no processes yet, expected init_process_group('gloo') first")
        backend = str(dist.get_backend(group))
        if "gloo" not in backend:
            raise ValueError(f"group: of {backend}, expected one of gloo, which moves CPU memory")
        self._group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)
        self._ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
        self.near: SharedMemory | None = None
        self.near = connected(self)

    def start(self, sends: Sequence[Parcel], receives: Sequence[Parcel]) -> Pending:
        if self.near is not None:
            return self.near.start(sends, receives)
        works: list[tuple[int, Any]] = []
        kept = []
        try:
            for action, parcels in ((dist.irecv, receives), (dist.isend, sends)):
                for rank, memory in parcels:
                    # torch warns of memory that it may not write.
                    bytes_ = torch.from_numpy(memory if memory.flags.writeable else memory.copy())
                    kept.append(bytes_)
                    works.append((rank, action(bytes_, self._ranks[rank], self._group)))
        except RuntimeError as error:
            raise DistributedError(f"rank {rank}: gone, or does other work ({error})") from error
        return _GlooPending(works, kept, self.timeout)


class _GlooPending:
    def __init__(self, works: list[tuple[int, Any]], kept: list[Any], timeout: float) -> None:
        self._works, self._kept, self._timeout = works, kept, timeout

    def wait(self) -> None:
        patience = datetime.timedelta(seconds=self._timeout)
        for rank, work in self._works:
            try:
                done = work.wait(patience)
            except RuntimeError as error:
                if "imed out" in str(error):
                    raise DistributedError(silent([rank], self._timeout)) from error
                what = f"rank {rank}: gone, or does other work ({error})"
                raise DistributedError(what) from error
            if not done:
                raise DistributedError(silent([rank], self._timeout))
