"""PyTorch's own sample inputs give the same results through our modules and functions."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # torch's test internals import it

import gradstep.torch as gt  # noqa: E402
from module_cases import assert_close  # noqa: E402
from torch.nn import functional as F  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test files look for tools that are not needed here
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

DTYPES = (torch.float32, torch.float64)
MODULES = [info for info in module_db if info.module_cls.__name__ in gt.__all__]
NORMS = [op for op in op_db if op.name.removeprefix("nn.functional.") in gt.functional.__all__]
DROPOUTS = [op for op in NORMS if "dropout" in op.name]
NORMS = [op for op in NORMS if "dropout" not in op.name]


def cloned(value: Any) -> Any:
    """A copy, so that each side has its own leaves and buffers."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, (tuple, list)):
        return type(value)(cloned(each) for each in value)
    if isinstance(value, dict):
        return {key: cloned(each) for key, each in value.items()}
    return value


def outcome(function: Any, args: Any, kwargs: Any) -> list[Any]:
    """The result, what is left in the arguments, and the gradients; or the kind of the error."""
    try:
        y = function(*args, **kwargs)
    except (RuntimeError, ValueError) as error:
        return [type(error)]
    tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
    if y.requires_grad:
        y.backward(torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape))
    return [y.detach(), *(each.detach() for each in tensors), *(each.grad for each in tensors)]


def assert_same(ours: list[Any], torchs: list[Any]) -> None:
    assert len(ours) == len(torchs)
    for found, expected in zip(ours, torchs, strict=True):
        if isinstance(expected, torch.Tensor):
            assert_close(found, expected)
        else:
            assert found == expected


@pytest.mark.parametrize("training", (True, False), ids=("train", "eval"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.module_cls.__name__)
def test_module_inputs(info: Any, dtype: Any, training: bool, module_inputs: list[str]) -> None:
    samples = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training
    )
    assert samples
    for sample in samples:
        name, constructor = info.module_cls.__name__, sample.constructor_input
        ours = getattr(gt, name)(*constructor.args, **constructor.kwargs).to(dtype).train(training)
        torchs = info.module_cls(*constructor.args, **constructor.kwargs).to(dtype).train(training)
        forward = sample.forward_input
        expected = outcome(torchs, cloned(forward.args), cloned(forward.kwargs))
        assert_same(outcome(ours, cloned(forward.args), cloned(forward.kwargs)), expected)
        for key, value in torchs.state_dict().items():
            assert_close(ours.state_dict()[key], value, key)
        for found, parameter in zip(ours.parameters(), torchs.parameters(), strict=True):
            assert_close(found.grad, parameter.grad)
        module_inputs.append(name)


@pytest.mark.parametrize(
    "info",
    [info for info in MODULES if info.module_error_inputs_func],
    ids=lambda info: info.module_cls.__name__,
)
def test_module_error_inputs(info: Any, module_inputs: list[str]) -> None:
    for sample in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    ):
        given, kind = sample.module_error_input, getattr(gt, info.module_cls.__name__)
        constructor = given.constructor_input
        if sample.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(sample.error_type, match=sample.error_regex):
                kind(*constructor.args, **constructor.kwargs)
        else:
            module = kind(*constructor.args, **constructor.kwargs)
            with pytest.raises(sample.error_type, match=sample.error_regex):
                module(*given.forward_input.args, **given.forward_input.kwargs)
        module_inputs.append(kind.__name__)


def name_of(op: Any) -> str:
    return f"{op.name.removeprefix('nn.functional.')}-{op.variant_test_name}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", NORMS, ids=name_of)
def test_norm_samples(op: Any, dtype: Any, module_inputs: list[str]) -> None:
    name = op.name.removeprefix("nn.functional.")
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        args = (sample.input, *sample.args)
        expected = outcome(getattr(F, name), cloned(args), cloned(sample.kwargs))
        found = outcome(getattr(gt.functional, name), cloned(args), cloned(sample.kwargs))
        assert_same(found, expected)
        module_inputs.append(name)


@pytest.mark.parametrize("op", [op for op in NORMS if op.error_inputs_func], ids=name_of)
def test_norm_error_inputs(op: Any, module_inputs: list[str]) -> None:
    name = op.name.removeprefix("nn.functional.")
    for given in op.error_inputs("cpu"):
        sample = given.sample_input
        with pytest.raises(given.error_type, match=given.error_regex):
            getattr(gt.functional, name)(sample.input, *sample.args, **sample.kwargs)
        module_inputs.append(name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", DROPOUTS, ids=name_of)
@pytest.mark.filterwarnings("ignore:dropout[23]d. Received a:UserWarning")
def test_dropout_samples(op: Any, dtype: Any, module_inputs: list[str]) -> None:
    name = op.name.removeprefix("nn.functional.")
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        ours, torchs = cloned(sample.input), cloned(sample.input)
        found = getattr(gt.functional, name)(ours, *sample.args, **sample.kwargs)
        expected = getattr(F, name)(torchs, *sample.args, **sample.kwargs)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        p, training = (
            sample.kwargs.get("p", 0.5),
            sample.kwargs.get("training", "alpha" not in name),
        )
        if p in (0, 1) or not training:
            assert_same([found.detach()], [expected.detach()])
        elif name != "alpha_dropout":
            kept = found.detach() != 0
            scaled = torch.where(kept, ours / (1 - p), 0.0).detach()
            torch.testing.assert_close(found.detach(), scaled, rtol=1e-4, atol=1e-6)
            found.sum().backward()
            gradient = torch.where(kept, 1 / (1 - p), 0.0).to(dtype)
            torch.testing.assert_close(ours.grad, gradient, rtol=1e-4, atol=1e-6)
        module_inputs.append(name)
