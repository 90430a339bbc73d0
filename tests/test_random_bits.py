"""The stream of random bits: published answers, one order everywhere, no repeats, no pattern."""

from __future__ import annotations

import itertools
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import LEVELS, in_all_pairs
from gradstep import _core
from gradstep.spec import philox
from gradstep.spec.dropout import dropout_mask
from gradstep.spec.philox import philox4x32, threshold, uniform16

# kat_vectors of Random123 (Salmon et al.): rounds, counter, key, block.
ONES = "ffffffff"
PI = "243f6a88 85a308d3 13198a2e 03707344"
KNOWN = [
    (7, "0 0 0 0", "0 0", "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, " ".join([ONES] * 4), f"{ONES} {ONES}", "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, PI, "a4093822 299f31d0", "4dfccaba 190a87f0 c47362ba b6b5242a"),
    (10, "0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, " ".join([ONES] * 4), f"{ONES} {ONES}", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, PI, "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
# Elements 2**36 + 5 and on of one stream, 0 to 5 and 64 to 69 of them.
PINNED = [62315, 64016, 23379, 55914, 32548, 36147, 64680, 21791, 46623, 43489, 53262, 61528]
FAR = [0, 64, 2**32 - 64, 2**32, 2**35 - 64, 2**35, 2**36 - 128, 2**60, 2**63 - 2**14]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def pair(low: int, high: int) -> int:
    return low | high << 32


def native_mask(n: int, p: float, seed: int, offset: int = 0, first: int = 0) -> Any:
    mask = np.empty(n, np.bool_)
    _core.dropout_mask(mask, n, p, seed, offset, False, first)
    return mask


@pytest.mark.parametrize(("rounds", "counter", "key", "block"), KNOWN)
def test_published_answers(rounds: int, counter: str, key: str, block: str) -> None:
    assert philox4x32(words(counter), words(key), rounds).tolist() == words(block)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("rounds", "counter", "key", "block"), KNOWN[3:])
def test_published_answers_natively(
    rounds: int, counter: str, key: str, block: str, level: str
) -> None:
    gs.use_simd(level)
    c, k = words(counter), words(key)
    found = _core.philox_block(pair(*k), pair(*c[2:]), pair(*c[:2]))
    assert list(found) == words(block)


@pytest.mark.parametrize("level", LEVELS)
def test_native_blocks_equal_the_specification(level: str) -> None:
    gs.use_simd(level)
    rng = np.random.default_rng(1)
    for _ in range(200):
        seed, offset, block = (int(v) for v in rng.integers(0, 2**64, 3, dtype=np.uint64))
        counter = [block & 0xFFFFFFFF, block >> 32, offset & 0xFFFFFFFF, offset >> 32]
        expected = philox4x32(counter, [seed & 0xFFFFFFFF, seed >> 32])
        assert list(_core.philox_block(seed, offset, block)) == expected.tolist()


def test_stream_version_1_is_what_it_was() -> None:
    """Masks of released versions must not change: a change here is a new STREAM_VERSION."""
    assert philox.STREAM_VERSION == 1
    found = uniform16(2**36 + 5, 70, seed=2**40 + 7, offset=2**50 + 9)
    assert found[:6].tolist() == PINNED[:6]
    assert found[64:].tolist() == PINNED[6:]


def test_lanes_and_rows_lie_as_documented() -> None:
    bits = uniform16(64 * 5, 64, seed=3, offset=4)
    for element in range(64):
        row, lane = divmod(element, 16)
        block = philox4x32([8 * 5 + lane // 2, 0, 4, 0], [3, 0])
        word = int(block[2 * (row // 2) + lane % 2])
        assert bits[element] == (word >> 16 if row % 2 else word & 0xFFFF)


@pytest.mark.parametrize("first", FAR)
def test_same_bits_at_any_distance_from_the_start(first: int) -> None:
    n, seed, offset = 1000, 2**63 + 12, 2**62 + 1
    expected = dropout_mask(n, 0.4, seed=seed, offset=offset, first=first)
    for where in in_all_pairs((1,)):
        assert (native_mask(n, 0.4, seed, offset, first) == expected).all(), where


@pytest.mark.parametrize("border", [2**32, 2**35, 2**36, 2**48])
def test_no_counter_wraps_inside_a_call(border: int) -> None:
    expected = dropout_mask(20_000, 0.4, seed=1, first=border - 8192)
    for where in in_all_pairs((1, 2)):
        assert (native_mask(20_000, 0.4, 1, 0, border - 8192) == expected).all(), where
    x = np.ones(20_000, np.float32)
    y = _core.dropout(x, 0.4, 1, 0, None, "x", border - 8192)
    assert ((y != 0) == expected).all()


def test_a_mask_does_not_depend_on_how_it_is_cut() -> None:
    whole = gs.dropout_mask(10_000, 0.3, seed=8)
    for first, n in [(0, 1), (64, 63), (128, 4097), (8192, 1808)]:
        assert (native_mask(n, 0.3, 8, 0, first) == whole[first : first + n]).all()


@pytest.mark.parametrize("p", [2**-16, 0.001, 0.1, 0.3, 0.5, 0.75, 0.999])
def test_rate_within_5_sigma_over_2_to_26_draws(p: float) -> None:
    n = 2**26
    packed = gs.dropout_mask(n, p, seed=12345, packed=True)
    dropped = n - int(np.bitwise_count(packed).sum(dtype=np.int64))
    realised = threshold(p) / 65536
    assert abs(dropped - n * realised) < 5 * (n * realised * (1 - realised)) ** 0.5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_no_serial_or_lag_correlation(p: float) -> None:
    n = 2**20
    keep = 1 - threshold(p) / 65536
    centred = gs.dropout_mask(n, p, seed=99, offset=3).astype(np.float32) - np.float32(keep)
    for lag in [*range(1, 18), 31, 32, 33, 48, 63, 64, 65, 128, 512, 1024, 2048, 8192, 65536]:
        product = float(np.dot(centred[:-lag].astype(np.float64), centred[lag:]))
        assert abs(product) < 5 * keep * (1 - keep) * (n - lag) ** 0.5, lag


def test_every_value_of_16_bits_is_as_likely() -> None:
    n = 2**22
    counts = np.bincount(uniform16(0, n, seed=4), minlength=65536)
    chi_squared = float(((counts - n / 65536) ** 2).sum() / (n / 65536))
    assert abs(chi_squared - 65535) < 5 * (2 * 65535) ** 0.5


SEEDS = [0, 1, 2, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1]


def independent(masks: dict[Any, Any]) -> None:
    """Every two masks agree in half of their elements, within 6 sigma."""
    n = len(next(iter(masks.values())))
    for (a, x), (b, y) in itertools.combinations(masks.items(), 2):
        assert abs(int((x == y).sum()) - n / 2) < 6 * (n / 4) ** 0.5, (a, b)


def test_seeds_and_offsets_beyond_32_bits_give_masks_of_their_own() -> None:
    masks = {("seed", s): gs.dropout_mask(4096, 0.5, seed=s, offset=5) for s in SEEDS}
    masks |= {("offset", o): gs.dropout_mask(4096, 0.5, seed=77, offset=o) for o in SEEDS}
    independent(masks)


def test_far_parts_of_a_stream_do_not_repeat() -> None:
    independent({first: native_mask(4096, 0.5, 6, 0, first) for first in FAR})


def test_an_offset_is_not_a_shift() -> None:
    """Element i of offset o is no element near i of another offset: the counters differ."""
    blocks = {
        (offset, block): _core.philox_block(1, offset, block)
        for offset in range(64)
        for block in range(64)
    }
    assert len(set(blocks.values())) == len(blocks)


def test_calls_of_a_layer_never_repeat_a_mask() -> None:
    layer = gs.Dropout(0.5, seed=11)
    x = np.ones(1024, np.float32)
    masks = {layer(x).tobytes() for _ in range(500)}
    assert len(masks) == 500
