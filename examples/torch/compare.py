"""What the examples share: train a network on stock PyTorch and on gradstep, and compare both.

Both sides begin with the same weights, see the same batches and take turns, ten steps each, so that
other load on the machine meets both. Each has its own state of torch's random generator.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import fmean, median
from typing import Any, Protocol

import gradstep as gs
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader

__all__ = ["SIDES", "Batch", "Data", "Example", "Options", "Run", "main", "train"]

SIDES = ("stock", "gradstep")
PARTS = ("optimizer", "dropout", "normalisation")
BLOCK = 10  # steps in a row
REST = 0.015  # seconds in which the idle threads of the other side's library go to sleep
ROWS = 10  # of the table of losses
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)

Batch = tuple[Tensor, Tensor]


class Data(Protocol):
    """Batches of inputs and classes. The n-th training batch is the same in every process."""

    held_out: list[Batch]

    def __getitem__(self, number: int) -> Batch: ...


@dataclass(frozen=True)
class Example:
    """What to train.

    title: one line. data: makes the data of a seed. network: makes the network with a probability
    of dropout. score: of the held-out batches, "accuracy" or "perplexity".
    """

    title: str
    data: Callable[[int], Data]
    network: Callable[[float], nn.Module]
    score: str
    dropout: float
    steps: int
    lr: float = 1e-3


@dataclass(frozen=True)
class Options:
    """How to train. workers: processes that load data, forked; 0 loads in the training process."""

    steps: int
    seed: int
    dropout: float
    workers: int = 0


@dataclass
class Run:
    """What one side did. losses, seconds: of each step. parts: seconds of each step, by part."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    score: float = math.nan
    replaced: str = ""

    def milliseconds(self, part: str | None = None) -> float:
        """The median, of whole steps or of a part of them."""
        return 1e3 * median(self.seconds if part is None else self.parts[part])


class Watch:
    """Adds up the seconds of the parts of a step.

    Modules are timed by hooks around their forward call and around the node of the graph that is
    their backward call: a few microseconds each, part of every step on both sides.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._began = 0.0

    def timed(self, part: str, call: Callable[[], object]) -> None:
        """Calls, and counts the time for the part."""
        self._start()
        call()
        self._stop(part)

    def on(self, module: nn.Module, part: str) -> None:
        """Counts the time of a module, forward and backward, for the part."""

        def stop(*_: object) -> None:
            self._stop(part)

        def after(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            stop()
            node = output.grad_fn
            if node is not None and node is not inputs[0].grad_fn:
                node.register_prehook(self._start)
                node.register_hook(stop)

        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(after)

    def reset(self) -> dict[str, float]:
        """The seconds by part since the last call."""
        seconds, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return seconds

    def _start(self, *_: object) -> None:
        self._began = time.perf_counter()

    def _stop(self, part: str) -> None:
        self.seconds[part] += time.perf_counter() - self._began


class Side:
    """One network in training. name: one of SIDES."""

    def __init__(self, name: str, example: Example, data: Data, options: Options) -> None:
        torch.manual_seed(options.seed)
        self.run = Run()
        self.network = example.network(options.dropout)
        parts = {path: part for path, m in self.network.named_modules() if (part := _part(m))}
        if name == "gradstep":
            self.optimizer = self._on_gradstep(example.lr)
        else:
            self.optimizer = torch.optim.AdamW(self.network.parameters(), example.lr, fused=True)
        self.schedule = LinearLR(self.optimizer, 1.0, 0.02, total_iters=options.steps)
        self.watch = Watch()
        for path, part in parts.items():
            self.watch.on(self.network.get_submodule(path), part)
        self.batches = _load(data, options)
        self.random = torch.get_rng_state()

    def _on_gradstep(self, lr: float) -> torch.optim.Optimizer:
        import gradstep.torch

        self.run.replaced = str(gradstep.torch.accelerate(self.network))
        return gradstep.torch.AdamW(self.network.parameters(), lr)

    def train(self, steps: int) -> None:
        """Takes up to that many steps, with this side's random numbers."""
        time.sleep(REST)
        torch.set_rng_state(self.random)
        for x, y in islice(self.batches, steps):
            start = time.perf_counter()
            loss = self._step(x, y)
            self.run.seconds.append(time.perf_counter() - start)
            self.run.losses.append(loss)
            for part, seconds in self.watch.reset().items():
                self.run.parts[part].append(seconds)
        self.random = torch.get_rng_state()

    def _step(self, x: Tensor, y: Tensor) -> float:
        self.optimizer.zero_grad()
        loss = _cross_entropy(self.network(x), y)
        loss.backward()
        self.watch.timed("optimizer", self.optimizer.step)
        self.schedule.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, score: str, held_out: list[Batch]) -> float:
        """The accuracy, or the perplexity, of the held-out batches."""
        self.network.eval()
        outputs = [(self.network(x), y) for x, y in held_out]
        self.network.train()
        if score == "perplexity":
            return math.exp(fmean(_cross_entropy(output, y).item() for output, y in outputs))
        right = sum((output.argmax(-1) == y).sum().item() for output, y in outputs)
        return right / sum(y.numel() for _, y in outputs)


