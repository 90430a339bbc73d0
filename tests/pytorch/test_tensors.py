"""Tensors whose elements are not what lies in their memory are refused at every door."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402
from gradstep.torch import kept_memory as memory  # noqa: E402
from gradstep.torch.tensors import array, is_native, refusal  # noqa: E402


class OfItsOwn(torch.Tensor):
    """A subclass that shares memory with one tensor and computes with another."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Named(torch.nn.Parameter):
    """A subclass without operators of its own, as FSDP's FlatParameter."""


def fake(x: Any) -> Any:
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode().from_tensor(x)


def freed(x: Any) -> Any:
    x.untyped_storage().resize_(0)
    return x


def negated(x: Any) -> Any:
    return torch.complex(x, x).conj().imag


UNLIKE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "negated view": (torch._neg_view, "a lazily negated view, expected memory"),
    "imaginary part of a conjugate": (negated, "a lazily negated view, expected memory"),
    "zeros": (lambda x: torch._efficientzerotensor(3), "zeros without memory"),
    "fake": (fake, "a FakeTensor, which has operators of its own"),
    "functional": (torch._to_functional_tensor, "Functionalize"),
    "subclass": (lambda x: x.as_subclass(OfItsOwn), "an? OfItsOwn, which has operators of its own"),
    "meta": (lambda x: x.to("meta"), "on meta, expected a CPU tensor"),
    "freed": (freed, "its storage holds nothing"),
    "sparse": (lambda x: x.to_sparse(), "layout torch.sparse_coo, expected a dense tensor"),
    "half": (lambda x: x.half(), "torch.float16, expected torch.float32 or torch.float64"),
    "mkldnn": (lambda x: x.to_mkldnn(), "layout torch._mkldnn, expected a dense tensor"),
}


@pytest.fixture(params=UNLIKE)
def unlike(request: pytest.FixtureRequest) -> tuple[Any, str]:
    make, message = UNLIKE[request.param]
    return make(torch.ones(3)), message


def test_one_answer_says_why(unlike: tuple[Any, str]) -> None:
    tensor, message = unlike
    found = refusal(tensor)
    assert found is not None and re.search(message, found)
    if "its storage" not in message and tensor.dtype != torch.float16:  # which kernels take
        assert not is_native(tensor)
    if tensor.dtype == torch.float16:  # which optimizers read
        return
    with pytest.raises(RuntimeError, match=message):
        array(tensor)


def test_as_gradient_of_an_optimizer_for_arrays(unlike: tuple[Any, str]) -> None:
    tensor, _ = unlike
    if tensor.dtype == torch.float16:  # which optimizers for arrays read
        return
    weights = np.ones(3, np.float32)
    opt = gs.SGD(weights, lr=1.0)
    for grads in (tensor, [tensor]):
        with pytest.raises((TypeError, ValueError), match="grads"):
            opt.step(grads)
    with pytest.raises((TypeError, ValueError)):
        opt.bind(tensor)
    assert (weights == 1).all() and opt.step_count == 0


def test_as_parameter_and_in_trees(unlike: tuple[Any, str]) -> None:
    for call in (gs.SGD, gs.nonfinite, gs.global_norm):
        if call is not gs.SGD and unlike[0].dtype == torch.float16:  # which these read
            continue
        with pytest.raises((TypeError, ValueError)):
            call([unlike[0]])


def test_plain_tensors_are_taken_and_stay_resizable() -> None:
    with torch.inference_mode():
        inference = torch.ones(3)
    plain = [torch.ones(3), torch.ones(3, requires_grad=True), inference, torch.ones(0)]
    for tensor in (*plain, torch.nn.Parameter(torch.ones(3)), Named(torch.ones(3))):
        assert refusal(tensor) is None
        found = array(tensor)
        assert found.size == 0 or found.__array_interface__["data"][0] == tensor.data_ptr()
        assert tensor.untyped_storage().resizable()


def test_an_array_keeps_its_tensor_and_its_strides() -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2)
    found = array(tensor)
    np.testing.assert_array_equal(found, tensor.numpy())
    del tensor
    torch.full((24,), -1.0)
    assert found.base is not None and found[1, 2, 1] == 21


def test_a_lazy_copy_is_made_before_it_is_written() -> None:
    x = torch.ones(3)
    copy = torch._lazy_clone(x)
    array(copy)[...] = 2
    assert x.eq(1).all() and copy.eq(2).all()


def test_no_array_of_another_type() -> None:
    for other in (torch.ones(2, dtype=torch.int32), torch.ones(2, dtype=torch.complex64), 3, None):
        assert _core.tensor_array(other) is None
        assert refusal(other) is not None


def test_any_number_of_types_is_known() -> None:
    """What types tell is remembered of some only: of others too it is what they tell."""
    kinds = [type(f"Kind{i}", (torch.Tensor,), {}) for i in range(40)]
    refused = [type(f"Own{i}", (OfItsOwn,), {}) for i in range(40)]
    tensor = torch.ones(3)
    for _ in range(2):
        for kind, other in zip(kinds, refused, strict=True):
            found = _core.tensor_array(tensor.as_subclass(kind))
            assert found.__array_interface__["data"][0] == tensor.data_ptr()
            assert _core.tensor_array(torch.Tensor._make_subclass(other, tensor)) is None


def touched() -> list[Any]:
    """Everything that kernels of a training step read or wrote."""
    model = torch.nn.Sequential(
        gt.LayerNorm(8), gt.Dropout(), gt.BatchNorm1d(8), gt.RMSNorm(8), gt.AlphaDropout()
    )
    seen: list[Any] = []
    for module in model:
        module.register_forward_hook(lambda _, inputs, y: seen.extend((*inputs, y)))
    x = torch.randn(6, 8, requires_grad=True)
    y = model(x)
    y.retain_grad()
    y.sum().backward()
    own = [*model.parameters(), *model.buffers()]
    return [*seen, x.grad, y.grad, *own, *(each.grad for each in model.parameters())]


def test_modules_leave_every_storage_resizable() -> None:
    for tensor in touched():
        assert tensor.untyped_storage().resizable(), tensor
        tensor.untyped_storage().resize_(0)


def test_large_results_are_resizable() -> None:
    y = gt.Dropout()(torch.ones(memory.LARGE // 4))
    y.untyped_storage().resize_(0)
    y.untyped_storage().resize_(memory.LARGE)
    assert y.zero_().sum() == 0
