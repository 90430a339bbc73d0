"""Learning-rate schedules: pure functions of the optimizer step.

A schedule is any callable that takes the step t = 1, 2, ... and returns a rate. The classes here
make such callables with a readable repr; they are immutable, comparable and picklable, and the rate
at a step does not depend on earlier calls, so a resumed run needs no scheduler state. In the code,
`taken` is t - 1, the number of steps taken before: the `last_epoch` of a PyTorch scheduler.

Conventions that hold for all of them:

- `lr` is the rate at step 1 unless stated otherwise.
- Lengths (`steps`, `every`, `period`, boundaries) count optimizer steps. A schedule that ends
  reaches its last value at step `steps + 1`, so a run of exactly `steps` steps wastes none of them
  at a rate of zero; from there on it holds that value. `one_cycle` alone ends at step `steps`.
- Numbers must be finite. A wrong kind of argument raises TypeError and a value out of range
  ValueError when the schedule is made; a step does the same when the schedule is called.
- Only +, -, *, / and the square root are used, which IEEE 754 rounds the same way everywhere. The
  exceptions call the C library and may differ between systems in the last bits: the cosine of
  `cosine`, `cosine_restarts` and `one_cycle`, and powers that are not multiples of one half.
"""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Final, TypeAlias, get_args

from gradstep.arguments import integer, number, several
from gradstep.spec.optim import power as integer_power

Schedule: TypeAlias = Callable[[int], float]
"""A function of the step t = 1, 2, ... that gives a rate."""

_LARGEST_COUNT: Final = 2**63 - 1


def _checked_schedule(name: str, value: object) -> Schedule | float:
    # A class is callable as well; passing one means that its arguments were forgotten.
    if callable(value) and not isinstance(value, type):
        return value
    expected = "a number >= 0 or a schedule (a function of the step)"
    return number(name, value, expected, lambda x: x >= 0)


def _optional_share(name: str, value: object) -> float | None:
    if value is None:
        return None
    return number(name, value, "a number in [0, 1] or None", lambda x: 0 <= x <= 1)


def _count(least: int) -> Callable[[str, object], int]:
    return partial(integer, least=least, most=_LARGEST_COUNT)


def _number(expected: str, allowed: Callable[[float], bool]) -> Callable[[str, object], float]:
    return partial(number, expected=expected, allowed=allowed)


_checked_rate = _number("a number >= 0", lambda x: x >= 0)

Rate: TypeAlias = Annotated[float, _checked_rate]
Positive: TypeAlias = Annotated[float, _number("a number > 0", lambda x: x > 0)]
AtLeastOne: TypeAlias = Annotated[float, _number("a number >= 1", lambda x: x >= 1)]
Share: TypeAlias = Annotated[float, _number("a number in [0, 1]", lambda x: 0 <= x <= 1)]
Decay: TypeAlias = Annotated[float, _number("a number in (0, 1]", lambda x: 0 < x <= 1)]
Count: TypeAlias = Annotated[int, _count(1)]
Inner: TypeAlias = Annotated[Schedule | float, _checked_schedule]
Inners: TypeAlias = Annotated[Sequence[Schedule | float], partial(several, item=_checked_schedule)]
Rates: TypeAlias = Annotated[Sequence[float], partial(several, item=_checked_rate)]
Boundaries: TypeAlias = Annotated[Sequence[int], partial(several, item=_count(1))]


def _check_boundaries(boundaries: Sequence[int], pieces: int, piece_name: str) -> None:
    if pieces == 0:
        raise ValueError(f"{piece_name}: empty, expected at least one")
    if len(boundaries) != pieces - 1:
        expected = f"expected {pieces - 1}, one fewer than {piece_name}"
        raise ValueError(f"boundaries: {len(boundaries)} of them, {expected}")
    for i in range(1, len(boundaries)):
        if boundaries[i] <= boundaries[i - 1]:
            expected = f"expected more than the boundary before, {boundaries[i - 1]}"
            raise ValueError(f"boundaries[{i}]: {boundaries[i]}, {expected}")


def _real_power(base: float, exponent: float) -> float:
    """base**exponent for base, exponent >= 0; the C library only where halves do not suffice."""
    fraction, whole = math.modf(exponent)
    result = integer_power(base, int(whole))
    if fraction == 0.0:
        return result
    return result * (math.sqrt(base) if fraction == 0.5 else math.pow(base, fraction))


def _between(start: float, end: float, remaining: float) -> float:
    """Straight line that is exactly `start` at remaining = 1 and exactly `end` at remaining = 0."""
    if remaining > 0.5:
        return start - (start - end) * (1.0 - remaining)
    return end + (start - end) * remaining