def _part(module: nn.Module) -> str | None:
    if isinstance(module, nn.Dropout):
        return "dropout"
    return "normalisation" if isinstance(module, NORMS) else None


def _load(data: Data, options: Options) -> Iterator[Batch]:
    loader: DataLoader[Batch] = DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=None,
        sampler=range(options.steps),
        num_workers=options.workers,
        multiprocessing_context="fork" if options.workers else None,
        generator=torch.Generator().manual_seed(options.seed),
    )
    return iter(loader)


def _cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


def train(example: Example, options: Options, sides: Sequence[str] = SIDES) -> dict[str, Run]:
    """Trains a network on each side, by turns."""
    data = example.data(options.seed)
    pairs = {name: Side(name, example, data, options) for name in sides}
    for _ in range(0, options.steps, BLOCK):
        for side in pairs.values():
            side.train(BLOCK)
    for side in pairs.values():
        side.run.score = side.evaluate(example.score, data.held_out)
    return {name: side.run for name, side in pairs.items()}


def main(example: Example, argv: Sequence[str] | None = None) -> int:
    """The command of an example: trains, prints the comparison, and draws it where asked."""
    arguments = _parser(example).parse_args(argv)
    torch.set_num_threads(arguments.threads)
    gs.set_num_threads(arguments.threads)
    options = Options(arguments.steps, arguments.seed, arguments.dropout, arguments.workers)
    print(f"{example.title}, dropout {options.dropout:g}; {options.steps} steps")
    print(f"torch {torch.__version__}, gradstep {gs.__version__} on {gs.simd_level()}", end="")
    print(f", {arguments.threads} threads, seed {options.seed}")
    runs = train(example, options, arguments.sides or SIDES)
    for line in _report(runs, example.score):
        print(line)
    if arguments.plot is not None:
        _plot(runs, example.title, arguments.plot)
    return 0


def _parser(example: Example) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=example.title)
    for name in SIDES:
        parser.add_argument(
            f"--{name}", dest="sides", action="append_const", const=name, help="both unless given"
        )
    parser.add_argument("--steps", type=int, default=example.steps, help="%(default)s unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dropout", type=float, default=example.dropout, metavar="P")
    parser.add_argument("--threads", type=int, default=gs.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the losses to a PNG file")
    return parser


def _report(runs: dict[str, Run], score: str) -> Iterator[str]:
    for run in runs.values():
        yield from (line for line in run.replaced.splitlines() if " left" in line)
    yield ""
    yield f"{'median of a step':18}" + "".join(f"{name:>18}" for name in runs)
    yield _row("whole", [f"{run.milliseconds():.2f} ms" for run in runs.values()]) + _ratio(runs)
    for part in PARTS:
        yield _row(f"  {part}", [_share(run, part) for run in runs.values()]) + _ratio(runs, part)
    yield _row(f"held-out {score}", [f"{run.score:.4g}" for run in runs.values()])
    yield ""
    yield f"{'mean loss of steps':18}" + "".join(f"{name:>18}" for name in runs)
    steps = min(len(run.losses) for run in runs.values())
    for first in range(0, steps, max(1, steps // ROWS)):
        last = min(steps, first + max(1, steps // ROWS))
        means = [f"{fmean(run.losses[first:last]):.4f}" for run in runs.values()]
        yield _row(f"{first + 1} to {last}", means)


def _row(name: str, cells: list[str]) -> str:
    return f"{name:18}" + "".join(f"{cell:>18}" for cell in cells)


def _share(run: Run, part: str) -> str:
    share = run.milliseconds(part) / run.milliseconds()
    return f"{run.milliseconds(part):.2f} ms {share:4.0%}"


def _ratio(runs: dict[str, Run], part: str | None = None) -> str:
    if len(runs) < 2:
        return ""
    stock, own = (runs[name].milliseconds(part) for name in SIDES)
    return f"   {stock / own:.2f}x" if own else ""


def _plot(runs: dict[str, Run], title: str, file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure: Any
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for name, run in runs.items():
        passed = [sum(run.seconds[: i + 1]) for i in range(len(run.seconds))]
        axes[0].plot(_smooth(run.losses), label=name)
        axes[1].plot(passed, _smooth(run.losses), label=name)
    axes[0].set(xlabel="step", ylabel="loss, mean of the last ten steps")
    axes[1].set(xlabel="seconds in steps")
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    print(f"wrote {file}", file=sys.stderr)


def _smooth(losses: list[float]) -> list[float]:
    return [fmean(losses[max(0, i - 9) : i + 1]) for i in range(len(losses))]
