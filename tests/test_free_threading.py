"""Python without the GIL: it stays off, and threads get what they get with it.

Elsewhere these tests are skipped: there the other tests of threads, and `tools/sanitized_tests
thread`, say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="a build of Python with the GIL"
)


def ran(*arguments: str) -> str:
    """What Python prints that is left to choose whether it needs the GIL."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHON_GIL"}
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_gil_stays_off() -> None:
    asked = "print(sys._is_gil_enabled())"
    assert ran("-c", f"import sys, numpy; {asked}; import gradstep; {asked}") == "False\nFalse\n"


def test_threads_in_the_same_objects_and_in_their_own() -> None:
    assert "one_plan" in ran(str(Path(__file__).parent / "two_threads.py")).split()
