"""Dropout gives the bits of its NumPy specification, touches nothing else, means what it says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import folded, in_all_pairs, in_turn
from gradstep import _core
from gradstep.spec import dropout as spec
from gradstep.spec.philox import keep_scale, threshold
from test_exact import Guarded, guarded  # noqa: F401

DTYPES = [np.float32, np.float64]
SIZES = [*range(67), 127, 128, 129, 2047, 2048, 2049, 8191, 8192, 8193, 16_385, 100_003]
PROBABILITIES = [0.0, 1e-10, 2**-17, 2**-16, 0.1, 0.5, 0.7, 1 - 2**-16, 1.0]
Function = Callable[..., Any]

# name -> (function, its specification); all take an array, p, seed and offset.
ELEMENTWISE: dict[str, tuple[Function, Function]] = {
    "dropout": (gs.dropout, spec.dropout),
    "dropout_backward": (gs.dropout_backward, spec.dropout),
    "drop_connect": (gs.drop_connect, spec.dropout),
    "drop_connect_backward": (gs.drop_connect_backward, spec.dropout),
    "alpha_dropout": (gs.alpha_dropout, spec.alpha_dropout),
    "alpha_dropout_backward": (gs.alpha_dropout_backward, spec.alpha_dropout_backward),
}
SAMPLEWISE: dict[str, tuple[Function, Function]] = {
    "spatial_dropout": (gs.spatial_dropout, spec.spatial_dropout),
    "spatial_dropout_backward": (gs.spatial_dropout_backward, spec.spatial_dropout),
    "drop_path": (gs.drop_path, spec.drop_path),
    "drop_path_backward": (gs.drop_path_backward, spec.drop_path),
}
ALL = ELEMENTWISE | SAMPLEWISE
FORWARD = [name for name in ALL if not name.endswith("_backward")]
# (shape, axis of the channels): few and many channels, short and long runs, none at all.
SPATIAL = [
    ((4, 3), 1),
    ((2, 3000), 1),
    ((3, 5, 7), 1),
    ((2, 17, 9, 11), 1),
    ((2, 3, 4, 5, 6), 1),
    ((1, 2, 130, 130), 1),
    ((3, 300, 63), 1),
    ((3, 300, 64), 1),
    ((2, 50, 60, 3), -1),
    ((2, 9, 11, 17), 3),
    ((2, 40, 1100), -1),
    ((3, 6, 5, 4), 2),
    ((3, 70, 5, 90), -2),
    ((300, 1, 1), 1),
    ((0, 3, 4), 1),
    ((2, 0, 4), 1),
    ((2, 3, 0), 1),
]


def values(shape: Any, dtype: Any, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    x = np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 3, shape))
    return x.astype(dtype)


def shape_for(name: str) -> tuple[int, ...]:
    return (6, 5, 7) if name in SAMPLEWISE else (211,)


@folded("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_same_bits_as_the_specification(name: str, dtype: Any) -> None:
    native, reference = ELEMENTWISE[name]
    x = values(max(SIZES), dtype)
    expected = {n: reference(x[:n], 0.3, seed=5, offset=2**40).tobytes() for n in SIZES}
    for where in in_turn():
        for n in SIZES:
            found = native(x[:n], 0.3, seed=5, offset=2**40)
            assert found.tobytes() == expected[n], (where, n)


@pytest.mark.parametrize("name", ALL)
@folded("p", PROBABILITIES)
def test_same_bits_at_every_probability(name: str, p: float) -> None:
    native, reference = ALL[name]
    x = values((40, 3, 70), np.float32)
    expected = reference(x, p, seed=2**64 - 1, offset=2**64 - 1).tobytes()
    for where in in_turn((3, 1)):
        assert native(x, p, seed=2**64 - 1, offset=2**64 - 1).tobytes() == expected, where


@folded("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "axis"), SPATIAL)
def test_spatial_same_bits_as_the_specification(shape: Any, axis: int, dtype: Any) -> None:
    x = values(shape, dtype)
    expected = spec.spatial_dropout(x, 0.4, seed=9, offset=3, axis=axis)
    for where in in_turn((1, 2, 7)):
        found = gs.spatial_dropout(x, 0.4, seed=9, offset=3, axis=axis)
        assert found.tobytes() == expected.tobytes(), where
        found = gs.spatial_dropout_backward(x, 0.4, seed=9, offset=3, axis=axis)
        assert found.tobytes() == expected.tobytes(), where


@pytest.mark.parametrize("shape", [(5,), (1000,), (3, 4), (300, 5, 7), (3, 20_001), (0, 3), (3, 0)])
def test_drop_path_same_bits_as_the_specification(shape: Any) -> None:
    x = values(shape, np.float32)
    expected = spec.drop_path(x, 0.4, seed=9).tobytes()
    for where in in_turn((1, 2, 7)):
        assert gs.drop_path(x, 0.4, seed=9).tobytes() == expected, where


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "spatial_dropout", "drop_path"])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shift", [0, 1, 3])
def test_results_larger_than_the_cache_have_the_same_bits(name: str, p: float, shift: int) -> None:
    """There they are written past it, but not in place, where the tests above hold them right."""
    shape = (2, 3, 5001)
    n = int(np.prod(shape))
    memory = np.full(n + 16, 3.5, np.float32)
    x, out = values(shape[2], np.float32), memory[shift : shift + n].reshape(shape)
    x = np.concatenate([x] * 6).reshape(shape)
    native = ALL[name][0]
    kept = _core.tune("cache", 4096)
    try:
        assert native(x, p, seed=1, out=out) is out
    finally:
        _core.tune("cache", kept)
    assert out.tobytes() == native(x.copy(), p, seed=1, out=x).tobytes()
    assert (memory[:shift] == 3.5).all() and (memory[shift + n :] == 3.5).all()


@folded("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_in_place_equals_out_of_place(name: str, dtype: Any) -> None:
    native = ALL[name][0]
    for shape in [shape_for(name), (70, 3, 170)]:
        x = values(shape, dtype)
        before = x.copy()
        new = native(x, 0.3, seed=1, offset=2)
        assert x.tobytes() == before.tobytes() and not np.shares_memory(x, new)
        other = np.full_like(x, np.nan)
        assert native(x, 0.3, seed=1, offset=2, out=other) is other
        assert native(x, 0.3, seed=1, offset=2, out=x) is x
        assert x.tobytes() == new.tobytes() == other.tobytes()
        assert new.dtype == dtype and new.shape == shape


@pytest.mark.parametrize("name", ALL)
def test_any_start_of_an_array_and_nothing_beside_it(name: str) -> None:
    native, reference = ALL[name]
    shape = shape_for(name)
    for where in in_all_pairs((1,)):
        for start in range(17):
            x = values(shape, np.float32, start)
            memory = np.full(x.size + 64, 12.25, np.float32)
            source = np.full(x.size + 64, np.nan, np.float32)
            out = memory[start : start + x.size].reshape(shape)
            given = source[start + 5 : start + 5 + x.size].reshape(shape)
            given[:] = x
            native(given, 0.3, seed=start, out=out)
            assert out.tobytes() == reference(x, 0.3, seed=start).tobytes(), where
            assert (memory[:start] == 12.25).all() and (memory[start + x.size :] == 12.25).all()


@folded("dtype", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_no_byte_before_or_after_is_touched(name: str, dtype: Any, guarded: Any) -> None:  # noqa: F811
    native, reference = ALL[name]
    for where in in_all_pairs((1,)):
        for size in (*range(1, 20), 63, 64, 65, 1000):
            x = values((size, 1), dtype)
            expected = reference(x, 0.3, seed=2)
            for at_end in (False, True):
                source, target = (m.array(x[:, 0], at_end)[:, None] for m in guarded[:2])
                native(source, 0.3, seed=2, out=target)
                assert target.tobytes() == expected.tobytes(), (where, size)


@pytest.mark.parametrize("packed", [False, True])
def test_masks_touch_nothing_beside_them(packed: bool, guarded: Any) -> None:  # noqa: F811
    for where in in_all_pairs((1,)):
        for n in (1, 7, 8, 9, 63, 64, 65, 200):
            size = (n + 7) // 8 if packed else n
            expected = spec.dropout_mask(n, 0.3, seed=2)
            if packed:
                expected = np.packbits(expected, bitorder="little")
            for at_end in (False, True):
                target = guarded[0].array(np.full(size, 7, np.uint8), at_end)
                _core.dropout_mask(target, n, 0.3, 2, 0, packed)
                assert (target == expected).all(), (where, n)


@pytest.mark.parametrize("shape", [0, 1, 7, (), (3, 5), (0, 4), [2, 3], 100_003, np.int64(9)])
def test_mask_is_what_dropout_uses(shape: Any) -> None:
    for where in in_turn((3, 1)):
        mask = gs.dropout_mask(shape, 0.3, seed=4, offset=1)
        x = np.ones(shape, np.float64)
        assert mask.dtype == np.bool_ and mask.shape == x.shape
        assert ((gs.dropout(x, 0.3, seed=4, offset=1) != 0) == mask).all(), where
        assert (np.asarray(spec.dropout_mask(shape, 0.3, seed=4, offset=1)) == mask).all()
        packed = gs.dropout_mask(shape, 0.3, seed=4, offset=1, packed=True)
        assert (packed == np.packbits(mask, bitorder="little")).all(), where


@pytest.mark.parametrize("name", ALL)
def test_what_is_dropped_does_not_depend_on_its_value(name: str) -> None:
    native = ALL[name][0]
    plain = native(np.ones((40, 3, 70), np.float32), 0.5, seed=3)
    value = plain[plain != plain.max()].max()
    for special in (np.inf, -np.inf, np.nan):
        for where in in_all_pairs((1,)):
            found = native(np.full((40, 3, 70), special, np.float32), 0.5, seed=3)
            dropped = plain == value
            assert 0 < dropped.sum() < dropped.size
            assert (found[dropped] == value).all(), where
            assert not np.isfinite(found[~dropped]).any(), where


@pytest.mark.parametrize("name", ALL)
def test_probability_0_copies_and_1_gives_zeros(name: str) -> None:
    native = ALL[name][0]
    shape = (7, 3, 50)
    bits = np.random.default_rng(0).integers(0, 2**32, shape, dtype=np.uint32)
    bits[0] = 0x7F800001  # a signalling NaN, which a multiplication would change
    x = bits.view(np.float32)
    for p in (0, 0.0, 1e-10, np.float32(0)):
        assert native(x, p, seed=1).tobytes() == x.tobytes()
        assert native(x.copy(), p, seed=1, out=np.ones_like(x)).tobytes() == x.tobytes()
    zeros = np.zeros_like(x).tobytes()
    for p in (1, 1.0, np.float64(1)):
        assert native(x, p, seed=1).tobytes() == zeros
        assert native(x.copy(), p, seed=1, out=x.copy()).tobytes() == zeros


@pytest.mark.parametrize("p", [1e-4, 0.1, 0.3, 0.5, 0.9, 0.9999])
def test_scale_is_the_reciprocal_of_the_realised_probability(p: float) -> None:
    y = gs.dropout(np.ones(10_000), p, seed=3)
    kept = (65536 - threshold(p)) / 65536
    assert set(np.unique(y)) <= {0.0, 1 / kept}
    assert keep_scale(p) == 1 / kept and abs(kept - (1 - p)) <= 2**-17


def test_threshold_rounds_halves_to_even() -> None:
    n = 2**20
    for p, expected in [(0.5 / 65536, 0), (1.5 / 65536, 2), (2.5 / 65536, 2), (0.6 / 65536, 1)]:
        assert threshold(p) == expected
        mask = gs.dropout_mask(n, p, seed=3)
        assert (mask == spec.dropout_mask(n, p, seed=3)).all()
        assert mask.all() == (expected == 0)


@pytest.mark.parametrize("name", FORWARD)
def test_backward_is_the_gradient(name: str) -> None:
    """Central differences, of a function that is linear: exact but for rounding."""
    forward, backward = ALL[name][0], ALL[f"{name}_backward"][0]
    x, dy = values((4, 3, 5), np.float64), values((4, 3, 5), np.float64, 1)
    found = backward(dy, 0.4, seed=6, offset=7)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1.0
        up, down = (forward(x + s * step, 0.4, seed=6, offset=7) for s in (1, -1))
        assert np.isclose(((up - down) / 2 * dy).sum(), found[index], rtol=1e-9, atol=1e-9)


def test_alpha_dropout_keeps_mean_and_variance_of_selu() -> None:
    n = 2**20
    x = np.random.default_rng(0).standard_normal(n)
    y = gs.alpha_dropout(x, 0.2, seed=1)
    assert abs(y.mean()) < 0.01 and abs(y.var() - 1) < 0.01


def test_drop_path_and_spatial_dropout_drop_whole_samples_and_channels() -> None:
    x = np.ones((64, 5, 6, 7), np.float32)
    assert all(len(np.unique(sample)) == 1 for sample in gs.drop_path(x, 0.5, seed=1))
    first = gs.spatial_dropout(x, 0.5, seed=1)
    assert (first == first[:, :, :1, :1]).all()
    assert ((first[:, :, 0, 0] != 0) == gs.dropout_mask((64, 5), 0.5, seed=1)).all()
    last = gs.spatial_dropout(np.moveaxis(x, 1, -1).copy(), 0.5, seed=1, axis=-1)
    assert (np.moveaxis(last, -1, 1) == first).all()


def test_agrees_with_torch_on_values_and_rates() -> None:
    torch: Any = pytest.importorskip("torch")
    functional = torch.nn.functional
    x = values((64, 33, 5, 3), np.float32)
    pairs = [
        (gs.dropout, functional.dropout),
        (gs.spatial_dropout, functional.dropout2d),
        (gs.alpha_dropout, functional.alpha_dropout),
    ]
    for ours, theirs in pairs:
        y = ours(x, 0.5, seed=1)
        z = theirs(torch.from_numpy(x), 0.5, True).numpy()
        both_kept = (y == z) | np.isclose(y, z, rtol=1e-5)
        assert 0.4 < both_kept.mean() < 0.6  # the masks are independent
        for p in (0.0, 1.0):
            expected = theirs(torch.from_numpy(x), p, True).numpy()
            assert (ours(x, p, seed=1) == expected).all()
        constant = np.full((64, 33, 5, 3), 0.25, np.float32)
        found = np.unique(ours(constant, 0.5, seed=1))
        expected = np.unique(theirs(torch.from_numpy(constant), 0.5, True).numpy())
        assert np.allclose(found, expected, rtol=1e-5)
