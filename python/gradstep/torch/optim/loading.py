"""State dicts as an optimizer loads them: states in its own types, also from bitsandbytes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gradstep.arguments import entry, mapping, several
from gradstep.arrays import Array
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.optim.state import check_array, check_scales
from gradstep.optim.storage import SCALE, Layout, put_state, state_values
from gradstep.spec.storage import SCALE_BLOCK
from gradstep.torch.optim.groups import KEPT, Groups
from gradstep.torch.optim.memory import array_of, is_dense, same_layout
from gradstep.torch.optim.participants import Member, State, step_of
from gradstep.torch.optim.shards import part_of
from gradstep.torch.optim.storage import MASTERS, check_kept, layout_for

__all__ = [
    "Adapted",
    "adapted",
    "adapted_state",
    "check_state_dict",
    "copied",
    "kept_here",
    "laid_out",
    "without_bitsandbytes",
]

EIGHT = (torch.int8, torch.uint8)
# Newer versions of bitsandbytes wrap its arrays so in a state dict.
WRAPPED = "__bnb_optimizer_quant_state__"
# Hyperparameters that mean the same there.
SHARED = ("lr", "betas", "eps", "weight_decay")


class Adapted:
    """The state of a parameter as it shall be: torch, which casts tensors, keeps other objects."""

    def __init__(self, own: State) -> None:
        self.own = own


def check_state_dict(state_dict: Any) -> None:
    """Raises TypeError or ValueError for what cannot be the state of an optimizer of torch."""
    where = "state_dict['param_groups']"
    keys: list[Any] = []
    groups = several(where, entry(state_dict, "param_groups", "state_dict"), mapping)
    for number, group in enumerate(groups):
        given = entry(group, "params", f"{where}[{number}]")
        keys += several(f"{where}[{number}]['params']", given, lambda _, key: key)
    state = mapping("state_dict['state']", entry(state_dict, "state", "state_dict"))
    for key in keys:
        mapping(f"state_dict['state'][{key!r}]", state.get(key, {}))


def adapted(
    state_dict: dict[str, Any],
    groups: list[dict[str, Any]],
    members: list[Member],
    formula: type[Formula],
) -> dict[str, Any]:
    """What torch shall load into these groups: their types, and how they keep their arrays, stay.

    members: all parameters. Raises TypeError or ValueError.
    """
    check_state_dict(state_dict)
    sizes = [len(group["params"]) for group in groups]
    if sizes != [len(group["params"]) for group in state_dict["param_groups"]]:
        return state_dict  # torch says so
    found = without_bitsandbytes(state_dict, groups, formula)
    state, kept = dict(found["state"]), Groups.kept(groups)
    keys = [key for group in found["param_groups"] for key in group["params"]]
    for key, member in zip(keys, members, strict=True):
        if key not in state:
            continue
        layout = layout_for(member, formula, kept[member.group])
        where = f"state_dict['state'][{key!r}]"
        step_of(f"{where}['step']", state[key].get("step", 0.0))
        own = adapted_state(state[key], member.parameter, layout, where)
        state[key] = state[key] if own is None else Adapted(own)
    given = list(map(kept_here, groups, found["param_groups"]))
    return {**found, "state": state, "param_groups": given}


def kept_here(group: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """A loaded group that keeps its arrays as the present one; a seed that was saved holds."""
    left = {key: value for key, value in saved.items() if key not in KEPT}
    own = {key: group[key] for key in KEPT if key in group}
    return {**left, **own, **({"seed": saved["seed"]} if "seed" in saved else {})}


def adapted_state(
    found: Mapping[str, Any], parameter: Any, layout: Layout | None, where: str
) -> State | None:
    """A loaded state as the layout keeps it, in tensors of its own; None: leave it to torch.

    States of another type are converted, rounded to nearest. where: what messages call it. Raises
    TypeError or ValueError.
    """
    check_kept(found, layout, False, where)
    if layout is None and not any(f"{name}{SCALE}" in found for name in found):
        return None
    model = part_of(parameter).detach()
    own: State = {}
    for name, value in found.items():
        at = f"{where}[{name!r}]"
        if not isinstance(value, torch.Tensor):
            own[name] = value
        elif name == "ema" and layout:
            own[name] = laid_out(value, parameter, getattr(torch, str(layout.ema)), at)
        elif name in MASTERS.values():
            dtype = torch.int16 if name == "master_low" else torch.float32
            own[name] = laid_out(value, parameter, dtype, at)
        elif f"{name}{SCALE}" in found or (layout is not None and name in layout.states):
            scale = found.get(name + SCALE)
            kept = layout.states[name] if layout else array_of(model).dtype
            own |= _converted(name, value, scale, parameter, getattr(torch, kept.name), at)
        elif not (name.endswith(SCALE) and name.removesuffix(SCALE) in found):
            own[name] = value.detach().clone()
    return own


def laid_out(value: Any, parameter: Any, dtype: torch.dtype, where: str) -> Any:
    """A copy of the value in the parameter's order of memory. Raises TypeError or ValueError."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{where}: {type(value).__name__}, expected a tensor")
    if value.shape != parameter.shape:
        shapes = f"shape {tuple(value.shape)}, expected {tuple(parameter.shape)}"
        raise ValueError(f"{where}: {shapes} as in the parameter")
    if value.dtype != dtype and not (value.is_floating_point() and dtype.is_floating_point):
        raise TypeError(f"{where}: {value.dtype}, expected {dtype}")
    return torch.empty_like(parameter.detach(), dtype=dtype).copy_(value.detach())


