"""Values that fit few arguments: of other kinds, out of range, and arrays with something amiss."""

from __future__ import annotations

import array
import datetime
import decimal
import fractions
import io
import pathlib
import warnings
from collections import OrderedDict, UserDict, UserList, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np

Make = Callable[[], Any]


class Liar:
    """Has what arrays, numbers and containers have, and fails where it is used."""

    shape, dtype, size, ndim = (2, 3), np.dtype("f4"), 6, 2

    def _fail(self, *args: Any, **kwargs: Any) -> Any:
        raise OSError("refused by the object itself")

    __len__ = __iter__ = __getitem__ = __bool__ = __eq__ = _fail
    __float__ = __int__ = __add__ = __mul__ = __array__ = __call__ = _fail  # type: ignore[assignment]
    __hash__ = object.__hash__


class Index:
    """An integer of another library."""

    def __index__(self) -> int:
        return 1


class Float(float):
    """A subclass of a number's type."""


class Marked(np.ndarray[Any, Any]):
    """A subclass of arrays with the arithmetic of arrays."""


def _endless() -> Iterator[int]:
    yield from range(3)


PLAIN: dict[str, Any] = {
    "None": None,
    "Ellipsis": ...,
    "NotImplemented": NotImplemented,
    "'abc'": "abc",
    "''": "",
    "'1'": "1",
    "a long string": "x" * 10_000,
    "bytes": b"abc",
    "True": True,
    "False": False,
    "np.True_": np.True_,
    "0": 0,
    "1": 1,
    "-1": -1,
    "7": 7,
    "2**31": 2**31,
    "2**63": 2**63,
    "2**64": 2**64,
    "-2**63 - 1": -(2**63) - 1,
    "2**100": 2**100,
    "10**5000": 10**5000,
    "0.0": 0.0,
    "-0.0": -0.0,
    "0.5": 0.5,
    "1.0": 1.0,
    "-1.5": -1.5,
    "1e308": 1e308,
    "5e-324": 5e-324,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "1j": 1j,
    "Fraction": fractions.Fraction(1, 2),
    "Decimal": decimal.Decimal("0.5"),
    "a subclass of float": Float(0.5),
    "an object with __index__": Index(),
    "np.float16": np.float16(0.5),
    "np.float32": np.float32(0.5),
    "np.float64": np.float64(0.5),
    "np.float32 nan": np.float32("nan"),
    "np.longdouble": np.longdouble(0.5),
    "np.int8": np.int8(1),
    "np.int64": np.int64(1),
    "np.uint64": np.uint64(2**63),
    "np.complex64": np.complex64(1),
    "np.str_": np.str_("abc"),
    "np.bytes_": np.bytes_(b"abc"),
    "np.datetime64": np.datetime64("2020-01-01"),
    "np.timedelta64": np.timedelta64(1, "s"),
    "np.void": np.void(b"1234"),
    "date": datetime.date(2020, 1, 1),
    "object()": object(),
    "a class": int,
    "an exception": ValueError("x"),
    "a module": np,
    "a slice": slice(0, 1),
    "a path": pathlib.Path("x"),
    "a file": io.BytesIO(b"abc"),
    "an object that fails": Liar(),
}

# Made anew for each call: what may be changed, or walked once.
FRESH: dict[str, Make] = {
    "a lambda": lambda: lambda *args, **kwargs: None,
    "a function of no arguments": lambda: lambda: 1.0,
    "a lambda that gives text": lambda: lambda *args: "abc",
    "[]": list,
    "()": tuple,
    "{}": dict,
    "set()": set,
    "{1}": lambda: {1},
    "[None]": lambda: [None],
    "[1.0]": lambda: [1.0],
    "(0.5, 0.5)": lambda: (0.5, 0.5),
    "(0.5, 0.5, 0.5)": lambda: (0.5, 0.5, 0.5),
    "['a']": lambda: ["a"],
    "a nested list": lambda: [[1.0, 2.0], [3.0, 4.0]],
    "a dict of a number": lambda: {"a": 1},
    "a mapping of None": lambda: OrderedDict(a=None),
    "UserDict": lambda: UserDict(a=1),
    "UserList": lambda: UserList([1.0]),
    "deque": lambda: deque([1.0]),
    "a generator": _endless,
    "an empty iterator": lambda: iter(()),
    "range": lambda: range(3),
    "dict.values()": lambda: {"a": 1}.values(),
    "array.array": lambda: array.array("f", [1.0, 2.0]),
    "bytearray": lambda: bytearray(8),
    "memoryview": lambda: memoryview(np.ones(3, np.float32)),
    "np.dtype": lambda: np.dtype("i4"),
    "a 0-d float array": lambda: np.array(0.5),
    "a 0-d float32 array": lambda: np.array(0.5, np.float32),
    "a 0-d int array": lambda: np.array(1),
    "an empty float32 array": lambda: np.zeros(0, np.float32),
    "an empty array of no rows": lambda: np.zeros((0, 6)),
    "a float array of one": lambda: np.array([0.5]),
    "an int array of one": lambda: np.array([1]),
    "a float32 array of 7": lambda: np.ones(7, np.float32),
    "a float64 array of 2x2x2x2": lambda: np.ones((2, 2, 2, 2)),
    "an array of objects": lambda: np.array([1.0, None], object),
    "an array of text": lambda: np.array(["a", "b"]),
    "an array of dates": lambda: np.array(["2020-01-01"], "M8[D]"),
    "an array of records": lambda: np.zeros(2, [("a", "f4")]),
    "an array of complex numbers": lambda: np.ones((2, 3), np.complex64),
    "an array of truth values": lambda: np.ones((2, 3), bool),
    "an array of uint8": lambda: np.ones((2, 3), np.uint8),
}


