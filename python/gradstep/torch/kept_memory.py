"""Memory of large results, kept for the next results of the same size.

A fresh page costs the system more time to clear and map than our kernels take to fill it, and a
training step asks for the same sizes as the one before. Small results need none of this: the
allocator does not give their memory back.
"""

from __future__ import annotations

import operator
import sys
import threading
from typing import SupportsIndex

import numpy as np

from gradstep.arrays import Array

__all__ = ["keep_memory", "new_array"]

LARGE = 32 << 20  # bytes; glibc keeps smaller blocks itself, and hands out what is in cache
# References to a block that no result lives in: the list, the variable, getrefcount's argument.
_IDLE = 3


class _Blocks:
    """Blocks of bytes by size. A result is a view of one, so references tell which are in use."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.by_size: dict[int, list[Array]] = {}

    def idle(self, size: int) -> Array | None:
        for block in self.by_size.get(size, ()):
            if sys.getrefcount(block) == _IDLE:
                return block
        return None

    def drop(self, wanted: int) -> None:
        """Gives idle blocks back until the total is at most `wanted`, or none is idle."""
        for size, blocks in list(self.by_size.items()):
            while self.total > wanted:
                block = self.idle(size)
                if block is None:
                    break
                blocks[:] = [each for each in blocks if each is not block]
                self.total -= size

    def take(self, size: int) -> Array:
        found = self.idle(size)
        if found is not None:
            return found
        if self.total + size > self.limit:
            self.drop(self.limit - size)
        block = np.empty(size, np.uint8)
        if self.total + size <= self.limit:
            self.by_size.setdefault(size, []).append(block)
            self.total += size
        return block


_blocks = _Blocks(512 << 20)
_lock = threading.Lock()


def new_array(like: Array) -> Array:
    """Uninitialised memory of this shape and type, in C order.

    NumPy's rather than torch's also where it is new: NumPy asks for huge pages.
    """
    # Does not wait: a child forked while another thread holds the lock would wait for ever.
    if like.nbytes < LARGE or not _lock.acquire(blocking=False):
        return np.empty(like.shape, like.dtype)
    try:
        return _blocks.take(like.nbytes).view(like.dtype).reshape(like.shape)
    finally:
        _lock.release()


def keep_memory(limit: SupportsIndex) -> None:
    """Sets how much memory of large results (32 MiB or more) is kept for reuse, in bytes.

    limit: for all that is in use or idle; 512 MiB to begin with. 0 keeps none; what is idle and
    above the limit is given back at once. Raises TypeError or ValueError.

    >>> import gradstep.torch as gt
    >>> gt.keep_memory(1 << 30)
    """
    try:
        checked = operator.index(limit)
    except TypeError:
        raise TypeError(f"limit: {type(limit).__name__}, expected a number of bytes") from None
    if checked < 0:
        raise ValueError(f"limit: {checked}, expected a number of bytes >= 0")
    with _lock:
        _blocks.limit = checked
        _blocks.drop(checked)
