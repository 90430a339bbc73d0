"""Kinds of arguments: how to make a good value, and which others a call may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import cache, partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

F4, F8 = np.dtype(np.float32), np.dtype(np.float64)
FLOATS = (F4, F8)
STORED = (*FLOATS, np.dtype(np.float16))  # what more may be, and bfloat16
Takes = Callable[[Any], bool]


class Argument(NamedTuple):
    """How to make a good value, and which others may be taken."""

    make: Callable[[], Any]
    takes: Takes


# What counts as what


def is_index(value: Any) -> bool:
    """Integers of anybody, and arrays without axes of NumPy's; no truth values."""
    if isinstance(value, (bool, np.bool_, np.timedelta64, type)):
        return False
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iu"
    return hasattr(value, "__index__")


def real(value: Any) -> float:
    """As a float; NaN for what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real) or isinstance(value, np.timedelta64):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf  # type: ignore[operator]


def dense(value: Any, dtypes: Any = FLOATS, order: str = "C", written: bool = False) -> bool:
    """Plain arrays as kernels take them. Scalars may be read as arrays without axes."""
    if not written and (type(value) is float or isinstance(value, np.generic)):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        return False
    flags = value.flags
    if value.dtype not in dtypes or (written and not flags.writeable):
        return False
    if order == "none":
        return True
    contiguous = flags.c_contiguous or (order == "any" and flags.f_contiguous)
    return bool(flags.aligned and contiguous)


def is_tree(value: Any, written: bool) -> bool:
    if isinstance(value, (Iterator, ValuesView)):
        return True  # walked by now; what is in it is tried elsewhere
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return all(is_tree(branch, written) for branch in value)
    return dense(value, FLOATS if written else STORED, "any", written)


# Kinds of arguments


def optional(argument: Argument) -> Argument:
    return Argument(argument.make, lambda v: v is None or argument.takes(v))


def integer(good: int, least: float = -np.inf, most: float = np.inf) -> Argument:
    return Argument(lambda: good, lambda v: is_index(v) and least <= int(v) <= most)


def number(good: float, fits: Callable[[float], bool]) -> Argument:
    return Argument(lambda: good, lambda v: bool(fits(real(v))))


def between(least: float, most: float = np.inf) -> Callable[[float], bool]:
    return lambda x: least <= x <= most and bool(np.isfinite(x))


def choice(good: Any, *others: Any) -> Argument:
    allowed = (good, *others)
    return Argument(
        lambda: good, lambda v: v in allowed if isinstance(v, str) or v is None else False
    )


def flag(good: bool) -> Argument:
    return Argument(lambda: good, lambda v: isinstance(v, (bool, np.bool_)))


def function(good: Callable[..., Any]) -> Argument:
    return Argument(lambda: good, callable)


def filled(*shape: int, dtype: Any = F4) -> Any:
    return _filled(shape, np.dtype(dtype)).copy()


@cache
def _filled(shape: tuple[int, ...], dtype: Any) -> Any:
    return np.linspace(1, 2, int(np.prod(shape)), dtype=dtype).reshape(shape)


def any_array(
    *shape: int, order: str = "C", written: bool = False, dtypes: Any = FLOATS
) -> Argument:
    """Arrays of any shape, as far as this argument alone can tell."""
    takes = partial(dense, dtypes=dtypes, order=order, written=written)
    return Argument(partial(filled, *shape), takes)


def array(*shape: int, dtype: Any = F4, order: str = "C", written: bool = False) -> Argument:
    """Arrays of this very shape and type, or types."""
    dtypes = dtype if isinstance(dtype, tuple) else (dtype,)
    takes = partial(dense, dtypes=dtypes, order=order, written=written)
    return Argument(
        partial(filled, *shape, dtype=dtypes[0]), lambda v: takes(v) and np.shape(v) == shape
    )


def hyper(good: float, fits: Callable[[float], bool]) -> Argument:
    """A number or a function of the step."""
    return Argument(lambda: good, lambda v: callable(v) or bool(fits(real(v))))


def pair(good: tuple[float, float], fits: Callable[[float], bool]) -> Argument:
    def takes(value: Any) -> bool:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            return False
        return all(callable(v) or fits(real(v)) for v in value)

    return Argument(lambda: good, takes)


def sequence(good: Sequence[Any], item: Takes) -> Argument:
    def takes(value: Any) -> bool:
        if isinstance(value, Iterator):
            return True
        unordered = (str, bytes, bytearray, set, Mapping, type)
        if not isinstance(value, Iterable) or isinstance(value, unordered):
            return False
        return all(map(item, value))

    return Argument(lambda: list(good), takes)


def instance(make: Callable[[], Any], *kinds: type) -> Argument:
    return Argument(make, lambda v: isinstance(v, kinds))


def mapping(make: Callable[[], Any]) -> Argument:
    return Argument(make, lambda v: False)


def tree(written: bool) -> Argument:
    return Argument(partial(filled, 4, 6), lambda v: is_tree(v, written))


def is_shape(value: Any) -> bool:
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return False
    sizes = value if isinstance(value, Sequence) else [value]
    return all(is_index(size) and int(size) >= 0 for size in sizes)


def is_dtype(value: Any) -> bool:
    try:
        return value is not None and np.dtype(value) in FLOATS
    except (TypeError, ValueError):
        return False


PROBABILITY = number(0.5, between(0, 1))
POSITIVE = lambda x: x > 0  # noqa: E731
BELOW_1 = lambda x: 0 <= x < 1  # noqa: E731
RATE = between(0)
SIZE = integer(6, 1)
COUNT = integer(9, 1, 2**63 - 1)
LIKE_X = array(4, 6)
CHANNELS = optional(array(6))
WORD = integer(3, 0, 2**64 - 1)


def schedule(good: Any) -> Argument:
    return Argument(lambda: good, lambda v: callable(v) or bool(RATE(real(v))))
