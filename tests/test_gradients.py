"""Norms, clipping and diagnosis of gradients: exact, the same everywhere, and what NaN does."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep.spec import optim as reference
from gradstep.spec import sums

Refused = Callable[..., Any]
F4 = np.float32
INF, NAN = math.inf, math.nan
THREADS = (1, 2, 3, 7)
# Around a row of a sum, a block of sums and an item of work.
SIZES = [0, 1, 2, 15, 16, 17, 31, 33, 4095, 4096, 4097, 8191, 8192, 8193, 12_305, 24_575, 24_577]
DTYPES = ["f4", "f8"]


def good(size: Any = 6, dtype: Any = F4, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


def many(dtype: str) -> list[Any]:
    """Arrays of all sizes, of many magnitudes; "mixed" has both types."""
    types = ["f4", "f8"] if dtype == "mixed" else [dtype]
    return [
        good(size, types[i % len(types)], i)
        * np.asarray(10.0 ** (i % 9 - 4), types[i % len(types)])
        for i, size in enumerate(SIZES)
    ]


def everywhere() -> Iterator[str]:
    for level in gs.build_info()["simd_levels"]:
        gs.use_simd(level)
        for count in THREADS:
            gs.set_num_threads(count)
            yield f"{level}, {count} threads"


def exact_norm(arrays: Any) -> float:
    return math.sqrt(math.fsum(float(x) ** 2 for a in arrays for x in a.ravel()))


# global_norm


@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
def test_global_norm_has_the_bits_of_its_specification_everywhere(dtype: str) -> None:
    arrays = many(dtype)
    cases = [arrays, arrays[::-1], *([a] for a in arrays)]
    expected = [sums.global_norm(case) for case in cases]
    for case, norm in zip(cases, expected, strict=True):
        assert norm == pytest.approx(exact_norm(case), rel=1e-14, abs=0)
    for where in everywhere():
        assert [gs.global_norm(case) for case in cases] == expected, where


def test_blocks_are_added_from_the_first_to_the_last() -> None:
    x = np.zeros((40, 4096))
    x[:, 7] = 2.0**-27
    x[0, 7] = 1.0
    for where in everywhere():
        assert gs.global_norm(x) == gs.global_norm(list(x)) == 1.0, where  # 1 + 2**-54 is 1
        assert gs.global_norm(x[::-1].copy()) == gs.global_norm(list(x[::-1])) > 1.0, where


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipping_inside_a_step_uses_the_same_norm(dtype: str) -> None:
    arrays = many(dtype)
    expected = sums.global_norm(arrays) * 0.5
    params = [np.zeros_like(a) for a in arrays]
    for where in everywhere():
        info = gs.SGD(params, lr=0.0, clip_norm=1.0, grad_scale=-0.5).step(arrays)
        assert info.grad_norm == expected, where


def test_norms_of_large_small_and_odd_numbers() -> None:
    assert gs.global_norm(np.full(5000, 1e30, F4)) == pytest.approx(1e30 * math.sqrt(5000))
    assert gs.global_norm(np.full(4, 1e-30, F4)) == pytest.approx(2e-30)
    assert gs.global_norm(np.full(4, 1e-45, F4)) == 2 * float(F4(1e-45))
    assert gs.global_norm(np.full(2, 1e200)) == INF
    assert gs.global_norm(np.full(2, 1e-200)) == 0.0
    for empty in ([], {}, [[], {}], np.zeros(0), [np.zeros((0, 3), F4)]):
        assert gs.global_norm(empty) == 0.0
    turned = np.asfortranarray(good((37, 41)))
    assert gs.global_norm(turned) == gs.global_norm(turned.ravel("K"))
    assert gs.global_norm(np.array(-3.0)) == 3.0
    shared = good(100)
    assert gs.global_norm([shared, shared[3:50]]) == sums.global_norm([shared, shared[3:50]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 16, 17, 4096, 4097, 8193, 24_577])
def test_one_bad_element_is_found_wherever_it_is(level: str, dtype: str, size: int) -> None:
    for at in sorted({0, size // 3, max(size - 17, 0), max(size - 2, 0), size - 1}):
        for value in (NAN, -NAN, INF, -INF):
            bad, rest = good(size, dtype), np.delete(good(size, dtype), at)
            bad[at] = value
            tree = {"ok": good(20, dtype), "bad": bad, "none": np.zeros(0, dtype)}
            norm = gs.global_norm(tree)
            assert math.isnan(norm) if math.isnan(value) else norm == INF
            assert gs.nonfinite(tree) == {"bad": 1}
            found = gs.describe(tree)["bad"]
            assert (found.nonfinite, found.size) == (1, size)
            if size > 1:
                assert (found.min, found.max) == (float(rest.min()), float(rest.max()))
            else:
                assert all(map(math.isnan, found[:4]))


# describe, nonfinite


@pytest.mark.parametrize("dtype", DTYPES)
def test_describe_agrees_with_numpy_and_with_itself_everywhere(dtype: str) -> None:
    arrays = many(dtype)
    arrays[10][[0, 5, 4096]] = [NAN, INF, -INF]
    first: Any = None
    for where in everywhere():
        found = gs.describe(arrays)
        first = first or repr(found)
        assert repr(found) == first, where
    assert list(found) == list(range(len(SIZES)))
    for i, a in enumerate(arrays):
        x = a[np.isfinite(a)].astype(float)
        assert (found[i].size, found[i].nonfinite) == (a.size, a.size - x.size)
        if not x.size:
            assert all(map(math.isnan, found[i][:4]))
            continue
        assert (found[i].min, found[i].max) == (x.min(), x.max())
        scale = float(np.abs(x).max())
        assert found[i].mean == pytest.approx(math.fsum(x) / x.size, rel=1e-13, abs=1e-13 * scale)
        assert found[i].rms == pytest.approx(math.sqrt(math.fsum(x * x) / x.size), rel=1e-13)


def test_names_in_a_description_are_those_of_the_tree() -> None:
    tree = {"w": good(), "layers": [good(), {"b": np.array([NAN, INF, 1.0])}]}
    assert list(gs.describe(tree)) == ["w", "layers.0", "layers.1.b"]
    assert gs.nonfinite(tree) == {"layers.1.b": 2}
    assert gs.nonfinite([good(), np.array(NAN)]) == {1: 1}
    assert gs.nonfinite(np.array(-INF)) == {None: 1}
    assert gs.nonfinite([good(), []]) == {}
    with pytest.raises(ValueError, match=r"^tree\['a\.b'\]: two arrays of this name, expected one"):
        gs.describe({"a.b": good(), "a": {"b": good()}})


def test_extremes_of_an_array_of_one_sign_or_of_zeros() -> None:
    assert gs.describe(np.full(4097, -2.0, F4))[None] == (-2.0, -2.0, -2.0, 2.0, 0, 4097)
    assert gs.describe(np.zeros(5))[None] == (0.0, 0.0, 0.0, 0.0, 0, 5)
    assert gs.describe(np.full(3, 1e30, F4))[None][3] == pytest.approx(1e30)
    assert gs.describe(np.full(3, np.finfo(F4).max))[None].max == float(np.finfo(F4).max)


# clip_norm_, clip_value_


@pytest.mark.parametrize("dtype", [*DTYPES, "mixed"])
@pytest.mark.parametrize("share", [0.25, 0.999, 1.001, INF])
def test_clip_norm_scales_by_the_specified_coefficient(dtype: str, share: float) -> None:
    arrays = many(dtype)
    norm = sums.global_norm(arrays)
    coefficient = reference.clip_coefficient(norm, share * norm)
    assert (coefficient < 1) == (share < 1)
    expected = [(a * a.dtype.type(coefficient)).tobytes() for a in arrays]
    for where in everywhere():
        clipped = [a.copy() for a in arrays]
        assert gs.clip_norm_(clipped, share * norm) == norm
        assert [a.tobytes() for a in clipped] == expected, where


def test_clip_norm_of_bad_gradients_hides_nothing() -> None:
    for bad in (NAN, INF):
        g = [np.ones(20, F4), np.full(20, bad, F4)]
        assert not math.isfinite(gs.clip_norm_(g, 1.0))
        assert np.isnan(g[1]).all()


def test_an_infinite_limit_never_changes_anything() -> None:
    g, w = np.full(3, 1e200), np.zeros(3)
    assert gs.clip_norm_(g, INF) == INF  # the squares overflow, the gradients are finite
    gs.SGD(w, lr=1.0, clip_norm=INF).step(np.full(3, 1e200))
    assert g.tolist() == [1e200] * 3
    assert w.tolist() == [-1e200] * 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip_value_limits_and_keeps_the_rest(level: str, dtype: str) -> None:
    for size in SIZES:
        g = good(size, dtype) * 2
        g[: size // 2 : 7] = -0.0
        g[size // 2 :: 11] = NAN
        g[1:9:3] = [INF, -INF, 1e30][: len(g[1:9:3])]
        expected = reference.clamp(g, g.dtype.type(0.3)).tobytes()
        original = g.tobytes()
        gs.clip_value_([g], INF)
        assert g.tobytes() == original
        gs.clip_value_([g], 0.3)
        assert g.tobytes() == expected
        assert np.nanmax(np.abs(g), initial=0) <= g.dtype.type(0.3)


def test_clipping_nothing() -> None:
    assert gs.clip_norm_([], 1.0) == 0.0
    assert gs.clip_norm_({"a": np.zeros(0), "b": np.zeros(3)}, 1.0) == 0.0
    gs.clip_value_({}, 1.0)


class Unwilling:
    """Another library's array that will not be shared."""

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("use detach()")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


