"""Normalisation gives the bits of its NumPy specification, however it is run."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import folded, in_all_pairs, in_turn
from guarded import Guarded
from norm_cases import CASES, EMPTY, Norm

LEVELS = gs.build_info()["simd_levels"]
DTYPES = (np.float32, np.float64)


def assert_same(found: Any, expected: Any, where: str) -> None:
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{where}: result {i}"
        assert a.tobytes() == b.tobytes(), f"{where}: result {i}"


def compare(case: Norm, dtype: Any, places: Iterator[str]) -> None:
    of = case.inputs(dtype)
    forward, backward = case.forward(of, native=False), case.backward(of, native=False)
    for where in places:
        assert_same(case.forward(of), forward, f"forward, {where}")
        assert_same(case.backward(of), backward, f"backward, {where}")


@pytest.mark.parametrize("case", [*CASES, *EMPTY], ids=str)
@folded("dtype", DTYPES)
def test_same_bits_as_reference(case: Norm, dtype: Any) -> None:
    compare(case, dtype, in_turn())


@pytest.mark.slow
@pytest.mark.parametrize("case", [*CASES, *EMPTY], ids=str)
@folded("dtype", DTYPES)
def test_same_bits_at_every_level_with_all_threads(case: Norm, dtype: Any) -> None:
    compare(case, dtype, in_all_pairs())


LARGE = [
    Norm("batch", (16, 3, 160, 160)),
    Norm("batch", (64, 64, 9, 9), activation="relu"),
    Norm("batch", (300, 700), activation="relu"),
    Norm("batch", (20_000, 66), -1),
    Norm("layer", (700, 300)),
    Norm("group", (6, 64, 20, 20), 32),
]


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_large_arrays_do_not_depend_on_threads(case: Norm) -> None:
    of = case.inputs(np.float32)
    gs.set_num_threads(1)
    forward, backward = case.forward(of), case.backward(of)
    for where in in_turn():
        assert_same(case.forward(of), forward, f"forward, {where}")
        assert_same(case.backward(of), backward, f"backward, {where}")


STREAMED = [  # more than 16 MiB
    Norm("batch", (17, 8, 200, 161), activation="relu"),
    Norm("batch", (65_000, 65), -1),
    Norm("layer", (5300, 801)),
    pytest.param(Norm("group", (17, 8, 200, 161), 4), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("case", STREAMED, ids=str)
def test_outputs_stored_past_the_cache_are_the_same(case: Norm) -> None:
    of = case.inputs(np.float32)
    forward = case.forward(of, out=of["x"].copy())
    backward = case.backward(of, statistics=forward[1:3])
    in_place = case.inputs(np.float32)
    assert_same(case.backward(in_place, statistics=forward[1:3], out=in_place["dy"]), backward, "")
    for where in in_turn((3, 1)):
        memory = np.full(of["x"].size + 40, 12.25, np.float32)
        out = memory[5:-35].reshape(of["x"].shape)
        assert_same(case.forward(of, out=out), forward, where)
        assert_same(case.backward(of, statistics=forward[1:3], out=out), backward, where)
        assert (memory[:5] == 12.25).all() and (memory[-35:] == 12.25).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_in_place_equals_out_of_place(case: Norm) -> None:
    for out_of in ("x", "dy"):
        of = case.inputs(np.float32)
        backward = case.backward(of)
        statistics = case.forward(of)[1:2] if case.kind == "rms" else case.forward(of)[1:3]
        again = case.backward(of, statistics=statistics, out=of[out_of])
        assert again[0] is of[out_of]
        assert_same(again, backward, out_of)
    of = case.inputs(np.float32)
    forward = case.forward(of)
    again = case.forward(of, out=of["x"])
    assert again[0] is of["x"]
    assert_same(again, forward, "forward")


SMALL = [
    *(Norm("batch", (2, 3, size)) for size in (2, 5, 15, 16, 17, 31, 33, 49)),
    *(Norm("batch", (rows, 5), activation="relu") for rows in (2, 7, 15, 16, 17, 33)),
    *(Norm("batch", (4, size), -1) for size in (64, 65, 79, 127)),
    *(Norm("layer", (2, size)) for size in (1, 5, 15, 16, 17, 31, 33)),
    *(Norm("rms", (2, size)) for size in (1, 17)),
    *(Norm("group", (2, 4, size), 2) for size in (1, 5, 16, 33)),
]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mprotect"), reason="no mprotect here")
@pytest.mark.parametrize("case", SMALL, ids=str)
@folded("dtype", DTYPES)
def test_no_byte_before_or_after_is_touched(case: Norm, dtype: Any) -> None:
    names = ("x", "dy", "weight", "bias", "out")
    memory = {name: Guarded() for name in names}
    of = case.inputs(dtype)
    forward, backward = case.forward(of, native=False), case.backward(of, native=False)
    for where in in_all_pairs((1,)):
        for at_end in (False, True):
            put = {name: memory[name].array(of[name], at_end) for name in names[:-1]}
            put.update(mean=of["mean"], var=of["var"])
            out = memory["out"].array(of["x"], at_end)
            assert_same(case.forward(put, out=out), forward, where)
            assert_same(case.backward(put, out=out), backward, where)


@pytest.mark.parametrize("start", range(1, 17))
def test_any_start_of_an_array_and_nothing_beside_it(start: int) -> None:
    for case in (Norm("batch", (3, 4, 21)), Norm("batch", (9, 70), -1), Norm("layer", (3, 37))):
        of = case.inputs(np.float32)
        forward = case.forward(of, native=False)
        size = of["x"].size
        memory = np.full(start + size + 32, 12.25, np.float32)
        x = memory[start : start + size].reshape(case.shape)
        for where in in_all_pairs((1,)):
            x[...] = of["x"]
            assert_same(case.forward({**of, "x": x}, out=x), forward, where)
            assert (memory[:start] == 12.25).all() and (memory[start + size :] == 12.25).all()
