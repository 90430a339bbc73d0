"""The examples cnn and transformer with weights and moments in fewer bits, three seeds each.

python examples/torch/low_precision.py

The network computes in float32. Where a layout keeps weights in bfloat16, it computes with these,
and its gradients are rounded to bfloat16 before the step: so all that differs is what the optimizer
keeps and reads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import cnn
import gradstep.torch as gt
import torch
import transformer
from compare import Data, Example
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR

PICTURE = Path(__file__).parents[2] / "docs" / "examples" / "low_precision.png"
EXAMPLES = {"cnn": (cnn.EXAMPLE, 200), "transformer": (transformer.EXAMPLE, 120)}
SEEDS = (0, 1, 2)
TAIL = 20  # steps whose losses are the last


class Layout(NamedTuple):
    """How an optimizer keeps numbers. bits: whether weights and gradients are bfloat16."""

    bits: bool
    master: str | None
    states: str


LAYOUTS = {
    "float32": Layout(False, None, "float32"),
    "float32, 8-bit moments": Layout(False, None, "int8"),
    "split master": Layout(True, "split", "float32"),
    "split master, bfloat16 moments": Layout(True, "split", "bfloat16"),
    "split master, 8-bit moments": Layout(True, "split", "int8"),
    "all bfloat16": Layout(True, None, "bfloat16"),
}
Losses = dict[str, list[list[float]]]  # of each layout: for each seed, the loss of every step


def train(example: Example, data: Data, layout: Layout, seed: int, steps: int) -> list[float]:
    """The loss of every step, and then that of the held-out batches."""
    torch.manual_seed(seed)
    network = example.network(example.dropout)
    used = list(network.parameters())
    kept = [nn.Parameter(p.detach().bfloat16()) if layout.bits else p for p in used]
    optimizer = gt.AdamW(
        kept, example.lr, master=layout.master, state_dtype=layout.states, seed=seed
    )
    schedule = LinearLR(optimizer, 1.0, 0.02, total_iters=steps)
    losses = []
    for number in range(steps):
        _exchange(used, kept)
        x, y = data[number]
        loss = _cross_entropy(network(x), y)
        network.zero_grad()
        loss.backward()
        for p, own in zip(used, kept, strict=True):
            own.grad = None if p.grad is None else p.grad.to(own.dtype)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    _exchange(used, kept)
    network.eval()
    with torch.no_grad():
        return [*losses, fmean(_cross_entropy(network(x), y).item() for x, y in data.held_out)]


@torch.no_grad()
def _exchange(used: list[Tensor], kept: list[nn.Parameter]) -> None:
    for p, own in zip(used, kept, strict=True):
        if p is not own:
            p.copy_(own)


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def compare(name: str, steps: int, seeds: Sequence[int] = SEEDS) -> Losses:
    """All layouts and seeds of an example."""
    example, _ = EXAMPLES[name]
    found: Losses = {layout: [] for layout in LAYOUTS}
    for seed in seeds:
        data = example.data(seed)
        for layout, own in LAYOUTS.items():
            found[layout].append(train(example, data, own, seed, steps))
    return found


def report(results: dict[str, Losses]) -> str:
    """A table: the last training loss and the held-out loss of each layout, over seeds."""
    head = "example", "layout", f"loss of the last {TAIL} steps", "held out, by seed", "mean"
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, losses in results.items():
        for layout, runs in losses.items():
            tail = fmean(fmean(run[-1 - TAIL : -1]) for run in runs)
            last = [run[-1] for run in runs]
            seeds = ", ".join(f"{loss:.4f}" for loss in last)
            cells = name, layout, f"{tail:.4f}", seeds, f"{fmean(last):.4f}"
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: dict[str, Losses], path: Path) -> None:
    """Write the picture: the mean of the seeds, and for float32 their range; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (name, losses) in zip(figure.subplots(1, len(results)), results.items(), strict=True):
        for number, (layout, runs) in enumerate(losses.items()):
            curves = [_smooth(run[:-1]) for run in runs]
            steps = range(1, len(curves[0]) + 1)
            mean = [fmean(at) for at in zip(*curves, strict=True)]
            axes.plot(steps, mean, color=f"C{number}", lw=1.4, label=layout)
            if number == 0:
                low, high = ([f(at) for at in zip(*curves, strict=True)] for f in (min, max))
                axes.fill_between(steps, low, high, color="C0", alpha=0.2, lw=0)
        axes.set_title(name, loc="left", fontsize=11, weight="bold")
        axes.set(xlabel="step", ylabel=f"training loss, mean of {TAIL} steps", yscale="log")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


def _smooth(losses: list[float]) -> list[float]:
    return [fmean(losses[max(0, i + 1 - TAIL) : i + 1]) for i in range(len(losses))]


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, prints the table and draws the picture."""
    parser: Any = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, help="200 of the cnn, 120 of the transformer")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--plot", type=Path, default=PICTURE, metavar="FILE")
    arguments = parser.parse_args(argv)
    seeds = range(arguments.seeds)
    results = {
        name: compare(name, arguments.steps or steps, seeds)
        for name, (_, steps) in EXAMPLES.items()
    }
    print(report(results))
    draw(results, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
