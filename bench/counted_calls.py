"""The calls whose instructions are counted, and the program that makes them under valgrind.

Between two marks, which make callgrind write down and reset its counts, every call is made N times
and then 2N times; the difference is free of what stands around the calls.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from itertools import repeat
from typing import Any

import gradstep as gs
import numpy as np

__all__ = ["MARK", "ONCE", "calls"]

ONCE = 200
MARK = "getpriority"  # a function of the C library that nothing else here calls
ELEMENTS, MORE = 64, 4096


def calls() -> dict[str, Callable[[], object]]:
    """By name: on arrays so small that the call is all there is, and on some whose loops count."""
    x, w, out = (np.ones((1, ELEMENTS), np.float32) for _ in range(3))
    found: dict[str, Callable[[], object]] = {}
    for count in (1, 6):
        place = f"{count} tensor{'s' if count > 1 else ''} of {ELEMENTS}"
        found[f"AdamW step(grads), {place}"], found[f"AdamW bound step(), {place}"] = _steps(count)
    found[f"dropout(x, out=y), {ELEMENTS}"] = partial(gs.dropout, x, 0.5, seed=1, out=out)
    found[f"relu(x, out=y), {ELEMENTS}"] = partial(gs.relu, x, out=out)
    found[f"layer_norm(x, w, b, out=y), {ELEMENTS}"] = partial(
        gs.layer_norm, x, w[0], w[0], out=out
    )
    found[f"numpy.add(x, x, out=y), {ELEMENTS}"] = partial(np.add, x, x, out=out)
    x, y = np.ones((16, MORE // 16), np.float32), np.empty((16, MORE // 16), np.float32)
    found[f"AdamW bound step(), {MORE}"] = _bound(x.ravel())
    found[f"dropout(x, out=y), {MORE}"] = partial(gs.dropout, x, 0.5, seed=1, out=y)
    found[f"layer_norm(x, None, None, out=y), {MORE}"] = partial(
        gs.layer_norm, x, None, None, out=y
    )
    found[f"gelu(x, out=y), {MORE}"] = partial(gs.gelu, x, out=y)
    found[f"softmax(x, out=y), {MORE}"] = partial(gs.softmax, x, out=y)
    return found


def _bound(g: Any) -> Callable[[], object]:
    optimizer = gs.AdamW(g.copy())
    optimizer.bind(g)
    return optimizer.step


def _steps(count: int) -> tuple[Callable[[], object], Callable[[], object]]:
    params, grads = ([np.ones(ELEMENTS, np.float32) for _ in range(count)] for _ in range(2))
    bound = gs.AdamW([p.copy() for p in params])
    bound.bind(grads)
    return partial(gs.AdamW(params).step, grads), bound.step


def main() -> None:
    """Make all calls, with a mark before, between and after."""
    for call in calls().values():
        for _ in repeat(None, 20):
            call()
        for count in (ONCE, 2 * ONCE):
            mark()
            for _ in repeat(None, count):
                call()
        mark()


def mark() -> None:
    os.getpriority(os.PRIO_PROCESS, 0)


if __name__ == "__main__":
    main()
