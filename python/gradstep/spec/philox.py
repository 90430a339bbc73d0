"""Random bits by counter, in NumPy: the specification of stream version 1.

Philox4x32-10 of Salmon, Moraes, Dror & Shaw 2011 ("Parallel random numbers: as easy as 1, 2, 3")
turns a key of two 32-bit words and a counter of four into four random words, a block. Of the stream
of (seed, offset), the key is the seed and the counter is the number of the block (words 0 and 1)
and the offset (words 2 and 3), low words first: no two blocks, offsets or seeds share an input.

A block serves eight elements with 16 bits each. Elements come in tiles of 64: four rows of 16
lanes. Lane l of tile t takes block 8 t + l // 2, and its rows 0 to 3 are the low and the high half
of word l % 2, then the low and the high half of word 2 + l % 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["STREAM_VERSION", "keep_scale", "philox4x32", "threshold", "tile_words", "uniform16"]

# Changes when the same seed, offset and element no longer give the same bits.
STREAM_VERSION = 1
TILE = 64
LANES = 16
ONE = 65536
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox4x32(counter: Any, key: Any, rounds: int = 10) -> NDArray[np.uint32]:
    """The blocks of random words for counters and keys.

    counter: (..., 4), key: (..., 2): 32-bit words, broadcast against each other. Gives (..., 4).

    >>> [hex(word) for word in philox4x32([0, 0, 0, 0], [0, 0])]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    a, b, c, d = np.moveaxis(np.asarray(counter).astype(np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key).astype(np.uint64), -1, 0)
    for _ in range(rounds):
        x, y = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
        a, b = (y >> HALF) ^ b ^ k0, y & LOW
        c, d = (x >> HALF) ^ d ^ k1, x & LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & LOW, (k1 + np.uint64(0xBB67AE85)) & LOW
    words: NDArray[np.uint32] = np.stack(np.broadcast_arrays(a, b, c, d), -1).astype(np.uint32)
    return words


def tile_words(
    begin: int, end: int, seed: int, offset: int = 0, rounds: int = 10
) -> NDArray[np.uint32]:
    """The words of tiles [begin, end) of the stream of (seed, offset), (tiles, 2, 16).

    Of a tile, words 0 and 1 of its eight blocks one after the other, then their words 2 and 3.
    """
    block = np.arange(8 * begin, 8 * end, dtype=np.uint64).reshape(-1, 8)
    counter = np.empty((*block.shape, 4), np.uint64)
    counter[..., 0], counter[..., 1] = block & LOW, block >> HALF
    counter[..., 2], counter[..., 3] = offset & 0xFFFFFFFF, offset >> 32
    words = philox4x32(counter, [seed & 0xFFFFFFFF, seed >> 32], rounds)
    # (tile, block, pair, word of the pair) to (tile, pair, lane).
    return words.reshape(-1, 8, 2, 2).transpose(0, 2, 1, 3).reshape(-1, 2, LANES)


def uniform16(first: int, n: int, seed: int, offset: int = 0) -> NDArray[np.uint16]:
    """The 16 bits of elements [first, first + n) of the stream of (seed, offset).

    >>> uniform16(0, 4, seed=0)
    array([59605, 50573, 52388,   219], dtype=uint16)
    """
    begin, end = first // TILE, -(-(first + n) // TILE)
    lanes = tile_words(begin, end, seed, offset)
    rows = np.stack([lanes & np.uint32(0xFFFF), lanes >> np.uint32(16)], 2).astype(np.uint16)
    bits: NDArray[np.uint16] = rows.reshape(-1)[first - begin * TILE :][:n]
    return bits


def threshold(p: float) -> int:
    """The number of the 65536 values that drop an element: p rounded, halves to even."""
    return round(p * ONE)


def keep_scale(p: float) -> float:
    """The reciprocal of the probability to keep, after rounding; 0 where nothing is kept."""
    return ONE / (ONE - threshold(p)) if threshold(p) < ONE else 0.0
