"""What the kept weights of a run say of the rows that validated it, over all splits together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.train.job import Job
from gradstep.train.predict import outputs_of, probabilities
from gradstep.train.records import kept_weights
from gradstep.train.report import Run

__all__ = ["Evidence", "best_run", "calibration", "gather"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """Validated rows: their numbers in the data, and what was true and what was said of each.

    y: classes (N,), or numbers in the data's units. said: classes or numbers likewise. chances:
    (N, C), the probabilities of the classes; (N, 0) for a regression.
    """

    rows: npt.NDArray[np.intp]
    y: npt.NDArray[Any]
    said: npt.NDArray[Any]
    chances: Floats


def best_run(runs: Sequence[Run]) -> Run:
    """Return the run with the lowest validation loss among those that have not diverged."""

    def rank(run: Run) -> tuple[bool, float]:
        loss = float(np.mean([history.final.valid_loss for history in run.histories]))
        return any(history.diverged for history in run.histories) or loss != loss, loss

    return min(runs, key=rank)


def gather(job: Job, run: Run) -> Evidence:
    """Ask the weights that each split kept about its validation rows."""
    rows, y, said, chances = [], [], [], []
    for split, record in zip(job.splits, run.records, strict=False):
        assert record.state is not None and split.valid_rows is not None
        model = job.model(split)
        model.load_state_dict(kept_weights(record.state))
        with np.errstate(over="ignore", invalid="ignore"):
            outputs = outputs_of(model, split.valid_x)
        rows.append(split.valid_rows)
        y.append(job.data.y[split.valid_rows])
        if split.scale is None:
            chances.append(probabilities(outputs))
            said.append(outputs.argmax(axis=1))
        else:
            chances.append(np.empty((len(outputs), 0)))
            said.append(split.scale.undo(outputs[:, 0]))
    return Evidence(*(np.concatenate(part) for part in (rows, y, said, chances)))


def calibration(chance: Floats, happened: npt.NDArray[np.bool_], bins: int = 10) -> Floats:
    """Return a row for each tenth that occurs: mean chance, share that happened, rows.

    chance: (N,), what was said. Source: Guo et al. 2017 (arXiv:1706.04599), reliability diagrams.

    >>> calibration(np.array([0.95, 0.85, 0.95]), np.array([True, False, True])).tolist()
    [[0.85, 0.0, 1.0], [0.95, 1.0, 2.0]]
    """
    place = np.minimum((chance * bins).astype(np.intp), bins - 1)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    used = count > 0
    means = [np.bincount(place, values, bins)[used] / count[used] for values in (chance, happened)]
    return np.column_stack([*means, count[used]])