def _misaligned(good: Any) -> Any:
    raw = np.zeros(good.nbytes + 1, np.uint8)
    found = raw[1:].view(good.dtype).reshape(good.shape)
    found[...] = good
    return found


def _read_only(good: Any) -> Any:
    found = good.copy()
    found.flags.writeable = False
    return found


def _spaced(good: Any) -> Any:
    wide = np.repeat(good, 2, axis=-1) if good.ndim else np.array([good, good])
    return wide[..., ::2] if good.ndim else wide[:1].reshape(())


def _broadcast(good: Any) -> Any:
    return np.broadcast_to(good.reshape(-1)[:1].reshape(()), good.shape)


# Of a good array: the same with something amiss.
SPOILT: dict[str, Callable[[Any], Any]] = {
    "itself": lambda a: a.copy(),
    "the other width": lambda a: a.astype(
        {"f4": "f8", "f8": "f4", "i4": "i8"}.get(a.dtype.str[1:], "i4")
    ),
    "as float16": lambda a: a.astype(np.float16),
    "as int64": lambda a: a.astype(np.int64),
    "as uint32": lambda a: np.abs(a).astype(np.uint32),
    "as bool": lambda a: a.astype(bool),
    "as complex": lambda a: a.astype(np.complex128),
    "as objects": lambda a: a.astype(object),
    "as text": lambda a: a.astype(str),
    "as longdouble": lambda a: a.astype(np.longdouble),
    "of the other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "spaced": _spaced,
    "reversed": lambda a: a[::-1].copy()[::-1] if a.ndim else a.copy(),
    "in F order": lambda a: np.asfortranarray(a),
    "broadcast": _broadcast,
    "misaligned": _misaligned,
    "read-only": _read_only,
    "masked": lambda a: np.ma.masked_array(a.copy(), a > 1e9),
    "a matrix": lambda a: np.asmatrix(a.copy()) if a.ndim == 2 else a.copy(),
    "a subclass": lambda a: a.copy().view(Marked),
    "one more axis": lambda a: a.copy()[None],
    "one axis less": lambda a: a[0].copy() if a.ndim and len(a) else a.copy(),
    "one row less": lambda a: a[1:].copy() if a.ndim else a.copy(),
    "one row more": lambda a: np.concatenate([a, a[:1]]) if a.ndim else a.copy(),
    "one column less": lambda a: a[..., 1:].copy() if a.ndim else a.copy(),
    "flat": lambda a: a.reshape(-1).copy(),
    "transposed": lambda a: np.ascontiguousarray(a.T),
    "no rows": lambda a: a[:0].copy() if a.ndim else a.copy(),
    "a list": lambda a: a.tolist(),
    "in a list": lambda a: [a.copy()],
    "in a tuple of two": lambda a: (a.copy(), a.copy()),
    "in a dict": lambda a: {"x": a.copy()},
    "its buffer": lambda a: memoryview(a.copy()),
}


def wrong_values(good: Any) -> Iterator[tuple[str, Any]]:
    """All values for the place of `good`, each with its name; arrays also spoilt."""
    yield from PLAIN.items()
    for name, make in FRESH.items():
        yield name, make()
    if isinstance(good, np.ndarray):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PendingDeprecationWarning)  # of matrices
            for name, spoil in SPOILT.items():
                with suppress(ValueError, TypeError):  # texts are no numbers
                    yield f"the array {name}", spoil(good)
