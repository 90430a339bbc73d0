"""Parameters, gradients and states in 16 and 8 bits: the specification's bits everywhere, what the
rounding promises, and what is refused.

One table of layouts runs through all of it: hence the length.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradstep as gs
import ml_dtypes
import numpy as np
import pytest
from cases import variants
from gradstep import _core
from gradstep import distributed as gd
from gradstep.optim.storage import state_values
from gradstep.spec import storage as spec

BF16 = ml_dtypes.bfloat16
LEVELS = gs.build_info()["simd_levels"]
F4 = np.float32
HALF = (BF16, np.float16)

# (type of the parameters, of a copy or None, master)
PARAMETERS = {
    "float32": (F4, None, None),
    "float32, bfloat16 copy": (F4, BF16, None),
    "float32, float16 copy": (F4, np.float16, None),
    "bfloat16": (BF16, None, None),
    "bfloat16, split": (BF16, None, "split"),
    "bfloat16, float32 master": (BF16, None, "float32"),
    "float16, float32 master": (np.float16, None, "float32"),
}
EMAS = (None, "float32", "bfloat16")
N = 4096 + 1024 + 77


def layouts() -> Iterator[tuple[str, str]]:
    for parameter in PARAMETERS:
        for states in ("float32", "bfloat16", "int8"):
            yield parameter, states


def averages(name: str) -> bool:
    return name != "Adagrad"


def optimizer(name: str, parameter: str, states: str, n: int = N, **options: Any) -> Any:
    dtype, copied, master = PARAMETERS[parameter]
    rng = np.random.default_rng(3)
    params = [rng.standard_normal(n).astype(dtype), rng.standard_normal((8, 9)).astype(dtype)]
    copies = None if copied is None else [np.zeros(p.shape, copied) for p in params]
    made = gs.OPTIMIZERS[name](
        params, master=master, state_dtype=states, copy_to=copies, seed=11, **options
    )
    return made, params, copies or []


def contents(made: Any, params: list[Any], copies: list[Any]) -> list[bytes]:
    own = [array for state in made.state.values() for array in state.values()]
    return [array.tobytes() for array in (*params, *copies, *own)]


def gradients(t: int, dtype: Any, n: int = N) -> list[Any]:
    rng = np.random.default_rng(100 + t)
    return [rng.standard_normal(n).astype(dtype), rng.standard_normal((8, 9)).astype(dtype)]


@pytest.mark.parametrize(("name", "options"), list(variants()), ids=str)
def test_native_steps_are_the_specification(name: str, options: dict[str, Any]) -> None:
    """Every optimizer in every layout; levels, threads and gradients take turns."""
    for number, (parameter, states) in enumerate(layouts()):
        if states != "float32" and not averages(name):
            continue
        dtype = (F4, *HALF)[number % 3]
        extra: dict[str, Any] = {"clip_norm": 1.0, "l1": 0.01} if number % 2 else {}
        extra["ema"] = EMAS[(number + number // 3) % 3]
        gs.use_simd(LEVELS[number % len(LEVELS)])
        with gs.threads(1 + number % 3):
            pair = [optimizer(name, parameter, states, **options, **extra) for _ in range(2)]
            for t in range(2):
                one = pair[0][0].step(gradients(t, dtype))
                assert one == pair[1][0].reference_step(gradients(t, dtype))
        assert contents(*pair[0]) == contents(*pair[1]), (parameter, states, dtype)


@pytest.mark.parametrize("states", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_same_bits_on_every_level_thread_and_cut(parameter: str, states: str) -> None:
    found = set()
    for level in LEVELS:
        for threads, task in ((1, 32768), (2, 1000), (3, 4097), (7, 100)):
            gs.use_simd(level)
            before = _core.tune("task", task)
            try:
                with gs.threads(threads):
                    made = optimizer("AdamW", parameter, states, n=20_001, ema="bfloat16")
                    for t in range(3):
                        made[0].step(gradients(t, BF16, 20_001))
            finally:
                _core.tune("task", before)
            found.add(tuple(contents(*made)))
    assert len(found) == 1


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1023, 1024, 1025, 4097])
@pytest.mark.parametrize("level", LEVELS)
def test_no_element_beyond_the_end_is_touched(level: str, n: int) -> None:
    gs.use_simd(level)
    guard = 64
    for states in ("bfloat16", "int8"):
        memory = np.zeros(n + 2 * guard, BF16)
        memory.view(np.uint16)[:] = 0x1234
        w = memory[guard : guard + n]
        w[...] = 1
        made = gs.AdamW(w, lr=0.1, state_dtype=states)
        made.step(np.ones(n, BF16))
        beside = np.concatenate([memory[:guard], memory[guard + n :]])
        assert (beside.view(np.uint16) == 0x1234).all()


EDGES = np.concatenate(
    [
        np.arange(65536, dtype=np.uint32) << 16,
        (np.arange(65536, dtype=np.uint32) << 16) + 0x8000,
        (np.arange(65536, dtype=np.uint32) << 16) + 0x7FFF,
        (np.arange(65536, dtype=np.uint32) << 13) + 0x38000000,
        (np.arange(65536, dtype=np.uint32) << 12) + 0x33000000,
    ]
).view(F4)


@pytest.mark.parametrize("level", LEVELS)
def test_conversions_are_those_of_ieee(level: str) -> None:
    """Against ml_dtypes and NumPy: every 16-bit number read, and edges of rounding written."""
    gs.use_simd(level)
    for dtype in HALF:
        every = np.arange(65536, dtype=np.uint16).view(dtype)
        w = np.zeros(65536, F4)
        gs.SGD(w, lr=1.0).step(every)
        with np.errstate(invalid="ignore"):
            np.testing.assert_array_equal(w, np.zeros(65536, F4) - every.astype(F4))
        w, out = EDGES.copy(), np.zeros(EDGES.shape, dtype)
        gs.SGD(w, lr=0.0, copy_to=out).step(np.zeros_like(w))
        with np.errstate(all="ignore"):
            expected = (EDGES * F4(1)).astype(dtype)
        np.testing.assert_array_equal(out.astype(F4), expected.astype(F4))


def test_a_split_master_is_the_float32_master_to_the_bit() -> None:
    for states in ("float32", "bfloat16"):
        pair = [
            optimizer("AdamW", f"bfloat16, {kind}", states) for kind in ("split", "float32 master")
        ]
        for t in range(20):
            for made, _, _ in pair:
                made.step(gradients(t, BF16))
        high, low = pair[0][1][0], pair[0][0].state[0]["master_low"]
        joined = spec.from_split(high.view(np.uint16), low)
        assert joined.tobytes() == pair[1][0].state[0]["master"].tobytes()
        near = np.abs(high.astype(F4) - pair[1][1][0].astype(F4))
        assert (near <= np.abs(joined) * 2**-8).all(), "they differ in halves only"


def test_rounding_with_random_bits_is_right_on_average() -> None:
    """Steps of a 50th of what bfloat16 can tell: rounded to nearest they would all be lost."""
    w = np.ones(100_000, BF16)
    made = gs.SGD(w, lr=2**-7 / 50)
    for _ in range(100):
        made.step(np.ones(100_000, BF16))
    assert abs(float(w.astype(F4).mean()) - (1 - 2**-7 * 2)) < 2**-7 * 0.02
    assert len(np.unique(w)) > 2


@pytest.mark.parametrize("states", ["bfloat16", "int8"])
def test_second_moments_decay(states: str) -> None:
    """By 0.1 % a step: under half a unit in the last place of either kind."""
    w = np.ones(1 << 14, F4)
    made = gs.Adam(w, lr=0.0, state_dtype=states, seed=3)
    made.step(np.ones_like(w))
    peak = _second(made)
    for _ in range(700):
        made.step(np.zeros_like(w))
    assert abs(_second(made) / peak - 0.999**700) < 0.02


@pytest.mark.parametrize("scale", [0.0, 1e-45, 1e-38, 1e-30, 1.0])
def test_what_is_zero_stays_zero_in_8_bits(scale: float) -> None:
    """Whatever is the largest beside it: rows of an embedding that no batch has touched."""
    g = np.zeros(1 << 14, F4)
    g[256] = scale
    made = gs.Adam(np.zeros(1 << 14, F4), lr=0.0, state_dtype="int8", betas=(0.0, 0.0))
    made.step(g)
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        stored = made.state[0]
        found = spec.from_blocks(stored[name].view(np.uint8), stored[f"{name}_scale"], signed)
        assert (found[g == 0] == 0).all()
        assert found[256] == (g[256] if signed else g[256] ** 2) or abs(found[256]) < 2**-110


def _second(made: gs.Adam) -> float:
    state = made.state[0]
    stored = state["exp_avg_sq"]
    if stored.dtype == np.uint8:
        return float(spec.from_blocks(stored, state["exp_avg_sq_scale"], False).mean())
    return float(stored.astype(F4).mean())


def test_streams_differ_by_seed_step_and_array() -> None:
    n = 1 << 16
    streams = [spec.random_bits(n, s, t, k) for s in (0, 1) for t in (1, 2) for k in range(4)]
    for i, a in enumerate(streams):
        assert abs(a.mean() / 2**32 - 0.5) < 0.005
        for b in streams[:i]:  # those of one word share bits that decide little: 1/32
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.045
    whole = spec.random_bits(1000, 5, 1, 2)
    assert (whole[640:] == spec.random_bits(360, 5, 1, 2, first_tile=10)).all()


def test_another_seed_rounds_otherwise_and_the_same_again_alike() -> None:
    found = []
    for seed in (0, 1, 0):
        w = np.ones(1000, BF16)
        gs.SGD(w, lr=1e-3, seed=seed).step(np.ones(1000, BF16))
        found.append(w.tobytes())
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("states", ["float32", "bfloat16", "int8"])
def test_a_resumed_run_is_the_run_to_the_bit(parameter: str, states: str) -> None:
    made, params, copies = optimizer("Adam", parameter, states, amsgrad=True)
    for t in range(3):
        made.step(gradients(t, F4))
    saved, weights = made.state_dict(), [p.copy() for p in params]
    for t in range(3, 6):
        made.step(gradients(t, F4))
    for way in ("load", "pickle"):
        other, others, more = optimizer("Adam", parameter, states, amsgrad=True)
        if way == "load":
            other.load_state_dict(saved)
        else:
            other.load_state_dict(pickle.loads(pickle.dumps(saved)))
        for p, w in zip(others, weights, strict=True):
            p[...] = w
        for t in range(3, 6):
            other.step(gradients(t, F4))
        assert contents(other, others, more) == contents(made, params, copies)


def test_a_checkpoint_holds_every_layout(tmp_path: Path) -> None:
    for number, (parameter, states) in enumerate(layouts()):
        path = tmp_path / f"{number}.safetensors"
        made, params, copies = optimizer("AdamW", parameter, states)
        made.step(gradients(0, F4))
        gs.save(path, params=params, optimizer=made)
        made.step(gradients(1, F4))
        other, others, more = optimizer("AdamW", parameter, states)
        gs.load(path, params=others, optimizer=other)
        other.step(gradients(1, F4))
        assert contents(other, others, more) == contents(made, params, copies)


def test_an_option_that_adds_a_state_is_loaded() -> None:
    first, params, _ = optimizer("Adam", "bfloat16, split", "int8", amsgrad=True)
    first.step(gradients(0, F4))
    second, others, _ = optimizer("Adam", "bfloat16, split", "int8")
    second.load_state_dict(first.state_dict())
    for p, w in zip(others, params, strict=True):
        p[...] = w
    first.step(gradients(1, F4))
    second.step(gradients(1, F4))
    assert contents(first, params, []) == contents(second, others, [])


def test_copies_of_an_optimizer_go_on_alike() -> None:
    made, _, _ = optimizer("AdamW", "bfloat16", "int8")
    made.step(gradients(0, BF16))
    twin = copy.deepcopy(made)
    made.step(gradients(1, BF16))
    twin.step(gradients(1, BF16))
    for key, state in made.state.items():
        for name, array in state.items():
            assert array.tobytes() == twin.state[key][name].tobytes()


def test_small_tensors_keep_float32_states_beside_8_bits() -> None:
    made, _, _ = optimizer("AdamW", "bfloat16, split", "int8")
    assert {k: v.dtype.name for k, v in made.state[0].items()} == {
        "exp_avg": "int8",
        "exp_avg_scale": "float32",
        "exp_avg_sq": "uint8",
        "exp_avg_sq_scale": "float32",
        "master_low": "int16",
    }
    assert {k: v.dtype.name for k, v in made.state[1].items()} == {
        "exp_avg": "float32",
        "exp_avg_sq": "float32",
        "master_low": "int16",
    }


def test_sums_begin_at_their_first_value() -> None:
    for parameter in PARAMETERS:
        made, _, _ = optimizer("Adagrad", parameter, "float32", initial_accumulator_value=0.5)
        assert all((state["sum"] == 0.5).all() for state in made.state.values())


def test_groups_choose_for_themselves() -> None:
    embedding, rest = np.zeros(5000, BF16), np.zeros(5000, BF16)
    made = gs.AdamW(
        [
            {"params": {"embedding": embedding}, "state_dtype": "float32", "master": "float32"},
            {"params": {"rest": rest}},
        ],
        state_dtype="int8",
        master="split",
    )
    made.step([{"embedding": embedding.copy()}, {"rest": rest.copy()}])
    assert set(made.state["embedding"]) == {"exp_avg", "exp_avg_sq", "master"}
    assert made.state["rest"]["exp_avg"].dtype == np.int8


def test_gradients_are_cleared_and_skipped_in_their_own_type() -> None:
    made, params, _ = optimizer("AdamW", "bfloat16, split", "bfloat16", on_nonfinite="skip")
    grads = gradients(0, BF16)
    assert not made.step(grads, zero_grads=True).skipped
    assert not any(g.astype(F4).any() for g in grads)
    before = contents(made, params, [])
    grads[0][77] = np.inf
    assert made.step(grads).skipped
    assert contents(made, params, []) == before
    made.on_nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"grads\[0\]"):
        made.step(grads)
    assert contents(made, params, []) == before


def test_what_is_not_finite_stays_so() -> None:
    for parameter in PARAMETERS:
        for states in ("float32", "bfloat16", "int8"):
            pair = [optimizer("AdamW", parameter, states) for _ in range(2)]
            for t in range(2):
                grads = gradients(t, F4)
                grads[0][:3] = np.nan, np.inf, -np.inf
                pair[0][0].step(grads)
                pair[1][0].reference_step(grads)
            assert contents(*pair[0]) == contents(*pair[1])
            assert np.isnan(pair[0][1][0].astype(F4)[0])


def test_the_sign_of_a_nan_leaves_no_trace_in_8_bits() -> None:
    """Which differs by machine."""
    found = set()
    for level in LEVELS:
        gs.use_simd(level)
        for sign in (1, -1):
            for method in ("step", "reference_step"):
                made, params, _ = optimizer("AdamW", "bfloat16, split", "int8")
                grads = gradients(0, F4)
                grads[0][:300:7] = np.copysign(F4(np.nan), F4(sign))
                getattr(made, method)(grads)
                found.add(tuple(contents(made, params, [])[:-2]))
                codes = made.state[0]["exp_avg"]
                assert not codes[:512].any() and codes[512:].any()
    assert len(found) == 1


def test_a_block_of_nans_is_not_loaded(tmp_path: Path) -> None:
    ours, params, _ = optimizer("AdamW", "bfloat16, split", "int8")
    grads = gradients(0, F4)
    grads[0][3] = np.nan
    ours.step(grads)
    assert np.isnan(ours.state[0]["exp_avg_scale"][0])
    theirs, copied, _ = optimizer("AdamW", "bfloat16, split", "int8")
    gs.save(tmp_path / "run", params=params, optimizer=ours)
    before = contents(theirs, copied, [])
    with pytest.raises(ValueError, match=r"\[0\]\['exp_avg_scale'\]: not finite or negative"):
        gs.load(tmp_path / "run", params=copied, optimizer=theirs)
    assert contents(theirs, copied, []) == before


@pytest.mark.parametrize("through", ["state dict", "file", "ranks"])
@pytest.mark.parametrize("orders", ["CC", "CF", "FC", "FF"])
def test_8_bit_states_keep_their_values_in_another_order(
    orders: Any, through: str, tmp_path: Path
) -> None:
    """Their scales are of blocks of memory."""
    rng = np.random.default_rng(0)
    grads = 10 ** rng.uniform(-3, 3, (70, 80)).astype(F4)

    def made(order: Any) -> Any:
        return gs.AdamW({"w": np.zeros((70, 80), F4, order=order)}, state_dtype="int8")

    def moments(optimizer: Any) -> list[Any]:
        own, order = optimizer.state["w"], orders[optimizer is theirs]
        return [
            state_values(own[name], own[f"{name}_scale"]).reshape((70, 80), order=order)
            for name in ("exp_avg", "exp_avg_sq")
        ]

    ours, theirs = map(made, orders)
    ours.step({"w": np.asarray(grads, order=orders[0])})
    if through == "file":
        gs.save(tmp_path / "run", optimizer=ours)
        gs.load(tmp_path / "run", optimizer=theirs)
    elif through == "state dict":
        theirs.load_state_dict(ours.state_dict())
    else:
        [alone] = gd.in_process(1)
        weights = {"w": np.zeros((70, 80), F4, order=orders[1])}
        sharded = gd.ShardedOptimizer(gs.AdamW, weights, comm=alone, state_dtype="int8")
        sharded.load_state_dict(ours.state_dict())
        theirs.load_state_dict(sharded.state_dict())
    for found, expected in zip(moments(theirs), moments(ours), strict=True):
        if orders[0] == orders[1]:
            assert found.tobytes() == expected.tobytes()
        np.testing.assert_allclose(found, expected, rtol=1 / 8, atol=expected.max() * 2**-15)


def test_weights_loaded_elsewhere_reach_their_masters() -> None:
    for parameter in ("bfloat16, split", "bfloat16, float32 master", "float16, float32 master"):
        made, params, _ = optimizer("SGD", parameter, "float32", lr=1.0)
        made.step(gradients(0, F4))
        kept = params[0].copy()
        params[0][:10] = 3
        made.reload_masters()
        made.step([np.zeros(N, F4), None])
        assert (params[0].astype(F4)[:10] == 3).all()
        assert params[0][10:].tobytes() == kept[10:].tobytes()


def test_masters_are_reloaded_in_the_order_of_the_parameter() -> None:
    w = np.asfortranarray(np.arange(12).reshape(3, 4).astype(BF16))
    made = gs.SGD(w, lr=1.0, master="float32")
    w[0, 3] = 77
    made.reload_masters()
    np.testing.assert_array_equal(made.state[0]["master"], w.astype(F4))


def test_a_parameter_is_no_gradient_as_another_type() -> None:
    """A step would write elements that it has yet to read."""
    w = np.ones(8192, F4)
    made = gs.SGD(w, lr=1.0)
    view = w.view(BF16)[: w.size]
    for call in (made.step, made.reference_step, made.bind):
        with pytest.raises(ValueError, match=r"^grads: overlaps params, which this call writes"):
            call(view)
    assert (w == 1).all()
    made.step(w)
    assert (w == 0).all()


def test_what_was_found_apart_as_one_type_is_looked_at_as_another() -> None:
    memory = np.zeros(300, F4)
    params = [np.ones(100, F4), memory[50:150]]
    for zero in (False, True):
        made = gs.SGD(params, lr=1.0)
        made.step([memory[:50].view(BF16)[:100], None], zero_grads=zero)
        with pytest.raises(ValueError, match=r"overlaps params\[1\]"):
            made.step([memory[:100], None], zero_grads=zero)
        assert (params[0] == 1).all()


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "float16 alone": (lambda: gs.SGD(np.ones(3, "f2")), ValueError, "^params: float16 with master"),
    "split float16": (
        lambda: gs.SGD([np.ones(3, "f2")], master="split"),
        ValueError,
        r"^params\[0\]: float16 with master='split', expected master='float32'",
    ),
    "master of float32": (
        lambda: gs.SGD({"w": np.ones(3, F4)}, master="split"),
        ValueError,
        r"^params\['w'\]: float32 with master='split', expected None",
    ),
    "float64 states": (
        lambda: gs.Adam(np.ones(3), state_dtype="int8"),
        TypeError,
        "^params: float64 with state_dtype='int8', expected 'float32'",
    ),
    "a name": (
        lambda: gs.Adam(np.ones(3, F4), state_dtype="int4"),
        ValueError,
        "^state_dtype: 'int4', expected 'float32', 'bfloat16' or 'int8'",
    ),
    "a master's name": (
        lambda: gs.Adam(np.ones(3, BF16), master="float64"),
        ValueError,
        "^master: 'float64', expected 'split' or 'float32'",
    ),
    "a sum": (
        lambda: gs.Adagrad(np.ones(3, F4), state_dtype="int8"),
        ValueError,
        "^state_dtype: 'int8' for the state 'sum', expected 'float32'",
    ),
    "seed": (lambda: gs.Adam(np.ones(3, F4), seed=-1), ValueError, "^seed: -1, expected"),
    "copy of bfloat16": (
        lambda: gs.SGD(np.ones(3, BF16), copy_to=np.ones(3, BF16)),
        TypeError,
        "^params: bfloat16 with copy_to, expected float32",
    ),
    "a copy's type": (
        lambda: gs.SGD(np.ones(3, F4), copy_to=np.ones(3, F4)),
        TypeError,
        "^copy_to: float32, expected bfloat16 or float16 arrays",
    ),
    "a copy's shape": (
        lambda: gs.SGD([np.ones(3, F4)], copy_to=[np.ones(4, BF16)]),
        ValueError,
        r"^copy_to\[0\]: shape \(4,\), expected \(3,\) as in params",
    ),
    "copies of others": (
        lambda: gs.SGD({"w": np.ones(3, F4)}, copy_to={"v": np.ones(3, BF16)}),
        ValueError,
        "^copy_to: ",
    ),
    "double gradients": (
        lambda: gs.SGD(np.ones(3, BF16)).step(np.ones(3)),
        TypeError,
        "^grads: dtype float64, expected bfloat16 as in params",
    ),
    "half gradients of doubles": (
        lambda: gs.SGD(np.ones(3)).step(np.ones(3, BF16)),
        TypeError,
        "^grads: dtype .*bfloat16.*, expected native float32 or float64",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_types_that_do_not_fit_are_refused(case: str) -> None:
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()


def test_what_is_fixed_cannot_be_changed() -> None:
    made, _, _ = optimizer("Adam", "bfloat16, split", "int8")
    for name in ("master", "state_dtype", "copy_to"):
        with pytest.raises(AttributeError, match=f"^{name}: holds from when"):
            setattr(made, name, None)
    with pytest.raises(ValueError, match=r"^master: holds from when"):
        made.param_groups[0]["master"] = None
    assert made.master == "split"


def test_a_state_of_another_layout_is_refused() -> None:
    made, params, _ = optimizer("Adam", "bfloat16, split", "int8")
    made.step(gradients(0, F4))
    before = contents(made, params, [])
    saved = made.state_dict()
    for master, states in (("float32", "int8"), ("split", "bfloat16")):
        other = gs.Adam([p.copy() for p in params], master=master, state_dtype=states)
        with pytest.raises(ValueError, match=r"expected '.*' as this optimizer has"):
            other.load_state_dict(saved)
    for bad, message in (
        (np.nan, "not finite"),
        (np.inf, "not finite"),
        (-1.0, "negative"),
        (-0.0, "negative"),
    ):
        broken = copy.deepcopy(saved)
        broken["state"][0]["exp_avg_scale"][2] = bad
        with pytest.raises(ValueError, match=rf"exp_avg_scale'\]: .*{message}"):
            made.load_state_dict(broken)
    assert contents(made, params, []) == before


def test_a_copy_that_was_frozen_or_moved_is_refused() -> None:
    w, out = np.ones(3, F4), np.zeros(3, BF16)
    made = gs.SGD(w, lr=1.0, copy_to=out)
    out.flags.writeable = False
    with pytest.raises(ValueError, match=r"^copy_to: read-only"):
        made.step(np.ones(3, F4))
    assert (w == 1).all()


def test_looking_at_gradients_reads_them_too() -> None:
    for dtype in HALF:
        g = np.float32([3, 4, np.inf, np.nan]).astype(dtype)
        assert gs.global_norm(g[:2]) == 5.0
        assert gs.nonfinite({"w": g}) == {"w": 2}
        assert gs.describe({"w": g})["w"].max == 4.0


def test_averages_read_them_too() -> None:
    average, expected = np.zeros(5, F4), np.zeros(5, F4)
    value = np.arange(5).astype(BF16)
    gs.ewma_(average, value, 0.5)
    gs.ewma_(expected, value.astype(F4), 0.5)
    assert average.tobytes() == expected.tobytes()
