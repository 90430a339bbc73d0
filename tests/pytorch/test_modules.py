"""gradstep.torch's normalisation modules give what torch's give, with every option and layout."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from gradstep import _core  # noqa: E402
from gradstep.torch.nn import modules, norms  # noqa: E402
from module_cases import NORMS, Case, NativeCalls, assert_close, copied  # noqa: E402
from pairs import pairwise  # noqa: E402
from torch import nn  # noqa: E402

DTYPES = (torch.float32, torch.float64)


def run(module: Any, x: Any, steps: int = 2) -> dict[str, Any]:
    """Everything that some steps of a module leave behind."""
    for _ in range(steps):
        x = copied(x)
        y = module(x)
        y.backward(torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape))
    parameters = {name: each.grad for name, each in module.named_parameters()}
    return {"y": y.detach(), "dx": x.grad, **parameters, **dict(module.named_buffers())}


def factors(row: tuple[Case, Any, bool]) -> tuple[Any, ...]:
    case, dtype, training = row
    options = tuple(case.options.items())
    return case.name, case.args, options, case.shape, case.layout, dtype, training


PAIRS = pairwise(list(product(NORMS, DTYPES, (True, False))), factors)


@pytest.mark.parametrize(("case", "dtype", "training"), PAIRS, ids=str)
def test_agrees_with_torch(case: Case, dtype: Any, training: bool) -> None:
    torchs, ours = case.module(nn, dtype), case.module(gt, dtype)
    run(torchs, case.x(dtype))
    ours.load_state_dict(torchs.state_dict(), strict=True)
    torchs.zero_grad()
    expected = run(torchs.train(training), case.x(dtype))
    found = run(ours.train(training), case.x(dtype))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, name)
    if case.layout in ("contiguous", "channels_last"):
        assert found["y"].stride() == expected["y"].stride()
    torchs.load_state_dict(ours.state_dict(), strict=True)
    assert repr(ours) == repr(torchs)


@pytest.fixture
def otherwise() -> Iterator[list[Any]]:
    """The backward calls that our kernels did not take as they came."""
    calls: list[Any] = []

    def spy(*args: Any) -> Any:
        calls.append(args)
        return norms._gradients_otherwise(*args)

    _core.record_by(torch.is_grad_enabled, norms._recorded, spy)
    yield calls
    _core.record_by(torch.is_grad_enabled, norms._recorded, norms._gradients_otherwise)


@pytest.mark.parametrize("case", NORMS, ids=str)
def test_the_kernels_are_ours(
    case: Case, monkeypatch: pytest.MonkeyPatch, otherwise: list[Any]
) -> None:
    channels_last = case.layout == "channels_last" and len(case.shape) > 3
    if channels_last and not case.name.startswith("BatchNorm"):
        pytest.skip("torch's own kernel reads channels last")
    calls = NativeCalls(monkeypatch)
    y = case.module(gt, torch.float32)(case.x(torch.float32).requires_grad_())
    y.backward(torch.ones_like(y))
    assert len(calls.taken) == 1 and not otherwise


@pytest.mark.parametrize("dims", (2, 3))
def test_channels_last_is_not_copied(
    dims: int, monkeypatch: pytest.MonkeyPatch, otherwise: list[Any]
) -> None:
    calls = NativeCalls(monkeypatch)
    x = torch.randn((2, 3, 4, 5, 6)[: dims + 2]).movedim(1, -1).contiguous().movedim(-1, 1)
    y = getattr(gt, f"BatchNorm{dims}d")(3)(x.requires_grad_())
    assert y.stride() == x.stride()
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert calls.memory() == {x.data_ptr(), y.data_ptr()}
    assert dx.stride() == x.stride() and not otherwise
    torch.autograd.grad(getattr(gt, f"BatchNorm{dims}d")(3)(x), x, dy.contiguous())
    assert len(otherwise) == 1


@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
@pytest.mark.parametrize("shape", ((6, 4), (6, 4, 3), (6, 4, 3, 2), (6, 4, 3, 2, 2)))
def test_fused_relu_is_relu_after_batch_norm(shape: tuple[int, ...], training: bool) -> None:
    name = f"BatchNorm{max(len(shape) - 2, 1)}d"
    ours = getattr(gt, name)(4, relu=True).double().train(training)
    torchs = nn.Sequential(getattr(nn, name)(4).double(), nn.ReLU()).train(training)
    assert repr(ours).endswith(", relu=True)")
    x = torch.randn(shape, dtype=torch.float64)
    expected = {key.removeprefix("0."): value for key, value in run(torchs, x).items()}
    for name, value in run(ours, x).items():
        assert_close(value, expected[name], name)
    half = ours.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert (half >= 0).all() and (half > 0).any()


def test_relu_wants_a_bool() -> None:
    with pytest.raises(TypeError, match=r"relu: str, expected True or False"):
        gt.BatchNorm2d(3, relu="yes")


@pytest.mark.parametrize("module", (gt.BatchNorm1d(3), gt.InstanceNorm1d(3)))
def test_one_value_per_channel_raises_as_torch_does(module: Any) -> None:
    with pytest.raises(ValueError, match="Expected more than 1"):
        module(torch.ones(1, 3, 1))
    assert not module.state_dict() or module.running_mean.eq(0).all()


def test_a_constant_channel_without_eps() -> None:
    pair = [space.InstanceNorm1d(2, eps=0, track_running_stats=True) for space in (nn, gt)]
    x = torch.stack((torch.full((3, 4), 2.0), torch.randn(3, 4)), 1)
    for module in pair:
        module(x)
    torch.testing.assert_close(pair[1].running_var[0], torch.tensor(0.9))
    torch.testing.assert_close(dict(pair[1].named_buffers()), dict(pair[0].named_buffers()))


def test_running_statistics_are_told_to_autograd() -> None:
    module = gt.BatchNorm1d(3)
    before = [buffer._version for buffer in module.buffers()]
    module(torch.randn(4, 3))
    assert [buffer._version for buffer in module.buffers()] == [count + 1 for count in before]
    module.eval()(torch.randn(4, 3))
    assert [buffer._version for buffer in module.buffers()] == [count + 1 for count in before]


def test_running_statistics_made_in_inference_mode() -> None:
    with torch.inference_mode():
        module = gt.BatchNorm1d(3)
        module(torch.randn(4, 3))
        assert module.running_mean.ne(0).all()


@pytest.mark.parametrize("name", modules.__all__)
def test_copies_and_pickles(name: str) -> None:
    args = {"Dropout": (), "Alpha": (), "Group": (3, 6)}
    module = getattr(gt, name)(*next((a for key, a in args.items() if key in name), (6,)))
    assert isinstance(module, getattr(nn, name))
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(again) is type(module)
        assert repr(again) == repr(module)
        assert again.state_dict().keys() == module.state_dict().keys()


OTHERS = {
    "meta": lambda x: x.to("meta"),
    "empty": lambda x: x[:0],
    "double": lambda x: x.double(),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(
    "name, args", (("LayerNorm", (4,)), ("BatchNorm2d", (4,)), ("GroupNorm", (2, 4)))
)
def test_what_is_not_native_goes_to_torch(name: str, args: Any, kind: str) -> None:
    x = OTHERS[kind](torch.randn(2, 4, 4, 4))
    pair = [getattr(namespace, name)(*args) for namespace in (nn, gt)]
    if kind != "empty":
        pair = [module.to(x.device, x.dtype) for module in pair]
    expected, found = (module(x) for module in pair)
    assert found.dtype == expected.dtype and found.device == expected.device
    if kind != "meta":
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_mixed_types_go_to_torch() -> None:
    with pytest.raises(RuntimeError, match="mixed dtype"):
        gt.LayerNorm(4)(torch.randn(2, 4, dtype=torch.float64))


def test_a_subclass_of_tensor_reaches_torch_function() -> None:
    calls: list[str] = []

    class Seen(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(getattr(func, "__name__", ""))
            return super().__torch_function__(func, *args, **kwargs)

    y = gt.LayerNorm(4)(torch.randn(2, 4).as_subclass(Seen))
    assert type(y) is Seen and "layer_norm" in calls


# torch compiles decompositions with its deprecated scripting compiler for jvp.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_functional_transforms_and_tracing_see_torchs_operators() -> None:
    module, x = gt.LayerNorm(4), torch.randn(5, 3, 4)
    torch.testing.assert_close(torch.vmap(module)(x), module(x))
    jacobian = torch.func.jacrev(lambda row: module(row))(x[0, 0])
    assert jacobian.shape == (4, 4)
    _, tangent = torch.func.jvp(module, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, torch.zeros_like(x), atol=1e-5, rtol=0)


def test_jit_trace_records_torchs_operators() -> None:
    model = nn.Sequential(gt.BatchNorm1d(4), gt.LayerNorm(4)).eval()
    x = torch.randn(3, 4)
    with pytest.warns(DeprecationWarning):
        traced = torch.jit.trace(model, x)
    assert "aten::layer_norm" in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), model(x))


def test_export_records_torchs_operators() -> None:
    model = nn.Sequential(gt.BatchNorm1d(4), gt.LayerNorm(4), gt.Dropout()).eval()
    x = torch.randn(3, 4)
    exported = torch.export.export(model, (x,))
    assert "layer_norm" in str(exported.graph)
    torch.testing.assert_close(exported.module()(x), model(x))


@pytest.mark.parametrize("rows", [1, 2])
def test_one_value_per_group_is_what_torch_makes_of_it(rows: int) -> None:
    x = torch.randn(rows, 4)
    results = []
    for module in (nn.GroupNorm(4, 4), gt.GroupNorm(4, 4)):
        try:
            results.append(module(x).tolist())
        except ValueError as error:
            results.append(str(error))
    assert results[0] == results[1]
