"""Every pair of values, instead of every combination."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import combinations
from typing import TypeVar

Row = TypeVar("Row")


def pairwise(rows: Sequence[Row], factors: Callable[[Row], Sequence[Hashable]]) -> list[Row]:
    """Few of the rows that still hold each two values of two factors that some row holds together.

    Greedy: first those that add many pairs, then those that add fewer.
    """
    pairs = [set(combinations(enumerate(factors(row)), 2)) for row in rows]
    seen: set[object] = set()
    chosen: list[int] = []
    least = max(map(len, pairs), default=0)
    while least:
        for i, own in enumerate(pairs):
            if len(own - seen) >= least:
                seen |= own
                chosen.append(i)
        least //= 2
    return [rows[i] for i in sorted(chosen)]
