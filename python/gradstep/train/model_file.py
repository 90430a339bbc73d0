"""What `gradstep train --save` writes: the training, and all that predictions need of the data."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from gradstep.nn import Sequential, mlp
from gradstep.train.datasets import Dataset, LabelColumn, MissingExtraError
from gradstep.train.encoding import Encoding, Scale
from gradstep.train.frame import Column
from gradstep.train.job import Job
from gradstep.train.records import kept_weights

__all__ = ["ANEW", "NETWORK_OPTIONS", "Saved", "check_extra", "digest", "read_model", "write_model"]

FORMAT = "gradstep train 1"
NETWORK_OPTIONS = ("seed", "activation", "init", "batch_norm", "dropout", "input_dropout")


@dataclass(frozen=True)
class Saved:
    """What a file of `--save` holds.

    path: the file. options: of the command line, with the learning rate that was used. training:
    see `Training.state_dict`. columns, label, classes, encoding, scale: of the data. digest: of its
    rows. sizes: of the network.
    """

    path: str
    options: Mapping[str, Any]
    training: Mapping[str, Any]
    columns: tuple[Column, ...]
    label: LabelColumn
    classes: tuple[str, ...]
    encoding: Encoding
    scale: Scale | None
    digest: str
    sizes: tuple[int, ...]

    @property
    def epochs(self) -> int:
        """How many epochs have been trained."""
        return len(self.training["history"]["epochs"])

    def model(self) -> Sequential:
        """Return the network with the weights that training would have kept."""
        model = mlp(self.sizes, **{name: self.options[name] for name in NETWORK_OPTIONS})
        model.load_state_dict(kept_weights(self.training))
        return model


def check_extra() -> None:
    """Raise MissingExtraError without safetensors."""
    if not find_spec("safetensors"):
        raise MissingExtraError("safetensors", "a file of a model", "checkpoint")


def digest(data: Dataset) -> str:
    """Return SHA-256 of rows and labels, in hexadecimal."""
    found = hashlib.sha256(np.ascontiguousarray(data.x).tobytes())
    found.update(repr((data.x.shape, data.x.dtype.str, data.classes)).encode())
    found.update(repr(data.categories).encode())
    found.update(np.ascontiguousarray(data.y).tobytes())
    return found.hexdigest()


def write_model(job: Job, lr: float, training: Mapping[str, Any], path: Path) -> None:
    """Write the training of the first split. Raises OSError, and then what was there stays."""
    from gradstep.checkpoint import save

    data, split = job.data, job.splits[0]
    encoding = split.encoding
    assert encoding is not None
    about = {
        "task": data.task,
        "classes": list(data.classes),
        "columns": [asdict(column) for column in data.columns],
        "label": asdict(data.label),
        "digest": digest(data),
        "scale": None if split.scale is None else asdict(split.scale),
    }
    save(
        path,
        format=FORMAT,
        options=_plain(job.arguments, lr),
        sizes=job.sizes(split),
        data=about,
        encoding=encoding.state(),
        training=training,
    )


# What the command itself notes beside the options: the function, what was given, and how.
NOT_OPTIONS = ("command", "given", "line", "keep")
# What a later command says anew; all else must be as it was.
ANEW = (
    *NOT_OPTIONS,
    "save",
    "resume",
    "report",
    "output",
    "json",
    "quiet",
    "threads",
    "distributed",
    "find_lr",
)


def _plain(arguments: argparse.Namespace, lr: float) -> dict[str, Any]:
    options = {name: value for name, value in vars(arguments).items() if name not in ANEW}
    return {**options, "lr": lr}


def read_model(path: str | os.PathLike[str]) -> Saved:
    """Return what `write_model` wrote.

    Raises MissingExtraError, OSError, or ValueError for a file that is damaged or of other origin.
    """
    from gradstep.checkpoint import load

    check_extra()
    name = os.fspath(path)
    if os.path.exists(name) and not os.path.isfile(name):
        raise ValueError(f"{name}: no file, expected one of gradstep train --save")
    try:
        parts = load(name)
    except OSError as error:
        raise OSError(f"{name}: {error.strerror or error}") from None
    if parts.get("format") != FORMAT:
        raise ValueError(f"{name}: not written by gradstep train --save")
    data = parts["data"]
    return Saved(
        path=name,
        options=parts["options"],
        training=_thawed(parts["training"]),
        columns=tuple(Column(**column) for column in data["columns"]),
        label=LabelColumn(**data["label"]),
        classes=tuple(data["classes"]),
        encoding=Encoding.from_state(parts["encoding"]),
        scale=None if data["scale"] is None else Scale(**data["scale"]),
        digest=data["digest"],
        sizes=tuple(parts["sizes"]),
    )


def _thawed(value: Any) -> Any:
    """Mappings as dicts, which the state of a random generator must be."""
    if isinstance(value, Mapping):
        return {key: _thawed(part) for key, part in value.items()}
    return list(map(_thawed, value)) if isinstance(value, list) else value
