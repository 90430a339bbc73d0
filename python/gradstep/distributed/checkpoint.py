"""Checkpoints of shards: every rank writes its own, and an index names them once all are there.

A folder has an index and files of pieces, all of them written as `gradstep.save` writes. Files have
new names each time: until the new index takes the place of the old one, what that names is whole.
"""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from gradstep.arguments import kind
from gradstep.arrays import Array, flatten, is_branch
from gradstep.checkpoint import load, plain, save
from gradstep.checkpoint.file import read, write
from gradstep.distributed.agreement import flat_view
from gradstep.distributed.exchange import Exchange
from gradstep.distributed.plan import Piece, buckets, overlaps
from gradstep.optim.storage import SCALE, laid_out, saved_state
from gradstep.spec.storage import SCALE_BLOCK

__all__ = [
    "PARAMETER",
    "Held",
    "from_plain",
    "gather_whole",
    "load_pieces",
    "pieces_of",
    "save_shards",
    "tensors_of",
    "to_plain",
]

StrPath = str | os.PathLike[str]

INDEX = "index.safetensors"
FORMAT = 1
# The name of a parameter's own elements among its states.
PARAMETER = "parameter"
# Elements of a file: what one rank holds beside its shard while it loads.
PART = 2**24
MESSAGE = 2**26  # bytes

State: TypeAlias = tuple[dict[str, Array], dict[str, float]]  # arrays and numbers


class Held(NamedTuple):
    """What a rank has of a tensor: its elements and states, flat, and numbers such as its step."""

    piece: Piece
    arrays: Mapping[str, Array]
    numbers: Mapping[str, float]


def tensors_of(names: Sequence[Any], arrays: Sequence[Array]) -> list[dict[str, Any]]:
    """What an index says of the parameters."""
    return [
        {
            "name": name,
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "order": "C" if array.flags.c_contiguous else "F",
        }
        for name, array in zip(names, arrays, strict=True)
    ]


def save_shards(
    exchange: Exchange, folder: StrPath, step: int, about: dict[str, Any], held: Iterable[Held]
) -> None:
    """Writes a checkpoint of all ranks, which takes the place of the one in the folder or does not.

    about: the same on all ranks, of plain values. Raises OSError and TypeError, and on the other
    ranks DistributedError: then the folder's checkpoint is the one before.
    """
    error: Exception | None = None
    entries: list[dict[str, Any]] = []
    rank = exchange.transport.rank
    try:
        place = Path(os.fspath(folder))
        plain.encode(about, "about", "about", {})
        place.mkdir(parents=True, exist_ok=True)
    except Exception as raised:
        error = raised
    exchange.agree("save", step, bytes(32), 0, error)
    token = exchange.gather(secrets.token_hex(6).encode())[0].decode()
    try:
        entries = _write_files(place, f"{token}-{rank:05d}", held)
    except Exception as raised:
        error = raised
    _agree_or_remove(exchange, "saved", step, error, place, token)
    found = [json.loads(text) for text in exchange.gather(json.dumps(entries).encode())]
    if rank == 0:
        try:
            files = list(chain.from_iterable(found))
            _check_seen(place, found)
            _write_index(place, {**about, "step": step, "ranks": len(found)}, files)
        except OSError as raised:
            error = raised
    _agree_or_remove(exchange, "indexed", step, error, place, token)
    if rank == 0:
        _remove(place, lambda name: token not in name)


