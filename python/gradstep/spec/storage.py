"""How float32 values are kept in fewer bits, in NumPy: the specification of storage.

Native code gives the same bits. All NaNs become one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.spec.philox import tile_words

__all__ = [
    "AVERAGE",
    "SCALE_BLOCK",
    "from_bfloat16",
    "from_blocks",
    "from_split",
    "random_bits",
    "to_bfloat16",
    "to_blocks",
    "to_float16",
    "to_split",
]

Floats = NDArray[np.float32]
# Elements that share a scale.
SCALE_BLOCK = 256
ROUNDS = 7
# The parameter, the states, and its average: to the left by so many bits they turn the words.
TURNS = (8, 0, 16, 24, 4)
AVERAGE = 4  # the number of the parameter's average among them
# Of signed numbers and of those >= 0: the largest code, and a step in float32 bits as a power of 2.
CODES = {True: (127, 20), False: (255, 19)}
INFINITY = 0x7F800000
HALF = 1 << 31
# The bits of the least scale that codes count from, 2^-111: code 1 is above 0, and 0 has code 0.
LEAST_SCALE = 0x08000000
NAN = np.uint32(0x7FC00000)


def _bits(x: Floats) -> NDArray[np.uint32]:
    """The bits of x, with one NaN for all."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return np.where(np.isnan(x), NAN, bits)


def random_bits(n: int, seed: int, step: int, array: int, first_tile: int = 0) -> NDArray[Any]:
    """Random words for each of n elements of a tensor at a step, whose upper bits are used.

    array: 0 for the parameter, 1 + k for its state k, `AVERAGE`. Elements 2 l and 2 l + 1 of a tile
    of 64 share word l of `tile_words`. Arrays turn it to the left by `TURNS` bits, and odd elements
    by 16 more. first_tile: where the tensor's elements begin in the stream, in tiles.
    """
    end = first_tile + -(-n // 64)
    words = tile_words(first_tile, end, seed, step, rounds=ROUNDS).reshape(-1)
    turn = (TURNS[array] + 16 * np.arange(2, dtype=np.uint32)) % 32
    turned = words[:, None] << turn | words[:, None] >> (32 - turn) % 32
    return turned.reshape(-1)[:n]


def to_bfloat16(x: Floats, random: NDArray[Any] | None = None) -> NDArray[np.uint16]:
    """The upper halves of x (N,), rounded to nearest, halves to even.

    random: (N,), 32-bit words, whose upper half is used: then up with the probability that is due.

    >>> [hex(v) for v in to_bfloat16(np.float32([1.0, 1.00390625, -2.0]))]
    ['0x3f80', '0x3f80', '0xc000']
    """
    bits = _bits(x)
    up = (
        np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
        if random is None
        else random >> np.uint32(16)
    )
    rounded = np.where(np.isnan(x), bits, bits + up)
    return (rounded >> np.uint32(16)).astype(np.uint16)


def from_bfloat16(y: NDArray[np.uint16]) -> Floats:
    """The float32 values of bfloat16 bits."""
    return (y.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_float16(x: Floats) -> NDArray[np.float16]:
    """x rounded to nearest, halves to even."""
    with np.errstate(all="ignore"):
        half = _bits(x).view(np.float32).astype(np.float16)
    return np.where(np.isnan(x), np.float16(np.nan), half)


def to_split(x: Floats) -> tuple[NDArray[np.uint16], NDArray[np.int16]]:
    """bfloat16 bits of x (N,), the nearest, and the 16 bits that are missing, signed.

    >>> high, low = to_split(np.float32([1.00390625]))
    >>> hex(high[0]), int(low[0])
    ('0x3f81', -32768)
    """
    bits = _bits(x)
    high = (bits + np.uint32(0x8000)) >> np.uint32(16)
    return high.astype(np.uint16), bits.astype(np.uint16).view(np.int16)


def from_split(high: NDArray[np.uint16], low: NDArray[np.int16]) -> Floats:
    """The float32 whose bits are (high << 16) + low."""
    with np.errstate(over="ignore"):
        upper = high.astype(np.uint32) << np.uint32(16)
        return (upper + low.astype(np.int32).view(np.uint32)).view(np.float32)


def to_blocks(
    x: Floats, signed: bool, random: NDArray[Any] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Eight bits for each of x (N,), and for each block of 256 the largest magnitude, its scale.

    A code counts steps of float32 bits below the scale: 8 to an octave for signed numbers, whose
    sign is bit 7, and 16 for those >= 0, over 16 octaves. What is less becomes 0, and code 1 where
    all are >= 0. Where a block holds something that is not finite, all of it becomes NaN: codes 0
    under a scale of NaN.

    random: (N,), 32-bit words: a code is rounded up with the probability that is due; without them
    to the nearest.
    """
    n = len(x)
    largest, shift = CODES[signed]
    padded = np.zeros((-(-n // SCALE_BLOCK), SCALE_BLOCK), np.float32)
    chance = np.zeros(padded.shape, np.int64)
    padded.reshape(-1)[:n], chance.reshape(-1)[:n] = x, HALF if random is None else random
    bits = padded.view(np.int32).astype(np.int64)
    magnitude = bits & 0x7FFFFFFF
    most = magnitude.max(axis=1, initial=0)
    most = np.where(most >= INFINITY, int(NAN), most)
    origin = np.maximum(most, LEAST_SCALE) - (largest << shift)
    # In 32 bits, as beside NaN the difference may pass them.
    steps = (magnitude - origin[:, None] + (chance >> (32 - shift))).astype(np.int32)
    code = np.maximum(steps >> shift, 0 if signed else np.minimum(magnitude, 1))
    if signed:
        code |= (bits < 0) * np.int32(128)
    code[most == NAN] = 0
    return code.astype(np.uint8).reshape(-1)[:n], most.astype(np.int32).view(np.float32)


def from_blocks(y: NDArray[np.uint8], scale: NDArray[np.float32], signed: bool) -> Floats:
    """The float32 values of `to_blocks`."""
    largest, shift = CODES[signed]
    most = np.repeat(scale.view(np.int32), SCALE_BLOCK)[: len(y)]
    origin = np.maximum(most, LEAST_SCALE) - (largest << shift)
    code = y.astype(np.int32) & largest
    sign = (y.astype(np.int32) & 128) << 24 if signed else 0
    bits = np.where(code == 0, 0, sign | (code << shift) + origin)
    x = bits.astype(np.int32).view(np.float32)
    return np.where((most < 0) | (most >= INFINITY), np.float32(np.nan), x)
