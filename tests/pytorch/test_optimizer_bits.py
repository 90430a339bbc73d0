"""torch's parameters and states in 16 and 8 bits: the bits of `gradstep`'s optimizers for arrays,
checkpoints of ours, of torch and of bitsandbytes, and what is refused.

One list of layouts and one of cases run through all of it: hence the length.
"""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import gradstep as gs
import ml_dtypes
import numpy as np
import pytest
from gradstep.optim.storage import state_values
from gradstep.spec import storage as spec

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
# (type of the parameters, master)
KINDS = {
    "float32": (F32, None),
    "bfloat16": (BF16, None),
    "bfloat16, split": (BF16, "split"),
    "bfloat16, float32 master": (BF16, "float32"),
    "float16, float32 master": (F16, "float32"),
}
STATES = ("float32", "bfloat16", "int8")
LAYOUTS = [(kind, states) for kind in KINDS for states in STATES]


def parameters(dtype: Any) -> list[Any]:
    """Of 8 bits and too few for them, empty, and in another order than C's."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(70, 80), (5,), (0, 2), (8, 16, 6, 6)]
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    tensors[3] = tensors[3].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(t) for t in tensors]


def give(params: list[Any], t: int, frozen: tuple[int, ...] = ()) -> None:
    generator = torch.Generator().manual_seed(100 + t)
    for i, p in enumerate(params):
        g = torch.randn(p.shape, generator=generator)
        p.grad = None if i in frozen else torch.empty_like(p).copy_(g)


def flat(tensor: Any) -> Any:
    """A copy of a tensor's memory, as an array."""
    tensor = tensor.detach()
    memory = tensor.as_strided((tensor.numel(),), (1,)).clone()
    if tensor.dtype == BF16:
        return memory.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return memory.numpy()


def contents(params: list[Any], opt: Any) -> list[bytes]:
    """All that a step may write, but for the numbers of steps."""
    states = [s for p in params for k, s in sorted(opt.state.get(p, {}).items()) if s.dim()]
    return [flat(t).tobytes() for t in (*params, *states)]


def made(name: str, kind: str, states: str, **options: Any) -> tuple[Any, list[Any]]:
    dtype, master = KINDS[kind]
    params = parameters(dtype)
    options = {"lr": 0.01, "seed": 7, **options}
    return gt.OPTIMIZERS[name](params, master=master, state_dtype=states, **options), params


def trained(name: str, kind: str, states: str, **options: Any) -> tuple[Any, list[Any]]:
    opt, params = made(name, kind, states, **options)
    for t in range(3):
        give(params, t)
        opt.step()
    return opt, params


OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adagrad": {"initial_accumulator_value": 0.1},  # no number of 16 bits
}


