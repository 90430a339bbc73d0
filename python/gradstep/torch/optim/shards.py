"""Parameters that are spread over processes (DTensor, as FSDP2 makes them): each process steps on
the part that it has, and sums are taken over all parts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch

__all__ = ["check_placement", "is_spread", "part_of", "sum_over_parts"]


def is_spread(tensor: Any) -> bool:
    """Whether this is a DTensor."""
    if type(tensor) in (torch.Tensor, torch.nn.Parameter):
        return False
    module = sys.modules.get("torch.distributed.tensor")  # takes long to import
    return module is not None and isinstance(tensor, module.DTensor)


def part_of(tensor: Any) -> Any:
    """The part that this process has; any other tensor itself."""
    if not is_spread(tensor):
        return tensor
    part = tensor._local_tensor  # to_local() makes a new view of a parameter each time
    return part.wait() if hasattr(part, "wait") else part  # of a collective under way


def check_placement(tensor: Any, parameter: Any, what: str) -> None:
    """Raises TypeError or ValueError for what is not spread as the parameter is."""
    spread = is_spread(parameter)
    if is_spread(tensor) != spread:
        kinds = ("a plain tensor", "a DTensor")
        raise TypeError(f"{what}: {kinds[not spread]}, expected {kinds[spread]} as the parameter")
    if not spread:
        return
    for key in ("device_mesh", "placements"):
        found, expected = getattr(tensor, key), getattr(parameter, key)
        if found != expected:
            raise ValueError(f"{what}: {key} {found}, expected {expected} as in the parameter")
    if any(placement.is_partial() for placement in parameter.placements):
        raise ValueError(f"{what}: placements {parameter.placements}, expected no partial sums")


def sum_over_parts(terms: Iterable[tuple[Any, float]]) -> float:
    """The sum of terms that belong to parameters. All processes must call it alike.

    Parts of a parameter are summed over the processes that have them; copies count once.
    """
    total = 0.0
    spread: dict[Any, float] = {}  # by mesh and the dimensions of it that hold parts
    for parameter, term in terms:
        if not is_spread(parameter):
            total += term
            continue
        dims = tuple(i for i, p in enumerate(parameter.placements) if p.is_shard())
        key = parameter.device_mesh, dims
        spread[key] = spread.get(key, 0.0) + term
    for (mesh, dims), term in spread.items():
        summed = torch.tensor(term, dtype=torch.float64)
        for dim in dims:
            torch.distributed.all_reduce(summed, group=mesh.get_group(dim))
        total += float(summed)
    return total
