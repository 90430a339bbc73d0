"""accelerate and restore change the class of modules and nothing else."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from gradstep.torch.nn.accelerate import OURS  # noqa: E402
from torch import nn  # noqa: E402


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Dropout(0.5)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), self.shared, nn.GroupNorm(2, 8)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 16, 4), nn.LayerNorm(4))

    def forward(self, x: Any) -> Any:
        return self.head(self.shared(self.body(x)))


def test_everything_else_stays() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    x, calls = torch.randn(2, 3, 6, 6), []
    model.head[2].register_forward_hook(lambda *_: calls.append(1))
    before = model(x)
    objects = {name: id(each) for name, each in model.named_modules()}
    tensors = {name: id(each) for name, each in model.state_dict(keep_vars=True).items()}
    report = gt.accelerate(model)
    assert set(report.replaced) == {"shared", "body.1", "body.4", "head.2"}
    assert not report.left
    assert type(model.shared) is gt.Dropout and model.body[3] is model.shared
    assert {name: id(each) for name, each in model.named_modules()} == objects
    assert {name: id(t) for name, t in model.state_dict(keep_vars=True).items()} == tensors
    assert not any(module.training for module in model.modules())
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert len(calls) == 2
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(Net().apply(gt.accelerate)))):
        assert type(again.body[1]) is gt.BatchNorm2d
    assert gt.restore(model).replaced.keys() == report.replaced.keys()
    assert model(x).equal(before)
    assert not any(type(module) in OURS.values() for module in model.modules())


def test_training_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    stock = Net()
    stock.shared.p = 0.0
    ours = copy.deepcopy(stock)
    gt.accelerate(ours)
    x = torch.randn(4, 3, 6, 6)
    for model in (stock, ours):
        model(x).pow(2).sum().backward()
    for (name, expected), found in zip(stock.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-4, msg=name)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(stock.named_buffers()))
    stock.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("torchs", OURS, ids=lambda kind: kind.__name__)
def test_the_model_itself_may_be_a_module(torchs: Any) -> None:
    args = (3, 6) if torchs is nn.GroupNorm else (0.5,) if "Dropout" in torchs.__name__ else (6,)
    module = torchs(*args)
    gt.accelerate(module)
    assert type(module) is OURS[torchs]
    gt.restore(module)
    assert type(module) is torchs


def test_a_second_call_does_nothing() -> None:
    model = Net()
    gt.accelerate(model)
    report = gt.accelerate(model)
    assert not report.replaced
    assert {reason for _, reason in report.left.values()} == {"is one of gradstep's already"}


def test_tells_what_it_left_and_why() -> None:
    class Mine(nn.LayerNorm):
        def forward(self, x: Any) -> Any:
            return super().forward(x) * 2

    patched = nn.LayerNorm(4)
    patched.forward = lambda x: x
    model = nn.ModuleDict(
        {
            "mine": Mine(4),
            "patched": patched,
            "lazy": nn.LazyBatchNorm1d(),
            "parametrized": nn.utils.parametrize.register_parametrization(
                nn.LayerNorm(4), "weight", nn.Identity()
            ),
            "sync": nn.SyncBatchNorm(4),
            "attention": nn.MultiheadAttention(4, 2, dropout=0.1),
            "linear": nn.Linear(4, 4),
        }
    )
    classes = [type(module) for module in model.modules()]
    report = gt.accelerate(model)
    assert [type(module) for module in model.modules()] == classes
    assert {name: reason for name, (_, reason) in report.left.items()} == {
        "mine": "is a subclass with a forward of its own: see gradstep.torch.register",
        "patched": "its forward was replaced",
        "lazy": "is lazy: run one batch through the model first",
        "parametrized": "is parametrized",
        "sync": "gradstep has no such module",
        "attention": "its dropout is inside torch's own function",
    }
    text = str(report)
    assert text.startswith("0 modules replaced, 6 left")
    assert "  sync: torch.nn.SyncBatchNorm left: gradstep has no such module" in text


def test_a_fused_relu_is_not_lost() -> None:
    model = nn.Sequential(gt.BatchNorm2d(3, relu=True))
    report = gt.restore(model)
    assert type(model[0]) is gt.BatchNorm2d
    assert report.left == {"0": ("gradstep.torch.BatchNorm2d", "torch has none with relu=True")}


def test_wants_a_module() -> None:
    with pytest.raises(TypeError, match=r"model: list, expected a torch.nn.Module"):
        gt.accelerate([nn.LayerNorm(3)])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
def test_transformer_layers(training: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    x, padding = torch.randn(3, 5, 16), torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    expected = model(x, src_key_padding_mask=padding)
    gt.accelerate(model)
    found = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding], rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # torch's fast path, which reads the weights and skips the modules
        found = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding], rtol=1e-4, atol=1e-5)
