"""A training that the processes of `mpirun` share: each takes its rows of every batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from gradstep.distributed import MpiTransport, ShardedOptimizer, Transport, synchronize
from gradstep.distributed.transport import DistributedError, gather
from gradstep.nn import Dropout, Layer
from gradstep.nn.layer import walk
from gradstep.optim.optimizer import Optimizer
from gradstep.train.loop import Training, gradients

__all__ = ["Team", "TeamTraining"]


class Team:
    """The processes that train together; transport: between them, that of MPI unless given."""

    def __init__(self, transport: Transport | None = None) -> None:
        self.transport: Transport = MpiTransport() if transport is None else transport

    @property
    def rank(self) -> int:
        """The number of this process."""
        return self.transport.rank

    def take(self, model: Layer) -> None:
        """Let a network normalise by the rows of all processes."""
        synchronize(model, self.transport)

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

    optimizer: Any

    def __init__(self, transport: Transport, *given: Any, **keywords: Any) -> None:
        self._transport = transport
        super().__init__(*given, **keywords)

    def _bind(self) -> None:
        pass  # gradients are given at every step

    def step(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[float, Any, float]:
        """Train on a batch, of which this process computes its rows; see `Training.step`."""
        rank, size = self._transport.rank, self._transport.size
        rows = slice(rank, None, size)
        own = np.ascontiguousarray(x[rows]), np.ascontiguousarray(y[rows])
        for layer in walk(self.model):
            if isinstance(layer, Dropout) and size > 1:
                layer.part = len(y), rows
        share = self.objective.weight(own[1]) / self.objective.weight(y)
        loss, tally = 0.0, np.zeros(0)
        if share:
            loss, tally = gradients(self.model, *own, self.objective, share)
        else:  # its layers still take part in what the others do
            self.model.parameter_gradients(np.zeros_like(self.model.forward(own[0], True)))
        before = perf_counter()
        lr = self.optimizer.step(self.model.grads).lr
        self.model.seconds["optimizer"] += perf_counter() - before
        loss, tally = self._together(loss * share, np.asarray(tally, np.float64))
        return loss, tally, lr

    def latest_gradients(self) -> Mapping[str, npt.NDArray[Any]]:
        """Return the gradients of the latest batch: of all its rows, as every process needs."""
        self.optimizer.sums(self.model.grads)
        return self.model.grads

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
