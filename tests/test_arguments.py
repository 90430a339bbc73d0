"""Wrong values for every argument of everything public: a clear error, and nothing has changed.

What is tried is in `wrong_values.py`, where in `public_calls.py`, how in `wrong_calls.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradstep as gs
import pytest
from public_calls import Call, invoke, public_calls, training_calls
from wrong_calls import problems
from wrong_values import FRESH, PLAIN

# NumPy's own word, where a number is too large for a result.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

CALLS = [*public_calls(), *training_calls()]


@pytest.fixture(autouse=True)
def arithmetic_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # for files of any name
    yield
    gs.flush_denormals(False)


def good_values(call: Call) -> dict[str, Any]:
    return {name: argument.make() for name, argument in call.arguments.items()}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_good_values_are_taken(call: Call) -> None:
    function, _ = call.prepare()
    good = good_values(call)
    invoke(call, function, {name: good[name] for name in call.required})
    for name in good:
        assert call.arguments[name].takes(good[name]) or isinstance(
            good[name], (Mapping, list, tuple)
        )


@pytest.mark.parametrize("call", [c for c in CALLS if c.arguments], ids=lambda call: call.name)
def test_a_wrong_value_is_named_and_changes_nothing(call: Call) -> None:
    assert problems(call) == []


def test_there_are_thousands_of_calls() -> None:
    """At least; arrays are also spoilt in some thirty ways."""
    assert sum(len(call.arguments) for call in CALLS) * (len(PLAIN) + len(FRESH)) > 4_000
