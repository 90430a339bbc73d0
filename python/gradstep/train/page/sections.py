"""The sections of the report page, each a piece of HTML."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.train import metrics
from gradstep.train.datasets import Dataset
from gradstep.train.job import Job
from gradstep.train.page.charts import COLORS, Chart, legend
from gradstep.train.page.evidence import Evidence, calibration
from gradstep.train.report import STYLES, Run

__all__ = [
    "calibrated",
    "confusion",
    "curves",
    "layers",
    "matrix_table",
    "mistakes",
    "residuals",
    "roc",
    "table",
]

# More classes than these make a table that nobody reads.
MOST_CLASSES = 20
MOST_POINTS = 1500
MOST_MISTAKES = 12


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a table that scrolls where the page is narrow; cells of rows may hold HTML."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    style = f' class="{kind}"' if kind else ""
    return (
        f'<div class="scroll"><table{style}><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def curves(runs: Sequence[Run]) -> str:
    """Loss and first score over the epochs: training dashed, validation solid."""
    score = next(iter(runs[0].histories[0].final.valid_scores))
    charts = []
    for quantity in ("loss", score):
        drawn = [
            (number % COLORS, part, [e.record()[f"{part}_{quantity}"] for e in history.epochs])
            for number, run in enumerate(runs)
            for history in run.histories
            for part in ("train", "valid")
        ]
        values = np.array([value for _, _, line in drawn for value in line], np.float64)
        finite = values[np.isfinite(values)]
        shown = finite[finite > 0] if quantity != "accuracy" else finite
        up = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 1.0)
        if quantity == "accuracy":
            later = [value for _, part, line in drawn for value in line[len(line) // 5 :]]
            up = max(0.0, min(later) - 0.02), 1.0
        most = max(len(line) for _, _, line in drawn)
        title = STYLES[quantity].long if quantity in STYLES else quantity
        log, percent = quantity != "accuracy", quantity == "accuracy"
        chart = Chart(title, "epoch", "", (1, max(most, 2)), up, log=log, percent=percent)
        thin = " thin" if any(len(run.histories) > 1 for run in runs) else ""
        for number, part, line in drawn:
            dash = " dash" if part == "train" else ""
            chart.line(list(enumerate(line, 1)), f"c{number}{dash}{thin}")
        charts.append(chart.html())
    names = [(run.optimizer, f"c{number % COLORS}") for number, run in enumerate(runs)]
    kinds = [("training", "guide-ink dash"), ("validation", "guide-ink")]
    return f'<div class="charts">{"".join(charts)}</div>{legend([*names, *kinds])}'


def confusion(data: Dataset, found: Evidence) -> str:
    """The confusion matrix, or the most frequent confusions of many classes."""
    labels = list(range(len(data.classes)))
    matrix = metrics.confusion_matrix(found.y, found.said, labels=labels)
    if len(labels) <= MOST_CLASSES:
        shown = matrix_table(data.classes, matrix)
    else:
        wrong = matrix - np.diag(np.diag(matrix))
        order = np.argsort(wrong, axis=None)[::-1][:MOST_CLASSES]
        pairs = [(*np.unravel_index(i, wrong.shape), wrong.flat[i]) for i in order]
        rows = [
            [escape(data.classes[a]), escape(data.classes[b]), f"{n:,}"] for a, b, n in pairs if n
        ]
        shown = table(["true class", "was taken for", "rows"], rows, "texts")
    parts: list[Any] = [
        score(found.y, found.said, average=None, labels=labels)
        for score in (metrics.precision, metrics.recall, metrics.f1)
    ]
    counts = matrix.sum(axis=1)
    rows = [
        [escape(name), *(f"{100 * part[i]:.1f} %" for part in parts), f"{counts[i]:,}"]
        for i, name in enumerate(data.classes[:100])
    ]
    return shown + "<p></p>" + table(["class", "precision", "recall", "F1", "rows"], rows)


def matrix_table(classes: Sequence[str], matrix: npt.NDArray[Any]) -> str:
    """Rows of each true class, down, that were taken for each class, across."""
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    body = []
    for i, name in enumerate(classes):
        total = max(int(matrix[i].sum()), 1)
        cells = []
        for j, count in enumerate(matrix[i].tolist()):
            share = 100 * count / total
            kind = "hit" if i == j else "miss"
            deep = min(share * (0.75 if i == j else 2.5), 75)
            tip = f"{escape(name)} taken for {escape(classes[j])}: {share:.1f} %"
            text = f"{count:,}" if count else ""
            style = f'class="{kind}" style="--share: {deep:.0f}%"'
            cells.append(f'<td {style} title="{tip}">{text}</td>')
        body.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    corner = '<th class="soft">true ↓ said →</th>'
    return (
        f'<div class="scroll"><table class="matrix"><thead><tr>{corner}{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def roc(data: Dataset, found: Evidence) -> str:
    """ROC curves, and the areas by both definitions: one class, or each against the rest."""
    classes = [1] if len(data.classes) == 2 else list(range(len(data.classes)))
    usable = [c for c in classes if 0 < np.count_nonzero(found.y == c) < len(found.y)]
    if not usable or not np.isfinite(found.chances).all():
        return "<p>No ROC: it needs validation rows of at least two classes.</p>"
    chart = Chart("ROC", "false positives", "true positives", (0, 1), (0, 1))
    chart.line([(0, 0), (1, 1)], "guide")
    rows, names = [], []
    for place, c in enumerate(usable):
        positive, chance = found.y == c, found.chances[:, c]
        areas = [metrics.roc_auc(positive, chance, method=m) for m in ("area", "pairs")]
        rows.append([escape(data.classes[c]), *(f"{area:.4f}" for area in areas)])
        if place < COLORS:
            false, true, _ = metrics.roc_curve(positive, chance)
            chart.line(list(zip(false.tolist(), true.tolist(), strict=True)), f"c{place}")
            names.append((data.classes[c], f"c{place}"))
    if len(rows) > 1:
        means = [np.mean([float(row[i]) for row in rows]) for i in (1, 2)]
        rows.append(["mean", *(f"{mean:.4f}" for mean in means)])
    against = "positive class" if len(data.classes) == 2 else "class against the rest"
    head = [against, "AUC by area", "AUC by pairs"]
    words = "the area under the curve, and the share of pairs of a positive and a negative row that"
    note = f'<p class="soft">By both definitions: {words} stand in order, ties half.</p>'
    return (
        f'<div class="charts"><div>{chart.html()}{legend(names)}</div>'
        f"<div>{table(head, rows)}{note}</div></div>"
    )


def calibrated(data: Dataset, found: Evidence) -> str:
    """Are things said with 80 % true in 80 % of the cases? And how sure are the answers?"""
    if not np.isfinite(found.chances).all():
        return ""
    if len(data.classes) == 2:
        chance, happened, what = found.chances[:, 1], found.y == 1, f"of {data.classes[1]}"
    else:
        chance, happened, what = found.chances.max(axis=1), found.said == found.y, "of the answer"
    rows = calibration(chance, happened)
    chart = Chart("calibration", f"probability {what}", "share that was true", (0, 1), (0, 1))
    chart.line([(0, 0), (1, 1)], "guide")
    chart.line([(said, true) for said, true, _ in rows.tolist()], "c0")
    chart.dots([(said, true) for said, true, _ in rows.tolist()], "c0", 4)
    heights, edges = np.histogram(chance, bins=20, range=(0, 1))
    shares = (heights / len(chance)).tolist()
    spread = Chart(
        "how often it was said", f"probability {what}", "", (0, 1), (0, max(shares)), percent=True
    )
    spread.bars(edges.tolist(), shares, "c0")
    error = float(np.abs(rows[:, 0] - rows[:, 1]) @ rows[:, 2] / rows[:, 2].sum())
    text = f"On average a probability is {100 * error:.1f} points from what then happens"
    return (
        f'<div class="charts">{chart.html()}{spread.html()}</div>'
        f'<p class="soft">{text} (expected calibration error).</p>'
    )


def residuals(found: Evidence) -> str:
    """Predicted against true, and errors against predicted; a part of the points of many."""
    finite = np.isfinite(found.said)
    y, said = found.y[finite], found.said[finite]
    if not len(y):
        return "<p>No prediction is a finite number.</p>"
    some = np.random.default_rng(0).permutation(len(y))[:MOST_POINTS]
    bounds = float(min(y.min(), said.min())), float(max(y.max(), said.max()))
    against = Chart("predicted against true", "true", "predicted", bounds, bounds)
    against.line([(bounds[0], bounds[0]), (bounds[1], bounds[1])], "guide")
    against.dots(list(zip(y[some].tolist(), said[some].tolist(), strict=True)), "c0 faint", 2.5)
    errors = said - y
    most = float(np.abs(errors).max()) or 1.0
    across = float(said.min()), float(said.max())
    left = Chart("errors", "predicted", "predicted - true", across, (-most, most))
    left.line([(across[0], 0), (across[1], 0)], "guide")
    left.dots(list(zip(said[some].tolist(), errors[some].tolist(), strict=True)), "c1 faint", 2.5)
    heights, edges = np.histogram(errors, bins=30)
    shares = (heights / len(errors)).tolist()
    spread = Chart(
        "how large errors are",
        "predicted - true",
        "",
        (float(edges[0]), float(edges[-1])),
        (0, max(shares)),
        percent=True,
    )
    spread.bars(edges.tolist(), shares, "c1")
    return f'<div class="charts">{against.html()}{left.html()}{spread.html()}</div>'


def layers(run: Run) -> str:
    """Root mean squares of the weights of each layer, and of their gradients, over the epochs."""
    found = run.records[0].layers
    if not found:
        return ""
    charts = []
    for place, title in enumerate(("weights", "gradients of the last batch")):
        lines = [[pair[place] for pair in pairs] for pairs in found.values()]
        values = np.array([value for line in lines for value in line])
        values = values[np.isfinite(values) & (values > 0)]
        up = (float(values.min()), float(values.max())) if len(values) else (0.1, 1.0)
        # A training that goes on has looked into its layers since then only.
        last = len(run.histories[0].epochs)
        first = last - len(lines[0]) + 1
        across = (first, max(last, first + 1))
        chart = Chart(f"{title}, root mean square", "epoch", "", across, up, log=True)
        for number, line in enumerate(lines):
            chart.line(list(enumerate(line, first)), f"c{number % COLORS}")
        charts.append(chart.html())
    names = [
        (f"layer {number} of {len(found)}", f"c{(number - 1) % COLORS}")
        for number in range(1, len(found) + 1)
    ]
    return f'<div class="charts">{"".join(charts)}</div>{legend(names)}'


def mistakes(job: Job, found: Evidence) -> str:
    """The rows that were most surely wrong, or farthest off."""
    data = job.data
    if data.classes:
        wrong = np.flatnonzero(found.said != found.y)
        sure = found.chances[wrong].max(axis=1)
        order = wrong[np.argsort(-sure, kind="stable")][:MOST_MISTAKES]
        if not len(order):
            return "<p>There is none: every validation row was told right.</p>"
        head = ["true", "said", "with", "and the truth with"]
        cells = [
            [
                escape(data.classes[found.y[i]]),
                escape(data.classes[found.said[i]]),
                f"{100 * found.chances[i].max():.1f} %",
                f"{100 * found.chances[i, found.y[i]]:.1f} %",
            ]
            for i in order
        ]
    else:
        order = np.argsort(-np.abs(found.said - found.y), kind="stable")[:MOST_MISTAKES]
        head = ["true", "predicted", "off by"]
        cells = [
            [f"{found.y[i]:.5g}", f"{found.said[i]:.5g}", f"{found.said[i] - found.y[i]:+.4g}"]
            for i in order
        ]
    shown, title = _row_shown(job)
    rows = [
        [data.where(int(found.rows[i])), *c, shown(int(found.rows[i]))]
        for i, c in zip(order, cells, strict=True)
    ]
    return table(["row", *head, title], rows, "texts")


def _row_shown(job: Job) -> tuple[Any, str]:
    """How a row is shown: as an image where it is one, else by its first values."""
    data = job.data
    side = isqrt(data.x.shape[1])
    if data.scaled and side * side == data.x.shape[1]:
        return lambda row: _image(data.x[row].reshape(side, side)), "the row"
    names = [column.name for column in data.columns]

    def values(row: int) -> str:
        numbers = ["-" if v != v else f"{v:.4g}" for v in data.x[row, :6].tolist()]
        texts = ["-" if column[row] is None else str(column[row]) for column in data.categories]
        count = data.x.shape[1]
        shown = [*zip(names, numbers, strict=False), *zip(names[count:], texts, strict=True)][:6]
        return escape(", ".join(f"{name} = {value}" for name, value in shown))

    return values, "the row"


def _image(pixels: npt.NDArray[Any]) -> str:
    """A PNG of gray pixels, 0 ... 1."""
    gray = (255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    height, width = gray.shape
    lines = b"".join(b"\0" + line.tobytes() for line in gray)

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    png = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return (
        f'<img class="image" alt="" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    )
