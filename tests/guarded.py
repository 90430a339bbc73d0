"""Memory between two pages that may not be touched."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np


class Guarded:
    """Two writable pages; to read or write before or after them ends the process."""

    def __init__(self) -> None:
        page = mmap.PAGESIZE
        self.memory = mmap.mmap(-1, 4 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        for guard in (start, start + 3 * page):
            assert libc.mprotect(ctypes.c_void_p(guard), page, self.PROT_NONE) == 0
        self.bytes = np.frombuffer(self.memory, np.uint8)[page : 3 * page]

    PROT_NONE = 0

    def array(self, like: Any, at_end: bool) -> Any:
        data = self.bytes[-like.nbytes :] if at_end and like.nbytes else self.bytes[: like.nbytes]
        array = data.view(like.dtype).reshape(like.shape)
        array[...] = like
        return array
