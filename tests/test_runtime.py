"""What importing the package does, and what the environment and other libraries can say to it."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from gradstep import _core

LEVELS = gs.build_info()["simd_levels"]
SHOW = "import gradstep as gs; print(gs.simd_level(), gs.get_num_threads())"
ALL_CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def test_the_version_is_written_once() -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    declared = tomllib.loads(project.read_text())["project"]["version"]
    assert gs.__version__ == gs.build_info()["version"] == declared
    assert importlib.metadata.version("gradstep") == declared


def test_build_info_says_what_runs(level: str) -> None:
    info = gs.build_info()
    simd = ["simd_levels", "simd_level", "simd_missing"]
    assert list(info) == ["version", "compiler", *simd, "threads"]
    every = {*info["simd_levels"], *info["simd_missing"]}
    assert every == {*_core.compiled_simd_levels()}
    assert all(info["simd_missing"].values())
    assert (info["simd_levels"], info["simd_level"]) == (LEVELS, level)
    assert info["compiler"] and info["simd_levels"][0] == "baseline"


@pytest.mark.parametrize(
    ("bad", "kind", "message"),
    [
        ("sse9", ValueError, "level: sse9"),
        ("", ValueError, "level: "),
        ("AVX2", ValueError, "level: AVX2"),
        (3, TypeError, "level: int, expected a string"),
        (None, TypeError, "level: NoneType, expected a string"),
    ],
)
def test_an_unknown_level_is_refused(
    level: str, bad: Any, kind: type[Exception], message: str
) -> None:
    if kind is ValueError:
        known = ", ".join(LEVELS)
        message += f", expected one of {known} (what this build has and this CPU runs)"
    with pytest.raises(kind) as caught:
        gs.use_simd(bad)
    assert str(caught.value) == message
    assert gs.simd_level() == level


def test_every_public_name_exists_and_is_documented() -> None:
    assert sorted(set(gs.__all__)) == sorted(gs.__all__)
    for name in gs.__all__:
        value = getattr(gs, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name


def test_import_brings_in_numpy_and_nothing_heavy(python: Any) -> None:
    code = "import sys, gradstep; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(python(code).split())
    bare = set(python(code.replace("gradstep", "numpy")).split())
    optional = {"matplotlib", "mlxtend", "pandas", "scipy", "sklearn", "threadpoolctl", "torch"}
    assert "gradstep" in loaded and not (optional | {"tqdm"}) & loaded
    assert not {"multiprocessing", "subprocess", "asyncio", "unittest"} & (loaded - bare)


def test_import_warns_of_nothing(python: Any) -> None:
    assert python(f"import warnings; warnings.simplefilter('error'); {SHOW}")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pybind11 takes care of them there")
def test_a_subinterpreter_is_refused(python: Any) -> None:
    code = "import _xxsubinterpreters as s; s.run_string(s.create(), 'import gradstep')"
    said = python(code, fails=True)
    assert "gradstep: in a subinterpreter, expected the main interpreter" in said


# The environment


IMPORTS = """
import json, os, numpy
for variables in json.loads({text!r}):
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.environ.update(variables)
        try:
            import gradstep as gs
            said = f"{{gs.simd_level()}} {{gs.get_num_threads()}}"
        except ImportError as error:
            said = str(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    print(json.dumps(os.read(read, 10_000).decode()))
    os.waitpid(child, 0)
"""


def imported(python: Any, environments: list[dict[str, str]]) -> list[str]:
    """Level and threads, or the error, of an import in each of them: children of one process."""
    lines = python(IMPORTS.format(text=json.dumps(environments))).splitlines()
    assert len(lines) == len(environments)
    return [json.loads(line) for line in lines]


def test_the_environment_chooses_the_level(python: Any) -> None:
    found = imported(python, [{"GRADSTEP_SIMD": level} for level in LEVELS])
    assert [each.split()[0] for each in found] == list(LEVELS)


def test_the_best_level_by_default(python: Any) -> None:
    found = imported(python, [{}, {"GRADSTEP_SIMD": ""}])
    assert {each.split()[0] for each in found} == {LEVELS[-1]}


def test_a_level_that_cannot_be_stops_the_import(python: Any) -> None:
    bad = ["sse9", "AVX2", "avx2 ", "1"]
    known = ", ".join(LEVELS)
    for level, said in zip(bad, imported(python, [{"GRADSTEP_SIMD": x} for x in bad]), strict=True):
        assert f"GRADSTEP_SIMD: {level}, expected one of {known} (what this build has" in said


THREADS_BY_ENVIRONMENT: list[tuple[dict[str, str], int | None]] = [
    ({"GRADSTEP_NUM_THREADS": "3"}, 3),
    ({"GRADSTEP_NUM_THREADS": " 1024 "}, 1024),
    ({"GRADSTEP_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
    ({"GRADSTEP_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
    ({"OMP_NUM_THREADS": "4,2"}, 4),
    ({"OMP_NUM_THREADS": "9999"}, 1024),
    ({"OMP_NUM_THREADS": "many"}, None),
    ({"OMP_NUM_THREADS": "0"}, None),
    ({}, None),
]


def test_the_environment_sets_the_threads(python: Any) -> None:
    said = imported(python, [variables for variables, _ in THREADS_BY_ENVIRONMENT])
    for (variables, threads), line in zip(THREADS_BY_ENVIRONMENT, said, strict=True):
        found = int(line.split()[1])
        assert found == threads or (threads is None and 1 <= found <= ALL_CPUS), variables


def test_a_bad_number_of_threads_stops_the_import(python: Any) -> None:
    bad = ["0", "-1", "1025", "2.5", "two", "3 4", "0x2", str(2**70)]
    said = imported(python, [{"GRADSTEP_NUM_THREADS": value} for value in bad])
    for value, line in zip(bad, said, strict=True):
        expected = f"GRADSTEP_NUM_THREADS: '{value}', expected a whole number from 1 to 1024"
        assert expected in line


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_threads_respect_the_cpu_affinity(python: Any) -> None:
    cpu = min(os.sched_getaffinity(0))
    pinned = f"import os; os.sched_setaffinity(0, {{{cpu}}}); {SHOW}"
    assert python(pinned).split()[1] == "1"
    assert python(pinned, GRADSTEP_NUM_THREADS="2").split()[1] == "2"


# The end of the process, other libraries

WORK = """
import threading, numpy as np, gradstep as gs
gs.set_num_threads(4)
w, g = np.zeros(2_000_000, np.float32), np.ones(2_000_000, np.float32)
optimizer = gs.AdamW(w)
"""


def test_the_process_ends_with_workers_awake(python: Any) -> None:
    python(f"{WORK}\noptimizer.step(g)")


@pytest.mark.parametrize(
    "call",
    [
        "optimizer.step(g)",
        "gs.relu(g)",
        "gs.dropout(g, 0.5, seed=1)",
        "gs.layer_norm(g.reshape(-1, 8))",
        "gs.cross_entropy(g.reshape(-1, 8), np.zeros(g.size // 8, np.int64))",
    ],
)
def test_the_process_ends_while_a_daemon_thread_computes(python: Any, call: str) -> None:
    """Such a thread stops for good when it wants the GIL again."""
    python(
        f"""{WORK}
started = threading.Event()
def forever():
    while True:
        {call}
        started.set()
threading.Thread(target=forever, daemon=True).start()
started.wait()
"""
    )


def test_threadpoolctl_sees_and_limits_our_threads(python: Any) -> None:
    pytest.importorskip("threadpoolctl")
    python(
        """
import threadpoolctl, gradstep as gs
gs.set_num_threads(3)

def ours():
    return [row for row in threadpoolctl.threadpool_info() if row["user_api"] == "gradstep"]

(row,) = ours()
assert (row["internal_api"], row["num_threads"]) == ("gradstep", 3), row
assert row["version"] == gs.__version__, row
with threadpoolctl.threadpool_limits(limits=1, user_api="gradstep"):
    assert gs.get_num_threads() == ours()[0]["num_threads"] == 1
assert gs.get_num_threads() == 3
with threadpoolctl.threadpool_limits(limits=2):
    assert gs.get_num_threads() == 2
with threadpoolctl.threadpool_limits(limits={"gradstep": 2}):
    assert gs.get_num_threads() == 2
assert gs.get_num_threads() == 3
"""
    )


def test_threadpoolctl_is_left_alone_when_it_comes_later(python: Any) -> None:
    pytest.importorskip("threadpoolctl")
    python(
        """
import sys, gradstep as gs
assert "threadpoolctl" not in sys.modules
import threadpoolctl
with threadpoolctl.threadpool_limits(limits=1):
    pass
"""
    )


def test_the_floating_point_state_of_the_process_stays(python: Any) -> None:
    python(
        """
import numpy as np
before = np.float32(1e-45) * np.float32(1), np.geterr()
import gradstep as gs
gs.set_num_threads(3)
w = np.full(100_000, 1e-45, np.float32)
gs.Adam(w).step(np.full(100_000, np.inf, np.float32))
assert (np.float32(1e-45) * np.float32(1), np.geterr()) == before and before[0] > 0
"""
    )


def test_doubles_round_to_nearest_after_a_step() -> None:
    gs.SGD(np.zeros(100_000), lr=1.0).step(np.full(100_000, 1e308))
    assert 0.1 + 0.2 == 0.30000000000000004
