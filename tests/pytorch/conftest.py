"""Without torch, these tests are not collected."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from typing import Any

import pytest

HAS_TORCH = importlib.util.find_spec("torch") is not None
collect_ignore_glob = [] if HAS_TORCH else ["*.py"]


MODULE_INPUTS: list[str] = []


@pytest.fixture
def module_inputs() -> list[str]:
    """Append a name for each sample input of PyTorch's own tests that went through a module."""
    return MODULE_INPUTS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    cases = sys.modules.get("optimizer_cases")
    if cases is not None and any(cases.DRIVEN.values()):
        counts = ", ".join(f"{what} driven: {n}" for what, n in cases.DRIVEN.items())
        terminalreporter.write_line(f"torch optimizer {counts}")
    if MODULE_INPUTS:
        terminalreporter.write_line(f"torch module inputs driven: {len(MODULE_INPUTS)}")


@pytest.fixture(autouse=True)
def torch_put_back() -> Iterator[None]:
    """One thread of torch's, and the default dtype as it was."""
    import torch

    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
