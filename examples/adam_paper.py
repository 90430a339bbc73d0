"""The comparison of optimizers in the Adam paper, on 5,000 digits of MNIST.

python examples/adam_paper.py [picture.png]

As in its figures 1 and 2: the training loss of logistic regression and of a network of two hidden
layers with dropout, batches of 128; for every optimizer the best of three rates is shown.
Source: Kingma & Ba 2015 (arXiv:1412.6980), section 6.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradstep as gs
from gradstep.nn import mlp
from gradstep.train.datasets import Split, make_split, mnist5k
from gradstep.train.loop import DEFAULT_LR, History, make_optimizer, train
from gradstep.train.splits import validation_split

OPTIMIZERS = {
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "nesterov": "SGD with Nesterov momentum",
    "adadelta": "AdaDelta",
    "adam": "Adam",
}
COLORS = ("tab:green", "tab:purple", "tab:orange", "tab:gray", "tab:blue")
PICTURE = Path(__file__).parent.parent / "docs" / "examples" / "adam_paper.png"


@dataclass(frozen=True)
class Setting:
    """hidden: widths. decay: whether the rate falls with 1/√epoch, as the paper has it there."""

    title: str
    hidden: tuple[int, ...]
    dropout: float
    decay: bool


SETTINGS = (
    Setting("Logistic regression", (), 0.0, True),
    Setting("Network 784-256-256-10, dropout 0.5", (256, 256), 0.5, False),
)


def data(rows: int | None = None) -> Split:
    """4,000 rows to train on and 1,000 to validate on, or fewer of both."""
    digits = mnist5k()
    train_rows, valid_rows = validation_split(digits.y, stratify=digits.y)
    return make_split(digits, train_rows[:rows], valid_rows[:rows])


def best(setting: Setting, name: str, split: Split, epochs: int, factors: Sequence[float]) -> Any:
    """(rate, history) of the rate with the lowest training loss at the end."""
    runs: list[tuple[float, History]] = []
    steps = -(-len(split.y) // 128)
    for factor in factors:
        rate = factor * DEFAULT_LR[name]
        model = mlp([split.x.shape[1], *setting.hidden, 10], dropout=setting.dropout)
        lr = gs.per_epoch(steps, gs.power(rate, 0.5)) if setting.decay else rate
        optimizer = make_optimizer(name, model.params, lr)
        runs.append((rate, train(model, split, optimizer, epochs=epochs, batch_size=128)))
    return min(runs, key=lambda run: run[1].epochs[-1].train_loss)


def compare(
    split: Split, epochs: int = 20, factors: Sequence[float] = (0.3, 1.0, 3.0)
) -> dict[str, dict[str, Any]]:
    """Title of the setting -> optimizer -> (rate, history)."""
    return {
        setting.title: {name: best(setting, name, split, epochs, factors) for name in OPTIMIZERS}
        for setting in SETTINGS
    }


def report(results: dict[str, dict[str, Any]]) -> str:
    """A line for every curve."""
    lines = []
    for title, runs in results.items():
        lines.append(title)
        for name, (rate, history) in runs.items():
            final = history.final
            lines.append(
                f"  {OPTIMIZERS[name]:28} rate {rate:<7.3g} training loss {final.train_loss:.4f}  "
                f"validation accuracy {final.valid_scores['accuracy']:.1%}"
            )
    return "\n".join(lines)


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the picture; needs matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (title, runs) in zip(figure.subplots(1, 2), results.items(), strict=True):
        for color, (name, (_, history)) in zip(COLORS, runs.items(), strict=True):
            losses = [epoch.train_loss for epoch in history.epochs]
            axes.plot(
                range(1, len(losses) + 1), losses, color=color, lw=1.8, label=OPTIMIZERS[name]
            )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(title, loc="left", fontsize=11, weight="bold")
        axes.set(xlabel="epochs over the training set")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("training loss")
    figure.axes[1].legend(frameon=False)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    found = compare(data())
    print(report(found))
    draw(found, Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
