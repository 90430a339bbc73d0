"""Find a first learning rate: train briefly at rates in steps of 3x and watch the loss."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final, TypeAlias

import numpy as np

from gradstep.arguments import function, integer, kind, number
from gradstep.spec.optim import power as integer_power

TrainingStep: TypeAlias = Callable[[], float]
"""Performs one training step and returns its loss."""

_EXPLOSION: Final = 4.0
_WINDOW_SHARE: Final = 5
_RISE_ALLOWED: Final = 0.1
_STANDARD_ERRORS: Final = 3.0


@dataclass(frozen=True, slots=True)
class LrRow:
    """One rate that `find_lr` tried.

    Fields: `lr`, the rate; `first`, the loss of the first step; `last`, the mean loss of the last
    fifth of the steps, or the last loss seen if the run diverged; `steps`, the steps taken; `fell`,
    whether the loss ended lower than it began and stayed down; `diverged`.
    """

    lr: float
    first: float
    last: float
    steps: int
    fell: bool
    diverged: bool

    def __str__(self) -> str:
        note = f"  diverged at step {self.steps}" if self.diverged else ""
        return f"{self.lr:10.3g}  {self.first:10.4g}  {self.last:10.4g}{note}"


@dataclass(frozen=True, slots=True)
class LrSearch:
    """What `find_lr` saw.

    Fields: `rows`, one `LrRow` per rate in increasing order; `suggestion`, the rate to begin with:
    of the rates whose loss fell, below the lowest rate that diverged, the one that ended with the
    lowest loss. Rates above a diverged one do not count, whatever their own loss: a network whose
    units have died has a finite loss too. Of equal losses the lower rate wins.
    """

    rows: tuple[LrRow, ...]
    suggestion: float

    def __str__(self) -> str:
        table = _table(self.rows, self.suggestion)
        if self.suggestion == self.rows[0].lr:
            return f"{table}\nThe lowest rate did best: try a lower `low`."
        if self.suggestion == self.rows[-1].lr:
            return f"{table}\nThe highest rate did best: try a higher `high`."
        return table

    def plot(self, path: str | PathLike[str]) -> None:
        """Write a PNG of the loss against the rate to `path`.

        Raises MissingExtraError without matplotlib, OSError where the file cannot be written.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            from gradstep.train.datasets import MissingExtraError

            raise MissingExtraError("matplotlib", "the picture of a rate search") from None
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        kept = [row for row in self.rows if not row.diverged]
        rates = [row.lr for row in kept]
        axes.plot(rates, [row.first for row in kept], ":", color="0.5", label="first loss")
        axes.plot(rates, [row.last for row in kept], "o-", color="C0", label="last loss")
        diverged = [row.lr for row in self.rows if row.diverged]
        if diverged:
            # Their losses have no useful height: the crosses stand on the upper edge.
            edge: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False}
            axes.plot(diverged, [1.0] * len(diverged), "x", color="C3", label="diverged", **edge)
        axes.axvline(self.suggestion, color="C2", label=f"suggested: {self.suggestion:.3g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, format="png", dpi=120)


def find_lr(
    make: Callable[[float], TrainingStep],
    *,
    low: float = 1e-6,
    high: float = 10.0,
    factor: float = 3.0,
    steps: int = 50,
    progress: Callable[[LrRow], object] | None = None,
) -> LrSearch:
    """Try the rates low, low * factor, ... up to high, each on a fresh model for `steps` steps.

    A run ends early, marked as diverged, when a loss is not finite or more than 4 times the loss
    before training, or when a step raises FloatingPointError or OverflowError. The loss before
    training is the first one of the run or the mean of the first fifth of the run at `low`,
    whichever is larger; the run at `low` itself is held against its largest loss in that fifth.
    A loss fell if the mean of the last fifth of a run is below that of the first fifth and has not
    risen again, by a tenth of the drop or by 3 standard errors, from the lowest such mean. NumPy's
    floating-point warnings are off during the runs: some of them are meant to overflow.

    Args:
        make: builds a fresh model and optimizer at the given rate and returns a function that
            performs one training step and returns its loss. Models that start from the same
            weights and see the same batches make rates comparable.
        low: the first rate, > 0.
        high: no rate is above it, >= low.
        factor: from one rate to the next, > 1.
        steps: training steps per rate, >= 2.
        progress: called with each `LrRow` when its run has ended, such as `print`.

    Returns:
        The rows and the `suggestion`; printing it gives a table.

    Raises:
        TypeError: an argument, what make returns, or a loss is of the wrong kind.
        ValueError: an argument is out of range, every rate diverged, or none lowered the loss.

    Source: the practice of trying rates in 3x steps over a fixed number of steps; Smith, Cyclical
    learning rates for training neural networks, 2017, section 3.3, sweeps them within one run.

    >>> import numpy as np
    >>> def make(lr):
    ...     weight = np.array([1.0, 1.0])
    ...     def step():
    ...         loss = 0.5 * float(weight @ weight)  # stable below lr = 2
    ...         weight[:] -= lr * weight
    ...         return loss
    ...     return step
    >>> print(find_lr(make, low=0.01))
          rate  first loss   last loss
          0.01           1      0.4095
          0.03           1      0.0675
          0.09           1    0.000261
          0.27           1   2.487e-12
          0.81           1   2.071e-59  <- suggested
          2.43           1       4.182  diverged at step 3
          7.29           1       39.56  diverged at step 2
    """
    function("make", make, "of the rate")
    if progress is not None:
        function("progress", progress, "of a row, or None")
    low = number("low", low, "a number > 0", lambda x: x > 0)
    high = number("high", high, f"a number >= low = {low}", lambda x: x >= low)
    factor = number("factor", factor, "a number > 1", lambda x: x > 1)
    steps = integer("steps", steps, 2)

    rows: list[LrRow] = []
    untrained = None
    for lr in _rates(low, high, factor):
        losses, diverged = _losses(make, lr, steps, untrained)
        untrained = _window_means(losses, steps)[0] if untrained is None else untrained
        rows.append(_row(lr, losses, steps, diverged))
        if progress is not None:
            progress(rows[-1])
    return LrSearch(tuple(rows), _suggestion(rows))


def _rates(low: float, high: float, factor: float) -> Iterator[float]:
    # The margin keeps `high` among the rates where it is a whole number of factors above `low`.
    index, lr = 0, low
    while lr / high <= 1 + 1e-9:
        yield lr
        index += 1
        lr = low * integer_power(factor, index)


def _suggestion(rows: Sequence[LrRow]) -> float:
    diverged_from = min((row.lr for row in rows if row.diverged), default=math.inf)
    usable = [row for row in rows if row.fell and row.lr < diverged_from]
    if usable:
        return min(usable, key=lambda row: row.last).lr
    lowest, highest = rows[0].lr, rows[-1].lr
    if not any(math.isfinite(row.first) for row in rows):
        raise ValueError(
            "make: the first loss is not finite at any rate, expected a finite loss before training"
        )
    if all(row.diverged for row in rows):
        raise ValueError(
            f"low: {lowest:g}, every rate from there to {highest:g} diverged, expected a lower rate"
        )
    raise ValueError(
        f"make: no rate from {lowest:g} to {highest:g} lowered the loss without diverging, "
        f"expected one that does\n{_table(rows, math.nan)}"
    )


def _table(rows: Sequence[LrRow], marked: float) -> str:
    heading = f"{'rate':>10}  {'first loss':>10}  {'last loss':>10}"
    lines = (f"{row}{'  <- suggested' * (row.lr == marked)}" for row in rows)
    return "\n".join((heading, *lines))


def _losses(
    make: Callable[[float], TrainingStep], lr: float, steps: int, untrained: float | None
) -> tuple[list[float], bool]:
    """Train at `lr`; return the losses and whether they diverged, which ends the run."""
    step = make(lr)
    function(f"make({lr:g})", step, "without arguments")
    losses: list[float] = []
    with np.errstate(all="ignore"):
        while len(losses) < steps:
            losses.append(_loss(step))
            early = losses[: _window(steps)] if untrained is None else (losses[0], untrained)
            level = max(early)
            # For a positive level this is loss > _EXPLOSION * level; others keep the same distance.
            exploded = losses[-1] - level > (_EXPLOSION - 1) * abs(level)
            if exploded or not math.isfinite(losses[-1]):
                return losses, True
    return losses, False


def _window(steps: int) -> int:
    return max(steps // _WINDOW_SHARE, 1)


def _window_means(losses: Sequence[float], steps: int) -> list[float]:
    """Means over as many successive losses as fit a fifth of a run, or over a shorter run."""
    window = min(_window(steps), len(losses))
    return [sum(losses[i : i + window]) / window for i in range(len(losses) - window + 1)]


def _row(lr: float, losses: Sequence[float], steps: int, diverged: bool) -> LrRow:
    if diverged:
        return LrRow(lr, losses[0], losses[-1], len(losses), fell=False, diverged=True)
    means = _window_means(losses, steps)
    last, lowest, window = means[-1], min(means), _window(steps)
    noise = float(np.std(losses[-window:])) / math.sqrt(window)
    rise_allowed = max(_RISE_ALLOWED * (means[0] - lowest), _STANDARD_ERRORS * noise)
    fell = last < means[0] and last - lowest <= rise_allowed
    return LrRow(lr, losses[0], last, len(losses), fell, diverged=False)


def _loss(step: TrainingStep) -> float:
    try:
        loss = step()
    except (FloatingPointError, OverflowError):
        return math.nan
    try:
        return float(loss)
    except (TypeError, ValueError):
        raise TypeError(f"loss: {kind(loss)}, expected a number") from None
