"""Counts the sample inputs of PyTorch's own tests that went through our modules."""

from __future__ import annotations

from typing import Any

import pytest

MODULE_INPUTS: list[str] = []


@pytest.fixture
def module_inputs() -> list[str]:
    """Append a name for each sample input driven."""
    return MODULE_INPUTS


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if MODULE_INPUTS:
        terminalreporter.write_line(f"torch module inputs driven: {len(MODULE_INPUTS)}")
