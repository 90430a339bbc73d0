"""accelerate takes norms of other classes that compute what ours do, and names the others."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from gradstep.torch.nn import families  # noqa: E402
from module_cases import NativeCalls  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

C = 8


class RMS(nn.Module):
    """As in Llama and T5."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.rand(C) + 0.5), eps

    def forward(self, x: Any) -> Any:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * wide.to(x.dtype)


class RMSFromOne(RMS):
    """As in Gemma."""

    def forward(self, x: Any) -> Any:
        root = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return x * root * (1 + self.weight)


class Channels(nn.LayerNorm):
    """As timm's LayerNorm2d."""

    def forward(self, x: Any) -> Any:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class BatchAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def __init__(self, act: Any) -> None:
        super().__init__(C)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Any) -> Any:
        return self.act(self.drop(super().forward(x)))


class GroupAct(nn.GroupNorm):
    def __init__(self) -> None:
        super().__init__(2, C)
        self.act = nn.SiLU()

    def forward(self, x: Any) -> Any:
        return self.act(F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps))


class Wide(nn.LayerNorm):
    def forward(self, x: Any) -> Any:
        y = F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps)
        return y.type_as(x)


REGISTERED: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "rms": (RMS, (2, 3, C), "rms_norm"),
    "rms from one": (RMSFromOne, (2, 3, C), "rms_norm with 1 + weight"),
    "channels": (lambda: Channels(C), (2, C, 3, 4), "layer_norm over channels"),
    "batch relu": (lambda: BatchAct(nn.ReLU(inplace=True)), (3, C, 2, 4), "batch_norm"),
    "batch silu": (lambda: BatchAct(nn.SiLU()), (3, C, 2, 4), "batch_norm"),
    "group": (GroupAct, (2, C, 3, 4), "group_norm"),
    "wide": (lambda: Wide(C), (2, 3, C), "layer_norm"),
    "wide without bias": (lambda: Wide(C, bias=False), (2, 3, C), "layer_norm"),
    "wide without weight": (lambda: Wide(C, elementwise_affine=False), (2, 3, C), "layer_norm"),
}


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(families, "_registered", {})
    yield


def trained(module: Any, x: Any) -> list[Any]:
    x = x.clone().requires_grad_()
    module(x * 1).pow(3).sum().backward()
    grads = [each.grad for each in module.parameters()]
    for each in module.parameters():
        each.grad = None
    return [x.grad, *grads, *(each.clone() for each in module.buffers())]


