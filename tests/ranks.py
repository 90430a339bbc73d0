"""Ranks that are threads of this process, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import gradstep.distributed as gd


def on_ranks(n: int, work: Callable[[Any], Any], timeout: float = 20) -> list[Any]:
    """What `work(transport)` returned, or raised, on each of n threads."""
    found: list[Any] = [None] * n

    def one(transport: gd.LocalTransport) -> None:
        try:
            found[transport.rank] = work(transport)
        except Exception as error:
            found[transport.rank] = error
        finally:
            transport.leave()

    threads = [
        threading.Thread(target=one, args=[each], daemon=True)
        for each in gd.in_process(n, timeout=timeout)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout + 40)
        assert not thread.is_alive(), "a rank hangs"
    return found
