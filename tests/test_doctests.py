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


def imported(name: str) -> ModuleType:
    """The module; skips the test without what it needs."""
    for prefix, needed in NEEDS.items():
        if name.startswith(prefix):
            pytest.importorskip(needed)
    return importlib.import_module(name)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    assert doctest.testmod(imported(name)).failed == 0


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


SPEAKING = (
    *("gradstep", "gradstep.nn", "gradstep.nn.init", "gradstep.ops.fused", "gradstep.train"),
    *("gradstep.train.metrics", "gradstep.checkpoint", "gradstep.distributed", "gradstep.sklearn"),
    *("gradstep.torch", "gradstep.torch.nn.functional", "gradstep.torch.distributed"),
)
# Made by the library for its users, with what it found; and what cannot fail.
NO_ERRORS = {
    *("LrSearch", "StepInfo", "Summary", "Description", "LayerSummary", "OverfitTest"),
    *("GroupAUC", "DistributedError", "Epoch", "Swapped"),
    *("OffloadOptimizer.zero_grad", "unreduced"),
}
# Of these the docstring of a class speaks, as it does of the constructor.
OF_ALL_CLASSES = {"forward", "backward", "parameter_gradients", "__call__", "start"}
# What classes give to their base; nobody else calls it.
HOOKS = {"formula", "kernel", "decoupled", "initial_state", "schedule"}


@pytest.mark.parametrize("name", SPEAKING)
def test_what_takes_arguments_says_what_it_raises(name: str) -> None:
    assert all_silent(imported(name)) - NO_ERRORS == set()


def test_nothing_is_excepted_in_vain() -> None:
    assert set().union(*map(all_silent, map(imported, SPEAKING))) == NO_ERRORS


def all_silent(module: ModuleType) -> set[str]:
    return {part for name in module.__all__ for part in silent(getattr(module, name))}


def silent(thing: Any) -> list[str]:
    """Of a function or class, its name and those of its own methods that tell of no errors."""
    if isinstance(thing, FunctionType):
        return [] if not inspect.signature(thing).parameters or tells(thing) else [thing.__name__]
    if not isinstance(thing, type):
        return []
    found = [] if tells(thing) else [thing.__name__]
    for key, part in vars(thing).items():
        function = getattr(part, "__func__", part)  # of a class method
        hidden = key.startswith("_") or key in HOOKS or key in OF_ALL_CLASSES
        if hidden or not isinstance(function, FunctionType):
            continue
        given = list(inspect.signature(function).parameters)
        if (given[:1] not in (["self"], ["cls"]) or given[1:]) and not tells(function):
            found.append(f"{thing.__name__}.{key}")
    return found


def tells(thing: Any) -> bool:
    """Whether the docstring has a word of errors, its own or where they are told."""
    doc = " ".join((thing.__doc__ or "").split())
    return bool(re.search(r"\b[Rr]aises?\b|\b[Ee]rrors as|rest as in", doc))


def test_silence_about_errors_is_found() -> None:
    def told(x: int) -> None:
        """Raises TypeError."""

    def untold(x: int) -> None:
        """Adds."""

    class Partly:
        """Errors as of others."""

        def forward(self, x: int) -> None: ...

        def method(self, x: int) -> None:
            """Adds."""

        def without(self) -> None: ...

        @classmethod
        def made(cls, x: int) -> None: ...

    assert silent(told) == [] and silent(untold) == ["untold"]
    assert silent(Partly) == ["Partly.method", "Partly.made"]
    assert silent(type("Silent", (Partly,), {"__doc__": "Says little."})) == ["Silent"]


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
