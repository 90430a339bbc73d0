"""States of torch's optimizers: of one process in parts, and of all parts as one."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import torch

from gradstep.distributed.checkpoint import PARAMETER, State, load_pieces, read_index
from gradstep.distributed.plan import Piece
from gradstep.torch.optim.groups import plain
from gradstep.torch.optim.loading import laid_out
from gradstep.torch.optim.memory import array_of
from gradstep.torch.optim.participants import step_of

__all__ = ["divided", "part_of_state", "to_state_dict"]


def divided(
    state: Any, numbers: Sequence[str], where: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """The tensors of a parameter's state that are as the parameter is, and the numbers.

    where: what messages call it. Raises TypeError or ValueError.
    """
    tensors = {key: value for key, value in state.items() if key not in numbers}
    return (
        {key: value for key, value in tensors.items() if value is not None},
        {key: plain(f"{where}[{key!r}]", state[key], 0.0) for key in numbers if key in state},
    )


def part_of_state(
    state: Any, numbers: Sequence[str], parameter: Any, piece: Piece, where: str
) -> State:
    """The state of a piece in that of the whole parameter, which messages call `where`.

    Raises TypeError or ValueError.
    """
    tensors, found = divided(state, numbers, where)
    step_of(f"{where}['step']", found.get("step", 0.0))
    arrays = {}
    for key, value in tensors.items():
        whole = laid_out(value, parameter, parameter.dtype, f"{where}[{key!r}]")
        arrays[key] = array_of(whole).reshape(-1)[piece.start : piece.stop].copy()
    return arrays, found


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
        shaped = {
            key: torch.from_numpy(array.reshape(tensors[i]["shape"]))
            for key, array in arrays.items()
        }
        values.append(shaped.pop(PARAMETER))
        own = {**{key: torch.tensor(value) for key, value in numbers.items()}, **shaped}
        if own:
            state[i] = own
    return values, {"state": state, "param_groups": index["param_groups"]}
