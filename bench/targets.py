"""What gradstep has to reach, and whether it did.

Some goals are ratios to the best peer known, which is not always installed. Then torch (fused, of
optimizers), as measured in this run, stands in for it: its time is multiplied by the ratio of both
when they were measured side by side (2026-11-21, two cores with AVX-512, PyTorch 2.13, oneDNN 2.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from .between import AFTER, LENT, TEAM, TIGHT, Between, by_process, span
from .distributed import ZERO
from .fits import ACCELERATED, BOUND, SMALL_BATCH, STOCK, sklearn_fits
from .measure import Timing, ratio
from .passes import APART, Averaged, Pipeline
from .runner import BASE, LAYER, LIMIT, Result
from .scaling import ONE
from .steps import single
from .stored import FLOAT32, LAYOUTS, Stored

__all__ = ["CALLS", "TARGETS", "Verdict", "verdicts"]

CALLS = ("gradstep step(grads)", "gradstep bound step()", LAYER)
STAND_INS = ("torch fused", "torch")


@dataclass(frozen=True)
class Reached:
    """value: what was measured; excess: by what share it misses the goal, negative if met."""

    value: str
    excess: float


class Goal(Protocol):
    """Something to compare a timing of gradstep with."""

    @property
    def text(self) -> str:
        """The goal as the table shows it."""

    def basis(self, result: Result) -> str:
        """What it is compared with in this result."""

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        """None if what it is compared with was not measured."""


@dataclass(frozen=True)
class AtMost:
    """A time in seconds."""

    seconds: float

    @property
    def text(self) -> str:
        return f"≤ {self.seconds * 1e6:g} µs"

    def basis(self, result: Result) -> str:
        return "the time itself"

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        return Reached(f"{timing.median * 1e6:.4g} µs", timing.median / self.seconds - 1)


@dataclass(frozen=True)
class Overhead:
    """Seconds more than gradstep's own `step(grads)` takes."""

    seconds: float

    @property
    def text(self) -> str:
        return f"≤ {self.seconds * 1e6:g} µs more"

    def basis(self, result: Result) -> str:
        return BASE

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        base = result.timing(BASE)
        if base is None or base is timing:
            return None
        pairs = zip(timing.seconds, base.seconds, strict=True)
        more = median(seconds - least for seconds, least in pairs)
        return Reached(f"{more * 1e6:.3g} µs", more / self.seconds - 1)


@dataclass(frozen=True)
class OfLimit:
    """A share of the limit."""

    share: float

    @property
    def text(self) -> str:
        return f"≥ {self.share:.2f} of the limit"

    def basis(self, result: Result) -> str:
        return "limit"

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        share = result.share_of_limit(timing)
        return None if share is None else Reached(f"{share:.2f}", self.share / share - 1)


@dataclass(frozen=True)
class TimesFaster:
    """A ratio to the best peer.

    stand_in: name and milliseconds of the best peer known, and of torch (fused) beside it.
    """

    factor: float
    stand_in: tuple[str, float, float] | None = None

    @property
    def text(self) -> str:
        return f"≥ {self.factor:g}× best peer"

    def _best(self, result: Result) -> tuple[str, Timing] | None:
        peers = {row.name: row.timing for row in result.rows if row.timing}
        for own in (*CALLS, LIMIT):
            peers.pop(own, None)
        present = next((name for name in STAND_INS if name in peers), None)
        if self.stand_in and present and self.stand_in[0] not in peers:
            name, best, torch = self.stand_in
            scaled = tuple(s * best / torch for s in peers[present].seconds)
            peers[f"{present} × {best:g}/{torch:g}, in place of {name}"] = Timing(scaled, 0)
        return min(peers.items(), key=lambda peer: peer[1].median) if peers else None

    def basis(self, result: Result) -> str:
        best = self._best(result)
        return "no peer was measured" if best is None else best[0]

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        best = self._best(result)
        if best is None:
            return None
        times = ratio(best[1], timing)
        return Reached(f"{times:.2f}×", self.factor / times - 1)


@dataclass(frozen=True)
class Scales:
    """A ratio to the time of one thread."""

    factor: float

    @property
    def text(self) -> str:
        return f"≥ {self.factor:g}× one thread"

    def basis(self, result: Result) -> str:
        return f"{LAYER}, {ONE}" if self._one(result) else "no second thread"

    def _one(self, result: Result) -> Timing | None:
        return result.timing(f"{LAYER}, {ONE}")

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        one = self._one(result)
        if one is None:
            return None
        times = ratio(one, timing)
        return Reached(f"{times:.2f}×", self.factor / times - 1)


