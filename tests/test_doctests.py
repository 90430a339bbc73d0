"""Every example in the docstrings, the README and the docs runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import gradstep
import pytest

ROOT = Path(__file__).resolve().parent.parent
# The compiled module has no examples; __main__ runs the command line when imported.
MODULES = sorted(
    {"gradstep"}
    | {
        module.name
        for module in pkgutil.walk_packages(gradstep.__path__, "gradstep.")
        if module.name not in ("gradstep._core", "gradstep.__main__")
    }
)
# What a module imports that not everybody has.
NEEDS = {
    "gradstep.torch": "torch",
    "gradstep.bench.torch_networks": "torch",
    "gradstep.bench.numba_loops": "numba",
}
PAGES = sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    for prefix, needed in NEEDS.items():
        if name.startswith(prefix):
            pytest.importorskip(needed)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_pages(page: Path) -> None:
    if page.name == "torch.md":
        pytest.importorskip("torch")
    result = doctest.testfile(str(ROOT / page), module_relative=False)
    assert result.failed == 0


@pytest.mark.parametrize("name", gradstep.__all__)
def test_public_names_are_documented(name: str) -> None:
    thing = getattr(gradstep, name)
    if not callable(thing) or name == "Schedule":
        return
    assert thing.__doc__, name
