"""What the tests of several ranks share: ranks that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import gradstep.distributed as gd
import pytest

Ranks = Callable[..., list[Any]]


@pytest.fixture
def ranks() -> Ranks:
    """`ranks(n, work)`: what `work(transport)` returned, or raised, on each of n threads."""

    def run(n: int, work: Callable[[Any], Any], timeout: float = 20) -> list[Any]:
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

    return run
