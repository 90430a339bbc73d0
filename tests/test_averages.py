"""Exponentially weighted averages: the bits of their specification, in place or not at all."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep.spec.optim import ewma

SIZES = [0, 1, 15, 16, 17, 4095, 4097, 8192, 8193, 24_577]
BETAS = [0.0, 0.5, 0.9, 0.999, 1 - 2**-53]
STEPS = [None, 1, 2, 1000, 2**24 + 1, 2**53, 2**62]


def good(size: Any = 6, dtype: Any = "f4", seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(size).astype(dtype)


class Unwilling:
    """Another library's array that will not be shared."""

    def __dlpack__(self, **_: Any) -> Any:
        raise BufferError("use detach()")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


UNWILLING = "Unwilling that cannot be imported (use detach()), expected a numpy.ndarray"


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("step", STEPS)
def test_same_bits_as_reference(level: str, dtype: str, step: int | None) -> None:
    for threads in (1, 3):
        gs.set_num_threads(threads)
        for beta in BETAS:
            averages = [good(n, dtype, i) for i, n in enumerate(SIZES)]
            values = [good(n, dtype, 50 + i) for i, n in enumerate(SIZES)]
            expected = [ewma(a, v, beta, step) for a, v in zip(averages, values, strict=True)]
            kept = [v.tobytes() for v in values]
            outs = [np.full_like(a, np.nan) for a in averages]
            found = gs.ewma_(averages, values, beta, step=step, out=None if step is None else outs)
            assert [a.tobytes() for a in averages] == [e[0].tobytes() for e in expected]
            assert [v.tobytes() for v in values] == kept
            if step is None:
                assert found is averages
                continue
            assert found is outs
            corrected = [e[1].tobytes() for e in expected if e[1] is not None]
            assert [o.tobytes() for o in outs] == corrected


def test_a_moving_average_by_hand() -> None:
    average = np.zeros(1)
    found = []
    for t, value in enumerate((8.0, 4.0, 0.0), 1):
        found.append(float(gs.ewma_(average, np.array([value]), 0.5, step=t)[0]))
    assert found == pytest.approx([8.0, (2 + 2) / 0.75, (1 + 1) / 0.875])
    assert average.tolist() == [2.0]
    for _ in range(3):
        gs.ewma_(average, np.array([10.0]), 0.0)
    assert average.tolist() == [10.0]


def test_a_constant_is_its_own_corrected_average() -> None:
    average = np.zeros(33)
    for t in range(1, 200):
        corrected = gs.ewma_(average, np.full(33, 3.0), 0.99, step=t)
        np.testing.assert_allclose(corrected, 3.0, rtol=1e-13)


@pytest.mark.parametrize(
    "tree",
    [
        lambda make: make(),
        lambda make: [make(), make()],
        lambda make: (make(), [make()]),
        lambda make: {"a": make(), "b": {"c": [make()]}},
        lambda make: MappingProxyType({"a": make(), "b": make()}),
        lambda make: [],
    ],
    ids=["array", "list", "nested tuple", "nested mapping", "other mapping", "nothing"],
)
def test_the_corrected_average_is_arranged_like_the_average(tree: Any) -> None:
    average = tree(lambda: np.zeros(3))
    corrected = gs.ewma_(average, tree(lambda: np.ones(3)), 0.5, step=1)
    described = [gs.describe(corrected), gs.describe(average)]
    assert list(described[0]) == list(described[1])
    assert all(row[:2] == (1.0, 1.0) for row in described[0].values())
    assert all(row[:2] == (0.5, 0.5) for row in described[1].values())
    out = tree(lambda: np.zeros(3))
    assert gs.ewma_(average, tree(lambda: np.ones(3)), 0.5, step=2, out=out) is out
    assert all(row[:2] == (1.0, 1.0) for row in gs.describe(out).values())


@pytest.mark.parametrize("order", "CF")
def test_layout_and_scalars(order: Any) -> None:
    average, value = (np.asarray(good((3, 4), seed=i), order=order) for i in range(2))
    expected = ewma(average, value, 0.9, 3)
    corrected = gs.ewma_(average, value, 0.9, step=3)
    np.testing.assert_array_equal(average, expected[0])
    np.testing.assert_array_equal(corrected, expected[1])
    assert gs.ewma_(np.array(4.0), np.array(2.0), 0.5) == 3.0


