"""Where a run is, on stderr: works done, time gone, time to go."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from .work import Work

__all__ = ["Progress", "minutes"]

ELEMENTS = 3e6  # whose handling takes as long as what does not depend on the size


def minutes(seconds: float) -> str:
    """Minutes and seconds.

    >>> minutes(75.2)
    '1:15'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """works: all that will be measured, in this order."""

    def __init__(
        self, works: Sequence[Work], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._costs = [1 + work.elements / ELEMENTS for work in works]
        self._clock, self._start, self._done = clock, clock(), 0

    def done(self, text: str) -> None:
        """One more is measured: say so, and guess from the sizes how long the rest takes."""
        self._done += 1
        gone = self._clock() - self._start
        rest = sum(self._costs[self._done :]) / sum(self._costs[: self._done])
        count = f"[{self._done}/{len(self._costs)}, {minutes(gone)}"
        print(f"{count}, about {minutes(gone * rest)} left] {text}", file=sys.stderr, flush=True)