@dataclass(frozen=True)
class ScalesBetween:
    """A ratio to the time of one thread, in the worst of the processes. who: of whose time."""

    factor: float
    who: str = LAYER

    @property
    def text(self) -> str:
        words = "" if self.who == LAYER else f", {self.who.removeprefix('gradstep, ')}"
        return f"≥ {self.factor:g}× one thread{words}"

    def basis(self, result: Result) -> str:
        one, _ = self._pair(result)
        return self._alone if one else "no second thread"

    @property
    def _alone(self) -> str:
        return f"{TEAM if self.who == TEAM else LAYER}, {ONE}"

    def _pair(self, result: Result) -> tuple[Timing | None, Timing | None]:
        return result.timing(self._alone), result.timing(self.who)

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        one, all_threads = self._pair(result)
        if one is None or all_threads is None:
            return None
        times = by_process(one, all_threads)
        return Reached(span(times), self.factor / min(times) - 1)


@dataclass(frozen=True)
class FasterThan:
    """A ratio to the fastest of those whose names begin so."""

    factor: float
    name: str

    @property
    def text(self) -> str:
        return f"≥ {self.factor:g}× {self.name}"

    def _best(self, result: Result) -> tuple[str, Timing] | None:
        rows = [(row.name, row.timing) for row in result.rows if row.timing]
        named = [(name, timing) for name, timing in rows if name.startswith(self.name)]
        return min(named, key=lambda one: one[1].median, default=None)

    def basis(self, result: Result) -> str:
        best = self._best(result)
        return f"{self.name} was not measured" if best is None else best[0]

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        best = self._best(result)
        if best is None:
            return None
        times = ratio(best[1], timing)
        return Reached(f"{times:.2f}×", self.factor / times - 1)


@dataclass(frozen=True)
class ShareOfBound:
    """What replacing scikit-learn's step gains, as a share of what a step of no time would."""

    share: float

    @property
    def text(self) -> str:
        return f"≥ {self.share:g} of the bound, accelerate_mlp"

    def basis(self, result: Result) -> str:
        return BOUND

    def reached(self, result: Result, timing: Timing) -> Reached | None:
        bound, ours = result.timing(BOUND), result.timing(ACCELERATED)
        if bound is None or ours is None:
            return None
        share = ratio(bound, ours)
        return Reached(f"{share:.2f}", self.share / share - 1)


def _fits() -> dict[str, tuple[Goal, ...]]:
    """Of scikit-learn's users: as fast or faster at every size, and far faster where it counts."""
    found: dict[str, tuple[Goal, ...]] = {}
    for fit in sklearn_fits(quick=False):
        if fit.batch == SMALL_BATCH:
            found[fit.name] = (FasterThan(1.3, "torch fused"),)
            continue
        factor = 1.0
        if fit.hidden == (512, 256):
            factor = 2.5
        elif fit.data == "digits":
            factor = 2.0
        found[fit.name] = (FasterThan(factor, STOCK), ShareOfBound(0.9))
    return found


def _between() -> dict[str, tuple[Goal, ...]]:
    """A second thread helps from some size on, wherever a call stands, and does no harm below."""
    least = {16_384: 0.95, 65_536: 0.95, 235_146: 1.2, 1 << 20: 1.6, 1 << 22: 1.6}
    found: dict[str, tuple[Goal, ...]] = {}
    for size, factor in least.items():
        for after in AFTER:
            goals: tuple[Goal, ...] = (ScalesBetween(factor),)
            if after == TIGHT:
                goals = (ScalesBetween(1.8 if factor > 1 else 0.95),)
            elif after == "NumPy products":
                advised = 1.3 if factor == 1.6 else 0.95
                goals = (ScalesBetween(0.95), ScalesBetween(advised, LENT))
            elif after == "torch products":
                goals = (ScalesBetween(0.95), ScalesBetween(factor, TEAM))
            found[Between(single("AdamW", size), after).name] = goals
    return found


def _bytes() -> dict[str, tuple[Goal, ...]]:
    """Fewer bytes take less time than the float32 step, where memory is the limit."""
    least = dict(zip(LAYOUTS, (0.97, 1.05, 1.40, 1.75, 1.6, 1.75), strict=True))
    size = 1 << 26
    found: dict[str, tuple[Goal, ...]] = {
        Stored(layout, size).name: (FasterThan(factor, FLOAT32),)
        for layout, factor in least.items()
    }
    eight = Stored("split master, 8-bit moments", size).name
    found[eight] += (FasterThan(12, "bitsandbytes 8-bit"),)
    found[Averaged("float32", size).name] = (FasterThan(1.05, APART),)
    found[Pipeline(size).name] = (
        FasterThan(2, "torch fused, a pass for each"),
        FasterThan(1.5, "DeepSpeed CPUAdam, its clipping"),
    )
    return found