def _converted(
    name: str, value: Any, scale: Any, parameter: Any, dtype: torch.dtype, where: str
) -> State:
    eight = value.dtype in EIGHT
    if eight:
        value = value.detach() if is_dense(value) else value.detach().contiguous()
        _check_scale(scale, value, f"{where[:-2]}{SCALE}']")
        if value.dtype == dtype and same_layout(value, parameter):
            return {name: value.clone(), name + SCALE: scale.detach().clone()}
        plain = torch.empty_like(value, dtype=torch.float32)
        values = state_values(array_of(value), array_of(scale))
        array_of(plain).reshape(-1, order="A")[...] = values
        value = plain
    if dtype not in EIGHT:
        return {name: laid_out(value, parameter, dtype, where)}
    plain = laid_out(value, parameter, torch.float32, where)
    new = torch.empty_like(plain, dtype=dtype)
    scales = torch.empty(-(-new.numel() // SCALE_BLOCK))
    put_state(array_of(new), array_of(scales), array_of(plain).reshape(-1, order="A"))
    return {name: new, name + SCALE: scales}


def _check_scale(scale: Any, value: Any, where: str) -> None:
    found = array_of(scale.detach()) if isinstance(scale, torch.Tensor) else scale
    check_array(found, np.float32, (-(-value.numel() // SCALE_BLOCK),), where)
    check_scales(found, where)


def without_bitsandbytes(
    state_dict: Mapping[str, Any], groups: list[dict[str, Any]], formula: type[Formula]
) -> dict[str, Any]:
    """A state dict of bitsandbytes as one of ours with float32 states; any other as it is.

    groups: the optimizer's own, whose keys stay, with the values that both have. The format of a
    state: codes `state1` and `state2` of the parameter's shape, by which `qmap1` and `qmap2` of 256
    numbers are looked up, times the largest magnitude, `absmax1` and `absmax2`, of each block of
    256; or float32, where it has no such maps. Raises TypeError or ValueError.
    """
    if not any(_is_theirs(own) for own in state_dict["state"].values()):
        return dict(state_dict)
    given = []
    state = dict(state_dict["state"])
    for own, saved in zip(groups, state_dict["param_groups"], strict=False):
        kept = {key: saved[key] for key in SHARED if key in saved and key in own}
        given.append({**own, **kept, "params": saved["params"]})
        names = formula.KERNELS[formula.kernel(own)]
        for key in saved["params"]:
            if _is_theirs(state.get(key)):
                state[key] = _of_theirs(state[key], names, f"state_dict['state'][{key!r}]")
    return {**state_dict, "state": state, "param_groups": given}


def _is_theirs(own: Any) -> bool:
    return isinstance(own, Mapping) and ("state1" in own or WRAPPED in own)


def _of_theirs(found: Mapping[str, Any], names: tuple[str, ...], where: str) -> State:
    found = {**found, **found.get(WRAPPED, {})}
    own: State = {"step": found["step"]} if "step" in found else {}
    for number, name in enumerate(names, 1):
        if f"state{number}" in found:
            own[name] = _looked_up(found, number, where)
    return own


def _looked_up(found: Mapping[str, Any], number: int, where: str) -> Any:
    codes, at = found[f"state{number}"], f"{where}['state{number}']"
    if codes.dtype == torch.float32:
        return codes
    if codes.dtype != torch.uint8:
        raise TypeError(f"{at}: {codes.dtype}, expected torch.uint8 or torch.float32")
    codes = codes.detach() if is_dense(codes) else codes.detach().contiguous()
    flat = array_of(codes).reshape(-1, order="A")
    values = _numbers(found, f"qmap{number}", 256, where)
    largest = _numbers(found, f"absmax{number}", -(-flat.size // SCALE_BLOCK), where)
    plain = torch.empty_like(codes, dtype=torch.float32)
    scale = np.repeat(largest, SCALE_BLOCK)[: flat.size]
    array_of(plain).reshape(-1, order="A")[...] = values[flat] * scale
    return plain


def _numbers(found: Mapping[str, Any], name: str, size: int, where: str) -> Array:
    at = f"{where}[{name!r}]"
    tensor = found.get(name)
    array: Any = array_of(tensor.detach()) if isinstance(tensor, torch.Tensor) else tensor
    check_array(array, np.float32, (size,), at)
    if not np.isfinite(array).all():
        raise ValueError(f"{at}: not finite, expected finite numbers")
    return array  # type: ignore[no-any-return]


def copied(value: Any) -> Any:
    """The same with tensors of its own, but for keys."""
    if isinstance(value, Adapted):
        return value.own
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        found = copy.copy(value)
        found.update({key: copied(own) for key, own in value.items()})
        return found
    return [copied(own) for own in value] if isinstance(value, list) else value
