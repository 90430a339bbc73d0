"""Native calls on tensors: the bits of the calls on arrays, or None and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402

F = gt.functional
NEEDS = (True, True, True, False, False)


def drawn(*shape: int, dtype: Any = None) -> Any:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(shape, generator=generator, dtype=dtype) + 1


def arrays(*tensors: Any) -> list[Any]:
    return [None if each is None else each.detach().numpy() for each in tensors]


def ours(function: Callable[..., Any], x: Any, *parameters: Any) -> list[Any]:
    """The result and the gradients, as arrays."""
    leaves = [each.detach().requires_grad_() for each in (x, *parameters)]
    y = function(*leaves)
    return arrays(y, *torch.autograd.grad(y, leaves, torch.ones_like(y) + y.detach()))


def rows(x: Any, w: Any, b: Any) -> tuple[list[Any], list[Any]]:
    a, v, c = arrays(x, w, b)
    y, *stats = gs.layer_norm(a, v, c)
    expected = [y, *gs.layer_norm_backward(1 + y, a, v, *stats)]
    return ours(lambda x, w, b: F.layer_norm(x, w.shape, w, b), x, w, b), expected


def mean_squares(x: Any, w: Any, b: Any) -> tuple[list[Any], list[Any]]:
    a, v = arrays(x, w)
    y, *stats = gs.rms_norm(a, v)
    expected = [y, *gs.rms_norm_backward(1 + y, a, v, *stats)]
    return ours(lambda x, w: F.rms_norm(x, w.shape, w), x, w), expected


def groups(x: Any, w: Any, b: Any) -> tuple[list[Any], list[Any]]:
    a, v, c = arrays(x, w, b)
    y, *stats = gs.group_norm(a, 2, v, c)
    expected = [y, *gs.group_norm_backward(1 + y, a, 2, v, *stats)]
    return ours(lambda x, w, b: F.group_norm(x, 2, w, b), x, w, b), expected


def instances(x: Any, w: Any, b: Any) -> tuple[list[Any], list[Any]]:
    a, v, c = arrays(x, w, b)
    y, *stats = gs.instance_norm(a, v, c)
    expected = [y, *gs.instance_norm_backward(1 + y, a, v, *stats)]
    return ours(lambda x, w, b: F.instance_norm(x, None, None, w, b), x, w, b), expected


def batches(x: Any, w: Any, b: Any) -> tuple[list[Any], list[Any]]:
    a, v, c = arrays(x, w, b)
    y, *stats = gs.batch_norm(a, v, c, None, None, training=True)
    expected = [y, *gs.batch_norm_backward(1 + y, a, v, *stats)]
    return ours(lambda x, w, b: F.batch_norm(x, None, None, w, b, True), x, w, b), expected


NORMS = {
    "layer_norm": (rows, (70, 48), 48),
    "rms_norm": (mean_squares, (70, 48), 48),
    "group_norm": (groups, (3, 6, 50, 7), 6),
    "instance_norm": (instances, (3, 6, 50, 7), 6),
    "batch_norm": (batches, (30, 6, 50), 6),
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("name", NORMS)
def test_the_bits_of_the_calls_on_arrays(name: str, threads: int, dtype: Any) -> None:
    both, shape, size = NORMS[name]
    torch.set_num_threads(threads)
    with gs.threads(threads):
        found, expected = both(*(drawn(*s, dtype=dtype) for s in (shape, (size,), (size,))))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


class Named(torch.Tensor):
    pass


def unaligned(x: Any) -> Any:
    raw = bytearray(x.numel() * 4 + 1)
    return torch.frombuffer(raw, dtype=torch.float32, offset=1).reshape(x.shape).copy_(x)


REFUSED: dict[str, Callable[[Any], Any]] = {
    "whole numbers": lambda x: x.long(),
    "empty": lambda x: x[:0],
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack((x, x), -1)[..., 0],
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "subclass": lambda x: x.as_subclass(Named),
    "negated": torch._neg_view,
    "zeros": lambda x: torch._efficientzerotensor(x.shape),
    "unaligned": unaligned,
    "array": lambda x: x.numpy(),
    "nothing": lambda x: None,
}
Refuse = Callable[[Any], Any]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_left(kind: str) -> None:
    refused = REFUSED[kind](drawn(4, 6))
    x, w = drawn(4, 6), drawn(6)
    mean, var = torch.zeros(6), torch.ones(6)
    call, stats = _core.NormCall("layer", 1e-5, 1), (np.zeros(4), np.zeros(4))
    calls: dict[str, Callable[[Any], Any]] = {
        "layer": lambda x: _core.tensor_layer_norm(None, x, (6,), w, w, 1e-5),
        "x": lambda x: _core.norm_gradients(call, x, x, w, None, stats, NEEDS),
        "dy": lambda dy: _core.norm_gradients(call, dy, x, w, None, stats, NEEDS),
        "rms": lambda x: _core.tensor_rms_norm(None, x, (6,), w, None),
        "group": lambda x: _core.tensor_group_norm(None, x, 2, w, w, 1e-5),
        "batch": lambda x: _core.tensor_batch_norm(
            None, x, w, w, mean, var, True, 0.1, 1e-5, False
        ),
    }
    for name, made in calls.items():
        assert made(drawn(4, 6)) is not None, name
        mean.zero_(), var.fill_(1)
        assert made(refused) is None, name
    assert mean.eq(0).all() and var.eq(1).all()


@pytest.mark.parametrize(
    "kind", sorted(set(REFUSED) - {"nothing", "empty", "sparse", "transposed"})
)
def test_a_refused_parameter_writes_nothing(kind: str) -> None:
    x, w = drawn(4, 6), drawn(6)
    mean, var = torch.zeros(6), torch.ones(6)
    bad = REFUSED[kind](drawn(6))
    for given in ((bad, w, mean, var), (w, bad, mean, var), (w, w, bad, var), (w, w, mean, bad)):
        assert _core.tensor_batch_norm(None, x, *given, True, 0.1, 1e-5, False) is None
    for weight, bias in ((bad, w), (w, bad), (drawn(5), w), (w, drawn(6, 1))):
        assert _core.tensor_layer_norm(None, x, (6,), weight, bias, 1e-5) is None
    assert mean.eq(0).all() and var.eq(1).all()


def test_running_statistics_over_other_memory() -> None:
    both = torch.zeros(12)
    x, mean = drawn(4, 6), both[:6]
    for var in (mean, both[3:9], x[0]):
        before = x.clone()
        found = _core.tensor_batch_norm(None, x, None, None, mean, var, True, 0.1, 1e-5, False)
        assert found is None and both.eq(0).all() and x.equal(before)


@pytest.mark.skipif(not hasattr(_core, "fail_allocation"), reason="the linker cannot redirect new")
def test_each_native_allocation_may_fail() -> None:
    x, w, mean, var = drawn(64, 600), drawn(600), torch.zeros(600), torch.ones(600)
    calls = (
        lambda: _core.tensor_layer_norm(None, x, (600,), w, w, 1e-5),
        lambda: _core.tensor_batch_norm(None, x, w, w, mean, var, True, 0.1, 1e-5, False),
    )
    for call in calls:
        for n in range(1, 200):
            mean.zero_(), var.fill_(1)
            _core.fail_allocation(n)
            try:
                call()
            except MemoryError:
                assert mean.eq(0).all() and var.eq(1).all(), n
            if _core.fail_allocation(0) > 0:
                break
        else:
            raise AssertionError("it never ran to its end")
    assert mean.ne(0).all()
    assert not _core.use_team(False)


def test_torchs_function_raises_the_errors() -> None:
    x = drawn(4, 6)
    with pytest.raises(RuntimeError, match="Given normalized_shape"):
        F.layer_norm(x, (5,))
    with pytest.raises(RuntimeError, match="Expected weight to be of same shape"):
        F.layer_norm(x, (6,), drawn(5))
    with pytest.raises(ValueError, match="Expected more than 1 value"):
        F.group_norm(torch.ones(1, 2), 2)
    with pytest.raises((RuntimeError, TypeError)):
        F.batch_norm(x, drawn(6), drawn(6), momentum="much", training=True)
