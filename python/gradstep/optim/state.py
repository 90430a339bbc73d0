"""The state dict of an optimizer, verified: all of it, before anything is taken over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import setitem
from typing import Any, NamedTuple

import numpy as np

from gradstep.arguments import choice, entry, integer, kind, mapping
from gradstep.arrays import Array, Name
from gradstep.optim.hyperparameters import FIXED, check_hyperparameter, is_schedule
from gradstep.optim.storage import SCALE, Layout, laid_out, order_of

__all__ = ["Expected", "Loaded", "check_array", "check_scales", "copies_between", "verify"]

MAX_STEP = 2**62
NAMES = (str, int, type(None))


class Expected(NamedTuple):
    """What a state must fit.

    groups: hyperparameters and names. options: what holds for the whole optimizer. parameters: key,
    number of the group, array. kernel, default: those of the optimizer's class. kernels: names of
    the state arrays, by kernel. layouts: of the parameters that are kept in fewer bits.
    """

    optimizer: str
    groups: Sequence[Mapping[str, Any]]
    options: Mapping[str, Any]
    parameters: Sequence[tuple[str | int, int, Array]]
    kernel: Callable[[Mapping[str, Any]], str]
    default: Callable[[str], Any]
    kernels: Mapping[str, Sequence[str]]
    layouts: Sequence[Layout | None]


class Loaded(NamedTuple):
    """A state that fits: steps taken, hyperparameters by group, state arrays and steps by array."""

    step: int
    options: dict[str, Any]
    groups: list[dict[str, Any]]
    arrays: list[dict[str, Array]]
    steps: list[int]


def verify(state_dict: Any, expected: Expected) -> Loaded:
    """What `Optimizer.state_dict` gave, checked. Raises TypeError or ValueError."""
    kind = entry(state_dict, "optimizer", "state_dict")
    if kind != expected.optimizer:
        raise ValueError(f"state_dict: of {kind}, expected {expected.optimizer}")
    count = _step(state_dict, "state_dict")
    # States of earlier versions have no options, or the seed of all groups among them.
    found = dict(mapping("state_dict['options']", state_dict.get("options", {})))
    common = {key: found.pop(key) for key in ("seed",) if key in found}
    groups = _groups(entry(state_dict, "param_groups", "state_dict"), common, expected)
    saved = entry(state_dict, "state", "state_dict")
    options = _values(found, expected.options, expected, "state_dict['options']")
    return Loaded(count, options, groups, *_state(saved, groups, expected))


def _step(of: Any, where: str) -> int:
    return integer(f"{where}['step']", entry(of, "step", where), 0, MAX_STEP)


def check_array(found: Any, dtype: Any, shape: tuple[int, ...], where: str) -> None:
    """Raises TypeError or ValueError unless this is such an array."""
    if not isinstance(found, np.ndarray):
        raise TypeError(f"{where}: {type(found).__name__}, expected a numpy.ndarray")
    if isinstance(found, np.ma.MaskedArray):
        raise TypeError(f"{where}: a masked array, expected a plain numpy.ndarray")
    if found.dtype != dtype:
        raise TypeError(f"{where}: dtype {found.dtype}, expected {np.dtype(dtype)}")
    if found.shape != shape:
        raise ValueError(f"{where}: shape {found.shape}, expected {shape}")


def check_scales(found: Array, where: str) -> None:
    """Raises ValueError for scales of 8-bit states that nothing can go on from.

    NaN among them, which a step writes for a block that holds something that is not finite.
    """
    if not (np.isfinite(found) & ~np.signbit(found)).all():
        raise ValueError(f"{where}: not finite or negative, expected finite numbers >= 0")


def _groups(saved: Any, common: Mapping[str, Any], expected: Expected) -> list[dict[str, Any]]:
    """The hyperparameters of each. common: those of all that say nothing of them."""
    groups = expected.groups
    if not isinstance(saved, (list, tuple)) or len(saved) != len(groups):
        raise ValueError(f"state_dict['param_groups']: expected a list of {len(groups)}")
    checked = []
    for number, (group, found) in enumerate(zip(groups, saved, strict=True)):
        where = f"state_dict['param_groups'][{number}]"
        names = entry(found, "params", where)
        _check_names(names, group["params"], f"{where}['params']")
        values = {**common, **{key: value for key, value in found.items() if key != "params"}}
        values = _values(values, group, expected, where)
        expected.kernel({**group, **values})  # raises for what does not go together
        checked.append(values)
    return checked


def _values(
    found: Mapping[str, Any], own: Mapping[str, Any], expected: Expected, where: str
) -> dict[str, Any]:
    """The hyperparameters found, checked; those that are schedules in `own` stay."""
    for key in found:
        if key not in own:
            raise ValueError(f"{where}: unknown hyperparameter {key!r}")
    for key in FIXED:
        if key in found and found[key] != own[key]:
            raise ValueError(
                f"{where}[{key!r}]: {found[key]!r}, expected {own[key]!r} as this optimizer has"
            )
    return {
        key: check_hyperparameter(key, value, expected.default(key))
        for key, value in found.items()
        if not is_schedule(own[key])
    }


def _check_names(found: Any, own: list[Name], where: str) -> None:
    """Names of a mapping may come in any order; indices say which array is which."""
    if not isinstance(found, (list, tuple)) or not all(isinstance(n, NAMES) for n in found):
        raise TypeError(f"{where}: {kind(found)}, expected a list of names or indices")
    lacks = [name for name in own if name not in set(found)]
    unknown = [name for name in found if name not in set(own)]
    named = all(isinstance(name, str) for name in own)
    if lacks or unknown:
        parts = [f"no {_first(lacks)}"] * bool(lacks) + [f"unknown {_first(unknown)}"] * bool(
            unknown
        )
        raise ValueError(f"{where}: {', '.join(parts)}, expected the {len(own)} of this optimizer")
    if len(found) != len(own):
        raise ValueError(f"{where}: {len(found)} names, expected each of {_first(own)} once")
    if not named and list(found) != own:
        raise ValueError(f"{where}: indices in another order, expected {_first(own)}")


def _first(names: Sequence[Name]) -> str:
    shown = ", ".join(map(repr, names[:3]))
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _state(
    saved: Any, groups: list[dict[str, Any]], expected: Expected
) -> tuple[list[dict[str, Array]], list[int]]:
    arrays: list[dict[str, Array]] = []
    steps: list[int] = []
    mapping("state_dict['state']", saved)
    known = {key for key, _, _ in expected.parameters}
    for key in saved:
        if key not in known:
            raise ValueError(f"state_dict['state']: unknown parameter {key!r}")
    layouts = expected.layouts
    for (key, number, array), layout in zip(expected.parameters, layouts, strict=True):
        where = f"state_dict['state'][{key!r}]"
        found = entry(saved, key, "state_dict['state']")
        kernel = expected.kernel({**expected.groups[number], **groups[number]})
        names = expected.kernels[kernel]
        specs = {name: (array.dtype, array.shape) for name in names}
        wanted = layout.specs(names) if layout else specs
        for name, (dtype, shape) in wanted.items():
            check_array(entry(found, name, where), dtype, shape, f"{where}[{name!r}]")
            if layout and name.endswith(SCALE):
                check_scales(found[name], f"{where}[{name!r}]")
        if "order" in found:
            choice(f"{where}['order']", found["order"], ("C", "F"))
        own = laid_out(found, order_of(array))
        arrays.append({name: own[name] for name in wanted})
        steps.append(_step(found, where))
    return arrays, steps


def copies_between(pairs: Iterable[tuple[Array, Array]]) -> Iterator[None]:
    """Copies the second array of each pair over the first as it is walked, and cannot fail then.

    The first are contiguous. All memory is allocated here: NumPy's own copy needs some.
    """
    own: list[Any] = []
    found: list[Any] = []
    for to, array in pairs:
        order: Any = "C" if to.flags.c_contiguous else "F"
        laid_out = np.asarray(array, order=order)
        for memory, of in ((own, np.asarray(to)), (found, laid_out)):
            flat: Any = of.reshape(-1, order=order).view(np.uint8)
            memory.append(memoryview(flat))
    copy: Any = setitem
    return map(copy, own, repeat(slice(None)), found)
