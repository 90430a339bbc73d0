"""A training that the processes of `mpirun` share: each takes its rows of every batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.distributed import MpiTransport, ShardedOptimizer, Transport
from gradstep.distributed.transport import DistributedError, gather
from gradstep.optim.optimizer import Optimizer
from gradstep.train.loop import Training, gradients

__all__ = ["Team", "TeamTraining"]


class Team:
    """The processes that train together; transport: between them, that of MPI unless given."""

    def __init__(self, transport: Transport | None = None) -> None:
        self.transport = MpiTransport() if transport is None else transport

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self.transport.rank

    def optimizer(self, cls: type[Optimizer], params: Any, **hyper: Any) -> ShardedOptimizer:
        """Return an optimizer of which each process has its share; it sums gradients."""
        return ShardedOptimizer(cls, params, comm=self.transport, reduction="sum", **hyper)

    def training(self, *given: Any, **keywords: Any) -> TeamTraining:
        """Return a training of the team; arguments as for `Training`."""
        return TeamTraining(self.transport, *given, **keywords)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What ends this process ends all of them. Raises OSError where they lost each other."""
        try:
            yield
        except BaseException as error:
            if isinstance(self.transport, MpiTransport):
                self.transport.fail()
            if isinstance(error, DistributedError):
                raise OSError(str(error)) from error
            raise


class TeamTraining(Training):
    """A training in which this process computes every `size`-th row of a batch.

    All processes have all rows, and draw the same batches. What a batch says of all its rows comes
    together, in the order of ranks, so that all decide alike.
    """

    def __init__(self, transport: Transport, *given: Any, **keywords: Any) -> None:
        self._transport = transport
        super().__init__(*given, **keywords)

    def _bind(self) -> None:
        pass  # gradients are given at every step

    def _step(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[float, Any, float]:
        rank, size = self._transport.rank, self._transport.size
        rows = slice(rank, None, size)
        share = len(y[rows]) / len(y)
        loss, tally, grads = 0.0, np.zeros(0), None
        if share:
            own = np.ascontiguousarray(x[rows]), np.ascontiguousarray(y[rows])
            loss, tally = gradients(self.model, *own, self.objective)
            grads = self.model.grads
            if share < 1:  # the mean over these rows becomes their part of the mean over all
                for gradient in grads.values():
                    np.multiply(gradient, gradient.dtype.type(share), out=gradient)
        before = perf_counter()
        lr = self.optimizer.step(grads).lr
        self.model.seconds["optimizer"] += perf_counter() - before
        loss, tally = self._together(loss * share, np.asarray(tally, np.float64))
        return loss, tally, lr

    def _together(self, loss: float, tally: npt.NDArray[np.float64]) -> tuple[float, Any]:
        """The sums over all processes; one without rows has an empty tally."""
        own = np.concatenate([[loss], tally.ravel()])
        every = [np.frombuffer(each) for each in gather(self._transport, own.tobytes())]
        loss = float(sum(each[0] for each in every))
        found = [each[1:] for each in every if each.size > 1]
        total = found[0]
        for each in found[1:]:
            total = total + each
        return loss, total if total.size > 1 or tally.ndim else float(total[0])

    def _evaluate(self) -> tuple[float, dict[str, float]]:
        # Other machines may round otherwise: all go by the first.
        own = json.dumps(super()._evaluate())
        loss, scores = json.loads(gather(self._transport, own.encode())[0])
        return loss, scores