@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_steps_are_those_of_arrays(name: str) -> None:
    """To the bit, random ones too, also where a parameter takes part only now and then."""
    for number, (kind, states) in enumerate(LAYOUTS):
        if name == "Adagrad" and states != "float32":
            continue
        extra: dict[str, Any] = {"clip_norm": 1.0} if states == "bfloat16" else {}
        extra["ema"] = (None, "float32", "bfloat16")[(number + number // 3) % 3]
        opt, params = made(name, kind, states, **OPTIONS.get(name, {}), **extra)
        arrays = [flat(p) for p in params]
        twin = gs.OPTIMIZERS[name](
            arrays,
            lr=0.01,
            seed=7,
            master=KINDS[kind][1],
            state_dtype=states,
            **{key: value for key, value in opt.defaults.items() if key in ("eps", "weight_decay")},
            **OPTIONS.get(name, {}),
            **extra,
        )
        for t in range(4):
            give(params, t, (1,) if t in (0, 2) else ())
            opt.step()
            twin.step([None if p.grad is None else flat(p.grad) for p in params])
        for p, array, own in zip(params, arrays, twin.state.values(), strict=True):
            assert flat(p).tobytes() == array.tobytes(), (kind, states)
            found = {k: v for k, v in opt.state[p].items() if v.dim() or k in own}
            assert found.keys() == own.keys()
            for key, value in own.items():
                assert flat(found[key]).tobytes() == value.tobytes(), (kind, states, key)


def test_gradients_may_be_of_another_type_than_their_parameter() -> None:
    for dtype in (BF16, F16, F32):
        for of in (BF16, F16, F32):
            w = torch.nn.Parameter(torch.ones(3, dtype=dtype))
            w.grad_dtype = of
            w.grad = torch.ones(3, dtype=of)
            gt.SGD([w], lr=0.5, master="float32").step()
            assert w.tolist() == [0.5] * 3
    w = torch.nn.Parameter(torch.ones(3))
    w.grad_dtype = torch.float64
    w.grad = torch.ones(3).double()
    with pytest.raises(TypeError, match=r"grad: torch\.float64, expected torch\.float32 as in"):
        gt.SGD([w]).step()


def written(saved: Any) -> Any:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(("kind", "states"), LAYOUTS)
def test_a_resumed_run_is_the_run_to_the_bit(kind: str, states: str) -> None:
    opt, params = trained("Adam", kind, states, amsgrad=True)
    others = []
    for again in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        others.append((again, again.param_groups[0]["params"]))
    fresh, weights = made("Adam", kind, states, amsgrad=True, seed=0)
    fresh.load_state_dict(written(opt.state_dict()))
    with torch.no_grad():
        for p, q in zip(weights, params, strict=True):
            p.copy_(q)
    others.append((fresh, weights))
    for t in range(3, 5):
        give(params, t)
        opt.step()
    for again, found in others:
        for t in range(3, 5):
            give(found, t)
            again.step()
        assert contents(found, again) == contents(params, opt)


@pytest.mark.parametrize("name", ["SGD", "Lion"])
def test_steps_are_counted_where_random_bits_need_it(name: str) -> None:
    opt, params = made(name, "bfloat16", "float32")
    give(params, 0)
    opt.step()
    fresh, weights = made(name, "bfloat16", "float32")
    fresh.load_state_dict(opt.state_dict())
    with torch.no_grad():
        for p, q in zip(weights, params, strict=True):
            p.copy_(q)
    for o, found in ((opt, params), (fresh, weights)):
        give(found, 1)
        o.step()
    assert contents(params, opt) == contents(weights, fresh)
    assert float(fresh.state[weights[0]]["step"]) == 2.0


def test_a_parameter_that_joins_late_leaves_the_momentum_of_others() -> None:
    whole, half = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3, dtype=BF16))
    alone = torch.nn.Parameter(torch.ones(3))
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    opt, twin = gt.SGD([whole, half], **options), gt.SGD([alone], **options)
    for t in range(3):
        whole.grad = alone.grad = torch.full((3,), t + 1.0)
        half.grad = torch.ones(3, dtype=BF16) if t else None
        opt.step()
        twin.step()
    assert torch.equal(whole, alone)


@pytest.mark.parametrize(("kind", "states"), LAYOUTS)
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
def test_states_of_torch_keep_their_values(kind: str, states: str, dtype: Any) -> None:
    """Not those of the parameter's type, as when torch loads them (pytorch#43706)."""
    stock = torch.optim.AdamW(parameters(dtype), lr=0.02)
    theirs = stock.param_groups[0]["params"]
    for t in range(3):
        give(theirs, t)
        stock.step()
    opt, params = made("AdamW", kind, states)
    opt.load_state_dict(stock.state_dict())
    assert opt.param_groups[0]["lr"] == 0.02
    assert opt.param_groups[0].get("state_dtype", "float32") == states
    for p, q in zip(params, theirs, strict=True):
        for key in ("exp_avg", "exp_avg_sq"):
            found, expected = opt.state[p], flat(stock.state[q][key]).astype(np.float32)
            scale = found.get(key + "_scale")
            values = state_values(flat(found[key]), None if scale is None else scale.numpy())
            assert np.dtype(flat(found[key]).dtype).name == (
                {"exp_avg": "int8", "exp_avg_sq": "uint8"}[key]
                if scale is not None
                else states.replace("int8", "float32")
            )
            if scale is not None:
                some = np.abs(expected) > np.abs(expected).max(initial=0) / 1000
                error = np.abs(values - expected)[some] / np.abs(expected[some])
                assert error.max(initial=0) < 0.09
            elif states == "bfloat16":
                np.testing.assert_array_equal(values, expected.astype(ml_dtypes.bfloat16))
            else:
                np.testing.assert_array_equal(values, expected)
    give(params, 3)
    opt.step()
    assert float(opt.state[params[0]]["step"]) == 4.0


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("kind", KINDS)
def test_ours_goes_on_in_torchs_class(kind: str, states: str) -> None:
    """8-bit states by way of an optimizer of ours with float32 ones."""
    opt, params = trained("AdamW", kind, states)
    if states == "int8":
        wide, _ = made("AdamW", kind, "float32")
        wide.load_state_dict(opt.state_dict())
        opt = wide
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params]
    stock = torch.optim.AdamW(copies)
    stock.load_state_dict(opt.state_dict())
    give(copies, 3)
    stock.step()
    for p, q in zip(opt.param_groups[0]["params"], copies, strict=True):
        assert opt.state[p]["exp_avg"].dtype == (BF16 if states == "bfloat16" else F32)
        assert stock.state[q]["exp_avg"].dtype == q.dtype and float(stock.state[q]["step"]) == 4


