"""Memory between two pages that may not be touched."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np

PROT_NONE = 0  # POSIX, <sys/mman.h>
PAGE_NOACCESS = 1  # Windows, <winnt.h>


class Guarded:
    """Two writable pages; to read or write before or after them ends the process."""

    def __init__(self) -> None:
        page = mmap.PAGESIZE
        self.memory = mmap.mmap(-1, 4 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for guard in (start, start + 3 * page):
            _forbid(ctypes.c_void_p(guard), ctypes.c_size_t(page))
        self.bytes = np.frombuffer(self.memory, np.uint8)[page : 3 * page]

    def array(self, like: Any, at_end: bool) -> Any:
        data = self.bytes[-like.nbytes :] if at_end and like.nbytes else self.bytes[: like.nbytes]
        array = data.view(like.dtype).reshape(like.shape)
        array[...] = like
        return array


def _forbid(start: Any, size: Any) -> None:
    """To touch these pages ends the process from now on."""
    if sys.platform == "win32":
        before = ctypes.c_ulong()
        protect: Any = ctypes.windll.kernel32.VirtualProtect
        assert protect(start, size, PAGE_NOACCESS, ctypes.byref(before))
    else:
        assert ctypes.CDLL(None).mprotect(start, size, PROT_NONE) == 0
