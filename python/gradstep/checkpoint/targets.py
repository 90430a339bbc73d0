"""Putting a saved state into the objects of a program: all of them or none."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gradstep.arguments import kind
from gradstep.arrays import Array, as_array, is_branch
from gradstep.checkpoint.plain import has_state, state_of
from gradstep.nn import Layer
from gradstep.optim.optimizer import Optimizer
from gradstep.optim.state import copies_between, verify

__all__ = ["restore"]


class Change(NamedTuple):
    """An object that will take a state. check: raises for one that does not fit."""

    label: str
    target: Any
    state: Any
    check: Callable[[], object] | None


def restore(parts: Iterable[tuple[str, Any, Any]]) -> None:
    """Gives each target its state; parts: what errors call it, the target, the state.

    Raises TypeError or ValueError, and then nothing has changed.
    """
    changes: list[Change] = []
    pairs: list[tuple[Array, Array]] = []
    for part in parts:
        _plan(*part, changes, pairs)
    for change in changes:
        if change.check is not None:
            _named(change.label, change.check)
    # Those that cannot be asked beforehand come first: a refusal finds the others unchanged.
    changes.sort(key=lambda change: change.check is not None)
    copies = copies_between(pairs)
    with ExitStack() as undo:
        for label, target, state, _ in changes:
            undo.callback(_give, target, state_of(target))
            _named(label, partial(_give, target, state))
        deque(copies, maxlen=0)  # cannot fail
        undo.pop_all()


def _named(label: str, act: Callable[[], object]) -> None:
    """Acts; an error says of what it is."""
    try:
        act()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{label}: {error}") from error


def _give(target: Any, state: Any) -> None:
    if isinstance(target, np.random.Generator):
        target.bit_generator.state = state
    else:
        target.load_state_dict(state)


def _plan(
    label: str, target: Any, state: Any, changes: list[Change], pairs: list[tuple[Array, Array]]
) -> None:
    """Adds what `target` needs to become `state`. Raises TypeError or ValueError."""
    if isinstance(target, Layer) and type(target).load_state_dict is Layer.load_state_dict:
        target = target.params | target.buffers
    if is_branch(target):
        for key in _keys(label, target, state):
            _plan(f"{label}[{key!r}]", target[key], state[key], changes, pairs)
    elif isinstance(target, np.random.Generator):
        changes.append(Change(label, target, state, partial(_check_generator, target, state)))
    elif isinstance(target, Optimizer):
        changes.append(Change(label, target, state, partial(verify, state, target._expected())))
    elif has_state(target):
        changes.append(Change(label, target, deepcopy(state), None))  # it may keep what it gets
    else:
        pairs.append((_checked(label, as_array(target, label), state), state))


def _keys(label: str, target: Any, state: Any) -> list[Any]:
    """The keys of both, which must be the same."""
    if not isinstance(target, Mapping):
        if not isinstance(state, (list, tuple)):
            raise TypeError(f"{label}: {kind(state)} in the file, expected a sequence")
        if len(state) != len(target):
            raise ValueError(f"{label}: {len(state)} entries in the file, expected {len(target)}")
        return list(range(len(target)))
    if not isinstance(state, Mapping):
        raise TypeError(f"{label}: {kind(state)} in the file, expected a mapping")
    missing = [key for key in target if key not in state]
    unknown = [key for key in state if key not in target]
    if missing or unknown:
        what = f"no {missing[0]!r}" if missing else f"an unknown {unknown[0]!r}"
        raise ValueError(f"{label}: {what} in the file, expected {_listed(target)}")
    return list(target)


def _listed(keys: Iterable[Any]) -> str:
    names = list(map(repr, keys))
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{rest}" if names else "an empty mapping"


def _checked(label: str, target: Any, state: Any) -> Array:
    if not isinstance(target, np.ndarray):
        expected = "expected arrays or objects that can be changed in place"
        raise TypeError(f"{label}: {kind(target)}, {expected}")
    if isinstance(target, np.ma.MaskedArray):
        raise TypeError(f"{label}: a masked array, expected a plain numpy.ndarray")
    if not isinstance(state, np.ndarray):
        raise TypeError(f"{label}: {kind(state)} in the file, expected an array")
    if state.dtype != target.dtype:
        raise TypeError(f"{label}: dtype {state.dtype} in the file, expected {target.dtype}")
    if state.shape != target.shape:
        raise ValueError(f"{label}: shape {state.shape} in the file, expected {target.shape}")
    if not target.flags.writeable:
        raise ValueError(f"{label}: read-only, expected a writable array")
    if not target.flags.forc:
        raise ValueError(f"{label}: not contiguous, expected C or F order")
    return target


def _check_generator(target: np.random.Generator, state: Any) -> None:
    """Tries the state on another generator. Raises TypeError or ValueError."""
    own = type(target.bit_generator)
    found = state.get("bit_generator") if isinstance(state, Mapping) else kind(state)
    if found != own.__name__:
        raise ValueError(f"state of {found}, expected {own.__name__}")
    try:
        own().state = state
    except KeyError as error:
        raise ValueError(f"state without {error}, expected that of {own.__name__}") from None