UNWILLING = "Unwilling that cannot be imported (use detach()), expected a numpy.ndarray"


CALLS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "global_norm": (gs.global_norm, "grads"),
    "clip_norm_": (lambda g: gs.clip_norm_(g, 0.1), "grads"),
    "clip_value_": (lambda g: gs.clip_value_(g, 0.1), "grads"),
    "describe": (gs.describe, "tree"),
    "nonfinite": (gs.nonfinite, "tree"),
}


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_a_bad_array_is_named_and_nothing_is_written(name: str, position: int) -> None:
    call, argument = CALLS[name]
    frozen = good()
    frozen.flags.writeable = False
    writes = name.startswith("clip")
    for bad, kind, message in (
        (1.0, TypeError, "float, expected a numpy.ndarray"),
        (None, TypeError, "NoneType, expected a numpy.ndarray"),
        (Unwilling(), TypeError, UNWILLING),
        (
            np.arange(3),
            TypeError,
            "dtype <i8 (int64), expected native "
            + ("float32 or float64" if writes else "float32, float64, bfloat16 or float16"),
        ),
        (np.ma.array(good()), TypeError, "a masked array, expected a plain numpy.ndarray"),
        (
            good(8)[::2],
            ValueError,
            "shape (4,) with strides (8,), expected a contiguous array (C or F order)",
        ),
        (frozen, ValueError, "read-only, expected a writable array" if writes else ""),
    ):
        tree = [good(), good(), good()]
        tree[position] = bad
        if not message:
            call(tree)
            continue
        with pytest.raises(kind) as caught:
            call(tree)
        assert str(caught.value) == f"{argument}[{position}]: {message}"
        kept = [g.tobytes() for i, g in enumerate(tree) if i != position]
        assert kept == [good().tobytes()] * 2


