"""States of pieces, from and to those of whole tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from gradstep.arrays import Array
from gradstep.distributed.checkpoint import PARAMETER, State, load_pieces, read_index
from gradstep.distributed.plan import Piece
from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.optim.storage import SCALE, Layout, is_bfloat16
from gradstep.spec.storage import SCALE_BLOCK
from gradstep.torch.distributed.pieces import OfPieces
from gradstep.torch.optim.groups import Groups, plain
from gradstep.torch.optim.loading import (
    adapted_state,
    check_state_dict,
    kept_here,
    laid_out,
    without_bitsandbytes,
)
from gradstep.torch.optim.memory import array_of, flat_of
from gradstep.torch.optim.participants import NUMBERS, Member, step_of
from gradstep.torch.optim.storage import layout_for

__all__ = ["check_groups", "cut", "described", "divided", "read_pieces", "to_state_dict"]


def divided(state: Mapping[str, Any]) -> State:
    """The arrays of a piece's state, and its numbers."""
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    return (
        {key: array_of(value) for key, value in tensors.items() if key not in NUMBERS},
        {key: float(state[key]) for key in NUMBERS if key in state},
    )


def described(names: Sequence[str], parameters: Sequence[Any]) -> list[dict[str, Any]]:
    """What an index says of the parameters; order: "C", or the strides."""
    return [
        {
            "name": name,
            "dtype": str(p.dtype).removeprefix("torch."),
            "shape": list(p.shape),
            "order": "C" if p.is_contiguous() else list(p.stride()),
        }
        for name, p in zip(names, parameters, strict=True)
    ]


def cut(
    state_dict: Mapping[str, Any],
    groups: list[dict[str, Any]],
    members: Sequence[Member],
    pieces: Iterable[Piece],
    formula: type[Formula],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups, and the state of each piece, of the state dict of an optimizer of one process.

    groups, members: of the whole; how these keep their arrays stays. Raises TypeError or
    ValueError.
    """
    check_state_dict(state_dict)
    check_groups(groups, state_dict["param_groups"], "state_dict")
    whole = without_bitsandbytes(state_dict, groups, formula)
    keys = [key for group in whole["param_groups"] for key in group["params"]]
    kept = Groups.kept(groups)
    found = []
    for piece in pieces:
        member, key = members[piece.tensor], keys[piece.tensor]
        layout = layout_for(member, formula, kept[member.group])
        own = whole["state"].get(key, {})
        found.append(
            _fitting(own, member.parameter, layout, piece, f"state_dict['state'][{key!r}]")
        )
    return list(map(kept_here, groups, whole["param_groups"])), found


def read_pieces(
    found: Sequence[State], own: OfPieces, groups: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The states of the own pieces, of what a checkpoint has of these.

    groups: of the whole; how these keep their arrays stays. Raises TypeError or ValueError.
    """
    kept = Groups.kept(groups)
    states = []
    for member, (arrays, numbers) in zip(own.members, found, strict=True):
        layout = own.layout_for(member, kept[member.group])
        state = {key: _tensor_of(array) for key, array in arrays.items()}
        state.update({key: torch.tensor(value) for key, value in numbers.items()})
        piece = Piece(0, 0, member.parameter.numel())
        where = f"the checkpoint: state of {member.name!r}"
        states.append(_fitting(state, member.parameter, layout, piece, where))
    return states


def check_groups(groups: Sequence[Any], saved: Sequence[Any], where: str) -> None:
    """Raises ValueError for groups of other numbers of parameters."""
    expected, sizes = ([len(group["params"]) for group in each] for each in (groups, saved))
    if sizes != expected:
        raise ValueError(f"{where}: groups of {sizes} parameters, expected {expected}")


def _fitting(
    saved: Mapping[str, Any], parameter: Any, layout: Layout | None, piece: Piece, where: str
) -> dict[str, Any]:
    """A piece of a parameter's state, in the types that the layout has and tensors of its own."""
    own = adapted_state(saved, parameter, layout, where)
    state: Mapping[str, Any] = saved if own is None else own
    found: dict[str, Any] = {}
    for name, value in state.items():
        what = f"{where}[{name!r}]"
        if name in NUMBERS:
            found[name] = torch.tensor(plain(what, value, 0.0))
            if name == "step":
                step_of(what, value)
        elif value is None:
            found[name] = None
        elif name.endswith(SCALE) and name.removesuffix(SCALE) in state:
            blocks = slice(piece.start // SCALE_BLOCK, -(-piece.stop // SCALE_BLOCK))
            found[name] = value[blocks].clone()
        else:
            # Without a layout as torch's own loading casts it.
            dtype = parameter.dtype if layout is None else getattr(value, "dtype", None)
            whole = laid_out(value, parameter, dtype, what)
            found[name] = flat_of(whole)[piece.start : piece.stop].clone()
    return found


def _tensor_of(array: Array) -> Any:
    """The same memory as a tensor."""
    if is_bfloat16(array.dtype):  # which torch does not know from NumPy
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_state_dict(folder: str | os.PathLike[str]) -> tuple[list[Any], dict[str, Any]]:
    """The parameters and the state of an optimizer of one process, from a checkpoint of shards.

    Returns tensors in the order of the parameters, and what the `load_state_dict` of the class, or
    of torch's class of its name, takes. Holds all of it in memory. Raises OSError or ValueError.
    """
    index = read_index(folder)
    tensors = index["tensors"]
    pieces = [Piece(i, 0, math.prod(each["shape"])) for i, each in enumerate(tensors)]
    values, state = [], {}
    for i, (arrays, numbers) in enumerate(load_pieces(folder, index, pieces)):
        shaped = {key: _as_in(array, key, tensors[i]) for key, array in arrays.items()}
        values.append(shaped.pop(PARAMETER))
        own = {**{key: torch.tensor(value) for key, value in numbers.items()}, **shaped}
        if own:
            state[i] = own
    return values, {"state": state, "param_groups": index["param_groups"]}


def _as_in(array: Array, key: str, about: Mapping[str, Any]) -> Any:
    flat = _tensor_of(array)
    if key.endswith(SCALE):
        return flat
    if about["order"] == "C":
        return flat.reshape(about["shape"])
    return flat.as_strided(about["shape"], about["order"])
