"""Who has which elements: the flat space of all parameters, cut into one shard for each rank.

Shards end where blocks of sums end, so that the sums of squares of all shards, put one after the
other, are those of the whole: the norm has the same bits whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from gradstep.spec.sums import SUM_BLOCK

__all__ = ["Piece", "buckets", "cut", "overlaps"]


class Piece(NamedTuple):
    """Elements [start, stop) of a tensor, counted as they lie in memory."""

    tensor: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def blocks(self) -> int:
        """The number of its sums."""
        return -(-self.size // SUM_BLOCK)


def cut(sizes: Sequence[int], ranks: int) -> list[list[Piece]]:
    """The pieces of each rank, in order; sizes: elements of each tensor.

    A shard differs from the mean by less than a block. An empty tensor is a piece too, and belongs
    to one rank.
    """
    starts = [0, *accumulate(sizes)]
    ends = [_nearest(starts, sizes, rank * starts[-1] // ranks) for rank in range(ranks)]
    ends[0] = (0, 0)
    return [
        list(_between(sizes, first, last)) for first, last in pairwise([*ends, (len(sizes), 0)])
    ]


def _nearest(starts: Sequence[int], sizes: Sequence[int], target: int) -> tuple[int, int]:
    """The end of a block next to an element of the flat space: a tensor, and an element of it."""
    tensor = 0
    while tensor < len(sizes) and starts[tensor + 1] <= target:
        tensor += 1
    if tensor == len(sizes):
        return tensor, 0
    inside = target - starts[tensor]
    low = inside - inside % SUM_BLOCK
    high = min(low + SUM_BLOCK, sizes[tensor])
    nearest = low if inside - low <= high - inside else high
    return (tensor, nearest) if nearest < sizes[tensor] else (tensor + 1, 0)


def _between(
    sizes: Sequence[int], first: tuple[int, int], last: tuple[int, int]
) -> Iterator[Piece]:
    for tensor in range(first[0], min(last[0] + 1, len(sizes))):
        start = first[1] if tensor == first[0] else 0
        stop = last[1] if tensor == last[0] else sizes[tensor]
        if start < stop or (sizes[tensor] == 0 and (tensor, 0) < last):
            yield Piece(tensor, start, stop)


def buckets(
    pieces: Iterable[Piece], itemsizes: Sequence[int], limit: int
) -> Iterator[list[tuple[int, Piece]]]:
    """The pieces in messages of at most `limit` bytes: (number of the piece, part of it).

    itemsizes: bytes of an element of each tensor. What is larger goes in several messages, and
    alone, each of whole blocks of sums, and of one at least; what is smaller goes together.
    """
    held: list[tuple[int, Piece]] = []
    room = limit
    for number, piece in enumerate(pieces):
        itemsize = itemsizes[piece.tensor]
        whole = max(SUM_BLOCK, limit // itemsize // SUM_BLOCK * SUM_BLOCK)
        start = piece.start
        while start < piece.stop:
            most = whole if held == [] else room // itemsize
            if most < min(piece.stop - start, whole):
                yield held
                held, room = [], limit
                continue
            stop = min(piece.stop, start + most)
            held.append((number, Piece(piece.tensor, start, stop)))
            room -= -(-(stop - start) * itemsize // 8) * 8
            start = stop
    if held:
        yield held


def overlaps(mine: Iterable[Piece], theirs: Iterable[Piece]) -> Iterator[tuple[int, int, Piece]]:
    """Where pieces share elements: the number of the one, of the other, and what they share."""
    others: dict[int, list[tuple[int, Piece]]] = {}
    for number, piece in enumerate(theirs):
        others.setdefault(piece.tensor, []).append((number, piece))
    for number, piece in enumerate(mine):
        for other, found in others.get(piece.tensor, []):
            start, stop = max(piece.start, found.start), min(piece.stop, found.stop)
            if start < stop or (piece.size == 0 and found.size == 0):
                yield number, other, Piece(piece.tensor, start, stop)
