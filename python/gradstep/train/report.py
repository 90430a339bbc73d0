"""What `gradstep train` shows of its runs: tables, curves, a file of all, and what went wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gradstep.train.loop import History
from gradstep.train.records import Record

__all__ = [
    "Run",
    "divergence",
    "draw_curves",
    "result_rows",
    "result_table",
    "time_rows",
    "time_table",
    "write_json",
]


@dataclass(frozen=True)
class Run:
    """What came of one optimizer: a history and a record for each split."""

    optimizer: str
    lr: float
    histories: list[History]
    records: list[Record] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        histories = [
            {
                "epochs": [epoch.record() for epoch in history.epochs],
                "best": history.best,
                "stopped_early": history.stopped_early,
                "diverged": history.diverged,
            }
            for history in self.histories
        ]
        return {"optimizer": self.optimizer, "lr": self.lr, "histories": histories}


@dataclass(frozen=True)
class Style:
    """How people read a score: its name, its number times `factor` in a format, and a unit."""

    name: str
    long: str
    form: str
    factor: float = 1.0
    unit: str = ""

    def show(self, values: Sequence[float]) -> str:
        """Return the mean, with the standard deviation of several."""
        return _mean([self.factor * value for value in values], self.form) + self.unit


STYLES = {
    "accuracy": Style("acc", "accuracy", "{:.2f}", 100, " %"),
    "rmse": Style("RMSE", "RMSE", "{:.4g}"),
    "mae": Style("MAE", "MAE", "{:.4g}"),
    "r2": Style("R²", "R²", "{:.4f}"),
}


def write_json(content: Mapping[str, Any], runs: Sequence[Run], path: Path) -> None:
    """Write the content and the runs, with every epoch; null stands for a loss that is no number.

    content: what JSON holds; other values are written as their text.
    """
    whole = {**content, "runs": [run.record() for run in runs]}
    valid = json.loads(json.dumps(whole, default=str), parse_constant=lambda name: None)
    path.write_text(json.dumps(valid, indent=1) + "\n", encoding="utf-8")


def divergence(run: Run) -> str | None:
    """Return a line about a run that diverged, and None for others."""
    ended = [history.final for history in run.histories if history.diverged]
    if not ended:
        return None
    loss = max(max(epoch.train_loss, epoch.valid_loss) for epoch in ended)
    lost = any(not math.isfinite(epoch.train_loss + epoch.valid_loss) for epoch in ended)
    how = "the loss is not finite any more" if lost else f"the loss ended at {loss:.3g}"
    advice = f"try a lower --lr than {run.lr:.3g}, or --clip-norm 1"
    return f"{run.optimizer}: diverged, {how}; {advice}"


def result_table(runs: Sequence[Run]) -> str:
    """Return a line for each run: losses and scores of the epoch whose weights were kept.

    A mean over the splits, with its standard deviation for the validation.
    """
    return _aligned(result_rows(runs))


def result_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Return the cells of `result_table`, its head first."""
    names = list(runs[0].histories[0].final.valid_scores)
    head = ["optimizer", "lr", "epochs", "train loss", "valid loss"]
    head += [f"train {STYLES[names[0]].name}", *(f"valid {STYLES[name].name}" for name in names)]
    return [[*head, "s/epoch"], *map(_result_row, runs)]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [[name.ljust(widths[0]), *map(str.rjust, row, widths[1:])] for name, *row in rows]
    return "\n".join("  ".join(row) for row in aligned)


def _result_row(run: Run) -> list[str]:
    final = [history.final for history in run.histories]
    names = list(final[0].valid_scores)
    ran, best = [len(h.epochs) for h in run.histories], [h.best + 1 for h in run.histories]
    return [
        run.optimizer,
        f"{run.lr:.3g}",
        f"{np.mean(ran):.0f}" if ran == best else f"{np.mean(ran):.0f} (best {np.mean(best):.0f})",
        f"{np.mean([epoch.train_loss for epoch in final]):.4f}",
        _mean([epoch.valid_loss for epoch in final], "{:.4f}"),
        STYLES[names[0]].show([float(np.mean([e.train_scores[names[0]] for e in final]))]),
        *(STYLES[name].show([e.valid_scores[name] for e in final]) for name in names),
        f"{np.mean([history.seconds_per_epoch for history in run.histories]):.4f}",
    ]


