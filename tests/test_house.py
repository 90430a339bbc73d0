"""The house: who may import or include whom, and how many files lie beside the folders."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / "python" / "gradstep"
CPP = ROOT / "cpp"

# Place in the package -> the places that it may import from, beside itself.
LOW = {"arguments", "arrays"}
LATE = {"certificate", "distributed"}  # imported by the commands that need them
PLACES: dict[str, set[str]] = {
    "arguments": set(),
    "arrays": {"arguments"},
    "runtime": {*LOW, "_core"},
    "spec": LOW,
    "ops": {*LOW, "spec", "_core"},
    "optim": {*LOW, "spec", "ops", "_core"},
    "nn": {*LOW, "spec", "ops", "optim"},
    "certificate": {*LOW, "spec", "ops", "optim"},
    "train": {*LOW, "spec", "ops", "optim", "nn", "runtime", "checkpoint", *LATE},
    "checkpoint": {*LOW, "optim", "nn"},
    "distributed": {*LOW, "spec", "ops", "optim", "nn", "runtime", "checkpoint"},
    "torch": {*LOW, "spec", "ops", "optim", "nn", "runtime", "_core", "gradstep", "distributed"},
    "sklearn": {*LOW, "spec", "ops", "optim", "nn", "train", "runtime"},
    "gradstep": {"spec", "ops", "optim", "nn", "train", "runtime", "_core", "_load", "checkpoint"},
    "_load": {"_core"},  # the first import, whose errors a command prints
    "__main__": {"train"},
    "_core": LOW,  # its types
}
# Room of C++ -> what it may include of ours, and headers that it may not know.
ROOMS: dict[str, tuple[str, str]] = {
    "isa": (r"isa/.*", r"pybind11.*|Python\.h|thread|mutex|atomic|condition_variable"),
    "engine": (r"engine/.*|isa/(.*/)?table\.hpp", r"pybind11.*|Python\.h"),
    "bindings": (r"bindings/.*|engine/.*", r"(?!)"),
}
FILES_BESIDE_FOLDERS = 8

Edges = dict[str, set[str]]


def modules(package: Path) -> dict[str, Path]:
    """Module name -> file."""
    found = {}
    for path in [*package.rglob("*.py"), *package.glob("*.pyi")]:
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, known: Mapping[str, Path], package: str) -> Iterator[str]:
    """Modules of the package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else str(node.module) for name in inside]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == package)


def python_edges(package: Path) -> Edges:
    known = modules(package)
    return {name: set(imported(path, known, package.name)) for name, path in known.items()}


def place(module: str) -> str:
    first, _, rest = module.partition(".")
    return rest.split(".")[0] or first


def python_wrong(edges: Edges) -> list[str]:
    """The arrows that run the wrong way."""
    return [
        f"{module} imports {other}"
        for module, others in edges.items()
        for other in sorted(others)
        if place(other) not in {*PLACES[place(module)], place(module)}
    ]


def cpp_edges(root: Path) -> Edges:
    """File -> what it includes, ours relative to `root`."""
    edges: Edges = {}
    for path in [*root.rglob("*.hpp"), *root.rglob("*.cpp")]:
        ours = re.findall(r'^\s*#\s*include\s+"(.+)"', path.read_text("utf-8"), re.M)
        theirs = re.findall(r"^\s*#\s*include\s+<(.+)>", path.read_text("utf-8"), re.M)
        beside = {name for name in ours if (path.parent / name).is_file()}
        own = {str((path.parent / name).relative_to(root)) for name in beside} | {*ours} - beside
        edges[str(path.relative_to(root))] = own | {f"<{name}>" for name in theirs}
    return edges


def cpp_wrong(edges: Edges) -> list[str]:
    wrong = []
    for file, others in edges.items():
        room = file.split("/")[0]
        if room == "tests":
            continue
        allowed, unknown = ROOMS[room]
        for other in sorted(others):
            system = other.startswith("<")
            if (
                re.fullmatch(unknown, other.strip("<>"))
                if system
                else not re.fullmatch(allowed, other)
            ):
                wrong.append(f"{file} includes {other}")
    return wrong


def circle(edges: Edges) -> list[str]:
    """A circle of the graph, from where it starts back to there; empty: there is none."""
    try:
        TopologicalSorter({a: bs - {a} for a, bs in edges.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_python_imports_run_one_way() -> None:
    edges = python_edges(PYTHON)
    assert len(edges) > 40
    assert python_wrong(edges) == []


def test_cpp_includes_run_one_way() -> None:
    edges = cpp_edges(CPP)
    assert len(edges) > 60
    assert cpp_wrong(edges) == []


@pytest.mark.parametrize(("edges", "root"), [(python_edges, PYTHON), (cpp_edges, CPP)])
def test_there_are_no_circles(edges: Callable[[Path], Edges], root: Path) -> None:
    assert circle(edges(root)) == []


def test_few_files_lie_beside_the_folders() -> None:
    for folder in (PYTHON, CPP):
        files = [path.name for path in folder.iterdir() if path.is_file()]
        # The compiled module lies there where the checkout is installed in place.
        assert len([name for name in files if not name.endswith(".so")]) <= FILES_BESIDE_FOLDERS, (
            files
        )


def test_the_specification_needs_no_compiled_core(python: Callable[..., str]) -> None:
    code = f"""
import importlib, pkgutil, sys, types
package = types.ModuleType("gradstep")  # in place of __init__, which imports everything
package.__path__ = [{str(PYTHON)!r}]
sys.modules["gradstep"] = package
sys.modules["gradstep._core"] = None  # an import of it fails
import gradstep.spec
names = [module.name for module in pkgutil.iter_modules(gradstep.spec.__path__)]
for name in names:
    importlib.import_module(f"gradstep.spec.{{name}}")
print(*sorted(names))
"""
    expected = (
        "activations dropout elementary exact fused halves intervals losses norm optim philox"
    )
    assert python(code) == f"{expected} storage sums"


def written(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".py").write_text(text)
    return root


def test_a_wrong_import_is_named(tmp_path: Path) -> None:
    root = tmp_path / "gradstep"
    written(
        root, spec__norm="def late():\n    from gradstep import _core\n", optim__a="import gradstep"
    )
    written(root, nn__b="from gradstep.torch.c import d", torch__c="", arrays="", _core="")
    assert sorted(python_wrong(python_edges(root))) == [
        "gradstep.nn.b imports gradstep.torch.c",
        "gradstep.optim.a imports gradstep",
        "gradstep.spec.norm imports gradstep._core",
    ]


def test_a_wrong_include_is_named() -> None:
    edges = {
        "isa/a.hpp": {"engine/dtype.hpp", "<mutex>", "isa/b.hpp"},
        "engine/a.cpp": {"bindings/arrays.hpp", "isa/simd.hpp", "isa/norm/table.hpp", "<mutex>"},
        "bindings/a.cpp": {"isa/norm/table.hpp", "<pybind11/numpy.h>", "engine/dtype.hpp"},
    }
    assert cpp_wrong(edges) == [
        "isa/a.hpp includes <mutex>",
        "isa/a.hpp includes engine/dtype.hpp",
        "engine/a.cpp includes bindings/arrays.hpp",
        "engine/a.cpp includes isa/simd.hpp",
        "bindings/a.cpp includes isa/norm/table.hpp",
    ]


def test_a_circle_is_named() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert circle({"a": {"a", "b"}, "b": set()}) == []
