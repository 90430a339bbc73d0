"""Wrong values for every argument of everything public: a clear error, and nothing has changed.

What is tried is in `wrong_values.py`, where in `public_calls.py`, how in `wrong_calls.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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
# What a class inherits is tried with the first class that has it; with others by the slow tests.
FIRST = {call.function: call for call in reversed(CALLS)}
INHERITED = [call for call in CALLS if FIRST[call.function] is not call]


def by_owner(calls: Iterable[Call]) -> Any:
    """Those of a class together."""
    owned: dict[str, list[Call]] = {}
    for call in calls:
        owned.setdefault(call.name.partition(".")[0], []).append(call)
    return pytest.mark.parametrize("calls", owned.values(), ids=owned)


@pytest.fixture(autouse=True)
def arithmetic_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # for files of any name
    yield
    gs.flush_denormals(False)


def good_values(call: Call) -> dict[str, Any]:
    return {name: argument.make() for name, argument in call.arguments.items()}


@by_owner(CALLS)
def test_good_values_are_taken(calls: list[Call]) -> None:
    for call in calls:
        function, _ = call.prepare()
        good = good_values(call)
        invoke(call, function, {name: good[name] for name in call.required})
        for name in good:
            tree = isinstance(good[name], (Mapping, list, tuple))
            assert tree or call.arguments[name].takes(good[name]), (call.name, name)


@by_owner(FIRST.values())
def test_a_wrong_value_is_named_and_changes_nothing(calls: list[Call]) -> None:
    assert [problem for call in calls for problem in problems(call)] == []


@pytest.mark.slow
@by_owner(INHERITED)
def test_so_it_is_with_what_a_class_inherits(calls: list[Call]) -> None:
    assert [problem for call in calls for problem in problems(call)] == []


def test_there_are_thousands_of_calls() -> None:
    """At least; arrays are also spoilt in some thirty ways."""
    assert sum(len(call.arguments) for call in CALLS) * (len(PLAIN) + len(FRESH)) > 4_000
