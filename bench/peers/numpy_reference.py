"""The NumPy specification that comes with gradstep: clear rather than fast."""

from __future__ import annotations

from bench.work import Contender, Inputs, Ready, Work

REQUIRES = ()


def contenders(work: Work) -> list[Contender]:
    """The reference of any work."""
    return [Contender("NumPy reference", make, most=1 << 24)]


def make(work: Work, inputs: Inputs) -> Ready:
    """The work's own reference."""
    return work.reference(inputs)
