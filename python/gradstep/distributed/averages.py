"""Averages of the weights in the parameters of all ranks, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from gradstep.arrays import Array
from gradstep.distributed.exchange import Exchange
from gradstep.optim.storage import check_own_values

__all__ = ["averaged_on_all", "check_no_averages"]


@contextmanager
def averaged_on_all(
    exchange: Exchange,
    own: Any,
    parameters: Sequence[Array],
    step: int,
    check: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """In a `with` block parameters hold the averages of all ranks; then what they were.

    own: the optimizer of the own pieces. parameters: each tensor, flat. check: may raise; what it
    raises on one rank is an error of all. What was there is kept in a copy, so that a rank can
    leave the block whatever has become of the others.
    """
    with ExitStack() as block:
        error: Exception | None = None
        kept: list[Array] = []
        try:
            check()
            kept = [memory.copy() for memory in parameters]
            block.enter_context(own.averaged())
        except Exception as raised:
            error = raised
        exchange.agree("averaged", step, bytes(32), 0, error)
        try:
            exchange.spread(parameters)
            yield
        finally:
            for memory, values in zip(parameters, kept, strict=True):
                memory[...] = values


def check_no_averages(exchange: Exchange, what: str, step: int, own: Any) -> None:
    """Raises RuntimeError, on other ranks DistributedError, in a block of `averaged_on_all`."""
    error: Exception | None = None
    try:
        check_own_values(what, own._holds_averages)
    except RuntimeError as raised:
        error = raised
    exchange.agree(what, step, bytes(32), 0, error)
