"""What the tests of the optimizers for PyTorch share: ours beside torch's, and comparisons."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test files look for tools that are not needed here
    from torch.testing._internal.common_optimizers import optim_db

Options = dict[str, Any]
NAMES = [name for name in gt.OPTIMIZERS if name != "Lion"]
INFOS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in NAMES}
DRIVEN = {"inputs": 0, "error inputs": 0}

# Two sets of options per optimizer that bring in every state array.
OPTIONS: dict[str, list[Options]] = {
    "SGD": [{"lr": 0.05}, {"lr": 0.05, "momentum": 0.9, "dampening": 0.5}],
    "Adagrad": [{"lr": 0.05, "lr_decay": 0.1}],
    "RMSprop": [{"lr": 0.01}, {"lr": 0.01, "momentum": 0.9, "centered": True}],
    "Adadelta": [{"lr": 1.0}],
    "Adam": [{"lr": 0.05}, {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}],
    "AdamW": [{"lr": 0.05}, {"lr": 0.05, "amsgrad": True}],
    "NAdam": [{"lr": 0.05}],
    "Adamax": [{"lr": 0.05}],
    "RAdam": [{"lr": 0.05}],
}
CASES = [
    pytest.param(name, options, id=f"{name}-{i}")
    for name, sets in OPTIONS.items()
    for i, options in enumerate(sets)
]


def theirs(name: str, params: Any, **options: Any) -> Any:
    """torch's class, one tensor and one operation at a time."""
    plain: Options = {"foreach": False}
    if name in ("SGD", "Adam", "AdamW", "Adagrad"):
        plain["fused"] = False
    return getattr(torch.optim, name)(params, **{**options, **plain})


def ours(name: str, params: Any, **options: Any) -> Any:
    return gt.OPTIMIZERS[name](params, **options)


def parameters(dtype: Any = torch.float32, seed: int = 0) -> list[Any]:
    """Of several shapes, one of them in channels-last order."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 5), (5,), (), (0, 2), (4, 3, 2, 2), (70,)]
    tensors = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    tensors[4] = tensors[4].to(memory_format=torch.channels_last)
    return [torch.nn.Parameter(t) for t in tensors]


def twins(dtype: Any = torch.float32) -> tuple[list[Any], list[Any]]:
    return parameters(dtype), parameters(dtype)


def give(both: Any, seed: int, frozen: Any = ()) -> None:
    """The same gradients to all lists of parameters; those at `frozen` get none."""
    for params in both:
        generator = torch.Generator().manual_seed(1000 + seed)
        for i, p in enumerate(params):
            g = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p.grad = None if i in frozen else torch.empty_like(p).copy_(g)


def assert_same(a: list[Any], b: list[Any], x: Any = None, y: Any = None) -> None:
    """Parameters, and the states of the optimizers x and y, agree to rounding."""
    single = {"rtol": 2e-5, "atol": 2e-6}
    double = {"rtol": 1e-10, "atol": 1e-11}
    for p, q in zip(a, b, strict=True):
        bounds: Any = single if p.dtype == torch.float32 else double
        torch.testing.assert_close(p, q, **bounds)
        if x is None:
            continue
        mine, other = x.state.get(p, {}), y.state.get(q, {})
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            scalar = single if value.dtype == torch.float32 else double
            torch.testing.assert_close(
                value, other[key], **scalar, msg=lambda m, k=key: f"{k}: {m}"
            )


def snapshot(params: list[Any], optimizer: Any) -> Any:
    """Everything that a step may write, to compare with torch.equal semantics."""
    state = {i: copy.deepcopy(dict(optimizer.state.get(p, {}))) for i, p in enumerate(params)}
    return (
        [p.detach().clone() for p in params],
        [None if p.grad is None else p.grad.clone() for p in params],
        [p._version for p in params],
        state,
    )


def assert_unchanged(before: Any, params: list[Any], optimizer: Any) -> None:
    torch.testing.assert_close(snapshot(params, optimizer), before, rtol=0, atol=0, equal_nan=True)
