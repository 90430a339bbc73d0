"""Our autograd functions against numerical differences, and what they refuse."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

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


DERIVED = [name for name in MODULES if "Dropout" not in name]


class Pair(NamedTuple):
    """One function of x and parameters, by our module and by torch's."""

    ours: Any
    torchs: Any
    x: Any


def pair_of(name: str, training: bool, channels_last: bool = False) -> Pair:
    make, shape = MODULES[name]
    generator = torch.Generator().manual_seed(4)
    ours = make().double().train(training)
    with torch.no_grad():
        for tensor in (*ours.parameters(), *ours.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
    torchs = copy.deepcopy(ours)
    relu = getattr(ours, "relu", False)
    if relu:
        torchs.relu = False  # which shows the eps again that torch's class reads
    torchs.__class__ = getattr(torch.nn, type(ours).__name__)
    if relu:
        torchs = torch.nn.Sequential(torchs, torch.nn.ReLU())
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if channels_last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return Pair(ours, torchs, x.requires_grad_())


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


BOTH = pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))


@BOTH
@pytest.mark.parametrize("channels_last", (False, True))
@pytest.mark.parametrize("name", DERIVED)
def test_a_gradient_penalty(name: str, channels_last: bool, training: bool) -> None:
    pair = pair_of(name, training, channels_last)

    def penalised(module: Any) -> list[Any]:
        inputs = (pair.x, *module.parameters())
        grads = torch.autograd.grad(module(pair.x).pow(3).sum(), inputs, create_graph=True)
        penalty = sum((grad.pow(2).sum() for grad in grads), start=torch.zeros(()))
        return [*grads, *torch.autograd.grad(penalty, inputs)]

    assert_same(penalised(pair.ours), penalised(pair.torchs))


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph:UserWarning")
@pytest.mark.parametrize("name", DERIVED)
def test_backward_with_create_graph(name: str) -> None:
    results = []
    pair = pair_of(name, True)
    for module in (pair.ours, pair.torchs):
        x = pair.x.detach().requires_grad_()
        module(x).pow(3).sum().backward(create_graph=True)
        grad, x.grad = x.grad, None
        for parameter in module.parameters():
            parameter.grad = None
        grad.pow(2).sum().backward()
        results.append([grad.detach(), x.grad, *(each.grad for each in module.parameters())])
    # The gradient of bias is only of the first order where there is no ReLU.
    assert_same(*results)


@BOTH
@pytest.mark.parametrize("name", DERIVED)
def test_gradgradcheck(name: str, training: bool) -> None:
    if "relu" in name:
        pytest.skip("has no second derivative at 0")
    pair = pair_of(name, training)
    buffers = {key: each.clone() for key, each in pair.ours.named_buffers()}
    parameters = dict(pair.ours.named_parameters())

    def call(x: Any, *values: Any) -> Any:
        copies = {key: each.clone() for key, each in buffers.items()}
        given = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(pair.ours, given | copies, (x,))

    assert torch.autograd.gradgradcheck(call, (pair.x, *parameters.values()))


@pytest.mark.parametrize("name", DERIVED)
def test_hessian(name: str) -> None:
    ours, torchs, x = pair_of(name, True)
    found, expected = (
        torch.autograd.functional.hessian(lambda x, module=module: module(x).pow(3).sum(), x)
        for module in (ours, torchs)
    )
    assert expected.abs().max() > 0.1
    assert_same(found, expected)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph:UserWarning")
def test_hooks_of_the_inputs_run_once() -> None:
    module, x = gt.LayerNorm(4), torch.randn(3, 4, requires_grad=True)
    calls: list[str] = []
    x.register_hook(lambda grad: calls.append("x"))
    module.weight.register_hook(lambda grad: calls.append("weight"))
    module(x).pow(2).sum().backward(create_graph=True)
    assert sorted(calls) == ["weight", "x"]


@BOTH
@pytest.mark.parametrize("name", MODULES)
def test_batched_gradients(name: str, training: bool) -> None:
    """`is_grads_batched` and `jacobian(vectorize=True)` give what a loop gives."""
    make, shape = MODULES[name]
    module = make().double().train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = module(x)
    basis = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
    (found,) = torch.autograd.grad(y, x, basis, is_grads_batched=True, retain_graph=True)
    expected = [torch.autograd.grad(y, x, row, retain_graph=True)[0] for row in basis]
    assert_same(found, torch.stack(expected))

    def call(x: Any) -> Any:
        torch.manual_seed(0)
        return module(x)

    by_vectors = torch.autograd.functional.jacobian(call, x, vectorize=True)
    assert_same(by_vectors, torch.autograd.functional.jacobian(call, x))


def forward_over_reverse(module: Any, x: Any) -> Any:
    """The tangent of the gradient, for an output that was computed outside of the dual level."""
    y = module(x)
    with torch.autograd.forward_ad.dual_level():
        dy = torch.autograd.forward_ad.make_dual(torch.ones_like(y), torch.linspace(0, 1, 4) + y)
        (dx,) = torch.autograd.grad(y, x, dy)
        return torch.autograd.forward_ad.unpack_dual(dx).tangent


# torch compiles decompositions with its deprecated scripting compiler.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_tangents_of_gradients() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    ours, torchs = gt.LayerNorm(4), torch.nn.LayerNorm(4)
    found, expected = (forward_over_reverse(module, x) for module in (ours, torchs))
    torch.testing.assert_close(found, expected)
    torch.manual_seed(0)
    assert forward_over_reverse(gt.Dropout(), x) is not None


@pytest.mark.parametrize("layout", ("channels_last", "contiguous"))
@pytest.mark.parametrize("name", ("BatchNorm2d", "BatchNorm2d-relu", "LayerNorm", "GroupNorm"))
@pytest.mark.parametrize("way", ("transposed", "contiguous", "strided", "half"))
def test_saved_tensors_may_come_back_otherwise(name: str, layout: str, way: str) -> None:
    """Hooks that offload or compress give the values back, with strides of their own."""
    ways: dict[str, Any] = {
        "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
        "contiguous": lambda x: x.clone(memory_format=torch.contiguous_format),
        "strided": lambda x: torch.stack((x, x), -1)[..., 0],
        "half": lambda x: x.half(),
    }
    pair = pair_of(name, True, layout == "channels_last")
    ours, x = pair.ours.float(), pair.x.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(ours(x).pow(3).sum(), x)
    back = (lambda x: x.float()) if way == "half" else lambda x: x
    with torch.autograd.graph.saved_tensors_hooks(lambda x: ways[way](x.detach()), back):
        y = ours(x)
    (found,) = torch.autograd.grad(y.pow(3).sum(), x)
    tolerance = 0.1 if way == "half" else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_saving_on_the_cpu() -> None:
    x = torch.randn(2, 4, 3, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    module = torch.nn.Sequential(gt.BatchNorm2d(4), gt.Dropout(0.0), gt.GroupNorm(2, 4))
    (expected,) = torch.autograd.grad(module(x).pow(2).sum(), x)
    with torch.autograd.graph.save_on_cpu():
        y = module(x)
    torch.testing.assert_close(torch.autograd.grad(y.pow(2).sum(), x)[0], expected)


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
