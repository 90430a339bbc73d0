"""Every example in the docstrings, the README and the docs runs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import gradstep
import gradstep.nn
import pytest
from folded import folded
from gradstep.train import metrics

ROOT = Path(__file__).resolve().parent.parent
# The compiled module has no examples; __main__ runs the command line when imported; an editable
# install also finds what lies in the checkout's root.
MODULES = sorted(
    {"gradstep"}
    | {
        module.name
        for module in pkgutil.walk_packages(gradstep.__path__, "gradstep.")
        if module.name not in ("gradstep._core", "gradstep.__main__", "gradstep.noxfile")
    }
)
# What a module imports that not everybody has.
NEEDS = {
    "gradstep.sklearn": "sklearn",
    "gradstep.torch": "torch",
    "gradstep.checkpoint": "safetensors",
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
    needed = {"torch.md": "torch", "sklearn.md": "sklearn", "checkpoints.md": "safetensors"}
    if page.name in needed:
        pytest.importorskip(needed[page.name])
    result = doctest.testfile(str(ROOT / page), module_relative=False)
    assert result.failed == 0


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_tables_have_a_head(page: Path) -> None:
    """A row below an empty line begins a table: without a head it is shown as text."""
    rows, inside = ["", *(ROOT / page).read_text("utf-8").splitlines(), ""], False
    for number, row in enumerate(rows):
        inside ^= row.startswith("```")
        if not inside and row.startswith("|") and not rows[number - 1].startswith("|"):
            assert set(rows[number + 1]) <= set("|-: "), f"line {number}: {row}"


MODULES_OF_NAMES = (gradstep, gradstep.nn, gradstep.train, metrics)
VALUES = {"DROPOUTS", "OPTIMIZERS", "SCHEDULES", "Schedule", "__version__"}
PUBLIC = [(m, name) for m in MODULES_OF_NAMES for name in sorted({*m.__all__} - VALUES)]


@folded(("module", "name"), PUBLIC, ids=lambda it: getattr(it, "__name__", it))
def test_public_names_are_documented(module: ModuleType, name: str) -> None:
    assert undocumented(getattr(module, name)) == []


FUNCTIONS = [name for name in gradstep.__all__ if isinstance(getattr(gradstep, name), FunctionType)]


@folded("name", FUNCTIONS)
def test_functions_with_arguments_say_what_they_raise(name: str) -> None:
    function = getattr(gradstep, name)
    if inspect.signature(function).parameters:
        assert re.search("[Rr]aises|errors as|rest as in", " ".join(function.__doc__.split()))


def undocumented(thing: Any) -> list[str]:
    """Of a module, function or class, its name and those of its new methods that say nothing."""
    own = {}
    if isinstance(thing, type):
        own = {key: part for key, part in vars(thing).items() if not hasattr(thing.__base__, key)}
    parts = {
        f"{thing.__name__}.{key}": part
        for key, part in own.items()
        if not key.startswith("_") and isinstance(part, (property, FunctionType, classmethod))
    }
    silent = [name for name, part in parts.items() if not part.__doc__]
    return silent if says_something(thing) else [thing.__name__, *silent]


def says_something(thing: Any) -> bool:
    """Whether it has a docstring of its own: not of a base, not what `dataclass` writes."""
    if not isinstance(thing, type):
        return bool(thing.__doc__)
    doc = vars(thing).get("__doc__")
    return bool(doc) and not doc.startswith(f"{thing.__name__}(")


def test_an_inherited_and_a_generated_docstring_say_nothing() -> None:
    class Silent(gradstep.SGD):
        def method(self) -> None: ...

    @dataclass
    class Generated:
        lr: float = 0.1

    assert undocumented(Silent) == ["Silent", "Silent.method"]
    assert undocumented(Generated) == ["Generated"]
