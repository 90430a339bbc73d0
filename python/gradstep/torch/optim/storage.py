"""How the arrays of torch's parameters are kept where these or their states are in fewer bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from gradstep.arguments import several
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.optim.storage import Layout, layout_of
from gradstep.torch.optim.memory import array_of, check_like, check_parameter, same_layout
from gradstep.torch.optim.shards import is_spread, part_of

__all__ = [
    "MASTERS",
    "averages_in_place",
    "check_copy",
    "check_kept",
    "copies_beside",
    "copies_of",
    "layout_for",
    "reload_all_masters",
    "without_copies",
]

# The state with the missing bits of a parameter, by `master`.
MASTERS = {"split": "master_low", "float32": "master"}


def layout_for(
    member: Any, formula: type[Formula], group: Mapping[str, Any], tile: int = 0, copy: Any = None
) -> Layout | None:
    """How the arrays of a parameter are kept; None where all have its own type.

    group: with `master`, `state_dtype`, `ema` and `seed`. tile: see `tiles_of_sizes`. copy: the
    tensor that gets a rounded copy, or None. Raises TypeError or ValueError. A parameter that is
    not in 16 bits is its own master.
    """
    parameter, name = member.parameter, member.name
    part = part_of(parameter)
    if part.dtype in (torch.float32, torch.float64):
        if group["state_dtype"] == "float32" and group["ema"] is None and copy is None:
            return None
        group = {**group, "master": None}
    names = list(dict.fromkeys(chain.from_iterable(formula.KERNELS.values())))
    rounded = None if copy is None else array_of(copy)
    layout = layout_of(name, array_of(part), rounded, group, names, tile)
    if layout and is_spread(parameter) and group["state_dtype"] == "int8":
        raise ValueError(
            f"params[{name!r}]: a DTensor with state_dtype='int8', expected 'float32' or "
            "'bfloat16': scales belong to parts"
        )
    return layout


def without_copies(group: Any) -> tuple[Any, Any]:
    """A group as torch is to keep it, and its `copy_to`; the caller's dict stays as it is."""
    if not (isinstance(group, dict) and "copy_to" in group):  # torch says what is no dict
        return group, None
    return {key: value for key, value in group.items() if key != "copy_to"}, group["copy_to"]


def copies_beside(copy_to: Any, members: Sequence[Any], there: Mapping[int, Any]) -> dict[int, Any]:
    """Those of the optimizer's `copy_to` and those of groups, which are there already.

    members: all parameters. Raises TypeError or ValueError.
    """
    found = copies_of(copy_to, members)
    groups = {member.group for member in members if member.position in found}
    for member in members:
        if member.position in there and member.group in groups:
            raise ValueError(
                f"param_groups[{member.group}]: copy_to: given, and the optimizer's copy_to too, "
                "expected one of them for a group"
            )
    return {**found, **there}


def copies_of(copy_to: Any, members: Sequence[Any], group: int | None = None) -> dict[int, Any]:
    """The tensors of `copy_to` by the places of their parameters: all members, or a group's.

    Raises TypeError or ValueError.
    """
    if copy_to is None:
        return {}
    argument = "copy_to"
    if group is not None:
        argument = f"param_groups[{group}]: copy_to"
        members = [member for member in members if member.group == group]
    given = [copy_to]
    if not isinstance(copy_to, torch.Tensor):
        given = list(several(argument, copy_to, lambda name, entry: entry))
    if len(given) != len(members):
        expected = f"expected {len(members)}, one or None for each of params"
        raise ValueError(f"{argument}: {len(given)} tensors, {expected}")
    found = {m.position: c for m, c in zip(members, given, strict=True) if c is not None}
    for member in members:
        if member.position in found:
            check_copy(found[member.position], member)
    return found


def check_kept(own: Mapping[str, Any], layout: Layout | None, whole: bool, what: str) -> None:
    """Raises ValueError for a state of another `master` or `ema` than the group has.

    whole: whether the parameter is its own master and drops one of before. what: the state's name.
    """
    master = None if layout is None else layout.master
    for kind, name in MASTERS.items():
        if name in own and kind != master and not whole:
            raise ValueError(f"{what}[{name!r}]: of master={kind!r}, expected master={master!r}")
    if "ema" in own and (layout is None or layout.ema is None):
        raise ValueError(f"{what}['ema']: an average, expected none as ema=None here")


def check_copy(copy: Any, member: Any) -> None:
    """Raises TypeError or ValueError for what cannot be a rounded copy of a parameter."""
    parameter, what = member.parameter, f"copy_to[{member.name!r}]"
    if not isinstance(copy, torch.Tensor):
        raise TypeError(f"{what}: {type(copy).__name__}, expected a tensor or None")
    if is_spread(parameter) or parameter.dtype != torch.float32:
        found = "a DTensor" if is_spread(parameter) else parameter.dtype
        raise TypeError(f"{member.label}: {found} with copy_to, expected a whole torch.float32")
    check_parameter(copy, what, "", (torch.bfloat16, torch.float16))
    check_like(copy, parameter, what, copy.dtype)
    if not same_layout(copy, parameter):
        strides = f"strides {copy.stride()}, expected {parameter.stride()}"
        raise ValueError(f"{what}: {strides} as in the parameter")


@torch.no_grad()  # type: ignore[untyped-decorator]
def reload_all_masters(state: Mapping[Any, Mapping[str, Any]]) -> None:
    """Takes parameters that were changed outside into the masters in their states."""
    for parameter, own in state.items():
        if "master_low" in own:
            own["master_low"].zero_()
        if "master" in own:
            value, master = parameter.detach(), own["master"]
            changed = master.to(value.dtype) != value
            master.copy_(torch.where(changed, value.to(master.dtype), master))


@contextmanager
def averages_in_place(
    state: Mapping[Any, Mapping[str, Any]], copies: Mapping[Any, Any]
) -> Iterator[None]:
    """In a `with` block parameters hold the averages in their states; then what they were.

    copies: the rounded copies of parameters, which do the same, or None.
    """
    pairs = []
    for parameter, own in state.items():
        if "ema" in own:
            both = (parameter, copies.get(parameter))
            pairs += [(tensor, own["ema"]) for tensor in both if tensor is not None]
    kept = [p.detach().clone() for p, _ in pairs]
    try:
        for parameter, average in pairs:
            parameter.detach().copy_(average)
        yield
    finally:
        for (parameter, _), own in zip(pairs, kept, strict=True):
            parameter.detach().copy_(own)  # to the memory that it has now
