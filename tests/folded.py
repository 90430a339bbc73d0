"""Cases that one test goes through, where a test for each would cost more than what it tests."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from typing import Any

import gradstep as gs
import pytest

Test = Callable[..., None]


def folded(
    names: str | tuple[str, ...], cases: Iterable[Any], ids: Callable[[Any], Any] = str
) -> Callable[[Test], Test]:
    """As `pytest.mark.parametrize` in one test, which ends at the first failure and names its case.

    A case of `level` is in use. Instruction set and threads are put back after each case. Cases may
    skip; the test is skipped where all of them do.
    """
    wanted = (names,) if isinstance(names, str) else names
    every = [(case,) if isinstance(names, str) else tuple(case) for case in cases]
    assert every

    def fold(test: Test) -> Test:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            skipped = []
            for case in every:
                level, threads = gs.simd_level(), gs.get_num_threads()
                given = dict(zip(wanted, case, strict=True))
                try:
                    if "level" in given:
                        gs.use_simd(given["level"])
                    test(**fixtures, **given)
                except pytest.skip.Exception as error:
                    skipped.append(error)
                except BaseException as error:
                    shown = ", ".join(f"{n}={ids(v)}" for n, v in given.items())
                    error.add_note(f"case: {shown}")
                    raise
                finally:
                    gs.use_simd(level)
                    gs.set_num_threads(threads)
            if len(skipped) == len(every):
                raise skipped[0]

        signature = inspect.signature(test)
        assert set(wanted) <= set(signature.parameters), wanted
        left = [p for name, p in signature.parameters.items() if name not in wanted]
        run.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        del run.__wrapped__  # type: ignore[attr-defined]
        return run

    return fold


LEVELS: tuple[str, ...] = gs.build_info()["simd_levels"]
each_level = folded("level", LEVELS)


def in_turn(threads: tuple[int, ...] = (1, 2, 3, 7)) -> Iterator[str]:
    """Every instruction set and every number of threads in use once: the best with each number.

    Kernels know no threads, and what shares out work no instruction set, so that pairs tell no
    more; yields what is in use.
    """
    others = zip(LEVELS[:-1], cycle(threads[1:] or threads), strict=False)
    for level, count in (*others, *((LEVELS[-1], n) for n in threads)):
        gs.use_simd(level)
        gs.set_num_threads(count)
        yield f"{level}, {count} threads"


def in_all_pairs(threads: tuple[int, ...] = (1, 2, 3, 7)) -> Iterator[str]:
    """Every instruction set with every number of threads in use; yields what is."""
    for level in LEVELS:
        gs.use_simd(level)
        for count in threads:
            gs.set_num_threads(count)
            yield f"{level}, {count} threads"
