"""What arguments may be: each rule once, with the name, what came and what was expected.

A wrong kind raises TypeError, a wrong value ValueError. `name` is what messages call the argument.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from numbers import Real
from reprlib import repr as short_repr
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "array",
    "choice",
    "entry",
    "flag",
    "floating",
    "function",
    "generator",
    "integer",
    "is_integer",
    "mapping",
    "number",
    "probability",
    "real",
    "several",
    "shape",
    "shown",
    "text",
]

INF = math.inf
FLOATS = "expected float32 or float64"
# Bounds from here on are limits of a type rather than of sense.
LARGE = 2**31
MOST_AXES, MOST_BYTES = 64, 2**63 - 1  # of NumPy's arrays


def kind(value: Any) -> str:
    """The name of a value's type, which is what messages about kinds show."""
    return type(value).__name__


def shown(value: Any) -> str:
    """A value in a message: short, whatever it is."""
    # Python refuses to print integers of more than some thousand digits.
    if isinstance(value, int) and value.bit_length() > 1_000:
        return "an integer of many digits"
    if isinstance(value, (np.integer, np.floating)):
        return str(value)
    return short_repr(value)


def _bound(value: int) -> str:
    """A bound, large ones as people write them: 2**63 - 1."""
    if value < LARGE:
        return str(value)
    power = value.bit_length()
    return f"2**{power - 1}" if value == 2 ** (power - 1) else f"2**{power} - 1"


def _index(value: Any) -> int | None:
    """The value as an int if it counts as an integer, anybody's; truth values do not."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def is_integer(value: Any) -> bool:
    """Whether a value counts as an integer: anybody's, but no truth value."""
    return _index(value) is not None


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """The value as an int, from `least` to `most` where these are given.

    >>> integer("n", 3, least=1)
    3
    >>> integer("n", 0, least=1, most=1024)
    Traceback (most recent call last):
    ValueError: n: 0, expected an integer from 1 to 1024
    """
    found = _index(value)
    if found is None:
        raise TypeError(f"{name}: {kind(value)}, expected an integer")
    if (least is None or found >= least) and (most is None or found <= most):
        return found
    if least is not None and (most is None or most >= LARGE) and found < least:
        expected = f">= {_bound(least)}"
    elif least is None or (most is not None and most >= LARGE):
        expected = f"<= {_bound(most or 0)}"
    else:
        expected = f"from {least} to {most}"
    raise ValueError(f"{name}: {shown(found)}, expected an integer {expected}")


def real(name: str, value: Any, expected: str = "a number") -> float:
    """The value as a float; infinite where it is beyond the largest one."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: {kind(value)}, expected {expected}")
    found: Any = value
    try:
        return float(found)
    except OverflowError:
        return INF if found > 0 else -INF
    except TypeError:  # NumPy's time differences are numbers by their type alone
        raise TypeError(f"{name}: {kind(value)}, expected {expected}") from None


def number(
    name: str,
    value: Any,
    expected: str = "a number",
    allowed: Callable[[float], bool] = lambda x: True,
) -> float:
    """The value as a finite float which is `allowed`; `expected` says in words what is.

    >>> number("rate", -1, "a number >= 0", lambda x: x >= 0)
    Traceback (most recent call last):
    ValueError: rate: -1, expected a number >= 0
    """
    if type(value) is float and math.isfinite(value) and allowed(value):  # most are
        return value
    found = real(name, value, expected)
    if not math.isfinite(found):
        expected = expected.replace("a number", "a finite number", 1)
    elif allowed(found):
        return found
    raise ValueError(f"{name}: {shown(value)}, expected {expected}")


def probability(name: str, value: Any) -> float:
    """The value as a float in [0, 1]."""
    return number(name, value, "a number in [0, 1]", lambda p: 0 <= p <= 1)


def flag(name: str, value: Any) -> bool:
    """The value as a bool: True, False, or NumPy's."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: {kind(value)}, expected True or False")
    return bool(value)


