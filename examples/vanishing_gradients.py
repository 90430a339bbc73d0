"""Why deep networks of sigmoids do not learn, and what ReLU, He's weights and batch norm change.

python examples/vanishing_gradients.py [picture.png]

Ten hidden layers of 64 units learn scikit-learn's digits. Before the first step, `gs.describe`
gives the size of the gradient in each layer's weights; then all train by the same descent.
Sources: Glorot & Bengio 2010; He et al. 2015 (arXiv:1502.01852); Ioffe & Szegedy 2015
(arXiv:1502.03167).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradstep as gs
from gradstep.nn import Layer, mlp
from gradstep.train.datasets import Split, digits, make_split
from gradstep.train.loop import History, train
from gradstep.train.splits import validation_split

# What to call it -> arguments of `mlp`: each changes one thing in the one before.
NETWORKS: dict[str, dict[str, Any]] = {
    "sigmoid, Glorot's weights": {"activation": "sigmoid", "init": "xavier_normal"},
    "ReLU, Glorot's weights": {"activation": "relu", "init": "xavier_normal"},
    "ReLU, He's weights": {"activation": "relu", "init": "he_normal"},
    "ReLU, He's weights, batch norm": {
        "activation": "relu",
        "init": "he_normal",
        "batch_norm": True,
    },
}
COLORS = ("tab:red", "tab:orange", "tab:green", "tab:blue")
PICTURE = Path(__file__).parent.parent / "docs" / "examples" / "vanishing_gradients.png"


@dataclass(frozen=True)
class Run:
    """gradients: root mean square in the weights of each layer, first to last, before a step."""

    gradients: list[float]
    history: History


def data() -> Split:
    """Four fifths of the digits to train on, the rest to validate on."""
    found = digits()
    return make_split(found, *validation_split(found.y, stratify=found.y))


def gradient_sizes(model: Layer, split: Split) -> list[float]:
    """Root mean square of the gradient of each weight matrix, over all rows."""
    _, gradient = gs.cross_entropy(model.forward(split.x, True), split.y)
    model.parameter_gradients(gradient)
    sizes = gs.describe(model.grads)
    return [sizes[name].rms for name, grad in model.grads.items() if grad.ndim == 2]


def compare(split: Split, hidden: int = 10, width: int = 64, epochs: int = 30) -> dict[str, Run]:
    """What became of each network."""
    runs = {}
    for name, settings in NETWORKS.items():
        model = mlp([split.x.shape[1], *[width] * hidden, 10], **settings)
        gradients = gradient_sizes(model, split)
        optimizer = gs.SGD(model.params, lr=0.05, momentum=0.9, clip_norm=1.0)
        runs[name] = Run(gradients, train(model, split, optimizer, epochs=epochs, batch_size=64))
    return runs


def report(runs: dict[str, Run]) -> str:
    """A line for each network."""
    return "\n".join(
        f"{name:32} gradient first/last layer {run.gradients[0] / run.gradients[-1]:8.1e}  "
        f"training loss {run.history.final.train_loss:.4f}  "
        f"validation accuracy {run.history.final.valid_scores['accuracy']:.1%}"
        for name, run in runs.items()
    )


def draw(runs: dict[str, Run], path: Path) -> None:
    """Write the picture; needs matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, (name, run) in zip(COLORS, runs.items(), strict=True):
        layers = range(1, len(run.gradients) + 1)
        left.plot(layers, run.gradients, "o-", color=color, lw=1.8, ms=4, label=name)
        losses = [epoch.train_loss for epoch in run.history.epochs]
        right.plot(range(1, len(losses) + 1), losses, color=color, lw=1.8, label=name)
    left.set_title("Gradient before the first step", loc="left", fontsize=11, weight="bold")
    left.set(xlabel="layer, from the input", ylabel="root mean square over its weights")
    right.set_title("Training loss", loc="left", fontsize=11, weight="bold")
    right.set(xlabel="epochs")
    for axes in (left, right):
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.yaxis.set_minor_locator(NullLocator())
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    left.legend(frameon=False, loc="lower right", fontsize=9)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    found = compare(data())
    print(report(found))
    draw(found, Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
