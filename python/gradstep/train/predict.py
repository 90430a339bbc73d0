"""`gradstep predict`: what a saved model says of other rows, as CSV, and how good that is."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.nn import Sequential
from gradstep.ops.activations import softmax
from gradstep.train import places, report
from gradstep.train.console import Console, complain
from gradstep.train.files import Rows, load_rows
from gradstep.train.labels import MISSING, as_number
from gradstep.train.model_file import Saved, read_model
from gradstep.train.objectives import Classification, Objective, Regression

__all__ = ["outputs_of", "predict", "probabilities"]

CHUNK = 1024


def predict(arguments: argparse.Namespace) -> int:
    """Run `gradstep predict`; return its exit code. Raises ValueError or OSError."""
    console = Console()
    inputs = {"the model": arguments.model, "the data": arguments.data}
    places.check_files({"--output": arguments.output}, inputs)
    saved = read_model(arguments.model)
    header = None if arguments.header is None else arguments.header == "yes"
    rows = load_rows(arguments.data, saved, arguments.label, header)
    x = saved.encoding.apply(rows.frame.numbers, rows.frame.categories)
    outputs = outputs_of(saved.model(), x)
    text = _table(saved, outputs)
    if arguments.output:
        places.write_text("--output", arguments.output, "".join(f"{part}\n" for part in text))
    else:
        for part in text:
            console.say(part)
    line = _score(saved, rows, outputs)
    if line and not console.error:
        complain(f"gradstep: {line}")
    if console.error:
        raise console.error
    return 0


def outputs_of(model: Sequential, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return what the network says of encoded rows (N, I): logits (N, C), or numbers (N, 1)."""
    parts = [model.forward(x[i : i + CHUNK], False).copy() for i in range(0, len(x), CHUNK)]
    return np.concatenate(parts).astype(np.float32, copy=False)


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the softmax of logits (N, C) in float64."""
    return np.asarray(softmax(logits.astype(np.float64)))


def _table(saved: Saved, outputs: npt.NDArray[Any]) -> Iterator[str]:
    """Yield lines of CSV, many at a time."""
    if saved.scale is not None:
        yield "prediction"
        numbers = saved.scale.undo(outputs[:, 0])
        for start in range(0, len(numbers), CHUNK):
            yield "\n".join(f"{value:.9g}" for value in numbers[start : start + CHUNK])
        return
    yield _csv([["prediction", *(f"probability {name}" for name in saved.classes)]])
    chances, best = probabilities(outputs), outputs.argmax(axis=1)
    for start in range(0, len(best), CHUNK):
        part = slice(start, start + CHUNK)
        pairs = zip(best[part], chances[part], strict=True)
        yield _csv([[saved.classes[i], *(f"{p:.6g}" for p in row)] for i, row in pairs])


def _csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().rstrip("\n")


def _score(saved: Saved, rows: Rows, outputs: npt.NDArray[Any]) -> str:
    """Say how good the predictions are for the rows that have a label; "" where none has."""
    if rows.labels is None:
        return ""
    used, y = _targets(saved, rows.labels)
    left = len(outputs) - len(used)
    out = f", {left:,} without one that fits left out" if left else ""
    if not len(used):
        return f"no score: no row of {len(outputs):,} has a label that fits"
    objective: Objective = Regression(scale=saved.scale) if saved.scale else Classification()
    scores = objective.scores(objective.tally(outputs[used], y))
    shown = [
        f"{report.STYLES[name].long} {report.STYLES[name].show([s])}" for name, s in scores.items()
    ]
    return f"{', '.join(shown)}, of {len(used):,} rows with a label{out}"


def _targets(saved: Saved, labels: Sequence[str]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the rows whose label fits, and their classes or scaled targets."""
    if saved.scale is None:
        codes = {name: code for code, name in enumerate(saved.classes)}
        found: list[Any] = [codes.get(label) for label in labels]
    else:
        texts = (None if label.lower() in MISSING else as_number(label) for label in labels)
        found = [None if v is None or not np.isfinite(v) else v for v in texts]
    used = np.array([i for i, value in enumerate(found) if value is not None], np.intp)
    y = np.array([found[i] for i in used], np.intp if saved.scale is None else np.float64)
    return used, y if saved.scale is None else saved.scale.apply(y)
