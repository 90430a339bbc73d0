"""How float32 values are kept in fewer bits, in NumPy: the specification of storage.

Native code gives the same bits. All NaNs become one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradstep.spec.philox import uniform16

__all__ = [
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
# The first bit of a word that an array takes lies so far beyond that of the array before.
TURN = 5
# Of signed numbers and of those >= 0: the largest code, and a step in float32 bits as a power of 2.
CODES = {True: (127, 20), False: (255, 19)}
INFINITY = 0x7F800000
NAN = np.uint32(0x7FC00000)


def _bits(x: Floats) -> NDArray[np.uint32]:
    """The bits of x, with one NaN for all."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return np.where(np.isnan(x), NAN, bits)


def random_bits(n: int, seed: int, step: int, array: int, first_tile: int = 0) -> NDArray[Any]:
    """16 random bits for each of n elements of a tensor at a step.

    array: 0 for the parameter, 1 + k for its state k: they share 32-bit words, in which an element
    of a lower row has the 16 bits of `uniform16` below, and take 16 bits of them, from bit 0, 5, 10
    or 15 on. first_tile: where the tensor's elements begin in the stream, in tiles of 64.
    """
    padded = -(-n // 64) * 64
    own = uniform16(64 * first_tile, padded, seed, step, rounds=ROUNDS).astype(np.uint32)
    pairs = own.reshape(-1, 2, 16)  # rows that are the two halves of the same words
    words = pairs | pairs[:, ::-1] << np.uint32(16)
    return words.reshape(-1)[:n] >> np.uint32(TURN * array) & np.uint32(0xFFFF)


def to_bfloat16(x: Floats, random: NDArray[Any] | None = None) -> NDArray[np.uint16]:
    """The upper halves of x (N,), rounded to nearest, halves to even.

    random: (N,), 0 to 65535; then up with the probability that is due.

    >>> [hex(v) for v in to_bfloat16(np.float32([1.0, 1.00390625, -2.0]))]
    ['0x3f80', '0x3f80', '0xc000']
    """
    bits = _bits(x)
    up = np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1)) if random is None else random
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
    x: Floats, signed: bool, random: NDArray[Any]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Eight bits for each of x (N,), and for each block of 256 the largest magnitude, its scale.

    A code counts steps of float32 bits below the scale: 8 to an octave for signed numbers, whose
    sign is bit 7, and 16 for those >= 0, over 16 octaves. What is less becomes 0, and code 1 where
    all are >= 0. random: (N,), 0 to 65535; a code is rounded up with the probability that is due.
    Where a block holds something that is not finite, all of it becomes NaN.
    """
    n = len(x)
    largest, shift = CODES[signed]
    padded = np.zeros((-(-n // SCALE_BLOCK), SCALE_BLOCK), np.float32)
    chance = np.zeros(padded.shape, np.int64)
    padded.reshape(-1)[:n], chance.reshape(-1)[:n] = x, random
    bits = padded.view(np.int32).astype(np.int64)
    magnitude = bits & 0x7FFFFFFF
    most = magnitude.max(axis=1, initial=0)
    most = np.where(most >= INFINITY, int(NAN), most)
    below = magnitude + (largest << shift) - most[:, None]
    # In 32 bits, as beside NaN the sum may pass them.
    steps = (below + (chance << (shift - 16))).astype(np.int32)
    code = np.maximum(steps, 0) >> shift
    if signed:
        code |= (bits < 0) * np.int32(128)
    else:
        code = np.where((bits > 0) & (code < 1), 1, code)
    return code.astype(np.uint8).reshape(-1)[:n], most.astype(np.int32).view(np.float32)


def from_blocks(y: NDArray[np.uint8], scale: NDArray[np.float32], signed: bool) -> Floats:
    """The float32 values of `to_blocks`."""
    largest, shift = CODES[signed]
    most = np.repeat(scale.view(np.int32), SCALE_BLOCK)[: len(y)]
    code = y.astype(np.int32) & largest
    bits = np.where(code == 0, 0, np.maximum(most - ((largest - code) << shift), 1))
    if signed:
        bits |= (y.astype(np.int32) & 128) << 24
    x = bits.astype(np.int32).view(np.float32)
    return np.where((most < 0) | (most >= INFINITY), np.float32(np.nan), x)
