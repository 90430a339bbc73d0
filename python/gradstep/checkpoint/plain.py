"""What can be saved as a tree of plain values, and back: JSON, with arrays named beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from gradstep.arguments import kind, shown
from gradstep.arrays import Array, as_array
from gradstep.optim.storage import is_bfloat16

__all__ = ["BFLOAT16", "DTYPES", "decode", "encode", "frozen", "has_state", "name_of", "state_of"]

# The dtypes of arrays, by their names in a safetensors file.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{
        f"{letter}{8 * size}": np.dtype(f"{letter.lower()}{size}")
        for letter in "IU"
        for size in (1, 2, 4, 8)
    },
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
# Of ml_dtypes, which is needed only where such arrays are.
BFLOAT16 = "BF16"
MOST_BITS = 10_000  # of an integer: Python writes no more than 4,300 digits
EXPECTED = "expected arrays, numbers, texts, or objects with state_dict and load_state_dict"


def name_of(dtype: np.dtype[Any]) -> str | None:
    """The name of a dtype in a safetensors file, or None."""
    return BFLOAT16 if is_bfloat16(dtype) else NAMES.get(dtype)


def has_state(value: Any) -> bool:
    """Whether this is an object that gives its state and takes one."""
    methods = (getattr(value, name, None) for name in ("state_dict", "load_state_dict"))
    return not isinstance(value, type) and all(map(callable, methods))


def state_of(value: Any) -> Any:
    """The state of an object that has one: a copy, of plain values and arrays."""
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    return value.state_dict()


def encode(value: Any, label: str, name: str, tensors: dict[str, Array]) -> Any:
    """The value as JSON; copies of its arrays go into `tensors`, by names that begin with `name`.

    label: what errors call the value. Raises TypeError or ValueError.
    """
    if isinstance(value, np.random.Generator) or has_state(value):
        return encode(state_of(value), label, name, tensors)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise ValueError(f"{label}: {shown(value)}, expected one of at most {MOST_BITS} bits")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        parts = [encode(v, f"{label}[{i}]", f"{name}.{i}", tensors) for i, v in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    if isinstance(value, Mapping):
        return {"mapping": [_encode_item(*item, label, name, tensors) for item in value.items()]}
    return {"array": _add(as_array(value, label), label, name, tensors)}


def _encode_item(
    key: Any, value: Any, label: str, name: str, tensors: dict[str, Array]
) -> tuple[str | int, Any]:
    key = key.item() if isinstance(key, np.generic) else key
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"{label}: a key of {kind(key)}, expected texts or integers")
    return key, encode(value, f"{label}[{key!r}]", f"{name}.{key}", tensors)


def _add(array: Any, label: str, name: str, tensors: dict[str, Array]) -> str:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{label}: {kind(array)}, {EXPECTED}")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{label}: a masked array, expected a plain numpy.ndarray")
    if name_of(array.dtype) is None:
        raise TypeError(
            f"{label}: dtype {array.dtype}, expected one of {', '.join(map(str, NAMES))}, bfloat16"
        )
    if name in tensors or name == "__metadata__":
        raise ValueError(f"{label}: a second array of the name {name!r}, expected one")
    tensors[name] = np.array(array, order="C", subok=False)
    return name


def decode(tree: Mapping[str, Any], tensors: Mapping[str, Array], path: Any) -> dict[str, Any]:
    """What `encode` was given, part by part. Raises ValueError for what it never wrote."""
    try:
        return {name: _decode(part, tensors) for name, part in tree.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        what = f"{os.fspath(path)}: its description does not fit its tensors"
        raise ValueError(f"{what}, expected a file that gradstep.save wrote") from None


def _decode(value: Any, tensors: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        return [_decode(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    [(form, content)] = value.items()
    if form == "array":
        return tensors[content]
    if form == "tuple":
        return tuple(_decode(part, tensors) for part in content)
    if form == "mapping":
        return {key: _decode(part, tensors) for key, part in content}
    raise ValueError(form)


def frozen(value: Any) -> Any:
    """The value with mappings and arrays that refuse to be written."""
    if isinstance(value, dict):
        return MappingProxyType({key: frozen(part) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(map(frozen, value))
    if isinstance(value, np.ndarray):
        value.flags.writeable = False
    return value
