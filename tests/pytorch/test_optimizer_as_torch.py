"""What torch's own tests of its optimizers ask, of ours: on the tables of `torch.testing`.

Not asked: other devices, complex parameters and parameters with gaps, which are refused by name
(test_optimizer_memory.py), and differentiable steps, refused likewise.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from optimizer_cases import assert_same, optim_db  # noqa: E402
from torch.testing._internal import common_optimizers  # noqa: E402

# torch asks whether it should check what sparse tensors are made of.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks")

INFOS = {info.optim_cls.__name__: info for info in optim_db if hasattr(gt, info.optim_cls.__name__)}
SPARSE = [name for name, info in INFOS.items() if info.supports_sparse] + ["SparseAdam"]
DENSE = [name for name in INFOS if name != "SparseAdam"]


def inputs(name: str) -> list[dict[str, Any]]:
    """All configurations of torch's tests, with foreach and fused on and off."""
    found = common_optimizers._get_optim_inputs_including_global_cliquey_kwargs(
        "cpu", torch.float32, INFOS[name], skip=("differentiable",)
    )
    return [{k: v for k, v in one.kwargs.items() if k != "capturable" or not v} for one in found]


INPUTS = [(name, i) for name in DENSE for i in range(len(inputs(name)))]
over_inputs = pytest.mark.parametrize(("name", "i"), INPUTS)
over_all = pytest.mark.parametrize("name", INFOS)
over_dense = pytest.mark.parametrize("name", DENSE)


def made(name: str, params: Any, **options: Any) -> Any:
    return getattr(gt, name)(params, **options)


def problem(seed: int = 0) -> tuple[Any, Any, Any]:
    random = torch.Generator().manual_seed(seed)
    weight = torch.nn.Parameter(torch.randn(10, 5, generator=random))
    bias = torch.nn.Parameter(torch.randn(10, generator=random))
    return weight, bias, torch.randn(5, generator=random)


def closure_of(optimizer: Any, weight: Any, bias: Any, data: Any) -> Any:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = (weight.mv(data) + bias).square().sum()
        loss.backward()
        if isinstance(optimizer, torch.optim.SparseAdam):
            weight.grad, bias.grad = weight.grad.to_sparse(), bias.grad.to_sparse()
        return loss

    return closure


def trained(name: str, steps: int = 3, **options: Any) -> Any:
    weight, bias, data = problem()
    optimizer = made(name, [weight, bias], **options)
    closure = closure_of(optimizer, weight, bias, data)
    for _ in range(steps):
        optimizer.step(closure)
    return optimizer, closure


# Directions


@pytest.mark.parametrize("groups", ["one", "a rate each", "only the second"])
@over_inputs
def test_it_goes_the_right_way_under_each_scheduler(name: str, i: int, groups: str) -> None:
    kwargs = inputs(name)[i]
    if groups != "one" and kwargs.get("weight_decay"):
        pytest.skip("one of each will do")
    for makers in ((), *INFOS[name].scheduler_inputs):
        weight, bias, data = problem()
        given: Any = {
            "one": [weight, bias],
            "a rate each": [{"params": [weight]}, {"params": [bias], "lr": 0.01}],
            "only the second": [{"params": bias, "lr": 0.01}],
        }[groups]
        optimizer = made(name, given, **copy.deepcopy(kwargs))
        schedulers = [make(optimizer) for make in makers]
        closure = closure_of(optimizer, weight, bias, data)
        first = closure().item()
        for _ in range(20):
            loss = optimizer.step(closure)
            for scheduler in schedulers:
                plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(*([loss.item()] if plateau else []))
        last = closure().item()
        assert last > first if kwargs.get("maximize") else last < first