def test_arrays_to_clip_must_not_overlap() -> None:
    g = good(10)
    for clip in (gs.clip_norm_, gs.clip_value_):
        with pytest.raises(ValueError, match=r"^grads\[1\]: overlaps grads\[0\], expected memory"):
            clip([g[:6], g[5:]], 0.1)
        with pytest.raises(ValueError, match=r"^grads\['b'\]: the same memory as grads\['a'\]"):
            clip({"a": g, "b": g}, 0.1)
    assert g.tobytes() == good(10).tobytes()


@pytest.mark.parametrize(("clip", "name"), [(gs.clip_norm_, "max_norm"), (gs.clip_value_, "value")])
def test_bad_limits_are_refused(clip: Any, name: str) -> None:
    g = good()
    for bad in (0, -1.0, NAN, -INF):
        message = f"{name}: {bad:g}, expected a number in (0, inf]"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            clip(g, bad)
    for bad in (None, "1", True, [1.0], lambda t: 1.0):
        message = f"{name}: {type(bad).__name__}, expected a number"
        with pytest.raises(TypeError, match=f"^{message}$"):
            clip(g, bad)
    assert g.tobytes() == good().tobytes()


# on_nonfinite


def spoiled(value: float, tensor: int, at: int) -> list[Any]:
    grads = [good(7, seed=1), good(9000, seed=2), good((), seed=3).reshape(())]
    grads[tensor].reshape(-1)[at] = value
    return grads