def _onednn(blocked: float, torch: float) -> tuple[str, float, float]:
    return "oneDNN blocked", blocked, torch


# Name of a work -> its goals. Where the time of torch fused was a range, its middle. Goals in
# microseconds hold on the machine they were set on, so batch norm is compared with oneDNN too.
TARGETS: dict[str, tuple[Goal, ...]] = {
    "AdamW, 134 217 728": (TimesFaster(1.10, ("prime-rl", 78, 90.5)), OfLimit(0.95)),
    "AdamW, 65 536": (AtMost(16e-6),),
    "AdamW, 4 096": (AtMost(3e-6),),
    "AdamW, MLP 784-256-128-10": (TimesFaster(1.6, ("prime-rl", 0.088, 0.15)),),
    "AdamW, ResNet-50": (TimesFaster(1.15),),
    "AdamW, GPT-2 small": (TimesFaster(1.10, ("prime-rl", 74, 76)),),
    "AdamW, 10 000 tensors of 64": (TimesFaster(10, ("prime-rl", 4.8, 62)),),
    "unscale + check + clip + AdamW + zero gradients, GPT-2 small": (TimesFaster(1.5),),
    "RMSprop, 16 777 216": (OfLimit(0.95),),
    "NAdam, 16 777 216": (OfLimit(0.95),),
    "Adadelta, 16 777 216": (OfLimit(0.95),),
    "dropout, 16 777 216": (OfLimit(0.8),),
    "dropout, 65 536": (AtMost(15e-6),),
    "batch_norm, 64×64×56×56": (AtMost(2.5e-3), TimesFaster(1, _onednn(4.1, 28.8))),
    "batch_norm_backward, 64×64×56×56": (AtMost(4.4e-3), TimesFaster(1, _onednn(6.2, 21.7))),
    "batch_norm, 32×256×14×14": (AtMost(280e-6), TimesFaster(1, _onednn(0.44, 1.42))),
    "AdamW, 262 144, by threads": (Scales(1.8),),
    "dropout, 262 144, by threads": (Scales(1.8),),
    "batch_norm, 32×256×14×14, by threads": (Scales(1.8),),
    "batch_norm, 128×512": (AtMost(23e-6), TimesFaster(1, _onednn(0.023, 0.061))),
    "training MLP 784-1024-1024-10, batch 128, dropout 0.5": (TimesFaster(1.3),),
    "training Transformer 4×256, batch 8×128, dropout 0.1": (TimesFaster(1.2),),
    "training residual CNN 16-32-64, batch 64×32×32": (TimesFaster(1.1),),
    "AdamW, MLP 784-256-128-10 through torch": (
        Overhead(15e-6),
        TimesFaster(1.6, ("prime-rl", 0.088, 0.15)),
    ),
    "AdamW, ResNet-50 through torch": (TimesFaster(1.15),),
    "AdamW, GPT-2 small through torch": (TimesFaster(1.10, ("prime-rl", 74, 76)),),
    **_between(),
    **_fits(),
    **_bytes(),
    "AdamW, GPT-2 small, 2 ranks over MPI": (OfLimit(0.8),),
    "clipped AdamW, GPT-2 small, 2 ranks over MPI": (OfLimit(0.8),),
    "AdamW, GPT-2 small, 2 ranks over gloo": (FasterThan(1.5, ZERO), OfLimit(0.8)),
    "dropout, 1 048 576 through torch": (TimesFaster(20),),
    "batch_norm, 64×64×56×56 through torch": (TimesFaster(4),),
    "batch_norm_backward, 64×64×56×56 through torch": (TimesFaster(3),),
}


@dataclass(frozen=True)
class Verdict:
    """A goal of a work. reached: for each of CALLS, None where it was not measured."""

    work: str
    goal: str
    basis: str
    reached: tuple[Reached | None, ...]


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """All targets, those of works that were not measured too."""
    measured = {result.work.name: result for result in results}
    found: list[Verdict] = []
    for name, goals in TARGETS.items():
        result = measured.get(name)
        for goal in goals:
            found.append(_verdict(name, goal, result))
    return found


def _verdict(name: str, goal: Goal, result: Result | None) -> Verdict:
    if result is None:
        return Verdict(name, goal.text, "not measured in this run", (None,) * len(CALLS))
    timings = [result.timing(call) for call in CALLS]
    reached = tuple(None if t is None else goal.reached(result, t) for t in timings)
    return Verdict(name, goal.text, goal.basis(result), reached)