def text(name: str, value: Any) -> str:
    """The value, a string."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: {kind(value)}, expected a string")
    return value


def choice(name: str, value: Any, names: Iterable[str]) -> str:
    """The value, one of the names.

    >>> choice("reduction", "max", ["mean", "sum"])
    Traceback (most recent call last):
    ValueError: reduction: 'max', expected 'mean' or 'sum'
    """
    allowed = list(names)
    if text(name, value) in allowed:
        return value  # type: ignore[no-any-return]
    *first, last = map(repr, allowed)
    expected = f"{', '.join(first)} or {last}" if first else last
    raise ValueError(f"{name}: {shown(value)}, expected {expected}")


def function(name: str, value: Any, of: str) -> Callable[..., Any]:
    """The value, something to call; `of` says with what."""
    if not callable(value):
        raise TypeError(f"{name}: {kind(value)}, expected a function {of}")
    return value  # type: ignore[no-any-return]


def mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """The value, a mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: {kind(value)}, expected a mapping")
    return value


def entry(of: Any, key: Any, name: str) -> Any:
    """The entry of a mapping that must be there."""
    if key not in mapping(name, of):
        raise ValueError(f"{name}: no {key!r}")
    return of[key]


def several(name: str, values: Any, item: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    """The values in their order, each checked by `item`."""
    unfit = (str, bytes, bytearray, Set, Mapping)
    try:
        walk = None if isinstance(values, unfit) else iter(values)
    except TypeError:
        walk = None
    if walk is None:
        raise TypeError(f"{name}: {kind(values)}, expected a sequence")
    return tuple(item(f"{name}[{i}]", value) for i, value in enumerate(walk))


def array(name: str, value: Any, *dtypes: npt.DTypeLike) -> npt.NDArray[Any]:
    """The value, a plain array of one of these types (float32 and float64), native and aligned.

    >>> array("x", np.zeros(2, int))
    Traceback (most recent call last):
    TypeError: x: dtype int64, expected float32 or float64
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: {kind(value)}, expected a numpy.ndarray")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array, expected a plain numpy.ndarray")
    allowed = [np.dtype(each) for each in dtypes or (np.float32, np.float64)]
    if value.dtype not in allowed:
        raise TypeError(f"{name}: dtype {value.dtype}, expected {' or '.join(map(str, allowed))}")
    return value


def shape(name: str, value: Any) -> tuple[int, ...]:
    """The sizes of an array: an integer, or a sequence of integers, all >= 0."""
    texts = (str, bytes, bytearray, memoryview)
    sizes = value if isinstance(value, Sequence) and not isinstance(value, texts) else (value,)
    found = [_index(size) for size in sizes]
    known = tuple(size for size in found if size is not None)
    if len(known) < len(found):
        expected = "expected an integer or a tuple of integers"
        raise TypeError(f"{name}: {shown(value)}, {expected}")
    if any(size < 0 for size in known):
        raise ValueError(f"{name}: {shown(value)}, expected sizes >= 0")
    # NumPy counts empty axes as one.
    if len(known) > MOST_AXES or math.prod(max(size, 1) for size in known) > MOST_BYTES // 8:
        raise ValueError(f"{name}: {shown(value)}, expected no more than an array can have")
    return known


def floating(name: str, value: Any) -> np.dtype[Any]:
    """The value as a dtype, float32 or float64."""
    found: np.dtype[Any] | None = None
    with contextlib.suppress(TypeError, ValueError):
        found = None if value is None else np.dtype(value)
    if found is None or found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"{name}: {kind(value) if found is None else found}, {FLOATS}")
    return found


def generator(name: str, value: Any) -> np.random.Generator:
    """The value as a source of random numbers: one, or a seed >= 0 or None for a new one."""
    if isinstance(value, np.random.Generator):
        return value
    seed = _index(value)
    if value is not None and seed is None:
        raise TypeError(f"{name}: {kind(value)}, expected a numpy.random.Generator or a seed")
    if seed is not None and seed < 0:
        raise ValueError(f"{name}: {shown(value)}, expected a seed >= 0")
    return np.random.default_rng(seed)