def pair(**options: Any) -> tuple[gs.Optimizer, gs.Optimizer]:
    made = [gs.Adam([good(7), good(9000), good(())], **options) for _ in range(2)]
    for optimizer in made:
        optimizer.step([good(7, seed=4), good(9000, seed=5), good((), seed=6)])
    return made[0], made[1]


SPOTS = [(0, 0), (0, 6), (1, 4096), (1, 8999), (2, 0)]


def call(optimizer: gs.Optimizer, how: str, grads: Any) -> Any:
    if how != "bound":
        return getattr(optimizer, how)(grads)
    optimizer.bind(grads)
    return optimizer.step()


@pytest.mark.parametrize("how", ["step", "reference_step", "bound"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_bad_gradients_are_skipped_refused_or_applied(
    value: float, clip_norm: float | None, how: str, refused: Refused, contents: Any
) -> None:
    for tensor, at in SPOTS:
        grads = spoiled(value, tensor, at)
        optimizer, twin = pair(clip_norm=clip_norm)
        size = (7, 9000, 1)[tensor]
        message = f"grads[{tensor}]: 1 of {size} elements are not finite"
        optimizer.on_nonfinite = "raise"
        with refused(optimizer, FloatingPointError, message):
            call(optimizer, how, grads)
        optimizer.on_nonfinite = "skip"
        before = contents(optimizer)
        info = call(optimizer, how, grads)
        assert (info.step, info.lr, info.skipped) == (1, 1e-3, True)
        assert math.isnan(info.grad_norm) if math.isnan(value) else info.grad_norm == INF
        assert contents(optimizer) == before
        optimizer.on_nonfinite = "apply"
        info = call(optimizer, how, grads)
        assert (info.step, info.skipped, info.grad_norm is None) == (2, False, clip_norm is None)
        twin.reference_step(grads)
        for a, b in zip(optimizer._arrays, twin._arrays, strict=True):
            np.testing.assert_array_equal(a, b)
        assert np.isnan(optimizer._arrays[tensor].reshape(-1)[at])


def test_a_run_that_skips_is_the_run_without_those_gradients(contents: Any) -> None:
    optimizer, twin = pair(on_nonfinite="skip")
    for t in range(6):
        grads = spoiled(NAN if t % 2 else 1.0, 1, 100 * t)
        assert optimizer.step(grads).skipped == (t % 2 == 1)
        if t % 2 == 0:
            twin.step(grads)
    assert contents(optimizer)[:2] == contents(twin)[:2]


def test_the_first_bad_tensor_is_named_as_it_was_given(refused: Refused) -> None:
    tree = {"a": good(), "b": [good(), good()]}
    optimizer = gs.SGD(tree, on_nonfinite="raise")
    bad = np.array([1, NAN, 2, INF, -INF, 3], F4)
    with refused(optimizer, FloatingPointError, "grads['b.0']: 3 of 6 elements are not finite"):
        optimizer.step({"a": None, "b": [bad, bad]})
    lone = gs.SGD(good(), on_nonfinite="raise")
    with refused(lone, FloatingPointError, "grads: 3 of 6 elements are not finite"):
        lone.step(bad)


def test_large_finite_gradients(refused: Refused) -> None:
    w = np.zeros(5000, F4)
    info = gs.SGD(w, lr=1e-30, on_nonfinite="raise").step(np.full(5000, 1e30, F4))
    assert info.grad_norm == pytest.approx(1e30 * math.sqrt(5000))
    np.testing.assert_allclose(w, -1.0, rtol=1e-6)
    huge = [np.full(2, 1e200)]
    optimizer = gs.SGD([np.zeros(2)], lr=1.0, on_nonfinite="raise")
    message = "grads: the sum of their squares overflows float64"
    for method in ("step", "reference_step"):
        with refused(optimizer, FloatingPointError, message):
            getattr(optimizer, method)(huge)
    optimizer.on_nonfinite = "skip"
    assert optimizer.step(huge) == (0, 1.0, INF, True)
    optimizer.on_nonfinite, optimizer.clip_norm = "apply", 1.0
    assert optimizer.step(huge) == (1, 1.0, INF, False)
    assert optimizer._arrays[0].tolist() == [0.0, 0.0]  # scaled by 1 / inf
