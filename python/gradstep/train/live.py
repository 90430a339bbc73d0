"""The arrays of a model that tools of training copy, and states of them that are put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradstep.arguments import entry, mapping
from gradstep.arrays import Array, check_names, flatten, label
from gradstep.nn import Layer

__all__ = ["check_copies", "live_arrays", "put"]


def live_arrays(model: Any, argument: str = "model", *, buffers: bool = True) -> dict[str, Array]:
    """Name -> array of a layer or network, or of a tree of arrays.

    buffers: also those that a layer keeps beside its parameters. Raises TypeError or ValueError.
    """
    if isinstance(model, Layer):
        return model.params | (model.buffers if buffers else {})
    names, arrays = flatten(model, argument)
    check_names(names, argument)
    if not arrays:
        raise ValueError(f"{argument}: no arrays, expected at least one")
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, np.ndarray):
            kind = type(array).__name__
            raise TypeError(f"{label(argument, name)}: {kind}, expected an array")
        if not array.flags.writeable:
            raise ValueError(f"{label(argument, name)}: read-only, expected a writable array")
    return {str(0 if name is None else name): a for name, a in zip(names, arrays, strict=True)}


def check_copies(state: Any, key: str, live: Mapping[str, Array]) -> Mapping[str, Array]:
    """The copies of the live arrays that a state has under `key`, all of them, checked."""
    where = f"state_dict[{key!r}]"
    found = mapping(where, entry(state, key, "state_dict"))
    for name in found:
        if name not in live:
            raise ValueError(f"{where}: unknown {name!r}, expected one of {', '.join(live)}")
    for name, array in live.items():
        copy = entry(found, name, where)
        if not isinstance(copy, np.ndarray):
            kind = type(copy).__name__
            raise TypeError(f"{where}[{name!r}]: {kind}, expected a numpy.ndarray")
        if copy.dtype != array.dtype:
            raise TypeError(f"{where}[{name!r}]: dtype {copy.dtype}, expected {array.dtype}")
        if copy.shape != array.shape:
            raise ValueError(f"{where}[{name!r}]: shape {copy.shape}, expected {array.shape}")
    return found


def check_writable(arrays: Mapping[str, Array]) -> None:
    """Raises ValueError for one that somebody has frozen since it was given."""
    for name, array in arrays.items():
        if not array.flags.writeable:
            raise ValueError(f"{name}: read-only, expected a writable array")


def put(arrays: Mapping[str, Array], values: Mapping[str, Array]) -> None:
    """Writes the values over the arrays of the same names, if all of these are writable."""
    check_writable(arrays)
    for name, array in arrays.items():
        np.copyto(array, values[name])