def _mean(values: list[float], style: str) -> str:
    mean = style.format(np.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {style.format(np.std(values, ddof=1))}"


# Column of the table of times -> the parts of an epoch in it.
TIMES: dict[str, tuple[str, ...]] = {
    "matrix products": ("products",),
    "normalisation": ("normalisation",),
    "dropout": ("dropout",),
    "activations + loss": ("activations", "loss"),
    "optimizer": ("optimizer",),
}


def time_table(runs: Sequence[Run]) -> str:
    """Return a line for each run: the share of each part in the time of an epoch.

    The rest is that of putting batches together, of shortcuts, and of the loop itself.
    """
    return _aligned(time_rows(runs))


def time_rows(runs: Sequence[Run]) -> list[list[str]]:
    """Return the cells of `time_table`, its head first."""
    return [["time of", *TIMES, "rest"], *map(_time_row, runs)]


def _time_row(run: Run) -> list[str]:
    shares = [float(np.mean([h.share(*parts) for h in run.histories])) for parts in TIMES.values()]
    return [run.optimizer, *(f"{100 * share:.0f} %" for share in [*shares, 1 - sum(shares)])]


LINE_STYLES = {"train": "--", "validation": "-"}


def draw_curves(runs: Sequence[tuple[str, Sequence[History]]], title: str, path: Path) -> None:
    """Write a picture of the loss and of the first score over the epochs; needs matplotlib.

    runs: names with their histories, one color per name, one pair of lines per history. A dot marks
    the best epoch where training went on after it. path: ends in .png, .svg or .pdf.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    palette = colormaps["tab10" if len(runs) <= 10 else "tab20"]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    score = next(iter(runs[0][1][0].final.valid_scores))
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", score), strict=True):
        for number, (_, histories) in enumerate(runs):
            for history in histories:
                _draw_history(axes, history, quantity, palette(number), len(histories) ** -0.5)
        title = STYLES[quantity].long if quantity in STYLES else quantity
        axes.set(xlabel="epoch", title=title)
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].set_yscale("log")
    if score == "accuracy":
        every = [history for _, histories in runs for history in histories]
        figure.axes[1].yaxis.set_major_formatter("{x:.0%}")
        figure.axes[1].set_ylim(_accuracy_floor(every), 1.005)
    names = [Line2D([], [], color=palette(i), label=name) for i, (name, _) in enumerate(runs)]
    styles = [Line2D([], [], color="gray", ls=ls, label=part) for part, ls in LINE_STYLES.items()]
    if any(h.best + 1 < len(h.epochs) for _, histories in runs for h in histories):
        styles.append(Line2D([], [], color="gray", marker="o", ls="", label="best epoch"))
    figure.legend(handles=[*names, *styles], loc="outside right upper", frameon=False)
    figure.suptitle(title, parse_math=False)  # a file may have $ in its name
    figure.savefig(path, dpi=130)


def _draw_history(axes: Any, history: History, quantity: str, color: Any, alpha: float) -> None:
    numbers = range(1, len(history.epochs) + 1)
    marker = "." if len(numbers) < 4 else ""
    for part, style in LINE_STYLES.items():
        values = [epoch.record()[f"{part[:5]}_{quantity}"] for epoch in history.epochs]
        axes.plot(numbers, values, style, marker=marker, color=color, lw=1.5, alpha=alpha)
    if history.best + 1 < len(numbers):
        axes.plot(history.best + 1, history.final.record()[f"valid_{quantity}"], "o", color=color)


def _accuracy_floor(histories: Sequence[History]) -> float:
    """Leave out how the first fifth of the epochs climbs, so that the rest can be told apart."""
    later = [e.valid_scores["accuracy"] for h in histories for e in h.epochs[len(h.epochs) // 5 :]]
    return max(0.0, min(later) - 0.1 * (1 - min(later)) - 0.01)