@pytest.mark.parametrize("shape", [(), (1,)], ids=repr)
@over_inputs
def test_a_rate_in_a_tensor_is_the_rate_as_a_number(name: str, i: int, shape: Any) -> None:
    kwargs = inputs(name)[i]
    rate = float(kwargs.pop("lr", 0.01))
    for flags in ({}, {"foreach": False, "fused": False} if "fused" in kwargs else {}):
        pairs = []
        for lr in (torch.full(shape, rate, dtype=torch.float64), rate):
            weight, bias, data = problem()
            if kwargs.get("foreach") and isinstance(lr, torch.Tensor):
                flags = {**flags, "foreach": False}
            optimizer = made(name, [weight, bias], lr=lr, **{**kwargs, **flags})
            closure = closure_of(optimizer, weight, bias, data)
            for _ in range(4):
                optimizer.step(closure)
            pairs.append([weight, bias])
        assert optimizer.param_groups[0]["lr"] == rate
        torch.testing.assert_close(*pairs, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_betas_in_tensors(name: str) -> None:
    pairs = []
    for betas in ((torch.tensor(0.5), torch.tensor(0.75)), (0.5, 0.75)):
        weight, bias, data = problem()
        optimizer = made(name, [weight, bias], lr=torch.tensor(0.1), betas=betas, foreach=False)
        for _ in range(3):
            optimizer.step(closure_of(optimizer, weight, bias, data))
        pairs.append([weight, bias])
    torch.testing.assert_close(*pairs, rtol=0, atol=0)


@over_dense
def test_groups_have_their_own_rate_and_decay(name: str) -> None:
    weight, bias, data = problem()
    frozen = {"weight": weight.detach().clone(), "bias": bias.detach().clone()}
    optimizer = made(name, [{"params": [weight]}, {"params": [bias], "lr": 0.0}], lr=0.01)
    for _ in range(3):
        optimizer.step(closure_of(optimizer, weight, bias, data))
    assert torch.equal(bias, frozen["bias"]) and not torch.equal(weight, frozen["weight"])
    weight, bias, _ = problem()
    optimizer = made(
        name, [{"params": [weight], "weight_decay": 0.5}, {"params": [bias]}], weight_decay=0.0
    )
    for p in (weight, bias):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(bias, frozen["bias"])
    assert weight.detach().norm() < frozen["weight"].norm()


# Steps that do nothing


@over_inputs
def test_a_step_without_gradients_is_none_at_all(name: str, i: int) -> None:
    weight, bias, _ = problem()
    kept = [weight.detach().clone(), bias.detach().clone()]
    optimizer = made(name, [weight, bias], **inputs(name)[i])
    optimizer.step()
    torch.testing.assert_close([weight.detach(), bias.detach()], kept, rtol=0, atol=0)


@over_all
def test_zero_gradients_move_nothing_without_decay(name: str) -> None:
    weight, bias, _ = problem()
    optimizer = made(name, [weight, bias], **({"weight_decay": 0} if name == "AdamW" else {}))
    for t in range(3):
        for p in (weight, bias):
            p.grad = torch.zeros_like(p)
            if name == "SparseAdam":
                p.grad = p.grad.to_sparse()
        kept = [weight.detach().clone(), bias.detach().clone()]
        optimizer.step()
        torch.testing.assert_close([weight.detach(), bias.detach()], kept, rtol=0, atol=0)
        if weight in optimizer.state and "step" in optimizer.state[weight]:
            assert int(optimizer.state[weight]["step"]) == t + 1


@over_dense
def test_empty_tensors_take_part(name: str) -> None:
    empty, other = torch.nn.Parameter(torch.empty(0)), torch.nn.Parameter(torch.ones(2))
    optimizer = made(name, [empty, other])
    for p in (empty, other):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert (other < 1).all() and empty.shape == (0,)
    assert optimizer.state.get(empty, {}).keys() == optimizer.state.get(other, {}).keys()


@over_all
def test_only_what_fits_is_taken_for_parameters(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match="empty parameter list"):
        made(name, [])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        made(name, [1.0])
    with pytest.raises(TypeError, match="iterable"):
        made(name, p)
    with pytest.raises(ValueError, match="can't optimize a non-leaf Tensor"):
        made(name, [p * 2])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        made(name, [p, p])
    with pytest.raises(ValueError, match="more than one parameter group"):
        made(name, [{"params": [p]}, {"params": [p]}])
    with pytest.raises(TypeError, match="sets"):
        made(name, [{"params": {p}}])


def test_a_parameter_that_stands_twice_in_a_group_is_refused_at_the_step() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = gt.SGD([p, p])
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match="the same memory"):
        optimizer.step()
    assert p.tolist() == [1.0, 1.0]


# State


