"""What a layer is made with, as attributes that are checked whenever they are assigned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from gradstep.arguments import choice, integer, number, shown

__all__ = ["Setting", "channel_axis", "eps", "momentum", "relu_or_none", "size"]


MOST = 2**58  # of elements that NumPy can address


class Setting:
    """An argument of a constructor, which may be changed between steps unless it is `fixed`.

    check: takes its name and a value, returns what is kept, raises TypeError or ValueError.

    >>> class Scaled:
    ...     factor = Setting(number)
    >>> layer = Scaled()
    >>> layer.factor = "big"
    Traceback (most recent call last):
    TypeError: factor: str, expected a number
    """

    def __init__(self, check: Callable[[str, Any], Any], *, fixed: bool = False) -> None:
        self._check, self._fixed = check, fixed

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, layer: Any, owner: type) -> Any:
        if layer is None:
            return self
        try:
            return layer.__dict__[self._name]
        except KeyError:
            raise AttributeError(f"{owner.__name__} has no {self._name!r} yet") from None

    def __set__(self, layer: Any, value: Any) -> None:
        if self._fixed and self._name in layer.__dict__:
            raise AttributeError(
                f"{type(layer).__name__}.{self._name} cannot change: arrays have that size"
            )
        layer.__dict__[self._name] = self._check(self._name, value)

    def __delete__(self, layer: Any) -> None:
        raise AttributeError(f"{type(layer).__name__}.{self._name} cannot be deleted")


def size(name: str, value: Any) -> int:
    """A size, at least 1."""
    return integer(name, value, 1, MOST)


def channel_axis(name: str, value: Any) -> int:
    """1 for channels first, -1 for channels last."""
    found = integer(name, value)
    if found not in (1, -1):
        what = "expected 1 (channels first) or -1 (channels last)"
        raise ValueError(f"{name}: {shown(found)}, {what}")
    return found


def eps(name: str, value: Any) -> float:
    """What keeps a root away from 0."""
    return number(name, value, "a finite number >= 0", lambda x: x >= 0)


def momentum(name: str, value: Any) -> float | None:
    """The share of a batch in running statistics; None averages all batches."""
    if value is None:
        return None
    return number(name, value, "None or a number from 0 to 1", lambda x: 0 <= x <= 1)


def relu_or_none(name: str, value: Any) -> Literal["relu"] | None:
    """An activation in the same pass, or none."""
    if value is not None:
        choice(name, value, ("relu",))
    return "relu" if value else None
