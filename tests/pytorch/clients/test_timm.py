"""timm's networks give what stock gives once their norms are ours."""

from __future__ import annotations

import copy
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import gradstep.torch as gt  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

# The network, the number of its norms, and the size of images that it takes.
NETWORKS = {
    "efficientnet_b0": (49, 64),
    "convnext_atto": (17, 64),
    "resnetv2_50d_gn": (51, 64),
    "vit_tiny_patch16_224": (25, 224),
}


class _Names(type):
    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _Stand(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands for torchvision, which timm's transforms of images need and its networks do not."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        return _Module(spec.name)

    def exec_module(self, module: Any) -> None:
        pass


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    stand = _Stand()
    sys.meta_path.append(stand)
    try:
        yield pytest.importorskip("timm", exc_type=ImportError)
    finally:
        sys.meta_path.remove(stand)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            if isinstance(sys.modules[name], _Module):
                del sys.modules[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_trains_as_stock(timm: Any, name: str) -> None:
    norms, size = NETWORKS[name]
    torch.manual_seed(0)
    stock = timm.create_model(name, pretrained=False, num_classes=4)
    ours = copy.deepcopy(stock)
    report = gt.accelerate(ours)
    assert sum("_norm" in now for _, now in report.replaced.values()) == norms
    assert not [name for name in report.left if "norm" in name]
    x = torch.randn(4, 3, size, size)
    for training in (False, True):
        expected, found = (model.train(training)(x) for model in (stock, ours))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)
    if name == "convnext_atto":  # the others drop or have batches too small for close gradients
        for model in (stock, ours):
            model(x).pow(2).sum().backward()
        for a, b in zip(ours.parameters(), stock.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-2, atol=1e-3)
    gt.restore(ours)
    assert [type(each) for each in ours.modules()] == [type(each) for each in stock.modules()]
