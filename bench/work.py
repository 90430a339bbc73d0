"""What peers are asked to do, what they give back, and the check of their results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = list[NDArray[Any]]

__all__ = ["TOLERANCE", "Arrays", "Contender", "Inputs", "Ready", "Work", "largest_error"]

# Of the largest value of an array. Two float32 programs of one formula differ by some 1e-6; a
# forgotten weight decay or bias correction makes 1e-3 and more.
TOLERANCE = 1e-4

CHECKED_CALLS = 8  # RAdam changes its formula at the sixth step
NONFINITE_CALL = 3  # of a work that has to notice such inputs
CHECKED_SCALES = (1.0, 3.0, 0.3, 2.0, 0.1)  # Adam is all but blind to clipping of equal gradients


@dataclass
class Inputs:
    """The arrays that the peers of one work read, the same memory for all of them.

    A peer that cannot read NumPy's memory as it is gets copies with `once`, which all contenders
    of that library share.
    """

    arrays: Arrays
    copies: dict[str, Any] = field(default_factory=dict)

    def once(self, library: str, copy: Callable[[Arrays], Any]) -> Any:
        """What `copy` makes of the arrays, made once for each library."""
        if library not in self.copies:
            self.copies[library] = copy(self.arrays)
        return self.copies[library]


@dataclass(frozen=True)
class Ready:
    """A peer with its buffers in place.

    run: one call, which is what is timed. feed: copies values to where `run` reads its inputs.
    outputs: what `run` has written, as NumPy arrays in the order of the work's reference. timed:
    runs that many calls and returns the seconds of all; given where this process cannot time them.
    begin: is told the number of each round before it.
    """

    run: Callable[[], object]
    feed: Callable[[Arrays], None]
    outputs: Callable[[], Arrays]
    timed: Callable[[int], float] | None = None
    begin: Callable[[int], None] | None = None


class Work(Protocol):
    """Something that several peers can do."""

    @property
    def name(self) -> str:
        """As the tables show it; unique within a suite."""

    @property
    def elements(self) -> int:
        """The number of elements, for the axis of a plot."""

    @property
    def ideal_bytes(self) -> int:
        """Bytes that must be read and written at least."""

    @property
    def consumes_inputs(self) -> bool:
        """Whether a call changes its inputs, so that they have to be fed again before the next."""

    def small(self) -> Work:
        """The same on little data, with numbers that make errors visible."""

    def inputs(self, seed: int) -> Inputs:
        """New inputs."""

    def reference(self, inputs: Inputs) -> Ready:
        """The NumPy specification, which says what is right."""


@dataclass(frozen=True)
class Contender:
    """One way of doing a work.

    checked: False for what computes nothing on purpose. most: the number of elements above which
    it would take too long to be measured; the tables then say so. untimed: why it is not measured
    at all, if it is not. compared: what is compared of
    inputs and outputs, for peers that draw random numbers of their own; otherwise the outputs.
    """

    name: str
    make: Callable[[Any, Inputs], Ready]
    checked: bool = True
    most: int | None = None
    untimed: str = ""
    compared: Callable[[Arrays, Arrays], Arrays] | None = None


def largest_error(contender: Contender, work: Work) -> float:
    """By how much the contender differs from the reference, relative to the largest value.

    NaN or infinity where it must not be counts as an error of that size.
    """
    small = work.small()
    ready = contender.make(small, small.inputs(0))
    expected = small.reference(small.inputs(0))
    worst = 0.0
    for call in range(CHECKED_CALLS):
        scale = np.float32(CHECKED_SCALES[call % len(CHECKED_SCALES)])
        fresh = [scale * array for array in small.inputs(call + 1).arrays]
        if call == NONFINITE_CALL and getattr(small, "skips_nonfinite", False):
            fresh[-1].flat[-1] = np.inf
        for side in (ready, expected):
            side.feed(fresh)
            side.run()
        found = [side.outputs() for side in (ready, expected)]
        if contender.compared is not None:
            found = [contender.compared(fresh, outputs) for outputs in found]
        for got, right in zip(*found, strict=True):
            error = _difference(got, right)
            if not error <= TOLERANCE:
                return error
            worst = max(worst, error)
    return worst


def _difference(got: NDArray[Any], right: NDArray[Any]) -> float:
    largest = float(np.abs(right).max()) or 1.0
    return float(np.abs(got.astype(np.float64) - right).max()) / largest
