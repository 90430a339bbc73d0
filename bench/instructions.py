"""Instructions of a call, counted by valgrind: the same on an idle machine and on a busy one.

python -m bench.instructions compares with those of the last commit; --write replaces them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import gradstep as gs
import numpy as np

from .counted_calls import MARK, ONCE, calls

__all__ = ["Counts", "committed", "count_instructions", "risen", "where"]

PROGRAM = Path(__file__).with_name("counted_calls.py")
# valgrind knows no AVX-512 and runs threads in turn, so that one that waits would be counted.
COMMITTED = Path(__file__).parent / "results" / "instructions.json"
MORE = 1.03  # that a call may take than the committed count
SETTINGS = {"GRADSTEP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
LEVEL = "avx2"


@dataclass(frozen=True)
class Counts:
    """by_call: instructions of one call. how: the settings, or why nothing was counted."""

    by_call: Mapping[str, float]
    how: str


def count_instructions() -> Counts:
    """Runs the calls under callgrind, some ten seconds."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        return Counts({}, "not counted: valgrind is not installed")
    level = LEVEL if LEVEL in gs.build_info()["simd_levels"] else "baseline"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "counts"
        ran = _run(valgrind, file, level)
        if ran.returncode != 0:
            said = ran.stderr.strip().splitlines() or ["nothing"]
            return Counts({}, f"not counted: valgrind ended with {ran.returncode}: {said[-1]}")
        totals = [_total(part) for part in sorted(file.parent.glob("counts.*"), key=_number)]
    names = list(calls())
    if len(totals) != 3 * len(names):
        return Counts({}, f"not counted: {len(totals)} marks, expected {3 * len(names)}")
    # Each call left three totals: what came before, N calls, 2N calls.
    found = {n: (totals[3 * i + 2] - totals[3 * i + 1]) / ONCE for i, n in enumerate(names)}
    version = subprocess.run([valgrind, "--version"], capture_output=True, text=True).stdout.strip()
    return Counts(found, f"{version} callgrind, SIMD {level}, 1 thread, Python included")


def _run(valgrind: str, file: Path, level: str) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(path for path in sys.path if path)
    settings = {**os.environ, **SETTINGS, "GRADSTEP_SIMD": level, "PYTHONPATH": search}
    options = ["--tool=callgrind", f"--dump-before={MARK}", f"--callgrind-out-file={file}"]
    command = [valgrind, *options, sys.executable, "-P", str(PROGRAM)]
    return subprocess.run(command, env=settings, capture_output=True, text=True)


def _number(part: Path) -> int:
    return int(part.suffix[1:])


def _total(part: Path) -> int:
    found = re.search(r"^totals: (\d+)", part.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def where() -> dict[str, str]:
    """What counts depend on, beside the code."""
    python = ".".join(platform.python_version_tuple()[:2])
    compiler = gs.build_info()["compiler"].split(".")[0]
    numpy = ".".join(np.__version__.split(".")[:2])
    return {"python": python, "numpy": numpy, "compiler": compiler, "machine": platform.machine()}


def committed() -> tuple[dict[str, float], dict[str, str]]:
    """The counts of the last commit that wrote them, and where they were made."""
    found = json.loads(COMMITTED.read_text())
    return found["counts"], found["where"]


def risen(counts: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """A line for each call that takes more than it may."""
    return [
        f"{name}: {counts[name]:.0f} instructions, {count:.0f} before"
        for name, count in before.items()
        if counts.get(name, 0) > MORE * count
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--write", action="store_true", help="replace the committed counts")
    arguments = parser.parse_args()
    counts = count_instructions()
    if not counts.by_call:
        parser.exit(1, f"{counts.how}\n")
    if arguments.write:
        whole = {name: round(count) for name, count in counts.by_call.items()}
        COMMITTED.write_text(json.dumps({"where": where(), "counts": whole}, indent=1) + "\n")
    before, _ = committed()
    for name, count in counts.by_call.items():
        print(f"{name:44} {count:10.0f} {count / before.get(name, count) - 1:+7.1%}")


if __name__ == "__main__":
    main()
