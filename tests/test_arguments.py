"""Wrong values for every argument of everything public: a clear error, and nothing has changed.

What is tried is in `wrong_values.py`, where in `public_calls.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, ValuesView
from math import inf
from typing import Any

import gradstep as gs
import numpy as np
import pytest
from public_calls import Call, invoke, is_index, public_calls
from wrong_values import FRESH, PLAIN, Liar, wrong_values

# NumPy's own word, where a number is too large for a result.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

CALLS = list(public_calls())
LARGE = 2**20
SIZES = ("shape", "inputs", "outputs", "channels", "columns", "frequencies", "features")


@pytest.fixture(autouse=True)
def arithmetic_put_back() -> Iterator[None]:
    yield
    gs.flush_denormals(False)


def too_much(call: Call, name: str, value: Any) -> bool:
    """What is right and would take for ever, or all memory."""
    if name not in SIZES and call.name != "find_lr":
        return False
    return is_index(value) and LARGE < int(value) < (inf if name == "steps" else 2**58)


def arrays_in(thing: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """All arrays that can be reached from here: in containers, and in objects of the package."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        yield thing
    elif isinstance(thing, Mapping):
        for value in list(thing.values()):
            yield from arrays_in(value, seen)
    elif isinstance(thing, (list, tuple)):
        for value in thing:
            yield from arrays_in(value, seen)
    elif type(thing).__module__.startswith("gradstep"):
        yield from arrays_in(getattr(thing, "__dict__", {}), seen)


def content(array: Any) -> bytes:
    return b"" if array.dtype.hasobject else array.tobytes()


def is_clear(error: BaseException, call: Call, name: str, value: Any) -> bool:
    """Whether the message begins with the argument, and says what was expected.

    Where the value is right by itself, or an array or a tree, it may be another that does not go
    with it.
    """
    if type(error) not in (TypeError, ValueError):
        return False
    tree = (np.ndarray, np.generic, list, tuple, Mapping, float, Iterator, ValuesView)
    others = call.arguments if isinstance(value, tree) or call.arguments[name].takes(value) else ()
    names = "|".join(map(re.escape, [name, *others]))
    place = r"(\[[^:]*\])?"  # in a tree
    return bool(re.match(rf"({names}){place}: (no '|.*expected )", str(error), re.DOTALL))


def trial(call: Call, name: str, label: str, value: Any) -> str | None:
    """What is wrong about the outcome of one call, or None."""
    function, owner = call.prepare()
    given = {key: call.arguments[key].make() for key in call.required} | {name: value}
    held = [array for array in arrays_in([given, owner])]
    before = [content(array) for array in held]
    where = f"{call.name}({name}={label})"
    try:
        invoke(call, function, given)
    except BaseException as error:
        own = isinstance(value, Liar) and type(error) is OSError
        called = callable(value) and not own and call.arguments[name].takes(value)
        if not own and not called and not is_clear(error, call, name, value):
            return f"{where}: {type(error).__name__}: {str(error)[:200]}"
        if [content(array) for array in held] != before:
            return f"{where}: refused, but something was written"
    else:
        if not call.arguments[name].takes(value):
            return f"{where}: accepted"
    return None


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
    level, threads = gs.simd_level(), gs.get_num_threads()
    found = []
    for name, argument in call.arguments.items():
        for label, value in wrong_values(argument.make()):
            if too_much(call, name, value):
                continue
            found.append(trial(call, name, label, value))
        gs.use_simd(level)
        gs.set_num_threads(threads)
    assert [problem for problem in found if problem] == []


def test_there_are_thousands_of_calls() -> None:
    """At least; arrays are also spoilt in some thirty ways."""
    assert sum(len(call.arguments) for call in CALLS) * (len(PLAIN) + len(FRESH)) > 4_000
