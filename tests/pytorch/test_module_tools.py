"""What other parts of torch make of our modules: the same function, or an error, never another."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from torch import nn  # noqa: E402
from torch.ao.quantization import fuse_modules, fuse_modules_qat  # noqa: E402
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.(jit|ao).*:DeprecationWarning", "ignore:.*is deprecated:DeprecationWarning"
)


def net() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.InstanceNorm2d(8, affine=True),
        nn.GroupNorm(2, 8),
        nn.Dropout(0.5),
        nn.Dropout2d(0.5),
        nn.AlphaDropout(0.5),
        nn.Flatten(),
        nn.LayerNorm(8 * 16),
        nn.RMSNorm(8 * 16),
    )
    model(torch.randn(4, 3, 6, 6))
    return model.eval()


X = torch.randn(2, 3, 6, 6)


def accelerated() -> tuple[Any, Any]:
    model = net()
    expected = model(X).detach()
    assert len(gt.accelerate(model).replaced) == 8
    return model, expected


def test_script() -> None:
    model, expected = accelerated()
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(X), expected, rtol=1e-4, atol=1e-5)
    saved = io.BytesIO()
    torch.jit.save(scripted, saved)
    saved.seek(0)
    torch.testing.assert_close(torch.jit.load(saved)(X), scripted(X))
    assert type(model[1]) is gt.BatchNorm2d  # the model itself stays as it was
    scripted.train()(X)


def test_symbolic_trace_has_a_node_for_each_module() -> None:
    model, expected = accelerated()
    traced = torch.fx.symbolic_trace(model)
    kinds = [type(traced.get_submodule(n.target)) for n in traced.graph.nodes if n.target in "0123"]
    assert [node.op for node in traced.graph.nodes].count("call_module") == len(model)
    assert gt.BatchNorm2d in kinds
    torch.testing.assert_close(traced(X), expected, rtol=1e-4, atol=1e-5)
    assert torch.fx.symbolic_trace(gt.LayerNorm(4))(torch.ones(2, 4)).shape == (2, 4)


@pytest.mark.parametrize("relu", (False, True))
def test_eager_fusion(relu: bool) -> None:
    model, expected = accelerated()
    names = ["0", "1", "2"] if relu else ["0", "1"]
    fused = fuse_modules(model, names)
    assert isinstance(fused[1], nn.Identity)
    torch.testing.assert_close(fused(X), expected, rtol=1e-4, atol=1e-5)


def test_eager_fusion_for_training() -> None:
    model, _ = accelerated()
    stock = net().train()
    torch.manual_seed(1)
    expected = stock[:3](X)
    fused = fuse_modules_qat(model.train(), ["0", "1", "2"])
    torch.testing.assert_close(fused[:3](X), expected, rtol=1e-4, atol=1e-5)


def fused_relu() -> Any:
    module = gt.BatchNorm2d(8, relu=True)
    module.train()(torch.randn(4, 8, 3, 3))
    return module.eval()


LOSSES: dict[str, Any] = {
    "fuse_conv_bn_eval": lambda bn: fuse_conv_bn_eval(nn.Conv2d(3, 8, 3).eval(), bn),
    "convert_sync_batchnorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "convert in a model": lambda bn: nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(bn)),
    "fuse_modules": lambda bn: fuse_modules(
        nn.Sequential(nn.Conv2d(3, 8, 3), bn).eval(), ["0", "1"]
    ),
    "fuse_modules_qat": lambda bn: fuse_modules_qat(
        nn.Sequential(nn.Conv2d(3, 8, 3), bn).train(), ["0", "1"]
    ),
    "script": torch.jit.script,
}


@pytest.mark.parametrize("way", LOSSES)
def test_a_fused_relu_is_not_lost_in_a_conversion(way: str) -> None:
    with pytest.raises(RuntimeError, match=r"relu=True.* would lose .*ReLU"):
        LOSSES[way](fused_relu())


def test_a_batch_norm_without_relu_converts_as_torchs_does() -> None:
    ours, conv = gt.BatchNorm2d(8).eval(), nn.Conv2d(3, 8, 3).eval()
    torch.testing.assert_close(fuse_conv_bn_eval(conv, ours)(X), ours(conv(X)))
    linear, flat = nn.Linear(3, 8).eval(), gt.BatchNorm1d(8).eval()
    x = torch.randn(2, 3)
    torch.testing.assert_close(fuse_linear_bn_eval(linear, flat)(x), flat(linear(x)))
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(ours), nn.SyncBatchNorm)


def test_the_eps_of_a_fused_relu_can_be_set_and_travels() -> None:
    module = fused_relu()
    module.eps = 0.5
    x = torch.randn(2, 8, 3, 3)
    expected = nn.functional.batch_norm(
        x, module.running_mean, module.running_var, module.weight, module.bias, eps=0.5
    ).relu()
    for again in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        torch.testing.assert_close(again(x), expected, rtol=1e-4, atol=1e-5)
        assert "eps=0.5" in repr(again) and repr(again).endswith(", relu=True)")
    module.relu = False
    assert module.eps == 0.5 and "relu" not in repr(module)
    module.relu = True
    with pytest.raises(RuntimeError, match=r"gradstep.torch.BatchNorm2d with relu=True"):
        _ = module.eps


def test_a_pickle_from_before_eps_was_hidden() -> None:
    old = gt.BatchNorm2d(8)
    old.__dict__["relu"] = True
    again = pickle.loads(pickle.dumps(old))
    with pytest.raises(RuntimeError, match="relu=True"):
        _ = again.eps
    assert (again(torch.randn(2, 8, 3, 3)) >= 0).all()


@pytest.mark.parametrize("relu", (False, True))
def test_compiled_modules_give_the_gradients_of_uncompiled_ones(relu: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(gt.BatchNorm1d(6, relu=relu), gt.LayerNorm(6), gt.RMSNorm(6))
    other, x = copy.deepcopy(model), torch.randn(5, 6)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    for each in (model, compiled):
        each(x).pow(2).sum().backward()
    for found, expected in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dict(other.named_buffers()), dict(model.named_buffers()))
    y = compiled(x).pow(2).sum()
    with torch.no_grad():
        other[1].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
