"""One call with one wrong value: what is wrong about its outcome."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from math import inf
from types import FunctionType
from typing import Any

import numpy as np
from argument_kinds import is_index
from public_calls import Call, invoke
from wrong_values import Liar, wrong_values

LARGE = 2**20
SIZES = (
    "shape",
    "inputs",
    "outputs",
    "channels",
    "columns",
    "frequencies",
    "features",
    "classes",
    "rows",
)
SEARCHES = ("find_lr", "overfit_test")


WITHOUT = {int, float, bool, str, bytes, type(None), type, FunctionType, np.dtype}


def too_much(call: Call, name: str, value: Any) -> bool:
    """What is right and would take for ever, or all memory."""
    if name not in SIZES and call.name not in SEARCHES:
        return False
    return is_index(value) and LARGE < int(value) < (inf if name == "steps" else 2**58)


def arrays_in(thing: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """All arrays that can be reached from here: in containers, and in objects of the package."""
    seen = set() if seen is None else seen
    if type(thing) in WITHOUT or id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        yield thing
    elif isinstance(thing, (dict, Mapping)):
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
    several = isinstance(value, (Sized, Iterable)) and not isinstance(value, (str, bytes, type))
    tree = several or isinstance(value, (np.generic, float))
    others = call.arguments if tree or call.arguments[name].takes(value) else ()
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
        # A file that cannot be is the system's word.
        file = name == "path" and call.arguments[name].takes(value)
        own = isinstance(error, OSError) and (file or isinstance(value, Liar))
        called = callable(value) and not own and call.arguments[name].takes(value)
        if not own and not called and not is_clear(error, call, name, value):
            return f"{where}: {type(error).__name__}: {str(error)[:200]}"
        if [content(array) for array in held] != before:
            return f"{where}: refused, but something was written"
    else:
        if not call.arguments[name].takes(value):
            return f"{where}: accepted"
    return None


def problems(call: Call) -> list[str]:
    """What is wrong about a call, with every wrong value for each of its arguments in turn."""
    found = []
    for name, argument in call.arguments.items():
        for label, value in wrong_values(argument.make()):
            if not too_much(call, name, value):
                found.append(trial(call, name, label, value))
    return [problem for problem in found if problem]