def test_loading_converts_between_layouts() -> None:
    """Also to a plain float32 optimizer, for which torch would take codes for numbers."""
    opt, params = trained("AdamW", "float32", "int8")
    plain, others = made("AdamW", "float32", "float32")
    plain.load_state_dict(opt.state_dict())
    own, found = opt.state[params[0]], plain.state[others[0]]
    assert set(found) == {"step", "exp_avg", "exp_avg_sq"}
    for key in ("exp_avg", "exp_avg_sq"):
        expected = state_values(flat(own[key]), own[key + "_scale"].numpy())
        np.testing.assert_array_equal(flat(found[key]), expected)
    back, rest = made("AdamW", "float32", "int8")
    back.load_state_dict(plain.state_dict())
    for p, q in zip(params, rest, strict=True):
        for key, value in opt.state[p].items():
            assert torch.equal(back.state[q][key], value), key
    assert plain.state[others[0]]["exp_avg"].stride() == others[0].stride()


# bitsandbytes


def of_bitsandbytes(params: list[Any], wrapped: bool) -> tuple[dict[str, Any], list[Any]]:
    """A state dict in its format, and the moments that it means."""
    rng = np.random.default_rng(4)
    state: dict[int, Any] = {}
    moments = []
    for i, p in enumerate(params):
        if p.numel() < 4096:
            m = [torch.randn(p.shape), torch.rand(p.shape)]
            state[i] = {"step": 5, "state1": m[0], "state2": m[1]}
            moments.append([flat(v) for v in m])
            continue
        own: dict[str, Any] = {}
        values = []
        for number, least in ((1, -1.0), (2, 0.0)):
            codes = rng.integers(0, 256, p.numel()).astype(np.uint8)
            qmap = np.sort(rng.uniform(least, 1, 256)).astype(np.float32)
            absmax = rng.uniform(0, 3, -(-p.numel() // 256)).astype(np.float32)
            like = torch.empty_like(p, dtype=torch.uint8)
            like.as_strided((p.numel(),), (1,)).copy_(torch.from_numpy(codes))
            own[f"state{number}"] = like
            own[f"qmap{number}"] = torch.from_numpy(qmap)
            own[f"absmax{number}"] = torch.from_numpy(absmax)
            values.append(np.float32([qmap[c] * absmax[k // 256] for k, c in enumerate(codes)]))
        moments.append(values)
        state[i] = {"step": 5}
        state[i] |= {"__bnb_optimizer_quant_state__": own} if wrapped else own
    group = {"lr": 0.03, "betas": [0.8, 0.95], "eps": 1e-6, "weight_decay": 0.5, "alpha": 0.0}
    saved = {"state": state, "param_groups": [{**group, "params": list(range(len(params)))}]}
    return saved, moments


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("states", ["float32", "int8"])
def test_states_of_bitsandbytes_are_read(states: str, wrapped: bool) -> None:
    opt, params = made("AdamW", "bfloat16, split", states)
    saved, moments = of_bitsandbytes(params, wrapped)
    before = copy.deepcopy(saved)
    opt.load_state_dict(saved)
    group = opt.param_groups[0]
    assert (group["lr"], group["eps"], group["weight_decay"]) == (0.03, 1e-6, 0.5)
    assert (group["betas"], group["amsgrad"], group["master"]) == ([0.8, 0.95], False, "split")
    for p, expected in zip(params, moments, strict=True):
        own = opt.state[p]
        for key, values in zip(("exp_avg", "exp_avg_sq"), expected, strict=True):
            scale = own.get(key + "_scale")
            if scale is None:
                np.testing.assert_array_equal(flat(own[key]), values)
            else:
                codes, scales = spec.to_blocks(values, key == "exp_avg")
                assert flat(own[key]).tobytes() == codes.tobytes()
                assert flat(scale).tobytes() == scales.tobytes()
    give(params, 0)
    opt.step()
    assert float(opt.state[params[0]]["step"]) == 6.0
    torch.testing.assert_close(saved, before, rtol=0, atol=0)


# What is refused


def scale_is_nan(state: Any) -> None:
    state[0]["exp_avg_scale"][3] = float("nan")


def scale_is_negative(state: Any) -> None:
    state[0]["exp_avg_sq_scale"][3] = -1.0


def scale_is_missing(state: Any) -> None:
    del state[0]["exp_avg_scale"]


def scale_is_short(state: Any) -> None:
    state[0]["exp_avg_scale"] = state[0]["exp_avg_scale"][:-1]


def state_has_another_shape(state: Any) -> None:
    state[1]["exp_avg"] = torch.ones(6)


def master_of_another_kind(state: Any) -> None:
    state[0]["master"] = torch.ones(70, 80)


WRONG = {
    scale_is_nan: r"\[0\]\['exp_avg_scale'\]: not finite or negative",
    scale_is_negative: r"\[0\]\['exp_avg_sq_scale'\]: not finite or negative",
    scale_is_missing: r"\[0\]\['exp_avg_scale'\]: NoneType, expected a numpy.ndarray",
    scale_is_short: r"\[0\]\['exp_avg_scale'\]: shape \(21,\), expected \(22,\)",
    state_has_another_shape: r"\[1\]\['exp_avg'\]: shape \(6,\), expected \(5,\) as in the param",
    master_of_another_kind: r"\[0\]\['master'\]: of master='float32', expected master='split'",
}


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_states_that_do_not_fit_are_refused_and_nothing_changes(spoil: Any) -> None:
    opt, params = trained("AdamW", "bfloat16, split", "int8")
    saved = copy.deepcopy(opt.state_dict())
    saved["param_groups"][0]["lr"] = 77.0
    spoil(saved["state"])
    before = contents(params, opt)
    with pytest.raises((TypeError, ValueError), match=rf"^state_dict\['state'\]{WRONG[spoil]}"):
        opt.load_state_dict(saved)
    assert contents(params, opt) == before
    assert opt.param_groups[0]["lr"] == 0.01
    assert not opt._optimizer_load_state_dict_pre_hooks


@pytest.mark.parametrize("key", ["master", "state_dtype", "ema"])
def test_how_arrays_are_kept_does_not_change_on_the_way(key: str) -> None:
    """The bits that a state has and another layout lacks would be lost without a word."""
    opt, params = made("AdamW", "bfloat16, split", "int8", ema="float32")
    give(params, 0)
    opt.step()
    before = contents(params, opt)
    group, kept = opt.param_groups[0], opt.param_groups[0][key]
    for value in {"master": ["float32", None], "state_dtype": ["float32"], "ema": [None]}[key]:
        group[key] = value
        with pytest.raises((TypeError, ValueError), match=r"^state\['group 0, parameter 0'\]\['"):
            opt.step()
        assert contents(params, opt) == before
    group[key] = kept
    opt.step()
    assert contents(params, opt) != before


def test_parameters_that_become_float32_go_on_without_a_master() -> None:
    for kind in ("bfloat16, split", "bfloat16, float32 master"):
        opt, params = trained("AdamW", kind, "float32")
        for p in params:
            p.data = p.data.float()
        give(params, 3)
        opt.step()
        fresh, weights = made("AdamW", kind, "float32")
        for p in weights:
            p.data = p.data.float()
        fresh.load_state_dict(written(opt.state_dict()))
        assert fresh.state_dict()["state"].keys() == opt.state_dict()["state"].keys()
        assert not any(name.startswith("master") for own in opt.state.values() for name in own)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "float16 alone": (
        lambda: stepped(gt.SGD, F16),
        ValueError,
        r"^params\['w'\]: float16 with master=None, expected master='float32'",
    ),
    "float64 in 8 bits": (
        lambda: stepped(gt.Adam, torch.float64, state_dtype="int8"),
        TypeError,
        r"^params\['w'\]: float64 with state_dtype='int8'",
    ),
    "a sum in 8 bits": (
        lambda: stepped(gt.Adagrad, F32, state_dtype="int8"),
        ValueError,
        "^state_dtype: 'int8' for the state 'sum'",
    ),
    "a name": (
        lambda: gt.Adam([torch.ones(2)], state_dtype="int4"),
        ValueError,
        "^state_dtype: 'int4', expected",
    ),
    "a name in a group": (
        lambda: gt.Adam([{"params": [torch.ones(2)], "master": "float64"}]),
        ValueError,
        "^master: 'float64', expected",
    ),
    "a seed": (lambda: gt.Adam([torch.ones(2)], seed=-1), ValueError, "^seed: -1, expected"),
    "a copy of its own type": (
        lambda: gt.SGD([torch.ones(2)], copy_to=[torch.ones(2)]),
        TypeError,
        r"^copy_to\['group 0, .*'\]: torch.float32, expected torch.bfloat16 or torch.float16$",
    ),
    "sparse bfloat16": (
        lambda: sparse(BF16, "float32"),
        TypeError,
        "torch.bfloat16, expected torch.float32 or torch.float64; use torch.optim.SGD for it$",
    ),
    "sparse in 8 bits": (
        lambda: sparse(F32, "int8"),
        ValueError,
        r"^param_groups\[0\]: state_dtype: 'int8', expected 'float32' with the sparse gradient of",
    ),
}


def stepped(kind: Any, dtype: Any, **options: Any) -> None:
    w = torch.nn.Parameter(torch.ones(2, dtype=dtype))
    w.grad = torch.ones_like(w)
    kind([("w", w)], **options).step()


def sparse(dtype: Any, states: str) -> None:
    table = torch.nn.Embedding(4, 2, sparse=True, dtype=dtype)
    table(torch.tensor([1])).sum().backward()
    gt.SGD(table.parameters(), state_dtype=states).step()


@pytest.mark.parametrize("case", REFUSED)
def test_types_that_do_not_fit_are_refused(case: str) -> None:
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()


# As a torch optimizer


def test_groups_choose_for_themselves_and_float32_beside_is_its_own_master() -> None:
    half, other, whole = parameters(BF16)[0], parameters(BF16)[0], parameters(F32)[0]
    opt = gt.AdamW(
        [{"params": [half], "state_dtype": "float32", "master": "float32"}, {"params": [other]}],
        master="split",
        state_dtype="int8",
    )
    opt.add_param_group({"params": [whole]})
    give([half, other, whole], 0)
    opt.step()
    assert {k: v.dtype for k, v in opt.state[half].items() if k != "step"} == {
        "exp_avg": F32,
        "exp_avg_sq": F32,
        "master": F32,
    }
    assert set(opt.state[other]) == {
        *("step", "exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale", "master_low")
    }
    assert opt.state[whole]["exp_avg"].dtype == torch.int8
    assert "master_low" not in opt.state[whole]


def test_a_seed_that_changes_holds_from_the_next_step_on() -> None:
    opt, params = made("SGD", "bfloat16", "float32")
    arrays = [flat(p) for p in params]
    twin = gs.SGD(arrays, lr=0.01, seed=7)
    for t in range(3):
        if t == 1:
            opt.param_groups[0]["seed"] = twin.seed = 5
        give(params, t)
        opt.step()
        twin.step([flat(p.grad) for p in params])
        assert [flat(p).tobytes() for p in params] == [a.tobytes() for a in arrays]


@pytest.mark.parametrize(("kind", "states"), LAYOUTS)
def test_gradients_are_cleared_skipped_and_named(kind: str, states: str) -> None:
    opt, params = trained("AdamW", kind, states, zero_grads=True, on_nonfinite="skip")
    assert not any(p.grad.any() for p in params)
    give(params, 5)
    params[0].grad[3, 4] = float("inf")
    before, versions = contents(params, opt), [p._version for p in params]
    opt.on_nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"parameter 0'\].grad: 1 of 5600 elements"):
        opt.step()
    opt.on_nonfinite = "skip"
    opt.step()
    assert opt.skipped and not params[0].grad.any()
    assert contents(params, opt) == before and versions == [p._version for p in params]


@pytest.mark.parametrize(
    ("kind", "fused"),
    # Gradients of float16 torch does not unscale: they need `fused=True`.
    [(k, f) for k in KINDS for f in (False, True) if f or KINDS[k][0] != F16],
)
def test_a_grad_scaler_gives_the_steps_of_unscaled_gradients(kind: str, fused: bool) -> None:
    plain, params = made("AdamW", kind, "float32")
    scaled, others = made("AdamW", kind, "float32", fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for t in range(3):
        give(params, t)
        give(others, t)
        for q in others:
            q.grad *= 4
        plain.step()
        scaler.scale(torch.ones(()))
        scaler.step(scaled)
        scaler.update()
    assert contents(params, plain) == contents(others, scaled)


def test_memory_that_moves_is_followed_and_replaced_states_are_checked() -> None:
    opt, params = trained("AdamW", "bfloat16, split", "int8")
    twin = copy.deepcopy(opt)
    for p in params:
        p.data = p.data.clone(memory_format=torch.preserve_format)
    others = twin.param_groups[0]["params"]
    for o, found in ((opt, params), (twin, others)):
        give(found, 3)
        o.step()
    assert contents(params, opt) == contents(others, twin)
    opt.state[params[0]]["exp_avg"] = torch.zeros(70, 80)
    before = contents(params, opt)
    with pytest.raises(TypeError, match=r"\['exp_avg'\]: torch\.float32, expected torch\.int8$"):
        opt.step()
    assert contents(params, opt) == before


@pytest.mark.parametrize("kind", list(KINDS)[2:])
def test_weights_loaded_elsewhere_reach_their_masters(kind: str) -> None:
    opt, params = trained("SGD", kind, "float32", lr=1.0)
    kept = params[0].detach().clone()
    with torch.no_grad():
        params[0][:10] = 3
    opt.reload_masters()
    for p in params:
        p.grad = torch.zeros_like(p)
    opt.step()
    assert (params[0][:10] == 3).all() and torch.equal(params[0][10:], kept[10:])


def test_backward_through_a_changed_weight_is_torchs_error() -> None:
    for kind in list(KINDS)[1:]:
        w = torch.nn.Parameter(torch.ones(3, dtype=KINDS[kind][0]))
        loss = (w * w).sum()
        w.grad = torch.ones_like(w)
        gt.SGD([w], master=KINDS[kind][1]).step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


# torch's bfloat16 in optimizers for arrays


def test_arrays_take_bfloat16_tensors() -> None:
    w, g = np.ones(5, np.float32), torch.ones(5, dtype=BF16)
    opt = gs.SGD(w, lr=0.5, on_nonfinite="raise")
    opt.step(g, zero_grads=True)
    assert (w == 0.5).all() and not g.any()
    g[2] = float("inf")
    with pytest.raises(FloatingPointError, match=r"^grads: 1 of 5 elements are not finite"):
        opt.step(g)
    opt.on_nonfinite = "skip"
    assert opt.step(g, zero_grads=True).skipped and not g.any()
    opt.bind(g)
    g.fill_(1)
    opt.reference_step()
    assert (w == 0).all() and gs.global_norm(g) == 5**0.5
    weight = torch.ones(5, dtype=BF16)
    gs.SGD(weight, lr=0.5, master="split").step(g)
    assert weight.tolist() == [0.5] * 5


def test_bfloat16_tensors_that_cannot_be_taken_are_refused() -> None:
    freed = torch.ones(8, dtype=BF16)
    freed.untyped_storage().resize_(0)
    for tensor, message in (
        (freed, "without memory"),
        (torch.ones(3, dtype=BF16, requires_grad=True), "require gradient"),
        (torch._neg_view(torch.ones(3, dtype=BF16)), "lazily negated"),
    ):
        with pytest.raises(TypeError, match=message):
            gs.SGD(tensor)