def _check_seen(place: Path, found: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Raises FileNotFoundError where a rank has written into a folder of its own."""
    for rank, entries in enumerate(found):
        for entry in entries:
            if not (place / entry["name"]).exists():
                what = f"rank 0 does not see what rank {rank} wrote, expected one folder of all"
                raise FileNotFoundError(2, what, str(place))


def _agree_or_remove(
    exchange: Exchange, what: str, step: int, error: Exception | None, place: Path, token: str
) -> None:
    try:
        exchange.agree(what, step, bytes(32), 0, error)
    except BaseException:
        if exchange.failed is None:  # all ranks are here, and none goes on to an index
            _remove(place, lambda name: f"{token}-{exchange.transport.rank:05d}" in name)
        raise


def _write_files(place: Path, start: str, held: Iterable[Held]) -> list[dict[str, Any]]:
    """Writes pieces into files; gives what the index says of them."""
    held = list(held)
    pieces = [each.piece for each in held]
    tensors = max((piece.tensor for piece in pieces), default=-1) + 1
    parts = list(buckets(pieces, [1] * tensors, PART))
    empty = [(i, piece) for i, piece in enumerate(pieces) if piece.size == 0]
    entries = []
    for number, part in enumerate([*parts, *([empty] if empty else [])]):
        name = f"shard-{start}-{number:05d}.safetensors"
        arrays = {
            f"{piece.tensor}.{piece.start}.{key}": _elements(array, key, held[i].piece, piece)
            for i, piece in part
            for key, array in held[i].arrays.items()
        }
        write(place / name, {}, arrays)
        entries.append(
            {
                "name": name,
                "pieces": [[*piece] for _, piece in part],
                "arrays": [list(held[i].arrays) for i, _ in part],
                "numbers": [dict(held[i].numbers) for i, _ in part],
            }
        )
    return entries


def _elements(array: Array, key: str, whole: Piece, part: Piece) -> Array:
    """Those elements of a piece's array that belong to a part of it."""
    unit = SCALE_BLOCK if key.endswith(SCALE) else 1
    first, last = part.start - whole.start, part.stop - whole.start
    return array[first // unit : -(-last // unit)]


def _write_index(place: Path, about: dict[str, Any], files: list[dict[str, Any]]) -> None:
    content = {**about, "format": FORMAT, "files": files}
    tensors: dict[str, Array] = {}
    tree = {"index": plain.encode(content, "index", "index", tensors)}
    write(place / INDEX, tree, tensors)


def _remove(place: Path, chosen: Callable[[str], bool]) -> None:
    """Removes files of pieces, as far as that goes: those of earlier checkpoints, or unfinished."""
    for path in place.glob("shard-*.safetensors"):
        if chosen(path.name):
            path.unlink(missing_ok=True)


# Reading


def read_index(folder: StrPath) -> dict[str, Any]:
    """What the index says. Raises OSError, ValueError."""
    try:
        path = Path(os.fspath(folder)) / INDEX
    except TypeError:
        raise TypeError(f"folder: {kind(folder)}, expected a path") from None
    if not path.exists():
        raise FileNotFoundError(2, "no checkpoint of shards there (no index)", str(path))
    tree, tensors = read(path)
    found: dict[str, Any] = plain.decode(tree, tensors, path).get("index", {})
    if found.get("format") != FORMAT:
        raise ValueError(f"{path}: not the index of shards, expected one that a `save` wrote")
    return found


def load_pieces(folder: StrPath, index: Mapping[str, Any], pieces: Sequence[Piece]) -> list[State]:
    """States and numbers of pieces, from the files of any other division: one file at a time.

    Raises OSError, or ValueError for a file that is damaged or lacks something.
    """
    found: list[State] = [({}, {}) for _ in pieces]
    filled = [0] * len(pieces)
    for entry in index["files"]:
        theirs = [Piece(*numbers) for numbers in entry["pieces"]]
        shared = list(overlaps(pieces, theirs))
        if not shared:
            continue
        path = Path(os.fspath(folder)) / entry["name"]
        _, tensors = read(path)
        for mine, other, part in shared:
            arrays, numbers = found[mine]
            numbers.update(entry["numbers"][other])
            filled[mine] += part.size
            for key in entry["arrays"][other]:
                of = theirs[other]
                try:
                    array = tensors[f"{of.tensor}.{of.start}.{key}"]
                except KeyError as error:
                    raise ValueError(f"{path}: lacks {error}, which the index names") from None
                if key not in arrays:
                    unit = SCALE_BLOCK if key.endswith(SCALE) else 1
                    arrays[key] = np.empty(-(-pieces[mine].size // unit), array.dtype)
                to = _elements(arrays[key], key, pieces[mine], part)
                to[...] = _elements(array, key, of, part)
    for piece, count in zip(pieces, filled, strict=True):
        if count != piece.size:
            name = index["tensors"][piece.tensor]["name"]
            raise ValueError(f"{folder}: not all of {name!r} is in the files of the index")
    return found


def check_tensors(index: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError where the parameters are others than those of the index."""
    saved = index["tensors"]
    if len(saved) != len(own):
        raise ValueError(f"params: {len(own)}, expected {len(saved)} as in the checkpoint")
    for ours, theirs in zip(own, saved, strict=True):
        if ours != theirs:
            raise ValueError(
                f"params: {_said(ours)}, expected {_said(theirs)} as in the checkpoint"
            )


def _said(tensor: Mapping[str, Any]) -> str:
    return "{name!r}, {dtype} of shape {shape} in order {order}".format(**tensor)


# From and to one rank


def gather_whole(
    exchange: Exchange, tensors: Sequence[Mapping[str, Any]], held: Sequence[Held]
) -> list[State]:
    """States and numbers of whole tensors on rank 0, which needs their memory; [] on the others.

    tensors: as `tensors_of` gave them. held: of this rank.
    """
    own = [
        {
            "piece": [*each.piece],
            "dtypes": {key: str(array.dtype) for key, array in each.arrays.items()},
            "numbers": dict(each.numbers),
        }
        for each in held
    ]
    every = [json.loads(text) for text in exchange.gather(json.dumps(own).encode())]
    if exchange.transport.rank:
        for each in held:
            for array in each.arrays.values():
                exchange.pass_on([(0, flat_view(array).view(np.uint8))], [], MESSAGE)
        return []
    found: list[State] = [({}, {}) for _ in tensors]
    for rank, entries in enumerate(every):
        for number, entry in enumerate(entries):
            piece = Piece(*entry["piece"])
            whole = Piece(piece.tensor, 0, math.prod(tensors[piece.tensor]["shape"]))
            arrays, numbers = found[piece.tensor]
            numbers.update(entry["numbers"])
            for key, dtype in entry["dtypes"].items():
                if key not in arrays:
                    unit = SCALE_BLOCK if key.endswith(SCALE) else 1
                    arrays[key] = np.empty(-(-whole.size // unit), np.dtype(dtype))
                to = _elements(arrays[key], key, whole, piece)
                if rank:
                    exchange.pass_on([], [(rank, to.view(np.uint8))], MESSAGE)
                else:
                    to[...] = flat_view(held[number].arrays[key])
    return [
        ({key: _as_in(array, key, about) for key, array in arrays.items()}, numbers)
        for (arrays, numbers), about in zip(found, tensors, strict=True)
    ]


def pieces_of(
    state: Mapping[Any, Any], tensors: Sequence[Mapping[str, Any]], pieces: Sequence[Piece]
) -> list[State]:
    """States and numbers of pieces, of those of whole tensors by name. Raises ValueError."""
    found: list[State] = []
    for piece in pieces:
        about = tensors[piece.tensor]
        if about["name"] not in state:
            raise ValueError(f"state_dict: nothing of {about['name']!r}, expected all parameters")
        arrays: dict[str, Array] = {}
        numbers: dict[str, float] = {}
        size = math.prod(about["shape"])
        saved = state[about["name"]]
        for key, value in saved.items():
            unit = SCALE_BLOCK if key.endswith(SCALE) else 1
            if isinstance(value, np.ndarray) and value.size != -(-size // unit):
                what = f"state_dict: {key!r} of {about['name']!r} has {value.size} elements"
                raise ValueError(f"{what}, expected {-(-size // unit)}")
        for key, value in laid_out(saved, about["order"]).items():
            if isinstance(value, np.ndarray):
                flat = value.reshape(-1, order=about["order"])
                arrays[key] = _elements(flat, key, Piece(piece.tensor, 0, size), piece)
            elif key != "order":
                numbers[key] = value
        found.append((arrays, numbers))
    return found


def _as_in(array: Array, key: str, about: Mapping[str, Any]) -> Array:
    return array if key.endswith(SCALE) else _shaped(array, about)


# From and to one file


def to_plain(folder: StrPath, path: StrPath) -> None:
    """Makes one file of a checkpoint of shards: what `gradstep.save(path, model=params,
    optimizer=opt, extra=...)` writes of one process. Holds all of it in memory.

    Raises OSError, TypeError or ValueError as `gradstep.load` and `save` do.
    """
    index = read_index(folder)
    tensors = index["tensors"]
    sizes = [int(np.prod(each["shape"])) for each in tensors]
    found = load_pieces(folder, index, [Piece(i, 0, size) for i, size in enumerate(sizes)])
    state: dict[Any, Any] = {}
    leaves = []
    for about, (arrays, numbers) in zip(tensors, found, strict=True):
        own = {key: _as_in(array, key, about) for key, array in arrays.items()}
        leaves.append(own.pop(PARAMETER))
        state[about["name"]] = saved_state(int(numbers["step"]), own)
    about = {key: index[key] for key in ("optimizer", "step", "options", "param_groups")}
    model = _filled(index["arrangement"], iter(leaves))
    save(path, model=model, optimizer={**about, "state": state}, extra=index["extra"])


def _shaped(array: Array, about: Mapping[str, Any]) -> Array:
    return array.reshape(about["shape"], order=about["order"])


def _filled(skeleton: Any, leaves: Iterator[Array]) -> Any:
    """A tree of this branching."""
    if isinstance(skeleton, Mapping):
        return {key: _filled(branch, leaves) for key, branch in skeleton.items()}
    if is_branch(skeleton):
        return [_filled(branch, leaves) for branch in skeleton]
    return next(leaves)


def from_plain(path: StrPath, folder: StrPath) -> None:
    """Makes a checkpoint of shards of the file that `gradstep.save(path, model=params,
    optimizer=opt)` wrote, which any number of ranks can load. Holds all of it in memory.

    The file must hold the parameters as `model` and the optimizer as `optimizer`; `extra`, if it is
    there, comes along. Raises OSError, TypeError, or ValueError for another file.
    """
    saved = load(path)
    if not {"model", "optimizer"} <= saved.keys():
        raise ValueError(f"{path}: has {', '.join(saved)}, expected model and optimizer")
    model, optimizer = saved["model"], saved["optimizer"]
    names, leaves = flatten(model, "model")
    names = [0 if name is None else name for name in names]
    if set(names) != set(optimizer["state"]):
        raise ValueError(f"{path}: model and optimizer have arrays of other names")
    held = []
    for tensor, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        own = dict(laid_out(optimizer["state"][name], "C"))
        own.pop("order", None)
        numbers = {"step": own.pop("step")}
        arrays = {PARAMETER: leaf, **own}
        flat = {key: array.reshape(-1) for key, array in arrays.items()}
        held.append(Held(Piece(tensor, 0, leaf.size), flat, numbers))
    place = Path(os.fspath(folder))
    place.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(6)
    about = {
        "optimizer": optimizer["optimizer"],
        "options": _thawed(optimizer["options"]),
        "param_groups": _thawed(optimizer["param_groups"]),
        "tensors": tensors_of(names, leaves),
        "arrangement": _without_leaves(model),
        "extra": _thawed(saved.get("extra")),
        "step": optimizer["step"],
        "ranks": 1,
    }
    _write_index(place, about, _write_files(place, f"{token}-00000", held))
    _remove(place, lambda name: token not in name)


def _thawed(value: Any) -> Any:
    """Plain values again, of what `load` made read-only."""
    if isinstance(value, Mapping):
        return {key: _thawed(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_thawed, value))
    return value


def _without_leaves(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _without_leaves(branch) for key, branch in tree.items()}
    return [_without_leaves(branch) for branch in tree] if is_branch(tree) else None
