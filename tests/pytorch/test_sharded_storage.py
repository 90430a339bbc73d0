"""Shards of torch's parameters and states in 16 and 8 bits, and of averages: the bits of one
process, checkpoints, refusals of all together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradstep.distributed as gd
import gradstep.torch as gt
import pytest
import torch
from gradstep.distributed import checkpoint, exchange
from sharded_layouts import (
    BF16,
    F16,
    F32,
    KINDS,
    LAYOUTS,
    advance,
    alone,
    check_states,
    give,
    gradient,
    hyper,
    memory,
    of_bitsandbytes,
    parameters,
    same,
    sharded,
    summed,
)

from tests.ranks import on_ranks


def together(n: int, work: Callable[[Any], Any]) -> list[Any]:
    found = on_ranks(n, work)
    for each in found:
        if isinstance(each, BaseException):
            raise each
    return found


@pytest.fixture
def many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BUCKET", 2**14)
    monkeypatch.setattr(exchange, "LEAST_BUCKET", 2**14)
    monkeypatch.setattr(exchange, "STAGED", 2**16)


@pytest.mark.usefixtures("many_parts")
@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("name", gt.OPTIMIZERS)
def test_shards_have_the_bits_of_one_process_in_every_layout(name: str, reduce: bool) -> None:
    chosen = LAYOUTS if name == "AdamW" else LAYOUTS[len(name) % 3 :: 3]
    for number, (kind, states, ema) in enumerate(chosen):
        if name == "Adagrad":
            states = "float32"
        options = hyper(name, kind, states, ema, **({"clip_norm": 1.0} if number % 2 else {}))
        for ranks in (1, 2, 3) if name == "AdamW" else (2 + number % 2,):
            params, whole = alone(name, kind, options, range(3), ranks if reduce else 0)

            def work(
                transport: Any, kind: str = kind, options: dict[str, Any] = options
            ) -> tuple[list[Any], Any]:
                own, optimizer = sharded(transport, name, kind, options, reduce)
                for step in range(3):
                    rank = transport.rank if reduce else 0
                    advance(own, optimizer, gradient(KINDS[kind][0], step, rank))
                return own, optimizer

            for own, optimizer in together(ranks, work):
                assert same(own, params), (kind, states, ema, ranks)
                assert optimizer.grad_norm == whole.grad_norm
                check_states(optimizer, whole, params)


def test_groups_keep_their_arrays_as_they_say() -> None:
    def groups(own: list[Any]) -> list[dict[str, Any]]:
        return [
            {"params": own[:2], "master": "split", "state_dtype": "int8", "seed": 3},
            {"params": own[2:], "ema": "bfloat16", "ema_decay": 0.5},
        ]

    params = parameters(BF16)
    whole = gt.AdamW(groups(params), lr=0.01)
    for step in range(2):
        advance(params, whole, gradient(BF16, step, 0))

    def work(transport: Any) -> tuple[list[Any], Any]:
        own = parameters(BF16)
        optimizer = gt.distributed.ShardedOptimizer(gt.AdamW, groups(own), group=transport, lr=0.01)
        for step in range(2):
            advance(own, optimizer, gradient(BF16, step, 0))
        return own, optimizer

    for own, optimizer in together(3, work):
        assert same(own, params)
        check_states(optimizer, whole, params)


def test_gradients_of_16_bits_are_left_alone_and_can_be_zeroed() -> None:
    for zero in (False, True):

        def work(transport: Any, zero: bool = zero) -> list[Any]:
            options = hyper("SGD", "bfloat16", "float32", None, zero_grads=zero)
            own, optimizer = sharded(transport, "SGD", "bfloat16", options, reduce=True)
            advance(own, optimizer, gradient(BF16, 2, transport.rank))
            return [p.grad for p in own]

        for rank, found in enumerate(together(2, work)):
            expected = gradient(BF16, 2, rank)
            assert same(found, [torch.zeros_like(g) for g in expected] if zero else expected)


@pytest.mark.parametrize("reduce", [False, True])
def test_scaled_gradients_of_float16_are_divided_again(reduce: bool) -> None:
    kind = "float16, float32 master"
    options = hyper("AdamW", kind, "bfloat16", None, clip_norm=1.0)
    params, whole = alone("AdamW", kind, options, [])
    whole.grad_scale = 8.0 * (2 if reduce else 1)
    advance(params, whole, summed(F16, 2, 2) if reduce else gradient(F16, 2, 0))

    def work(transport: Any) -> tuple[list[Any], Any]:
        own, optimizer = sharded(transport, "AdamW", kind, options, reduce)
        optimizer.grad_scale = torch.tensor(8.0)
        advance(own, optimizer, gradient(F16, 2, transport.rank if reduce else 0))
        found = [p.detach().clone() for p in own], optimizer.grad_norm
        for wrong in (0.0, torch.inf, "much"):
            optimizer.grad_scale = wrong if transport.rank else 8.0
            words = "^grad_scale: " if transport.rank else "^rank 1: .*: grad_scale: "
            with pytest.raises((TypeError, ValueError, gd.DistributedError), match=words):
                optimizer.step()
        optimizer.grad_scale = 1.0 + transport.rank
        with pytest.raises(gd.DistributedError, match=r"other hyperparameters at step 2"):
            optimizer.step()
        return found

    for own, norm in together(2, work):
        assert same(own, params) and norm == whole.grad_norm


# Checkpoints


@pytest.mark.parametrize("part", [2**24, 5000])
def test_checkpoints_of_every_layout_go_on_with_any_number_of_processes(
    tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PART", part)
    for number, (kind, states, ema) in enumerate(LAYOUTS):
        name = ("AdamW", "SGD", "NAdam")[number % 3]
        folder = tmp_path / str(number)
        dtype = KINDS[kind][0]
        options = hyper(name, kind, states, ema)
        halfway, before = alone(name, kind, options, range(2))
        params, whole = alone(name, kind, options, range(3))

        def resumed(
            transport: Any, load: Callable[..., Any], case: tuple[Any, ...] = (name, kind, options)
        ) -> tuple[list[Any], Any]:
            own, optimizer = sharded(transport, *case[:2], {**case[2], "lr": 0.5, "seed": 0})
            load(own, optimizer)
            advance(own, optimizer, gradient(KINDS[case[1]][0], 2, 0))
            return own, optimizer

        def first(
            transport: Any, case: tuple[Any, ...] = (name, kind, options), folder: Path = folder
        ) -> None:
            own, optimizer = sharded(transport, *case)
            for step in range(2):
                advance(own, optimizer, gradient(KINDS[case[1]][0], step, 0))
            optimizer.save(folder)

        def of_one(
            own: list[Any], optimizer: Any, halfway: Any = halfway, before: Any = before
        ) -> None:
            with torch.no_grad():
                for p, q in zip(own, halfway, strict=True):
                    p.copy_(q)
            optimizer.load_state_dict(before.state_dict())

        def of_shards(own: list[Any], optimizer: Any, folder: Path = folder) -> None:
            optimizer.load(folder)

        together(2, first)
        for n, load in ((3, of_shards), (1, of_shards), (3, of_one)):
            for own, optimizer in together(n, lambda each, load=load: resumed(each, load)):
                assert same(own, params), (kind, states, ema, n)
                check_states(optimizer, whole, params)
        values, state = gt.distributed.to_state_dict(folder)
        assert [p.stride() for p in values] == [p.stride() for p in params]
        again = [torch.nn.Parameter(p) for p in values]
        one = gt.OPTIMIZERS[name](again, **{**options, "lr": 0.5, "seed": 0})
        one.load_state_dict(state)
        advance(again, one, gradient(dtype, 2, 0))
        assert same(again, params)


def test_states_of_other_layouts_and_of_torch_are_converted_as_by_the_class(
    tmp_path: Path,
) -> None:
    theirs = parameters(BF16)
    of_torch = torch.optim.AdamW(theirs, lr=0.1)
    advance(theirs, of_torch, gradient(BF16, 2, 0))
    _, of_int8 = alone("AdamW", "bfloat16", hyper("AdamW", "bfloat16", "int8", None), [2])
    _, plain = alone("AdamW", "float32", hyper("AdamW", "float32", "float32", None), [2])
    _, of_bf16 = alone("AdamW", "float32", hyper("AdamW", "float32", "bfloat16", None), [2])
    in_c_order = copy.deepcopy(plain.state_dict())
    for state in in_c_order["state"].values():
        state.update({key: value.contiguous() for key, value in state.items()})
    for kind, states, state in (
        ("bfloat16, split", "int8", of_torch.state_dict()),
        ("bfloat16, split", "float32", of_torch.state_dict()),
        ("bfloat16, split", "int8", of_int8.state_dict()),
        ("float32", "float32", of_int8.state_dict()),
        ("float32", "float32", of_bf16.state_dict()),
        ("float32", "float32", in_c_order),
        ("float32", "bfloat16", in_c_order),
        ("bfloat16, split", "int8", of_bitsandbytes()),
        ("float32", "float32", of_bitsandbytes()),
    ):
        dtype, options = KINDS[kind][0], hyper("AdamW", kind, states, None)
        params = parameters(dtype)
        whole = gt.AdamW(params, **options)
        whole.load_state_dict(copy.deepcopy(state))
        advance(params, whole, gradient(dtype, 2, 1))

        def work(
            transport: Any,
            state: Any = state,
            kind: str = kind,
            options: dict[str, Any] = options,
        ) -> tuple[list[Any], Any]:
            own, optimizer = sharded(transport, "AdamW", kind, options)
            optimizer.load_state_dict(state)
            advance(own, optimizer, gradient(KINDS[kind][0], 2, 1))
            return own, optimizer

        for own, optimizer in together(3, work):
            assert same(own, params)
            check_states(optimizer, whole, params)

    def other(transport: Any) -> tuple[list[Any], Any]:
        options = hyper("AdamW", "bfloat16", "int8", None)
        own, optimizer = sharded(transport, "AdamW", "bfloat16", options)
        advance(own, optimizer, gradient(BF16, 2, 0))
        optimizer.save(tmp_path / "run")
        own, optimizer = sharded(
            transport, "AdamW", "bfloat16", {**options, "state_dtype": "float32"}
        )
        optimizer.load(tmp_path / "run")
        return own, optimizer

    params = parameters(BF16)
    whole = gt.AdamW(params, **hyper("AdamW", "bfloat16", "float32", None))
    whole.load_state_dict(of_int8.state_dict())
    for _, optimizer in together(2, other):
        check_states(optimizer, whole, params)


def refused(n: int, work: Callable[[Any], Any]) -> list[str]:
    return [f"{type(each).__name__}: {each}" for each in on_ranks(n, work)]


def test_states_that_do_not_fit_change_nothing_on_any_process(tmp_path: Path) -> None:
    kind = "bfloat16, split"
    options = hyper("AdamW", kind, "int8", "float32")
    params, whole = alone("AdamW", kind, options, [2])
    good = whole.state_dict()

    def with_changed(change: Callable[[Any], Any]) -> Any:
        state = copy.deepcopy(good)
        change(state["state"][3])
        return state

    changes = {
        r"['exp_avg_scale']: not finite or negative": lambda own: own["exp_avg_scale"][-1].fill_(
            torch.inf
        ),
        r"['exp_avg_scale']: shape (33,), expected (34,)": lambda own: own.update(
            exp_avg_scale=own["exp_avg_scale"][:-1]
        ),
        r"['exp_avg_scale']: NoneType": lambda own: own.pop("exp_avg_scale"),
        r"['exp_avg']: shape (3,), expected (3, 41, 70)": lambda own: own.update(
            exp_avg=own["exp_avg"].reshape(-1)[:3].float()
        ),
        r"['master_low']: torch.float32, expected torch.int16": lambda own: own.update(
            master_low=own["master_low"].float()
        ),
        r"['master']: of master='float32', expected master='split'": lambda own: own.update(
            master=torch.zeros(3, 41, 70)
        ),
    }

    def load(transport: Any, state: Any) -> str:
        own, optimizer = sharded(transport, "AdamW", kind, options)
        advance(own, optimizer, gradient(BF16, 1, 0))
        before = [memory(p) for p in own]
        states = copy.deepcopy(optimizer.own.state_dict()["state"])
        with pytest.raises((TypeError, ValueError, gd.DistributedError)) as caught:
            (optimizer.load if isinstance(state, Path) else optimizer.load_state_dict)(state)
        assert all(map(torch.equal, map(memory, own), before))
        torch.testing.assert_close(optimizer.own.state_dict()["state"], states, rtol=0, atol=0)
        advance(own, optimizer, gradient(BF16, 2, 0))  # they go on
        return str(caught.value)

    for words, change in changes.items():
        state = with_changed(change)
        found = together(3, lambda each, state=state: load(each, state))
        assert all(words in said for said in found), (words, found)
    for words, state in (
        ("state_dict: groups of [1] parameters, expected [6]", torch.optim.AdamW(params[:1])),
        ("state_dict: no 'param_groups'", None),
    ):
        given = {} if state is None else state.state_dict()
        assert all(words in said for said in together(2, lambda each, g=given: load(each, g)))

    def save(transport: Any) -> None:
        own, optimizer = sharded(transport, "AdamW", kind, options)
        advance(own, optimizer, gradient(BF16, 2, 0))
        if transport.rank == 1:
            for state in optimizer.own.state.values():
                if "exp_avg_sq_scale" in state:
                    state["exp_avg_sq_scale"][0] = torch.nan
        optimizer.save(tmp_path / "run")

    together(2, save)
    found = together(3, lambda each: load(each, tmp_path / "run"))
    assert all("['exp_avg_sq_scale']: not finite or negative" in said for said in found)


# Averages


def test_averages_of_all_are_in_the_parameters_of_all(tmp_path: Path) -> None:
    for kind, ema in (("float32", "float32"), ("bfloat16, split", "bfloat16")):
        options = hyper("AdamW", kind, "float32", ema)
        params, whole = alone("AdamW", kind, options, range(3))
        with whole.averaged():
            averages = [p.detach().clone() for p in params]
        assert not same(averages, params)

        def work(
            transport: Any, case: tuple[Any, ...] = (kind, options), averages: Any = averages
        ) -> list[Any]:
            own, optimizer = sharded(transport, "AdamW", *case)
            for step in range(3):
                advance(own, optimizer, gradient(KINDS[case[0]][0], step, 0))
            before = [memory(p) for p in own]
            versions = [[p._version for p in own]]
            states = copy.deepcopy(optimizer.own.state_dict()["state"])
            with optimizer.averaged():
                versions.append([p._version for p in own])
                assert same(own, averages)
                for call in (
                    optimizer.step,
                    lambda: optimizer.save(tmp_path / "run"),
                    lambda: optimizer.load(tmp_path / "run"),
                    lambda: optimizer.averaged().__enter__(),
                    optimizer.own.reload_masters,
                ):
                    with pytest.raises(RuntimeError, match=r"hold their averages|in a block of it"):
                        call()
                assert same(own, averages)
            assert all(map(torch.equal, map(memory, own), before))
            versions.append([p._version for p in own])
            assert all(a < b < c for a, b, c in zip(*versions, strict=True))
            torch.testing.assert_close(optimizer.own.state_dict()["state"], states, rtol=0, atol=0)
            return own

        for own in together(3, work):
            assert same(own, params)
    assert not (tmp_path / "run").exists()


def test_what_ends_a_block_of_averages_leaves_the_parameters() -> None:
    kind, options = "bfloat16", hyper("SGD", "bfloat16", "float32", "float32")
    params, _ = alone("SGD", kind, options, [2, 3])

    def work(transport: Any) -> tuple[list[Any], str]:
        own, optimizer = sharded(transport, "SGD", kind, options)
        advance(own, optimizer, gradient(BF16, 2, 0))
        with suppress(ZeroDivisionError), optimizer.averaged():
            _ = 1 / (1 - transport.rank)
        with pytest.MonkeyPatch.context() as patch:
            if transport.rank == 1:
                patch.setattr(optimizer, "_addresses", [0] * len(own))
            with (
                pytest.raises((ValueError, gd.DistributedError)) as caught,
                optimizer.averaged(),
            ):
                pass
        advance(own, optimizer, gradient(BF16, 3, 0))  # they go on
        return own, str(caught.value)

    for own, said in together(2, work):
        assert same(own, params)
        assert "params['group 0, parameter 0']: moved in memory" in said


def test_a_process_alone_in_a_block_of_averages_is_an_error_of_all() -> None:
    def work(transport: Any) -> None:
        options = hyper("SGD", "float32", "float32", "float32")
        own, optimizer = sharded(transport, "SGD", "float32", options)
        advance(own, optimizer, gradient(F32, 2, 0))
        if transport.rank == 0:
            with optimizer.averaged():
                pass
        else:
            optimizer.step()

    said = "rank 1: calls 'step' of step 2, expected 'averaged' of step 1 as rank 0"
    assert refused(2, work) == [f"DistributedError: {said}"] * 2


def test_a_process_that_holds_averages_alone_is_an_error_of_all(tmp_path: Path) -> None:
    def work(transport: Any) -> list[str]:
        options = hyper("SGD", "float32", "float32", "float32")
        own, optimizer = sharded(transport, "SGD", "float32", options)
        advance(own, optimizer, gradient(F32, 2, 0))
        optimizer.save(tmp_path / "run")
        said = []
        optimizer.own._holds_averages = transport.rank == 1
        for call in (
            optimizer.step,
            lambda: optimizer.save(tmp_path / "run"),
            lambda: optimizer.load(tmp_path / "run"),
        ):
            with pytest.raises((RuntimeError, gd.DistributedError)) as caught:
                call()
            said.append(str(caught.value))
        optimizer.own._holds_averages = False
        advance(own, optimizer, gradient(F32, 3, 0))  # they go on
        return said

    first, second = together(2, work)
    assert first == [f"rank 1: RuntimeError: {said}" for said in second]
    for said, call in zip(second, ("step", "save", "load"), strict=True):
        assert said == f"{call}: parameters hold their averages, expected a {call} after that"


# Refusals


def test_refusals() -> None:
    def made(dtype: Any, **options: Any) -> Callable[[Any], Any]:
        def work(transport: Any) -> Any:
            own = parameters(dtype)
            return gt.distributed.ShardedOptimizer(gt.AdamW, own, group=transport, **options)

        return work

    first = "params['group 0, parameter 0']"
    assert refused(1, made(F16)) == [
        f"ValueError: {first}: float16 with master=None, expected master='float32', without which "
        "small steps are lost"
    ]
    assert (
        f"TypeError: {first}: float64 with ema='float32'"
        in refused(1, made(torch.float64, ema="float32"))[0]
    )
    assert (
        refused(2, made(F32, copy_to=[torch.zeros(90, 100, dtype=BF16)] * 6))
        == ["ValueError: copy_to: given, expected None: a shard keeps no second copy"] * 2
    )

    def changed(transport: Any) -> Any:
        own, optimizer = sharded(transport, "SGD", "bfloat16", {"lr": 0.1})
        give(own, gradient(BF16, 2, 0))
        if transport.rank == 1:
            optimizer.param_groups[0]["master"] = "split"
        optimizer.step()

    words = "ValueError: param_groups[0]: master: 'split', expected None as at first"
    assert refused(2, changed) == [f"DistributedError: rank 1: {words}", words]

    def of_other_type(transport: Any) -> Any:
        own, optimizer = sharded(transport, "SGD", "bfloat16", {"lr": 0.1}, reduce=True)
        give(own, gradient(F32 if transport.rank else BF16, 2, 0))
        optimizer.step()

    words = (
        f"TypeError: {first}.grad: torch.float32, expected torch.bfloat16 as in the parameter: so "
        "it travels with reduce=True"
    )
    assert refused(2, of_other_type) == [f"DistributedError: rank 1: {words}", words]
