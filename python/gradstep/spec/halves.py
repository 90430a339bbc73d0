"""Functions of arrays kept in 16 bits: those of float32, whose results are rounded once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from gradstep.arrays import Array
from gradstep.spec.storage import from_bfloat16, to_bfloat16, to_float16

Function = TypeVar("Function", bound=Callable[..., Any])

__all__ = ["is_half", "of_halves", "rounded", "widened"]


def is_half(value: Any) -> bool:
    """Whether it is an array of bfloat16 or float16."""
    return isinstance(value, np.ndarray) and value.dtype.name in ("bfloat16", "float16")


def widened(x: Array) -> Array:
    """The same numbers in float32."""
    if x.dtype == np.float16:
        return x.astype(np.float32)
    return np.asarray(from_bfloat16(x.view(np.uint16)))


def rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    """float32 in one of these types, to the nearest, halves to even."""
    kept: Array = to_float16(x) if dtype == np.float16 else to_bfloat16(x).view(dtype)
    return kept.reshape(x.shape)


def of_halves(weight: int | None = None) -> Callable[[Function], Function]:
    """Lets a function of float32 arrays take such arrays, in any places.

    Results of float32 become what the first array is; all but the first of them, gradients of
    parameters, what the argument at place `weight` is. Arrays that are written get the new numbers.
    """

    def decorated(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            if not any(map(is_half, given)):
                return function(*args, **kwargs)
            wide = [widened(each) if is_half(each) else each for each in given]
            before = [
                each.copy() if is_half(own) else None for own, each in zip(given, wide, strict=True)
            ]
            named = dict(zip(kwargs, wide[len(args) :], strict=True))
            found = function(*wide[: len(args)], **named)
            for own, now, then in zip(given, wide, before, strict=True):
                if then is not None and now.tobytes() != then.tobytes():
                    own[...] = rounded(now, own.dtype)
            results = found if isinstance(found, tuple) else (found,)
            models = [given[0], *[None if weight is None else given[weight]] * (len(results) - 1)]
            kept = tuple(
                rounded(result, model.dtype)
                if is_half(model) and result.dtype == np.float32
                else result
                for result, model in zip(results, models, strict=True)
            )
            return kept if isinstance(found, tuple) else kept[0]

        return cast(Function, call)

    return decorated
