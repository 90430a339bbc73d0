"""Builds and runs the C++ tests, which need no Python: value types, plan, pool, symbols, hashes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent


# cmake and ninja may be those that pip installed beside this Python.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def found(program: str) -> str:
    return shutil.which(program, path=PATH) or program


def run(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [found(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": PATH},
    )
    assert done.returncode == 0, f"{program} {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built() -> Path:
    """A folder that stays, so that the next run builds what has changed; or one of CI's."""
    if folder := os.environ.get("GRADSTEP_CPP_BUILD"):
        return Path(folder)
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler):
        pytest.skip("no C++ compiler here")
    folder = SOURCE / "build" / f"tests-{Path(compiler).name}"
    options = ["-DGRADSTEP_PYTHON=OFF", "-DGRADSTEP_TESTS=ON", "-DGRADSTEP_WERROR=ON"]
    # The program that a run of another environment has left in the cache may be gone.
    options.append(f"-DCMAKE_MAKE_PROGRAM={found('ninja')}")
    run("cmake", "-S", str(SOURCE), "-B", str(folder), "-G", "Ninja", *options)
    run("cmake", "--build", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "test",
    [
        "test_simd",
        "test_math",
        "test_step_plan",
        "test_cache_policy",
        "test_thread_pool",
        "test_hashes",
        "test_symbols",
    ],
)
def test_cpp(built: Path, test: str) -> None:
    output = run("ctest", "--test-dir", str(built), "-R", f"^{test}$", "--output-on-failure", "-V")
    assert "100% tests passed" in output


# Room -> what its files may include, as patterns; the C++ tests may include everything.
ROOMS = {
    "isa": r"isa/.+",
    "engine": r"engine/.+|isa/(\w+/)?table\.hpp",
    "bindings": r"bindings/.+|engine/.+",
}


@pytest.mark.parametrize("room", ROOMS)
def test_includes_go_one_way(room: str) -> None:
    found = [
        (str(path.relative_to(SOURCE)), included)
        for path in (SOURCE / "cpp" / room).rglob("*.?pp")
        for included in re.findall(r'^#include "(.+)"$', path.read_text(), re.MULTILINE)
    ]
    assert found
    wrong = [
        f"{path} includes {name}" for path, name in found if not re.fullmatch(ROOMS[room], name)
    ]
    assert wrong == []
    assert all((SOURCE / "cpp" / name).is_file() for _, name in found)