def test_a_value_may_be_the_average_itself() -> None:
    average = good(100)
    expected = ewma(average, average, 0.9)[0].tobytes()
    assert gs.ewma_(average, average, 0.9).tobytes() == expected


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("role", ["average", "value", "out"])
def test_a_bad_array_is_named_and_nothing_is_written(role: str, position: int) -> None:
    frozen = good()
    frozen.flags.writeable = False
    for bad, kind, message in (
        (1.0, TypeError, "float, expected a numpy.ndarray"),
        (Unwilling(), TypeError, UNWILLING),
        (
            np.arange(6),
            TypeError,
            "dtype <i8 (int64), expected native "
            + (
                "float32, float64, bfloat16 or float16" if role == "value" else "float32 or float64"
            ),
        ),
        (
            good(12)[::2],
            ValueError,
            "shape (6,) with strides (8,), expected a contiguous array (C or F order)",
        ),
        (good(7), ValueError, "shape (7,), expected (6,) as in average"),
        (good(dtype="f8"), TypeError, "dtype float64, expected float32 as in average"),
        (frozen, ValueError, "read-only, expected a writable array"),
    ):
        if role == "average" and "as in average" in message:
            continue
        if role == "value" and "read-only" in message:
            continue
        trees = {name: [good(seed=i) for i in range(3)] for name in ("average", "value", "out")}
        trees[role][position] = bad
        with pytest.raises(kind) as caught:
            gs.ewma_(trees["average"], trees["value"], 0.5, step=1, out=trees["out"])
        assert str(caught.value) == f"{role}[{position}]: {message}"
        for tree in trees.values():
            for i, array in enumerate(tree):
                assert array is bad or array.tobytes() == good(seed=i).tobytes()


def test_arrays_must_not_overlap() -> None:
    memory = good(12)
    a, shifted, other = memory[:6], memory[3:9], good(6, seed=1)
    for average, value, out, message in (
        (a, shifted, other, "value: overlaps average, which this call writes"),
        (a, other, shifted, "out: overlaps average, expected memory of its own"),
        (a, other, a, "out: the same memory as average, expected memory of its own"),
        (a, other, other, "value: overlaps out, which this call writes"),
        ([a, shifted], [other, other], None, "average[1]: overlaps average[0], expected memory"),
        ([a, other], [other, good()], None, "value[0]: overlaps average[1], which this call"),
    ):  # fmt: skip
        before = memory.tobytes(), other.tobytes()
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            gs.ewma_(average, value, 0.5, step=1, out=out)
        assert (memory.tobytes(), other.tobytes()) == before


@pytest.mark.parametrize(
    ("average", "value", "options", "kind", "message"),
    [
        (0, 0, {"beta": 1.0}, ValueError, "beta: 1, expected a number in [0, 1)"),
        (0, 0, {"beta": -0.1}, ValueError, "beta: -0.1, expected a number in [0, 1)"),
        (0, 0, {"beta": float("nan")}, ValueError, "beta: nan, expected a number in [0, 1)"),
        (0, 0, {"beta": None}, TypeError, "beta: NoneType, expected a number"),
        (0, 0, {"beta": True}, TypeError, "beta: bool, expected a number"),
        (0, 0, {"beta": gs.constant(0.5)}, TypeError, "beta: constant, expected a number"),
        (0, 0, {"step": 0}, ValueError, "step: 0, expected an integer >= 1"),
        (0, 0, {"step": 2**62 + 1}, ValueError, f"step: {2**62 + 1}, expected an integer <= 2**62"),
        (0, 0, {"step": 1.0}, TypeError, "step: float, expected an integer"),
        (0, 0, {"step": True}, TypeError, "step: bool, expected an integer"),
        (0, 0, {"out": 0}, ValueError, "out: given without step, expected both or none"),
        (0, [0], {}, TypeError, "value: list, expected a numpy.ndarray"),
        ([0], 0, {}, TypeError, "value: ndarray, expected a sequence like average"),
        ([0, 0], [0], {}, ValueError, "value: 1 entries, expected 2 as in average"),
        ({"a": 0}, [0], {}, TypeError, "value: list, expected a mapping like average"),
        ({"a": 0}, {}, {}, ValueError, "value: no 'a', expected the keys of average"),
        ({"a": 0}, {"a": 0}, {"step": 1, "out": {"b": 0}}, ValueError,
         "out: no 'a', expected the keys of average"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(
    average: Any, value: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    def grown(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: grown(branch) for key, branch in tree.items()}
        return [grown(branch) for branch in tree] if isinstance(tree, list) else good()

    tree, options = grown(average), {"beta": 0.5, **options}
    if "out" in options:
        options["out"] = grown(options["out"])
    with pytest.raises(kind) as caught:
        gs.ewma_(tree, grown(value), **options)
    assert str(caught.value) == message
    leaves = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else [tree]
    assert all(leaf.tobytes() == good().tobytes() for leaf in leaves)


def test_step_may_be_a_numpy_integer() -> None:
    assert gs.ewma_(np.zeros(1), np.ones(1), 0.5, step=np.int64(1)).tolist() == [1.0]