@pytest.mark.parametrize("name", REGISTERED)
def test_a_registered_class(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape, formula = REGISTERED[name]
    torch.manual_seed(0)
    stock = make()
    gt.register(type(stock))
    x, ours = torch.randn(shape) + 1, copy.deepcopy(stock)
    before, state = repr(ours), copy.deepcopy(ours.state_dict())
    report = gt.accelerate(nn.ModuleList([ours]))
    assert [now for _, now in report.replaced.values()] == [f"gradstep.torch.functional.{formula}"]
    assert isinstance(ours, type(stock)) and repr(ours) == before
    torch.testing.assert_close(dict(ours.state_dict()), dict(state), rtol=0, atol=0)

    calls = NativeCalls(monkeypatch)
    for training in (True, False):
        found, expected = (trained(each.train(training), x) for each in (ours, stock))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert len(calls.taken) == 2
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(again) is type(ours) and repr(again) == before
    assert gt.accelerate(nn.ModuleList([ours])).left["0"][1] == "is one of gradstep's already"
    if "wide" not in name:  # which cannot take weights of half precision
        # By the module's own forward.
        half = (ours.bfloat16()(x.bfloat16()), stock.bfloat16()(x.bfloat16()))
        torch.testing.assert_close(*half, rtol=0, atol=0)
        assert len(calls.taken) == 2
    gt.restore(nn.ModuleList([ours]))
    assert type(ours) is type(stock)


def test_nothing_is_taken_by_its_name_alone() -> None:
    class Centred(RMS):
        def forward(self, x: Any) -> Any:
            return super().forward(x - x.mean(-1, keepdim=True))

    class OtherEps(RMS):
        def forward(self, x: Any) -> Any:
            norm = x.pow(2).mean(-1, keepdim=True).sqrt() + self.variance_epsilon
            return self.weight * x / norm

    class Constant(RMS):
        def forward(self, x: Any) -> Any:
            root = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            return self.weight.detach() * x * root

    class InTraining(RMS):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * (1 if self.training else 2)

    class Two(RMS):
        def forward(self, x: Any, y: Any) -> Any:
            return x + y

    for kind in (Centred, OtherEps, Constant, InTraining, Two):
        gt.register(kind)
        model = nn.Sequential(kind())
        report = gt.accelerate(model)
        assert type(model[0]) is kind
        assert report.left["0"][1].startswith("computes something else than our norms"), kind
    assert "missing 1 required positional argument" in report.left["0"][1]


def test_trying_a_module_leaves_it_alone() -> None:
    gt.register(BatchAct)
    module = BatchAct(nn.ReLU()).eval()
    state, generator = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    gt.accelerate(nn.Sequential(module))
    assert generator.equal(torch.get_rng_state()) and not module.training
    torch.testing.assert_close(dict(module.state_dict()), dict(state), rtol=0, atol=0)
    assert all(each.grad is None for each in module.parameters())
    assert nn.Sequential(BatchAct(nn.ReLU()).to("meta"))[0].weight.is_meta
    meta = nn.Sequential(BatchAct(nn.ReLU()).to("meta"))
    assert len(gt.accelerate(meta).replaced) == 1 and meta[0].weight.is_meta


class Inherits(nn.LayerNorm):
    extra = 3


class Quiet(nn.Dropout):
    pass


class Batch(nn.BatchNorm1d):
    pass


class Instance(nn.InstanceNorm1d):
    pass


@pytest.mark.parametrize(
    "make", (Inherits, Batch, Instance, lambda size: nn.Sequential(Quiet(0.4)))
)
def test_subclasses_that_inherit_the_computation_need_no_registration(make: Any) -> None:
    model = nn.Sequential(make(C))
    kinds = [type(each) for each in model.modules()]
    report = gt.accelerate(model)
    supported = make is not Instance  # nobody is known to inherit from it
    assert len(report.replaced) == supported and len(report.left) == (not supported)
    torch.manual_seed(0)
    x = torch.randn(4, C) if make is not Instance else torch.randn(4, C, 3)
    y = model(x)
    again = pickle.loads(pickle.dumps(model))
    assert [type(each) for each in again.modules()] == [type(each) for each in model.modules()]
    gt.restore(model)
    assert [type(each) for each in model.modules()] == kinds
    if make is not Batch:
        torch.manual_seed(0)
        x = torch.randn(x.shape)
        assert model(x).shape == y.shape


def test_all_that_looks_like_one_is_named() -> None:
    class DropPath(nn.Module):
        pass

    class FrozenNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(2))

    class RMSNorm(RMS):
        pass

    class NormBlock(nn.Module):  # made of such modules, none itself
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(2)

    model = nn.ModuleDict(
        {"path": DropPath(), "frozen": FrozenNorm(), "block": NormBlock(), "rms": RMSNorm()}
    )
    report = gt.accelerate(model)
    assert set(report.left) == {"path", "frozen", "rms"} and set(report.replaced) == {"block.norm"}
    assert {why for _, why in report.left.values()} == {
        "looks like one: see gradstep.torch.register"
    }


def test_a_formula_of_the_users_own() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Any) -> Any:
            return F.layer_norm(x, x.shape[-1:]) * 2

    def scaled(module: Any, x: Any) -> Any:
        return gt.functional.layer_norm(x, x.shape[-1:]) * 2

    gt.register(Scaled, scaled)
    model, x = nn.Sequential(Scaled()), torch.randn(3, C)
    expected = model(x)
    report = gt.accelerate(model)
    assert len(report.replaced) == 1
    torch.testing.assert_close(model(x), expected)


def test_a_pickle_whose_registration_is_gone_is_the_class_itself() -> None:
    gt.register(RMS, lambda module, x: x)
    module = RMS()
    gt.accelerate(nn.Sequential(module))
    pickled = pickle.dumps(module)
    families._registered.clear()
    assert type(pickle.loads(pickled)) is RMS


def test_tools_of_torch_on_such_modules() -> None:
    gt.register(RMS)
    model, x = nn.Sequential(RMS()), torch.randn(3, C)
    expected = model(x)
    gt.accelerate(model)
    for made in (torch.fx.symbolic_trace(model), torch.compile(model, backend="aot_eager")):
        torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-5)


def test_register_wants_a_class_and_a_function() -> None:
    with pytest.raises(TypeError, match=r"kind: RMS\(\), expected a subclass of torch.nn.Module"):
        gt.register(RMS())
    with pytest.raises(TypeError, match=r"forward: str, expected a function of a module and"):
        gt.register(RMS, "rms_norm")


def test_the_report_says_where_a_dropout_helps() -> None:
    text = str(gt.accelerate(nn.Sequential(nn.Dropout())))
    assert text.endswith("a replaced dropout helps only where its forward is called")
    assert "dropout helps" not in str(gt.accelerate(nn.Sequential(nn.LayerNorm(2))))
