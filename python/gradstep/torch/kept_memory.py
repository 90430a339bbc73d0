"""Memory of large results, kept for the next results of the same size.

A fresh page costs the system more time to clear and map than our kernels take to fill it, and a
training step asks for the same sizes as the one before. Small results need none of this: the
allocator does not give their memory back.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import torch

from gradstep import _core
from gradstep.arguments import integer

__all__ = ["keep_memory", "new_like"]

LARGE = 8 << 20  # bytes; glibc keeps smaller blocks itself, and hands out what is in cache


class _Block(NamedTuple):
    """Memory that results are made on."""

    storage: Any
    address: int
    size: int

    def is_whole(self) -> bool:
        """Whether it is what it was: a result's storage can be resized, freed and shared."""
        storage = self.storage
        return bool(storage.nbytes() == self.size and storage.data_ptr() == self.address)


def _new_block(size: int) -> _Block:
    storage = torch.empty(size, dtype=torch.uint8, device="cpu").untyped_storage()
    return _Block(storage, storage.data_ptr(), size)


def _result(block: _Block, like: torch.Tensor) -> torch.Tensor:
    result: Any = torch.empty(0, dtype=like.dtype, device="cpu")
    result.set_(block.storage, 0, like.shape, like.stride())
    return result


_tensors_on: Any = getattr(torch._C, "_storage_Use_Count", lambda address: 0)


def _uses(block: _Block) -> tuple[int, int]:
    """References to the storage: torch's (tensors, autograd, NumPy, DLPack) and Python's."""
    return _tensors_on(block.storage._cdata), sys.getrefcount(block.storage)


def _idle_uses() -> tuple[int, int] | None:
    """What `_uses` finds where there are none but ours; None where it overlooks some.

    What counts as a reference is up to the versions of torch and Python, so it is tried.
    """
    block, like = _new_block(64), torch.empty(16, dtype=torch.float32, device="cpu")
    idle = _uses(block)
    for hold in _HOLDS:
        held = hold(_result(block, like))
        if _uses(block) == idle:
            return None
        del held
    return idle if _uses(block) == idle else None


_HOLDS: tuple[Callable[[torch.Tensor], Any], ...] = (
    lambda result: result,
    lambda result: result[3:],
    lambda result: result.numpy(),
    lambda result: result.untyped_storage(),
    lambda result: result.__dlpack__(),
)


class _Blocks:
    """Blocks of bytes by size."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.by_size: dict[int, list[_Block]] = {}

    def idle(self, size: int) -> _Block | None:
        for block in list(self.by_size.get(size, ())):
            if _uses(block) != _IDLE:
                continue
            if block.is_whole():
                return block
            self.forget(block)
        return None

    def forget(self, block: _Block) -> None:
        own = self.by_size[block.size]
        self.by_size[block.size] = [each for each in own if each is not block]
        self.total -= block.size

    def drop(self, wanted: int) -> None:
        """Gives idle blocks back until the total is at most `wanted`, or none is idle."""
        for size in list(self.by_size):
            while self.total > wanted:
                block = self.idle(size)
                if block is None:
                    break
                self.forget(block)

    def take(self, size: int) -> _Block:
        found = self.idle(size)
        if found is not None:
            return found
        if self.total + size > self.limit:
            self.drop(self.limit - size)
        block = _new_block(size)
        _ask_for_huge_pages(block)
        if self.total + size <= self.limit:
            self.by_size.setdefault(size, []).append(block)
            self.total += size
        return block


_MADV_HUGEPAGE = 14  # <asm-generic/mman-common.h>
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _ask_for_huge_pages(block: _Block) -> None:
    """As NumPy does for its large arrays; torch does with THP_MEM_ALLOC_ENABLE=1 only."""
    if _libc is None:
        return
    begin = -(-block.address // mmap.PAGESIZE) * mmap.PAGESIZE
    length = block.address + block.size - begin
    _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), _MADV_HUGEPAGE)


_IDLE = _idle_uses()
_blocks = _Blocks(512 << 20 if _IDLE else 0)
_lock = threading.Lock()


def _begin_anew() -> None:
    """In a forked child: another thread may have held the lock, in the middle of a change."""
    global _blocks, _lock
    _blocks, _lock = _Blocks(_blocks.limit), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def new_like(x: torch.Tensor) -> torch.Tensor:
    """Uninitialised memory of torch's for a result, of x's shape, type and strides.

    x: a plain tensor whose elements fill their memory, each once.
    """
    size = x.numel() * x.element_size()
    # Does not wait for another thread that takes a block: new memory is there at once.
    if size < LARGE or not _blocks.limit or not _lock.acquire(blocking=False):
        return torch.empty_like(x)
    try:
        return _result(_blocks.take(size), x)
    finally:
        _lock.release()


def lend_results() -> None:
    """Tells native code how to make results of its calls on tensors."""
    _core.use_torch(torch.Tensor, torch.nn.Parameter, torch.empty_like, new_like, LARGE)


lend_results()


def keep_memory(limit: SupportsIndex) -> None:
    """Sets how much memory of large results (8 MiB or more) is kept for reuse, in bytes.

    limit: for all that is in use or idle, 512 MiB to begin with; 0, which keeps none, or from 8 MiB
    on. What is idle and above it is given back at once. Raises TypeError or ValueError, and
    RuntimeError for more than 0 where it cannot be told whether memory is in use.

    >>> import gradstep.torch as gt
    >>> gt.keep_memory(1 << 30)
    """
    checked = integer("limit", limit, 0)
    if 0 < checked < LARGE:
        raise ValueError(f"limit: {checked} bytes, expected 0, or at least {LARGE} (8 MiB)")
    if checked and _IDLE is None:
        raise RuntimeError(
            f"limit: {checked}, expected 0: with torch {torch.__version__} it cannot be told "
            "whether memory is in use"
        )
    with _lock:
        _blocks.limit = checked
        _blocks.drop(checked)