def _half_cosine(done: float) -> float:
    """What remains, from 1 to 0, of a half period of the cosine as `done` goes from 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _rate(schedule: Schedule | float, step: int) -> float:
    return float(schedule(step) if callable(schedule) else schedule)


class _StepRate(ABC):
    """Checks each field by its annotation and then every step; the formula is in `_after`."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # subclasses are dataclasses
            _, check = get_args(field.type)
            object.__setattr__(self, field.name, check(field.name, getattr(self, field.name)))

    def __call__(self, step: int) -> float:
        """Return the rate at `step` = 1, 2, ..."""
        if type(step) is not int or not 1 <= step <= _LARGEST_COUNT:
            step = _count(1)("step", step)
        return self._after(step - 1)

    def __mul__(self, factor: float) -> "scaled":
        """The schedule times a number >= 0."""
        return scaled(factor, self)

    __rmul__ = __mul__

    @abstractmethod
    def _after(self, taken: int) -> float:
        """Return the rate of the step that follows `taken` others."""


class _FallingRate(_StepRate):
    """Falls from `lr` to `floor`."""

    __slots__ = ()
    lr: Rate
    floor: Rate

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor > self.lr:
            raise ValueError(f"floor: {self.floor}, expected a number from 0 to lr = {self.lr}")


@dataclass(frozen=True, slots=True)
class constant(_StepRate):
    """The same rate `lr` >= 0 at every step.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.

    >>> constant(0.1)(1_000)
    0.1
    """

    lr: Rate

    def _after(self, taken: int) -> float:
        return self.lr


@dataclass(frozen=True, slots=True)
class piecewise(_StepRate):
    """Manual rates: values[0] through step boundaries[0], then values[1], and so on.

    The rate is values[0] at step 1 and values[-1] after the last boundary. `values` are rates >= 0,
    `boundaries` increasing steps >= 1, one fewer: each is the last step of its value.
    Raises TypeError for a wrong kind of argument, ValueError for a wrong value or length.

    >>> [piecewise([100, 150], [0.1, 0.01, 0.001])(t) for t in (1, 100, 101, 151)]
    [0.1, 0.1, 0.01, 0.001]
    """

    boundaries: Boundaries
    values: Rates

    def __post_init__(self) -> None:
        _StepRate.__post_init__(self)
        _check_boundaries(self.boundaries, len(self.values), "values")

    def _after(self, taken: int) -> float:
        return self.values[bisect_right(self.boundaries, taken)]


