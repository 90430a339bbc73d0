"""What the tests of several ranks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.ranks import on_ranks

Ranks = Callable[..., list[Any]]


@pytest.fixture
def ranks() -> Ranks:
    """`ranks(n, work)`: see `on_ranks`."""
    return on_ranks
