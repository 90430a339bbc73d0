"""What all ranks must have in common before they go on together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from gradstep.arrays import Array, Name
from gradstep.distributed.exchange import Exchange
from gradstep.distributed.transport import DistributedError
from gradstep.optim.hyperparameters import is_schedule
from gradstep.optim.optimizer import Optimizer
from gradstep.runtime import build_info

__all__ = ["agree_on", "description", "digest_of", "digest_of_values", "flat_view"]


def flat_view(array: Array) -> Array:
    """The memory of a contiguous array, in its order."""
    return np.asarray(array).reshape(-1, order="A")


def description(
    optimizer: str,
    names: Sequence[Name],
    arrays: Sequence[Array],
    groups: Sequence[Mapping[str, Any]],
    hyper: Mapping[str, Any],
    grad_dtype: str,
) -> dict[str, Any]:
    """All that ranks must have in common, as JSON; of parameters, a digest of their values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(memoryview(flat_view(array).view(np.uint8)))  # type: ignore[arg-type]
    return {
        "version of gradstep": build_info()["version"],
        "optimizer": optimizer,
        "parameters": [
            f"{name!r}, {array.dtype} of shape {array.shape} in order "
            f"{'C' if array.flags.c_contiguous else 'F'}"
            for name, array in zip(names, arrays, strict=True)
        ],
        "groups": [_described(group) for group in groups],
        "hyperparameters": _described(hyper),
        "grad_dtype": grad_dtype,
        "values of parameters": digest.hexdigest(),
    }


def _described(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: "a function of the step" if is_schedule(value) else repr(value)
        for key, value in values.items()
        if key != "params"
    }


def digest_of(value: Any) -> str:
    """Of a tree of mappings, lists, arrays and plain values."""
    digest = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape}".encode() + part.tobytes())
        elif isinstance(part, Mapping):
            for key in part:
                digest.update(f"{key!r}:".encode())
                add(part[key])
        elif isinstance(part, (list, tuple)):
            digest.update(f"{len(part)}".encode())
            for each in part:
                add(each)
        else:
            digest.update(f"{part!r};".encode())

    add(value)
    return digest.hexdigest()


def agree_on(exchange: Exchange, found: Mapping[str, Any], error: Exception | None) -> None:
    """Raises `error`, or DistributedError where a rank has found something else than rank 0."""
    exchange.agree("begin", 0, bytes(32), 0, error)
    every = [json.loads(text) for text in exchange.gather(json.dumps(found).encode())]
    for rank, other in enumerate(every):
        for key, expected in every[0].items():
            if other[key] != expected:
                where, ours, theirs = _difference(key, expected, other[key])
                raise DistributedError(
                    f"rank {rank}: {where} {theirs}, expected {ours} as on rank 0"
                )


def _difference(where: str, expected: Any, found: Any) -> tuple[str, Any, Any]:
    """The first place where two trees differ, and what is there."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *found]:
            ours, theirs = expected.get(key, "none"), found.get(key, "none")
            if ours != theirs:
                return _difference(f"{where}[{key!r}]", ours, theirs)
    if isinstance(expected, list) and isinstance(found, list):
        for i, (ours, theirs) in enumerate(zip_longest(expected, found, fillvalue="none")):
            if ours != theirs:
                return _difference(f"{where}[{i}]", ours, theirs)
    return where, expected, found


def digest_of_values(own: Optimizer) -> bytes:
    """Of the numbers that the coming step uses."""
    numbers = [list(h.items()) for h in own._current]
    options = [own._scale, own._clip, own.on_nonfinite, own._seeds, own._kernels]
    return hashlib.sha256(repr((numbers, options)).encode()).digest()
