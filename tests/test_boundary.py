"""Arrays that do not fit are refused by name, before anything is written; the others work."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from folded import folded

Refused = Callable[..., Any]
SHAPE = (2, 3)
F4 = np.float32
METHODS = ("step", "reference_step", "bind")


def good(shape: Any = SHAPE, dtype: Any = F4, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def unaligned() -> Any:
    return np.frombuffer(bytearray(25), F4, 6, offset=1).reshape(SHAPE)


def read_only() -> Any:
    array = good()
    array.flags.writeable = False
    return array


class Exporter:
    """Another library's array: all it has is DLPack."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()  # type: ignore[no-any-return]


class Unwilling(Exporter):
    """One that has its reasons, as a torch tensor that requires a gradient."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("cannot export, use detach()")


Case = tuple[Callable[[], Any], type[Exception], str]
NOT_ARRAY = "{}, expected a numpy.ndarray"
NOT_FLOAT = "dtype {}, expected native float32, float64, bfloat16 or float16"
NOT_DENSE = "shape (2, 3) with strides {}, expected a contiguous array "

# What fits nowhere: how to make it, the error and the message after the name.
STRIDED: dict[str, tuple[Callable[[], Any], str]] = {
    "every second": (lambda: good((2, 6))[:, ::2], "(24, 8)"),
    "columns": (lambda: good((2, 4))[:, :3], "(16, 4)"),
    "reversed": (lambda: good()[::-1], "(-12, 4)"),
    "broadcast": (lambda: np.broadcast_to(F4(1), SHAPE), "(0, 0)"),
}
BAD: dict[str, Case] = {
    "number": (lambda: 1.0, TypeError, NOT_ARRAY.format("float")),
    "string": (lambda: "abc", TypeError, NOT_ARRAY.format("str")),
    "bytes": (lambda: b"abc", TypeError, NOT_ARRAY.format("bytes")),
    "set": (lambda: {1.0}, TypeError, NOT_ARRAY.format("set")),
    "generator": (lambda: (x for x in ()), TypeError, NOT_ARRAY.format("generator")),
    "memoryview": (lambda: memoryview(good()), TypeError, NOT_ARRAY.format("memoryview")),
    "numpy scalar": (lambda: F4(1), TypeError, NOT_ARRAY.format("float32")),
    "int": (lambda: np.ones(SHAPE, np.int64), TypeError, NOT_FLOAT.format("<i8 (int64)")),
    "bool": (lambda: np.ones(SHAPE, bool), TypeError, NOT_FLOAT.format("|b1 (bool)")),
    "complex": (lambda: good(dtype="c8"), TypeError, NOT_FLOAT.format("<c8 (complex64)")),
    "object": (lambda: good(dtype="O"), TypeError, NOT_FLOAT.format("|O (object)")),
    "text": (lambda: np.full(SHAPE, "a"), TypeError, NOT_FLOAT.format("<U1 (<U1)")),
    "date": (
        lambda: np.full(SHAPE, datetime.date(2020, 1, 1), "M8[s]"),
        TypeError,
        NOT_FLOAT.format("<M8[s] (datetime64[s])"),
    ),
    "record": (
        lambda: np.zeros(SHAPE, [("a", F4)]),
        TypeError,
        NOT_FLOAT.format("|V4 ([('a', '<f4')])"),
    ),
    "big-endian 4": (lambda: good(dtype=">f4"), TypeError, NOT_FLOAT.format(">f4 (>f4)")),
    "big-endian 8": (lambda: good(dtype=">f8"), TypeError, NOT_FLOAT.format(">f8 (>f8)")),
    "unaligned": (
        unaligned,
        ValueError,
        "unaligned memory, expected an array aligned to its elements",
    ),
    "masked": (
        lambda: np.ma.array(good()),
        TypeError,
        "a masked array, expected a plain numpy.ndarray",
    ),
    "exported integers": (
        lambda: Exporter(np.ones(SHAPE, np.int32)),
        TypeError,
        NOT_FLOAT.format("<i4 (int32)"),
    ),
}
BAD_PARAMS: dict[str, Case] = BAD | {
    **{
        name: (make, ValueError, NOT_DENSE.format(strides) + "(C or F order)")
        for name, (make, strides) in STRIDED.items()
    },
    "None": (lambda: None, TypeError, NOT_ARRAY.format("NoneType")),
    "half": (
        lambda: good(dtype="f2"),
        ValueError,
        "float16 with master=None, expected master='float32', without which small steps are lost",
    ),
    "read-only": (read_only, ValueError, "read-only, expected a writable array"),
    "exported read-only": (
        lambda: Exporter(read_only()),
        ValueError,
        "read-only, expected a writable array",
    ),
}
BAD_GRADS: dict[str, Case] = BAD | {
    **{
        name: (make, ValueError, NOT_DENSE.format(strides) + "in C order as in params")
        for name, (make, strides) in STRIDED.items()
    },
    "list": (lambda: [[1.0] * 3] * 2, TypeError, NOT_ARRAY.format("list")),
    "list of an array": (lambda: [good()], TypeError, NOT_ARRAY.format("list")),
    "empty list": (list, TypeError, NOT_ARRAY.format("list")),
    "mapping": (lambda: {0: good()}, TypeError, NOT_ARRAY.format("dict")),
    "wider": (
        lambda: good(dtype="f8"),
        TypeError,
        "dtype float64, expected float32 as in params",
    ),
    **{
        str(shape): (
            lambda shape=shape: good(shape),
            ValueError,
            f"shape {shape}, expected (2, 3) as in params",
        )
        for shape in ((6,), (3, 2), (2, 3, 1), (1, 2, 3), (), (0,), (2, 0), (2, 4))
    },
    "other order": (
        lambda: np.asfortranarray(good()),
        ValueError,
        "F order, expected C order as in params",
    ),
}


def each(cases: Mapping[str, Case]) -> Any:
    return pytest.mark.parametrize("case", cases.values(), ids=cases)


def three(make: type[gs.Optimizer] = gs.Adam, **options: Any) -> gs.Optimizer:
    """An optimizer of three tensors that has taken two steps."""
    optimizer = make([good(seed=i) for i in range(3)], **options)
    for t in range(2):
        optimizer.step([good(seed=10 * t + i) for i in range(3)])
    return optimizer


@folded("position", [0, 1, 2])
@each(BAD_PARAMS)
def test_bad_parameter_is_refused(case: Case, position: int) -> None:
    make, kind, message = case
    params: list[Any] = [good(seed=i) for i in range(3)]
    params[position] = make()
    before = [p.tobytes() for i, p in enumerate(params) if i != position]
    with pytest.raises(kind) as caught:
        gs.Adagrad(params, initial_accumulator_value=0.1)
    assert str(caught.value) == f"params[{position}]: {message}"
    assert [p.tobytes() for i, p in enumerate(params) if i != position] == before


@folded("method", METHODS)
@folded("position", [0, 1, 2])
@each(BAD_GRADS)
def test_bad_gradient_is_refused_and_nothing_is_written(
    case: Case, position: int, method: str, refused: Refused
) -> None:
    make, kind, message = case
    optimizer = three()
    grads = [good(seed=20 + i) for i in range(3)]
    grads[position] = make()
    with refused(optimizer, kind, f"grads[{position}]: {message}"):
        getattr(optimizer, method)(grads)


@folded("method", METHODS)
@folded("position", [0, 1, 2])
def test_the_step_after_an_error_is_as_if_it_never_was(
    optimizer_class: type[gs.Optimizer], position: int, method: str, refused: Refused, contents: Any
) -> None:
    optimizer, twin = three(optimizer_class), three(optimizer_class)
    grads = [good(seed=20 + i) for i in range(3)]
    bad = [*grads[:position], good((7,)), *grads[position + 1 :]]
    message = f"grads[{position}]: shape (7,), expected (2, 3) as in params"
    with refused(optimizer, ValueError, message):
        getattr(optimizer, method)(bad)
    assert optimizer.step(grads) == twin.step(grads)
    assert contents(optimizer)[:2] == contents(twin)[:2]


def test_a_refused_binding_leaves_the_one_before(refused: Refused, contents: Any) -> None:
    optimizer, twin = three(), three()
    grads = [good(seed=20 + i) for i in range(3)]
    optimizer.bind(grads)
    for bad in ([*grads[:2], good((7,))], [good((7,)), *grads[1:]]):
        for method in METHODS:
            position = 2 if bad[0] is grads[0] else 0
            message = f"grads[{position}]: shape (7,), expected (2, 3) as in params"
            with refused(optimizer, ValueError, message):
                getattr(optimizer, method)(bad)
        optimizer.step()
        twin.step(grads)
        optimizer.reference_step()
        twin.step(grads)
    assert contents(optimizer)[:2] == contents(twin)[:2]


def test_the_first_bad_gradient_is_the_one_named(refused: Refused) -> None:
    optimizer = three()
    with refused(optimizer, TypeError, "grads[1]: str, expected a numpy.ndarray"):
        optimizer.step([good(), "x", good((7,))])


@pytest.mark.parametrize("method", ["step", "reference_step"])
def test_a_step_needs_gradients(method: str, refused: Refused) -> None:
    message = "grads: None, expected arrays, or buffers given to bind() before"
    optimizer = three()
    with refused(optimizer, ValueError, message):
        getattr(optimizer, method)()


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1, "l1": 0.1}], ids=["plain", "prepared"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_scalars_and_empty_arrays(
    optimizer_class: type[gs.Optimizer], dtype: str, options: Any, contents: Any
) -> None:
    shapes = [(0,), (), (3, 0), (1, 1, 1), (5,), (0,)]
    pair = [
        optimizer_class([good(s, dtype, i) for i, s in enumerate(shapes)], **options)
        for _ in range(2)
    ]
    start = contents(pair[0])[0]
    for t in range(3):
        grads = [good(s, dtype, 10 * t + i) for i, s in enumerate(shapes)]
        assert pair[0].step(grads) == pair[1].reference_step(grads)
    assert contents(pair[0])[:2] == contents(pair[1])[:2]
    assert [old == new for old, new in zip(start, contents(pair[0])[0], strict=True)] == [
        True, False, True, False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("params", [np.zeros(0, F4), [np.zeros((3, 0)), np.zeros(0)]], ids=str)
def test_nothing_to_update_is_a_step_all_the_same(params: Any) -> None:
    optimizer = gs.AdamW(params, clip_norm=1.0, on_nonfinite="raise")
    assert optimizer.step(params) == (1, 1e-3, 0.0, False)
    assert optimizer.reference_step(params) == (2, 1e-3, 0.0, False)


@pytest.mark.parametrize(
    "params",
    [[], {}, (), [[], {}], {}.values(), pytest.param(iter([]), id="iterator")],
    ids=str,
)
def test_no_parameters_at_all_are_refused(params: Any) -> None:
    with pytest.raises(ValueError, match=r"^params: no arrays, expected at least one$"):
        gs.AdamW(params)
    # As in torch a group may be empty: it is there to be filled, or for its position.
    assert gs.AdamW([{"params": []}]).step([[]]).step == 1


def test_what_can_be_walked_once_is_a_list(contents: Callable[..., Any]) -> None:
    arrays, grads = [good(), good((4,))], [good(seed=1), good((4,), seed=2)]
    plain = gs.AdamW([a.copy() for a in arrays])
    plain.step(grads)
    for params in (iter, dict(enumerate(arrays)).values, lambda: (a for a in arrays)):
        for array, first in zip(arrays, (good(), good((4,))), strict=True):
            array[...] = first
        given = params(arrays) if params is iter else params()
        optimizer = gs.AdamW(given)
        optimizer.step(iter(grads))
        assert contents(optimizer)[:2] == contents(plain)[:2]
    assert gs.global_norm(g for g in grads) == gs.global_norm(grads)
    assert gs.describe(dict(enumerate(grads)).values()) == gs.describe(grads)


def test_parameters_must_not_share_memory() -> None:
    a = good((8,))
    for params, message in (
        ([a, a], "params[1]: the same memory as params[0]"),
        ([a, good(), a.reshape(2, 4)], "params[2]: the same memory as params[0]"),
        ({"x": a[:5], "y": a[4:]}, "params['y']: overlaps params['x']"),
        ({"x": a[4:], "y": a[:5]}, "params['x']: overlaps params['y']"),
        ([a, good(), a[3:4]], "params[2]: overlaps params[0]"),
        ([a[2:4], good(), a], "params[0]: overlaps params[2]"),
        ([a.view("f8"), good(), a[7:]], "params[2]: overlaps params[0]"),
        ([{"params": a}, {"params": [a]}], "params[1]: the same memory as params[0]"),
    ):
        with pytest.raises(ValueError) as caught:
            gs.SGD(params)
        assert str(caught.value) == f"{message}, expected memory of its own"
    neighbours = [a[:4], a[4:4], a[4:], a[2:2]]
    gs.SGD(neighbours, lr=1.0).step([np.ones_like(p) for p in neighbours])
    assert a.tobytes() == (good((8,)) - F4(1)).tobytes()


@folded("method", METHODS)
@folded("position", [0, 1, 2])
def test_gradients_must_not_share_memory_that_a_step_writes(
    method: str, position: int, refused: Refused
) -> None:
    before = good((14,))
    memory = before[2:]
    params = [memory[:4], memory[4:8], memory[8:]]
    optimizer = gs.Adam(params)
    optimizer.step([np.ones(4, F4) for _ in range(3)])
    other = (position + 1) % 3
    state = optimizer.state[other]["exp_avg_sq"]
    shifted = memory[3:7] if position == 0 else memory[4 * position - 1 : 4 * position + 3]
    first = max(position - 1, 0)
    for grad, what in (
        (before[:4], "params[0]"),
        (params[other], f"params[{other}]"),
        (shifted, f"params[{first}]"),
        (state, f"state[{other}]"),
        (optimizer.state[position]["exp_avg"], f"state[{position}]"),
    ):
        grads = [np.ones(4, F4) for _ in range(3)]
        grads[position] = grad
        message = f"grads[{position}]: overlaps {what}, which this call writes"
        with refused(optimizer, ValueError, message):
            getattr(optimizer, method)(grads)


def test_gradients_to_clear_are_checked_anew_for_other_tensors() -> None:
    memory = np.ones(200)
    params = [np.zeros(4), np.zeros(4), np.zeros(100)]
    optimizer = gs.SGD(params, on_nonfinite="skip")
    bad = np.full(4, np.nan)
    assert optimizer.step([bad, None, None], zero_grads=True).skipped and (bad == 0).all()
    optimizer.step([memory[8:12], memory[:4], None], zero_grads=True)
    memory[:] = 1
    before = [p.tobytes() for p in params]
    message = r"^grads\[1\]: overlaps grads\[2\], expected memory of its own$"
    with pytest.raises(ValueError, match=message):
        optimizer.step([None, memory[8:12], memory[:100]], zero_grads=True)
    assert (memory == 1).all() and [p.tobytes() for p in params] == before


def test_a_parameter_may_be_its_own_gradient(optimizer_class: type[gs.Optimizer]) -> None:
    params = [[good((n,)) for n in (1, 17, 5000)] for _ in range(3)]
    native, copied, reference = map(optimizer_class, params)
    for _ in range(3):
        copied.step([p.copy() for p in params[1]])
        native.step(params[0])
        reference.reference_step(params[2])
    bits = [b"".join(p.tobytes() for p in own) for own in params]
    assert bits[0] == bits[1] == bits[2]


def test_one_gradient_may_serve_several_parameters() -> None:
    params, g = [good(), good(seed=1)], good(seed=2)
    expected = [(p - g).tobytes() for p in params]
    gs.SGD(params, lr=1.0).step([g, g])
    assert [p.tobytes() for p in params] == expected


def test_views_write_through_to_their_base_and_no_further() -> None:
    base = np.zeros((4, 8), F4)
    gs.SGD([base[1], base[2:].T], lr=1.0).step([-np.ones(8, F4), -np.ones((2, 8), F4).T])
    assert base.tolist() == [[0] * 8, [1] * 8, [1] * 8, [1] * 8]


@pytest.mark.parametrize("order", "CF")
def test_fortran_order_is_kept_and_must_agree(order: str, contents: Any, refused: Refused) -> None:
    def laid(seed: int, shape: Any = (5, 7)) -> Any:
        return np.asarray(good(shape, seed=seed), order=order)  # type: ignore[call-overload]

    pair = [gs.Adam([laid(0), laid(1)], clip_norm=0.5) for _ in range(2)]
    assert pair[0].step([laid(2), laid(3)]) == pair[1].reference_step([laid(2), laid(3)])
    assert contents(pair[0])[:2] == contents(pair[1])[:2]
    other = np.asarray(laid(3), order="F" if order == "C" else "C")
    have, want = ("F", "C") if order == "C" else ("C", "F")
    message = f"grads[1]: {have} order, expected {want} order as in params"
    for method in METHODS:
        with refused(pair[0], ValueError, message):
            getattr(pair[0], method)([laid(2), other])
    both = np.asarray(good((1, 9), seed=4), order="F" if order == "C" else "C")
    gs.Adam([laid(4, (1, 9))]).step([both])  # a row is in both orders


class Odd(np.ndarray[Any, Any]):
    """Operators that mean something else, as those of np.matrix do."""

    def __array_ufunc__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("an operator of the subclass was used")


@pytest.mark.parametrize("kind", [Odd, np.matrix, np.recarray], ids=lambda kind: kind.__name__)
def test_a_subclass_is_its_memory(kind: Any, optimizer_class: Any, contents: Any) -> None:
    pair = [optimizer_class(good((3, 3)).view(kind), clip_norm=0.1, l1=0.1) for _ in range(2)]
    for t in range(2):
        grads = good((3, 3), seed=t).view(kind)
        assert pair[0].step(grads) == pair[1].reference_step(grads)
    assert contents(pair[0])[:2] == contents(pair[1])[:2]
    assert all(type(a) is np.ndarray for own in pair[0].state.values() for a in own.values())


def test_memory_mapped_parameters(tmp_path: Any) -> None:
    path = tmp_path / "w"
    for mode in ("w+", "r+"):
        w = np.memmap(path, F4, mode, shape=(1000,))
        gs.SGD(w, lr=1.0).step(-np.ones(1000, F4))
        w.flush()
    assert np.fromfile(path, F4).tolist() == [2.0] * 1000
    gs.SGD(np.memmap(path, F4, "c"), lr=1.0).step(np.memmap(path, F4, "r"))
    assert np.fromfile(path, F4).tolist() == [2.0] * 1000
    with pytest.raises(ValueError, match=r"^params: read-only, expected a writable array$"):
        gs.SGD(np.memmap(path, F4, "r"))


def test_arrays_of_other_libraries_come_in_without_a_copy() -> None:
    params = {name: good(seed=i) for i, name in enumerate("ab")}
    frozen = read_only()
    expected = [(p - frozen - frozen - frozen).tobytes() for p in params.values()]
    optimizer = gs.SGD({name: Exporter(p) for name, p in params.items()}, lr=1.0)
    grads = {"a": Exporter(frozen), "b": Exporter(frozen)}
    optimizer.step(grads)
    optimizer.bind(grads)
    optimizer.step()
    optimizer.reference_step()
    assert [p.tobytes() for p in params.values()] == expected


@folded("method", METHODS)
@pytest.mark.parametrize("bad", [Unwilling(good()), np.ndarray], ids=["unwilling", "class"])
def test_an_array_that_cannot_be_exported_is_named(bad: Any, method: str, contents: Any) -> None:
    optimizer = three()
    before = contents(optimizer)
    kind, reason = ("type", "") if bad is np.ndarray else ("Unwilling", "use detach()")
    for call, argument in (
        (lambda: getattr(optimizer, method)([good(), good(), bad]), "grads"),
        (lambda: gs.Adam([good(), good(), bad]), "params"),
    ):
        with pytest.raises(TypeError) as caught:
            call()
        assert str(caught.value).startswith(f"{argument}[2]: {kind}")
        assert reason in str(caught.value)
    assert contents(optimizer) == before


def test_torch_tensors_are_updated_in_place() -> None:
    torch = pytest.importorskip("torch")
    w = {"a": torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.float64)}
    g = {"a": torch.ones(3, 4), "b": torch.ones(5, dtype=torch.float64)}
    optimizer = gs.SGD(w, lr=1.0)
    optimizer.step(g)
    optimizer.bind(g)
    g["a"].fill_(2.0)
    optimizer.step()
    assert w["a"].unique().tolist() == [-3.0] and w["b"].unique().tolist() == [-2.0]
    with pytest.raises(TypeError, match=r"^grads\['a'\]: dtype float64, expected float32"):
        optimizer.step({"a": g["a"].double(), "b": g["b"]})
    with pytest.raises(ValueError, match=r"^params: shape \(3, 2\) with strides"):
        gs.SGD(torch.zeros(3, 4)[:, ::2])


@pytest.mark.parametrize("method", ["step", "reference_step"])
def test_a_tensor_without_gradient_is_left_alone(optimizer_class: Any, method: str) -> None:
    params, alone = [good(seed=i) for i in range(3)], [good(seed=1)]
    optimizer, twin = optimizer_class(params), optimizer_class(alone)
    for t in range(4):
        g = good(seed=10 + t) if t % 2 else None
        before = params[1].tobytes()
        assert getattr(optimizer, method)([good(), g, None]).step == t + 1
        if g is None:
            assert params[1].tobytes() == before
            continue
        getattr(twin, method)([g])
        assert params[1].tobytes() == alone[0].tobytes()
    steps = [state["step"] for state in optimizer.state_dict()["state"].values()]
    assert (optimizer.step_count, steps) == (4, [4, 2, 0])
    assert params[2].tobytes() == good(seed=2).tobytes()