@dataclass(frozen=True, slots=True)
class step_decay(_StepRate):
    """Staircase: lr * factor**((t - 1) // every), halving unless told otherwise.

    The rate is `lr` >= 0 from step 1 to step `every` >= 1, then `factor` in (0, 1] times as much
    for the next `every` steps, and so on.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.

    >>> [step_decay(0.8, every=100)(t) for t in (1, 100, 101, 201)]
    [0.8, 0.8, 0.4, 0.2]
    """

    lr: Rate
    every: Count
    factor: Decay = 0.5

    def _after(self, taken: int) -> float:
        return self.lr * integer_power(self.factor, taken // self.every)


@dataclass(frozen=True, slots=True)
class exponential(_StepRate):
    """Exponential decay: lr * factor**((t - 1) / period), smooth within an epoch.

    The rate is `lr` >= 0 at step 1 and is multiplied by `factor` in (0, 1] over each epoch of
    `period` >= 1 steps; where an epoch begins it has the bits of `step_decay(lr, period, factor)`.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.

    >>> [exponential(1.0, factor=0.25, period=10)(t) for t in (1, 6, 11, 21)]
    [1.0, 0.5, 0.25, 0.0625]
    """

    lr: Rate
    factor: Decay
    period: Count = 1

    def _after(self, taken: int) -> float:
        epochs, rest = divmod(taken, self.period)
        whole = self.lr * integer_power(self.factor, epochs)
        return whole * _real_power(self.factor, rest / self.period)


@dataclass(frozen=True, slots=True)
class inverse_time(_StepRate):
    """Inverse-time decay: lr / (1 + decay * epoch), with epoch = (t - 1) / period a real number.

    The rate is `lr` >= 0 at step 1 and falls at every step; `decay` >= 0 is what each epoch of
    `period` >= 1 steps adds to the divisor. The first step of an epoch has the rate that whole
    epochs give; `per_epoch(period, inverse_time(lr, decay))` keeps it for the whole epoch.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.

    >>> [inverse_time(1.0, decay=1.0, period=100)(t) for t in (1, 101, 301)]
    [1.0, 0.5, 0.25]
    """

    lr: Rate
    decay: Rate
    period: Count = 1

    def _after(self, taken: int) -> float:
        return self.lr / (1.0 + self.decay * (taken / self.period))


@dataclass(frozen=True, slots=True)
class power(_StepRate):
    """Power law: lr * t**-alpha.

    The rate is `lr` >= 0 at step 1; `alpha` >= 0. With 0.5 < alpha <= 1 the rates sum to infinity
    and their squares do not, as stochastic approximation asks for; 0.5 is the inverse square root.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.
    Source: Robbins & Monro, A stochastic approximation method, 1951.

    >>> [power(1.0, alpha=0.5)(t) for t in (1, 4, 16)]
    [1.0, 0.5, 0.25]
    """

    lr: Rate
    alpha: Rate = 0.5

    def _after(self, taken: int) -> float:
        return self.lr / _real_power(float(taken + 1), self.alpha)


@dataclass(frozen=True, slots=True)
class polynomial(_FallingRate):
    """Polynomial decay: floor + (lr - floor) * (1 - (t - 1) / steps)**power; linear by default.

    The rate is `lr` >= 0 at step 1 and `floor`, from 0 to lr, after `steps` >= 1 steps, power > 0.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.

    >>> [polynomial(1.0, steps=4)(t) for t in (1, 2, 3, 4, 5, 6)]
    [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    lr: Rate
    steps: Count
    power: Positive = 1.0
    floor: Rate = 0.0

    def _after(self, taken: int) -> float:
        remaining = max(self.steps - taken, 0) / self.steps
        return _between(self.lr, self.floor, _real_power(remaining, self.power))


@dataclass(frozen=True, slots=True)
class cosine(_FallingRate):
    """Cosine decay: floor + (lr - floor) * (1 + cos(pi * (t - 1) / steps)) / 2.

    The rate is `lr` >= 0 at step 1 and `floor`, from 0 to lr, after `steps` >= 1 steps.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.
    Source: Loshchilov & Hutter, SGDR, 2017, equation 5, one cycle.

    >>> [cosine(1.0, steps=100)(t) for t in (1, 51, 101, 500)]
    [1.0, 0.5, 0.0, 0.0]
    """

    lr: Rate
    steps: Count
    floor: Rate = 0.0

    def _after(self, taken: int) -> float:
        done = min(taken, self.steps) / self.steps
        return _between(self.lr, self.floor, _half_cosine(done))


@dataclass(frozen=True, slots=True)
class cosine_restarts(_FallingRate):
    """Cosine decay that starts again at `lr` after every cycle, without end.

    The rate is `lr` >= 0 at step 1 and at the first step of every cycle, and falls towards `floor`,
    from 0 to lr. The first cycle has `steps` >= 1 steps, each later one `growth` times (a whole
    number >= 1) as many as the one before.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.
    Source: Loshchilov & Hutter, SGDR, 2017, equation 5 (T_0 = steps, T_mult = growth).

    >>> [cosine_restarts(1.0, steps=10, growth=2)(t) for t in (1, 6, 11, 21, 31)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """

    lr: Rate
    steps: Count
    growth: Count = 1
    floor: Rate = 0.0

    def _after(self, taken: int) -> float:
        length = self.steps
        if self.growth == 1:
            taken %= length
        while taken >= length:
            taken -= length
            length *= self.growth
        return _between(self.lr, self.floor, _half_cosine(taken / length))


@dataclass(frozen=True, slots=True)
class one_cycle(_StepRate):
    """One cycle: from lr / div_factor up to `lr`, then down far below the start, both as cosines.

    The rate is lr / div_factor at step 1, `lr` >= 0 at step pct_start * steps (may lie between two)
    and lr / div_factor / final_div_factor from step `steps` >= 2 on. Where pct_start * steps < 1
    the fall has begun when step 1 comes, as in PyTorch's OneCycleLR; pct_start = 1 has no fall.
    `pct_start` is in [0, 1] and both factors are >= 1.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.
    Source: Smith & Topin, Super-convergence: very fast training of neural networks, 2019.

    >>> schedule = one_cycle(1.0, steps=100, div_factor=10, final_div_factor=100)
    >>> [schedule(t) for t in (1, 30, 100, 101)]
    [0.1, 1.0, 0.001, 0.001]
    """

    lr: Rate
    steps: Annotated[int, _count(2)]
    pct_start: Share = 0.3
    div_factor: AtLeastOne = 25.0
    final_div_factor: AtLeastOne = 1e4

    def _after(self, taken: int) -> float:
        last = self.steps - 1
        taken = min(taken, last)
        top = self.pct_start * self.steps - 1.0  # negative: before step 1
        first_rate = self.lr / self.div_factor
        if taken < top:
            return _between(first_rate, self.lr, _half_cosine(taken / top))
        if taken == top:
            return self.lr
        remaining = _half_cosine((taken - top) / (last - top))
        return _between(self.lr, first_rate / self.final_div_factor, remaining)


@dataclass(frozen=True, slots=True)
class warmup(_StepRate):
    """Linear warm-up of `steps` >= 0 steps in front of another schedule or a number, `then`.

    `then` starts counting after the warm-up: step steps + 1 is its step 1. So the rate climbs to
    exactly then(1), and `warmup(500, cosine(3e-3, 20_000))` describes 20 500 steps. With
    `start_factor` in [0, 1] the rate at step 1 is start_factor * then(1); without it the rate is
    then(1) * t / (steps + 1), equal increments of which step 1 has one.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.
    Source: Goyal et al., Accurate, large minibatch SGD, 2017, section 2.2 (gradual warmup).

    >>> [warmup(3, step_decay(1.0, every=2))(t) for t in (1, 2, 3, 4, 5, 6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.5]
    """

    steps: Annotated[int, _count(0)]
    then: Inner
    start_factor: Annotated[float | None, _optional_share] = None

    def _after(self, taken: int) -> float:
        if taken >= self.steps:
            return _rate(self.then, taken + 1 - self.steps)
        top = _rate(self.then, 1)
        if self.start_factor is None:
            return top * (taken + 1) / (self.steps + 1)
        return _between(top * self.start_factor, top, (self.steps - taken) / self.steps)


@dataclass(frozen=True, slots=True)
class join(_StepRate):
    """Schedules in a row: schedules[0] through step boundaries[0], then schedules[1], and so on.

    Each starts at its own step 1: the rate is schedules[0](1) at step 1, schedules[1](1) at step
    boundaries[0] + 1. `boundaries` are increasing steps >= 1, one fewer than schedules or numbers.
    Raises TypeError for a wrong kind of argument, ValueError for a wrong value or length.

    >>> schedule = join([polynomial(1.0, steps=4), 0.5, step_decay(0.25, every=2)], [2, 4])
    >>> [schedule(t) for t in range(1, 9)]
    [1.0, 0.75, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    """

    schedules: Inners
    boundaries: Boundaries

    def __post_init__(self) -> None:
        _StepRate.__post_init__(self)
        _check_boundaries(self.boundaries, len(self.schedules), "schedules")

    def _after(self, taken: int) -> float:
        index = bisect_right(self.boundaries, taken)
        before = self.boundaries[index - 1] if index else 0
        return _rate(self.schedules[index], taken + 1 - before)


@dataclass(frozen=True, slots=True)
class per_epoch(_StepRate):
    """Another schedule counted in epochs: then(1 + (t - 1) // period).

    The rate is then(1) at step 1 and changes only at the first step of an epoch of `period` >= 1
    steps. `then` is a number or a schedule of the epoch 1, 2, ...
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.

    >>> [per_epoch(100, inverse_time(1.0, decay=1.0))(t) for t in (1, 100, 101, 301)]
    [1.0, 1.0, 0.5, 0.25]
    """

    period: Count
    then: Inner

    def _after(self, taken: int) -> float:
        return _rate(self.then, 1 + taken // self.period)


@dataclass(frozen=True, slots=True)
class scaled(_StepRate):
    """Another schedule times a number: factor * then(t), which is what 0.5 * schedule makes.

    `factor` is >= 0; `then` is a number or a schedule, for example one for another group.
    Raises TypeError for a wrong kind of argument, ValueError for one out of range.

    >>> schedule = 0.5 * step_decay(0.8, every=100)
    >>> schedule
    scaled(factor=0.5, then=step_decay(lr=0.8, every=100, factor=0.5))
    >>> [schedule(t) for t in (1, 101)]
    [0.4, 0.2]
    """

    factor: Rate
    then: Inner

    def _after(self, taken: int) -> float:
        return self.factor * _rate(self.then, taken + 1)


SCHEDULES: Final[dict[str, type[_StepRate]]] = {
    schedule.__name__: schedule
    for schedule in (
        *(constant, piecewise, step_decay, exponential, inverse_time, power, polynomial, cosine),
        *(cosine_restarts, one_cycle, warmup, join, per_epoch, scaled),
    )
}
"""Every schedule of this module by name, simplest first."""
