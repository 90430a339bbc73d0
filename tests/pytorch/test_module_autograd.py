"""Our autograd functions against numerical differences, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from torch.autograd import gradcheck  # noqa: E402

SHAPES = {1: (3, 4, 3), 2: (2, 4, 2, 3), 3: (2, 4, 2, 1, 2)}
MODULES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "LayerNorm": (lambda: gt.LayerNorm((4, 3)), (2, 4, 3)),
    "RMSNorm": (lambda: gt.RMSNorm((4, 3)), (2, 4, 3)),
    "GroupNorm": (lambda: gt.GroupNorm(2, 4), (3, 4, 3)),
}
for dims, shape in SHAPES.items():
    for name in ("BatchNorm", "InstanceNorm"):
        kind = getattr(gt, f"{name}{dims}d")
        MODULES[kind.__name__] = (
            lambda kind=kind: kind(4, affine=True, track_running_stats=True),
            shape,
        )
MODULES["BatchNorm2d-relu"] = (lambda: gt.BatchNorm2d(4, relu=True), SHAPES[2])
for dims in (1, 2, 3):
    MODULES[f"Dropout{dims}d"] = (getattr(gt, f"Dropout{dims}d"), SHAPES[dims])
MODULES["Dropout"] = MODULES["AlphaDropout"] = (gt.Dropout, (5, 7))
MODULES["AlphaDropout"] = (gt.AlphaDropout, (5, 7))


@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
@pytest.mark.parametrize("name", MODULES)
def test_gradcheck(name: str, training: bool, channels_last: bool) -> None:
    make, shape = MODULES[name]
    module = make().double().train(training)
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    parameters = {
        key: torch.rand(each.shape, dtype=torch.float64, generator=generator) + 0.5
        for key, each in module.named_parameters()
    }
    buffers = {key: each.clone() for key, each in module.named_buffers()}

    def call(x: Any, *values: Any) -> Any:
        torch.manual_seed(7)
        given = dict(zip(parameters, values, strict=True))
        copies = {key: each.clone() for key, each in buffers.items()}
        return torch.func.functional_call(module, given | copies, (x,))

    inputs = (x, *parameters.values())
    assert gradcheck(call, tuple(each.requires_grad_() for each in inputs))


@pytest.mark.parametrize("name", [name for name in MODULES if "Norm" in name])
def test_second_derivatives_are_refused(name: str) -> None:
    make, shape = MODULES[name]
    x = torch.randn(shape, requires_grad=True)
    # The gradient that comes from above is a constant here: dx still depends on x.
    (dx,) = torch.autograd.grad(make()(x).sum(), x, create_graph=True)
    with pytest.raises(
        RuntimeError, match=r"gradstep.torch.\w+Norm: differentiated twice.*torch.n"
    ):
        dx.pow(2).sum().backward()


def test_create_graph_alone_is_harmless() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    (dx,) = torch.autograd.grad(gt.LayerNorm(4)(x).pow(2).sum(), x, create_graph=True)
    (expected,) = torch.autograd.grad(gt.LayerNorm(4)(x).pow(2).sum(), x)
    assert dx.detach().equal(expected)


def test_batched_gradients_are_refused() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    y = gt.LayerNorm(4)(x)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(y, x, torch.eye(12).reshape(12, 3, 4), is_grads_batched=True)


@pytest.mark.parametrize("name", ("BatchNorm2d", "LayerNorm", "RMSNorm", "GroupNorm"))
def test_a_changed_input_is_noticed(name: str) -> None:
    make, shape = MODULES[name]
    x = torch.randn(shape, requires_grad=True) * 1
    y = make()(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_output_may_be_overwritten() -> None:
    for make, shape in (MODULES["BatchNorm2d"], MODULES["LayerNorm"], MODULES["BatchNorm2d-relu"]):
        x = torch.randn(shape).contiguous(memory_format=torch.preserve_format).requires_grad_()
        make()(x).relu_().sum().backward()
        assert x.grad is not None


@pytest.mark.parametrize("name", [name for name in MODULES if "Norm" in name])
def test_only_the_gradients_asked_for(name: str) -> None:
    make, shape = MODULES[name]
    module = make()
    module.weight.requires_grad_(False)
    module(torch.randn(shape)).sum().backward() if getattr(module, "bias", None) is not None else 0
    assert module.weight.grad is None
    frozen = make().requires_grad_(False)
    assert not frozen(torch.randn(shape)).requires_grad
    x = torch.randn(shape, requires_grad=True)
    frozen(x).sum().backward()
    assert x.grad is not None and all(each.grad is None for each in frozen.parameters())


# torch compiles decompositions with its deprecated scripting compiler.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_forward_mode_goes_to_torch() -> None:
    x = torch.randn(3, 4)
    with torch.autograd.forward_ad.dual_level():
        y = gt.LayerNorm(4)(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        tangent = torch.autograd.forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(tangent, torch.zeros_like(x), atol=1e-5, rtol=0)
