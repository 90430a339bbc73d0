"""How the arrays of torch's parameters are kept where these or their states are in fewer bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from gradstep.optim.optimizer import Optimizer as Formula
from gradstep.optim.storage import Layout, layout_of
from gradstep.torch.optim.memory import array_of
from gradstep.torch.optim.shards import is_spread, part_of

__all__ = ["MASTERS", "averages_in_place", "layout_for", "reload_master"]

# The state with the missing bits of a parameter, by `master`.
MASTERS = {"split": "master_low", "float32": "master"}


def layout_for(
    parameter: Any, name: str, formula: type[Formula], group: Mapping[str, Any], tile: int = 0
) -> Layout | None:
    """How the arrays of a parameter are kept; None where all have its own type.

    group: with `master`, `state_dtype`, `ema` and `seed`. tile: see `tiles_of_sizes`. Raises
    TypeError or ValueError. A parameter that is not in 16 bits is its own master.
    """
    part = part_of(parameter)
    if part.dtype in (torch.float32, torch.float64):
        if group["state_dtype"] == "float32" and group["ema"] is None:
            return None
        group = {**group, "master": None}
    names = list(dict.fromkeys(chain.from_iterable(formula.KERNELS.values())))
    layout = layout_of(name, array_of(part), None, group, names, tile, group["seed"])
    if layout and is_spread(parameter) and group["state_dtype"] == "int8":
        raise ValueError(
            f"params[{name!r}]: a DTensor with state_dtype='int8', expected 'float32' or "
            "'bfloat16': scales belong to parts"
        )
    return layout


def reload_master(parameter: Any, own: dict[str, Any]) -> None:
    """Takes a parameter that was changed outside into the master in its state."""
    value = parameter.detach()
    if "master_low" in own:
        own["master_low"].zero_()
    if "master" in own:
        master = own["master"]
        changed = master.to(value.dtype) != value
        master.copy_(torch.where(changed, value.to(master.dtype), master))


@contextmanager
def averages_in_place(state: Mapping[Any, Mapping[str, Any]]) -> Iterator[None]:
    """In a `with` block parameters hold the averages in their states; then what they were."""
    pairs = [(p.detach(), own["ema"]) for p, own in state.items() if "ema" in own]
    kept = [p.clone() for p, _ in pairs]
    try:
        for parameter, average in pairs:
            parameter.copy_(average)
        yield
    finally:
        for (parameter, _), own in zip(pairs, kept, strict=True):
            parameter.copy_(own)
