"""The report page as a whole: what stands where, and the words around it."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from gradstep.runtime import build_info
from gradstep.train.job import Job
from gradstep.train.page import sections
from gradstep.train.page.evidence import Evidence, best_run, gather
from gradstep.train.page.style import STYLE
from gradstep.train.places import check_space
from gradstep.train.report import STYLES, Run, divergence, result_rows, time_rows

__all__ = ["check_folder", "write_page"]

NAME = "index.html"


def check_folder(folder: Path) -> None:
    """Raise ValueError unless a page can be written into the folder, which need not exist yet."""
    try:
        place = folder if folder.exists() else folder.parent
        if not place.is_dir():
            what = "a folder" if folder.exists() else "a folder in one that exists"
            raise ValueError(f"{folder}, expected {what}")
        check_space(place)
        with tempfile.TemporaryFile(dir=place):
            pass
        if (folder / NAME).is_dir():
            raise ValueError(f"{folder / NAME} is a folder, expected a file")
    except OSError as error:
        raise ValueError(f"{folder}: {error.strerror}, expected one to write to") from None


def write_page(
    job: Job, runs: Sequence[Run], command: Sequence[str], stopped: str | None, folder: Path
) -> None:
    """Write index.html into the folder, which is made if need be.

    runs: with records that were kept. command: the arguments. stopped: where Ctrl-C came.
    Raises OSError.
    """
    folder.mkdir(exist_ok=True)
    text = _page(job, runs, command, stopped)
    new = folder / f".{NAME}.new"
    new.write_text(text, encoding="utf-8")
    os.replace(new, folder / NAME)


def _page(job: Job, runs: Sequence[Run], command: Sequence[str], stopped: str | None) -> str:
    run = best_run(runs)
    found = gather(job, run)
    of = f" of {run.optimizer}" if len(runs) > 1 else ""
    parts = [
        ("", _summary(job, runs, run, found, stopped)),
        ("Results", _tables(runs)),
        ("Over the epochs", sections.curves(runs)),
        *_judged(job, found, of),
        (f"Layers{of}", sections.layers(run)),
        (f"Worst mistakes{of}", sections.mistakes(job, found)),
        ("Data", _data(job)),
        ("To repeat it", _repeat(job, command)),
    ]
    body = "".join(
        (f"<section><h2>{escape(title)}</h2>{content}</section>" if title else content)
        for title, content in parts
        if content
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(job.data.name)} - gradstep train</title>\n<style>{STYLE}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def _judged(job: Job, found: Evidence, of: str) -> list[tuple[str, str]]:
    if not job.data.classes:
        return [(f"Predictions{of}", sections.residuals(found))]
    return [
        (f"Confusion matrix{of}", sections.confusion(job.data, found)),
        (f"ROC{of}", sections.roc(job.data, found)),
        (f"Calibration{of}", sections.calibrated(job.data, found)),
    ]


def _summary(job: Job, runs: Sequence[Run], run: Run, found: Evidence, stopped: str | None) -> str:
    data = job.data
    what = f"{len(data.classes)} classes" if data.classes else "a regression"
    lines = [f"<h1>{escape(data.name)}: {what}</h1>"]
    rows = f"{len(found.y):,} rows that it was not trained on"
    final = run.histories[0].final
    told = _told(job, found, rows)
    best = (
        f"Of {len(runs)} optimizers <b>{run.optimizer}</b> had the lowest validation loss: it"
        if len(runs) > 1
        else (f"<b>{run.optimizer}</b>")
    )
    lines.append(f'<p class="lead">{best} {told}</p>')
    lines.append(f"<p>{_gap(run)}</p>")
    if stopped:
        lines.append(f'<p class="warning">Interrupted: {escape(stopped)}.</p>')
    lines += [f'<p class="warning">{escape(t)}.</p>' for t in map(divergence, runs) if t]
    if any(np.isnan(list(final.valid_scores.values()))):
        lines.append('<p class="warning">Some scores are not defined on these rows.</p>')
    return "".join(lines)


def _told(job: Job, found: Evidence, rows: str) -> str:
    data = job.data
    if data.classes:
        right = float(np.mean(found.said == found.y))
        usual = float(np.bincount(found.y).max() / len(found.y))
        text = f"was right on {100 * right:.1f} % of {rows}; always saying the most frequent class "
        text += f"would be right for {100 * usual:.1f} %."
        wrong = np.flatnonzero(found.said != found.y)
        if len(wrong):
            pairs, counts = np.unique(
                np.stack([found.y[wrong], found.said[wrong]]), axis=1, return_counts=True
            )
            true, said = pairs[:, counts.argmax()]
            text += (
                f" Its most frequent mistake: {escape(data.classes[true])} taken for "
                f"{escape(data.classes[said])}, {counts.max():,} of {len(wrong):,}."
            )
        return text
    errors = found.said - found.y
    rmse, spread = float(np.sqrt(np.mean(errors**2))), float(found.y.std())
    half = float(np.median(np.abs(errors)))
    return (
        f"is off by {rmse:.4g} (root mean square) on {rows}; always saying their mean would be off "
        f"by {spread:.4g}. Half of its predictions are within {half:.4g} of the truth."
    )


def _gap(run: Run) -> str:
    """What training and validation together tell."""
    final = [history.final for history in run.histories]
    name = next(iter(final[0].valid_scores))
    style = STYLES[name]
    train = style.show([float(np.mean([e.train_scores[name] for e in final]))])
    valid = style.show([e.valid_scores[name] for e in final])
    history = run.histories[0]
    kept = history.best + 1
    epochs = f"{len(history.epochs)} epochs"
    if kept < len(history.epochs):
        epochs += f", of which number {kept} was kept"
    losses = [e.valid_loss for e in history.epochs]
    lowest = int(np.argmin(losses)) + 1
    text = f"{epochs}; {style.long} {train} in training, {valid} in validation."
    if len(losses) - lowest >= 5 and losses[-1] > 1.1 * min(losses) and kept == len(losses):
        text += (
            f" The validation loss was lowest in epoch {lowest} and has risen since: it learns its "
            "rows by heart; <code>--early-stopping</code>, <code>--dropout</code> or "
            "<code>--weight-decay</code> would help."
        )
    return text


def _tables(runs: Sequence[Run]) -> str:
    tables = []
    for head, *rows in (result_rows(runs), time_rows(runs)):
        tables.append(sections.table(head, [[escape(cell) for cell in row] for row in rows]))
    return "<p></p>".join(tables)


def _data(job: Job) -> str:
    data, split = job.data, job.splits[0]
    learnt = ", ".join(data.classes[:20]) + (" ..." if len(data.classes) > 20 else "")
    folds = f", in each of {len(job.splits)} folds" if len(job.splits) > 1 else ""
    parts = f"{len(split.y):,} to train, {len(split.valid_y):,} to validate"
    lines = [
        f"{len(data.y):,} rows: {parts}{folds}",
        f"{len(data.columns) or data.x.shape[1]:,} columns, {split.x.shape[1]:,} inputs",
        f"classes: {learnt}" if data.classes else f"learns {data.label.name}",
        *data.notes,
    ]
    return f'<ul class="plain">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def _repeat(job: Job, command: Sequence[str]) -> str:
    build: Any = build_info()
    options, split = job.arguments, job.splits[0]
    network = "-".join(map(str, job.sizes(split)))
    versions = (
        f"gradstep {build['version']} ({build['simd_level']}, {build['threads']} threads, "
        f"{build['compiler']}), NumPy {np.__version__}, Python {sys.version.split()[0]}; "
        f"network {network}, seed {options.seed}"
    )
    line = shlex.join(["gradstep", *command])
    return f'<pre>{escape(line)}</pre><p class="soft">{escape(versions)}</p>'