@over_inputs
def test_a_state_dict_is_deterministic_and_goes_on(name: str, i: int) -> None:
    kwargs = inputs(name)[i]
    optimizer, closure = trained(name, 5, **kwargs)
    weight, bias, data = problem()
    with torch.no_grad():
        for p, q in zip((weight, bias), optimizer.param_groups[0]["params"], strict=True):
            p.copy_(q)
    again = made(name, [weight, bias], **kwargs)
    saved = copy.deepcopy(optimizer.state_dict())
    given = copy.deepcopy(saved)
    again.load_state_dict(given)
    other = closure_of(again, weight, bias, data)
    for _ in range(5):
        optimizer.step(closure)
        again.step(other)
        mine = optimizer.param_groups[0]["params"]
        torch.testing.assert_close([weight, bias], mine, rtol=0, atol=0)
    torch.testing.assert_close(given["state"], saved["state"], rtol=0, atol=0)
    assert given["param_groups"] == saved["param_groups"]
    assert optimizer.state_dict()["param_groups"] == again.state_dict()["param_groups"]
    torch.testing.assert_close(
        optimizer.state_dict()["state"], again.state_dict()["state"], rtol=0, atol=0
    )


@over_all
def test_older_state_dicts_load(name: str) -> None:
    """Without the flags that came after the class, and with numbers for steps."""
    optimizer, closure = trained(name)
    twin, other = trained(name)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for flag in INFOS[name].not_og_supported_flags:
            group.pop(flag, None)
    for own in saved["state"].values():
        if "step" in own:
            own["step"] = float(own["step"])
    optimizer.load_state_dict(saved)
    optimizer.step(closure)
    twin.step(other)
    mine, others = (o.param_groups[0]["params"] for o in (optimizer, twin))
    torch.testing.assert_close(mine, others, rtol=0, atol=0)


@over_all
def test_saved_and_loaded_with_weights_only_it_is_equal(name: str) -> None:
    optimizer, _ = trained(name)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    torch.testing.assert_close(loaded["state"], optimizer.state_dict()["state"], rtol=0, atol=0)
    assert loaded["param_groups"] == optimizer.state_dict()["param_groups"]


@over_dense
def test_a_state_of_another_dtype_is_cast_but_for_the_step(name: str) -> None:
    optimizer, _ = trained(name)
    weight, bias, data = problem()
    wide = [torch.nn.Parameter(p.detach().double()) for p in (weight, bias)]
    peer = getattr(torch.optim, name)(wide)
    mine = [torch.nn.Parameter(p.detach().clone()) for p in wide]
    again = made(name, mine)
    for o in (peer, again):
        o.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        o.step(closure_of(o, *o.param_groups[0]["params"], data.double()))
    for p, q in zip(mine, wide, strict=True):
        for key, value in peer.state[q].items():
            if value is not None:
                assert again.state[p][key].dtype == value.dtype
    assert_same(mine, wide, again, peer)


@over_dense
def test_a_state_that_others_put_in_stays(name: str) -> None:
    weight, bias, data = problem()
    optimizer = made(name, [weight, bias])
    optimizer.state[weight]["mine"] = 7
    optimizer.state["of all"] = "kept"
    for _ in range(2):
        optimizer.step(closure_of(optimizer, weight, bias, data))
    assert optimizer.state[weight]["mine"] == 7 and optimizer.state["of all"] == "kept"
    again = made(name, [weight, bias])
    again.load_state_dict(optimizer.state_dict())
    assert again.state[weight]["mine"] == 7 and again.state["of all"] == "kept"


@over_all
def test_copies_have_all_public_attributes(name: str) -> None:
    optimizer, _ = trained(name)
    public = {key for key in vars(optimizer) if not key.startswith("_")}
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert {key for key in vars(copied) if not key.startswith("_")} == public
        assert type(copied) is type(optimizer)
        assert repr(copied) == repr(optimizer)
        assert copied.defaults.items() >= optimizer.defaults.items()


@over_all
def test_it_can_be_printed(name: str) -> None:
    optimizer, _ = trained(name)
    assert repr(optimizer).startswith(f"{name} (\nParameter Group 0\n")


# Names


