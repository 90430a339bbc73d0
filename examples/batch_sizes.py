"""What the size of a batch costs in epochs, in steps and in time, on 5,000 digits of MNIST.

python examples/batch_sizes.py [picture.png]

A network 784-128-10 learns by stochastic gradient descent with batches of 1 to all 4,000 rows until
it knows 90 % of the digits that it has not seen; for every size the best of some rates is shown.
Background: Shallue et al. 2019, "Measuring the effects of data parallelism" (arXiv:1811.03600).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import gradstep as gs
import numpy as np
from gradstep.nn import mlp
from gradstep.train.batches import batches
from gradstep.train.datasets import Split, make_split, mnist5k
from gradstep.train.loop import evaluate
from gradstep.train.splits import validation_split

SIZES = (1, 4, 16, 64, 256, 1024, 4000)
RATES = (0.02, 0.1, 0.5)
MOST_STEPS = 12_000
PICTURE = Path(__file__).parent.parent / "docs" / "examples" / "batch_sizes.png"


@dataclass(frozen=True)
class Run:
    """What it took to reach the accuracy; seconds without those of looking at it."""

    size: int
    rate: float
    steps: int
    epochs: float
    seconds: float


def data(rows: int | None = None) -> Split:
    """4,000 rows to train on and 1,000 to validate on, or fewer of both."""
    digits = mnist5k()
    train_rows, valid_rows = validation_split(digits.y, stratify=digits.y)
    return make_split(digits, train_rows[:rows], valid_rows[:rows])


def until(split: Split, size: int, rate: float, accuracy: float, most_epochs: float) -> Run | None:
    """Train until the validation accuracy is reached; None if it is not within some effort.

    most_epochs: epochs; steps are at most MOST_STEPS.

    The accuracy is looked at after every 500 rows, or after every step of a larger batch.
    """
    rows = len(split.y)
    model = mlp([split.x.shape[1], 128, 10])
    optimizer = gs.SGD(model.params, lr=rate)
    optimizer.bind(model.grads)
    rng = np.random.default_rng(0)
    every, steps, seconds = max(500 // size, 1), 0, 0.0
    while steps < min(most_epochs * rows / min(size, rows), MOST_STEPS):
        start = perf_counter()
        for x, y in batches(split.x, split.y, size, rng):
            _, gradient = gs.cross_entropy(model.forward(x, True), y)
            model.parameter_gradients(gradient)
            optimizer.step()
            steps += 1
            if steps % every == 0:
                seconds += perf_counter() - start
                _, scores = evaluate(model, split.valid_x, split.valid_y)
                if scores["accuracy"] >= accuracy:
                    return Run(size, rate, steps, steps * size / rows, seconds)
                start = perf_counter()
        seconds += perf_counter() - start
    return None


def fastest(
    split: Split,
    sizes: Sequence[int] = SIZES,
    rates: Sequence[float] = RATES,
    accuracy: float = 0.9,
    most_epochs: float = 60,
) -> list[Run]:
    """For each size, the run with the fewest steps among those that got there."""
    found = []
    for size in sizes:
        runs = [run for rate in rates if (run := until(split, size, rate, accuracy, most_epochs))]
        found += [min(runs, key=lambda run: run.steps)] if runs else []
    return found


def report(runs: Sequence[Run]) -> str:
    """A line for every size."""
    head = "batch    rate   epochs   steps   seconds"
    return "\n".join(
        [
            head,
            *(
                f"{r.size:5d} {r.rate:7.3g} {r.epochs:8.1f} {r.steps:7d} {r.seconds:9.2f}"
                for r in runs
            ),
        ]
    )


def draw(runs: Sequence[Run], path: Path) -> None:
    """Write the picture; needs matplotlib."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    panels = {"epochs": "Rows: epochs", "steps": "Updates: steps", "seconds": "Time: seconds"}
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, (quantity, title) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        values = [getattr(run, quantity) for run in runs]
        sizes = [run.size for run in runs]
        axes.plot(sizes, values, "o-", color="tab:blue", lw=1.8)
        least = min(range(len(runs)), key=values.__getitem__)
        axes.plot(sizes[least], values[least], "o", color="tab:orange", ms=9)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_title(title, loc="left", fontsize=11, weight="bold")
        axes.set_xlabel("rows in a batch")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("What it takes to know 90 % of unseen digits", x=0.01, ha="left")
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    found = fastest(data())
    print(report(found))
    draw(found, Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
