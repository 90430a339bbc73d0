"""A training in one file: what it needs to go on to the bit. Needs the extra `checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gradstep.checkpoint import plain, targets
from gradstep.checkpoint.file import read, write

__all__ = ["load", "save"]


def save(path: str | os.PathLike[str], /, **parts: Any) -> None:
    """Writes all parts into one safetensors file, which takes the place of the old one or does not.

    parts: by name, such as model, optimizer, extra. Each is an array; a layer or network; an
    optimizer or any other object with `state_dict` and `load_state_dict`; a numpy.random.Generator;
    None, a truth value, a number, a text; or a list, tuple or mapping of such. Arrays: of bool,
    integers, float16, bfloat16, float32, float64. A schedule is a function of the step: left out.

    The file is written beside the old one, synced, renamed, and the folder synced: a kill, a full
    disk or a loss of power leaves the old file or the new one. It holds no code, and a SHA-256.
    Raises TypeError or ValueError for what cannot be saved, OSError, ImportError without
    safetensors; then the old file is as it was. Format: huggingface.co/docs/safetensors.

    >>> import numpy as np, gradstep as gs, tempfile
    >>> weights = {"w": np.ones(3, np.float32)}
    >>> opt = gs.Adam(weights, lr=gs.cosine(0.1, 100))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gs.save(folder + "/run.safetensors", model=weights, optimizer=opt, extra={"epoch": 3})
    ...     info = opt.step({"w": np.ones(3, np.float32)})  # goes elsewhere, and comes back
    ...     saved = gs.load(folder + "/run.safetensors", model=weights, optimizer=opt)
    >>> weights["w"].tolist(), opt.step_count, saved["extra"]["epoch"]
    ([1.0, 1.0, 1.0], 0, 3)
    """
    if not parts:
        raise ValueError("parts: none, expected at least one, such as model=...")
    tensors: dict[str, Any] = {}
    tree = {name: plain.encode(part, name, name, tensors) for name, part in parts.items()}
    write(path, tree, tensors)


def load(path: str | os.PathLike[str], /, **parts: Any) -> Mapping[str, Any]:
    """Returns what `save` wrote, read-only, and puts the parts that are given back in place.

    parts: the objects to change, by the names they were saved under, each like what was saved:
    arrays of the same names, shapes and dtypes, arranged alike; optimizers of the same class over
    such parameters; generators of the same kind. Parts of the file that are not asked for are
    returned only. What is a schedule in an optimizer stays.

    Everything is checked, the checksum too, before anything changes. Raises OSError for a file that
    cannot be read; ValueError for one that is damaged or not written by `save`, and for other
    names, shapes or values; TypeError for other dtypes or kinds; ImportError without safetensors.

    >>> import numpy as np, gradstep as gs, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     gs.save(folder + "/w.safetensors", model=[np.zeros(2)])
    ...     gs.load(folder + "/w.safetensors", model=[np.zeros(3)])
    Traceback (most recent call last):
    ValueError: model[0]: shape (2,) in the file, expected (3,)
    """
    tree, tensors = read(path)
    saved = plain.decode(tree, tensors, path)
    for name in parts:
        if name not in saved:
            raise ValueError(f"{name}: not in {path}, which has {', '.join(saved)}")
    targets.restore([(name, target, saved[name]) for name, target in parts.items()])
    return MappingProxyType({name: plain.frozen(part) for name, part in saved.items()})