@over_all
def test_names_go_with_the_state_and_do_not_decide(name: str) -> None:
    weight, bias, data = problem()
    optimizer = made(name, [("weight", weight), ("bias", bias)])
    optimizer.step(closure_of(optimizer, weight, bias, data))
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["weight", "bias"]
    other, plain = made(name, [("w", weight), ("b", bias)]), made(name, [weight, bias])
    for each in (other, plain):
        each.load_state_dict(saved)
        assert each.param_groups[0]["param_names"] == ["weight", "bias"]
        each.step(closure_of(each, weight, bias, data))
    unnamed = made(name, [weight, bias])
    unnamed.step(closure_of(unnamed, weight, bias, data))
    optimizer.load_state_dict(unnamed.state_dict())
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    with pytest.raises(ValueError, match="names"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})


# Hooks


@over_all
def test_step_hooks_see_the_optimizer_and_may_replace_the_arguments(name: str) -> None:
    optimizer, closure = trained(name, 0)
    seen: list[Any] = []

    def before(given: Any, args: Any, kwargs: Any) -> Any:
        seen.append(("before", given))
        return (given, closure), kwargs

    def after(given: Any, args: Any, kwargs: Any) -> None:
        seen.append(("after", given, len(args)))

    handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
    assert optimizer.step() is not None
    assert seen == [("before", optimizer), ("after", optimizer, 2)]
    for handle in handles:
        handle.remove()
    assert optimizer.step() is None and len(seen) == 2


@over_all
def test_state_dict_hooks_run_in_order_and_may_replace(name: str) -> None:
    optimizer, _ = trained(name)
    order: list[str] = []

    def note(what: str, result: Any = None) -> Any:
        def hook(*_: Any) -> Any:
            order.append(what)
            return result

        return hook

    optimizer.register_state_dict_pre_hook(note("second"))
    optimizer.register_state_dict_pre_hook(note("first"), prepend=True)
    optimizer.register_state_dict_post_hook(note("fourth", {"replaced": True}))
    optimizer.register_state_dict_post_hook(note("third"), prepend=True)
    assert optimizer.state_dict() == {"replaced": True}
    assert order == ["first", "second", "third", "fourth"]


@over_all
def test_hooks_around_loading_see_what_is_loaded(name: str) -> None:
    optimizer, _ = trained(name)
    saved = copy.deepcopy(optimizer.state_dict())
    again, _ = trained(name, 0)
    order: list[str] = []

    def faster(given: Any, state_dict: Any) -> Any:
        order.append("pre")
        state_dict["param_groups"] = copy.deepcopy(state_dict["param_groups"])
        state_dict["param_groups"][0]["lr"] = 0.5
        return state_dict

    def check(given: Any) -> None:
        order.append("post")
        assert given.param_groups[0]["lr"] == 0.5
        assert len(given.state) == len(saved["state"])

    again.register_load_state_dict_pre_hook(faster)
    again.register_load_state_dict_post_hook(check)
    again.load_state_dict(saved)
    assert order == ["pre", "post"]
    assert saved["param_groups"][0]["lr"] != 0.5


# Sparse gradients


def rosenbrock(x: Any) -> Any:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("name", sorted(set(SPARSE)))
def test_rosenbrock_by_sparse_gradients_in_pieces(
    name: str, maximize: bool, scheduled: bool
) -> None:
    """As torch's test: one coordinate at a time, its gradient in two parts."""
    configurations, makers = INFOS[name].metadata_for_sparse
    given = configurations if isinstance(configurations, list) else [configurations]
    for kwargs in (dict(one) for one in given):
        kwargs["maximize"] = maximize
        mine, other = (torch.nn.Parameter(torch.tensor([1.5, 1.5])) for _ in range(2))
        x, y = made(name, [mine], **kwargs), getattr(torch.optim, name)([other], **kwargs)
        schedulers = [make(o) for o in (x, y) for make in makers] if scheduled else []
        for t in range(100):
            for p, optimizer in ((mine, x), (other, y)):
                at = t % 2
                point = p.detach().clone().requires_grad_()
                rosenbrock(point).backward()
                part = float(point.grad[at])
                p.grad = torch.sparse_coo_tensor(
                    [[at, at]], torch.tensor([part / 4, part - part / 4]), (2,)
                )
                optimizer.step()
            for scheduler in schedulers:
                plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(*([rosenbrock(mine).item()] if plateau else []))
            if not mine.isfinite().all():
                break
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        assert t > 5


def test_every_optimizer_of_torch_that_we_have_is_asked() -> None:
    assert INFOS.keys() == gt.OPTIMIZERS.keys() - {"Lion"} | {"SparseAdam"}
    assert len(INPUTS) >= 80
