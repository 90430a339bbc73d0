"""What is kept of a training beside its history: its latest state, and its layers over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradstep.optim.gradients import describe
from gradstep.train.loop import Epoch, Training

__all__ = ["Record", "kept_weights"]


def kept_weights(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return parameters and buffers that a training of this state would keep: its best, or all."""
    stopping = state["stopping"]
    kept: Mapping[str, Any] = stopping["arrays"] if stopping else state["model"]
    return kept


@dataclass
class Record:
    """Filled after every epoch of one training, so that nothing is lost when it is interrupted.

    keep: whether to copy the state and to look into the layers, which takes time. epochs: all so
    far. state: see `Training.state_dict`; None without an epoch. layers: name of a weight ->
    root mean squares of its values and of its gradients in the latest batch, for each epoch.
    """

    keep: bool = False
    epochs: list[Epoch] = field(default_factory=list)
    state: Mapping[str, Any] | None = None
    layers: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def note(self, training: Training, show: Callable[[Training], None]) -> None:
        """Take the state after an epoch, then show it."""
        if self.keep:
            state = training.state_dict()
            self._describe(training)
            self.state = state
        self.epochs = list(training.history.epochs)
        show(training)

    def _describe(self, training: Training) -> None:
        values, gradients = describe(training.model.params), describe(training.latest_gradients())
        for name in values:
            if str(name).endswith("weight") and training.model.params[str(name)].ndim > 1:
                pair = values[name].rms, gradients[name].rms
                self.layers.setdefault(str(name), []).append(pair)
