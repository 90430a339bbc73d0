"""What `gradstep train` was asked to do, and how each network, optimizer and training is made."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradstep.nn import Sequential, mlp
from gradstep.train import loop as training
from gradstep.train.augmentation import Augmentation, random_shift
from gradstep.train.datasets import Dataset, Split
from gradstep.train.loop import SCHEDULE_NAMES, History, Training
from gradstep.train.lr_search import find_lr
from gradstep.train.objectives import Classification, Objective, Regression
from gradstep.train.weights import class_weights

__all__ = ["Job", "OnEpoch"]

OnEpoch = Callable[[Training], None]


@dataclass(frozen=True)
class Job:
    """What `gradstep train` was asked to do, and the rows to do it with: one split, or K folds."""

    arguments: argparse.Namespace
    data: Dataset
    splits: list[Split]
    team: Any = None  # of processes that train together: a Team

    def sizes(self, split: Split) -> list[int]:
        """Sizes of the network: columns, hidden layers, classes or the one number to learn."""
        return [split.x.shape[1], *self.arguments.layers, len(self.data.classes) or 1]

    def steps(self, split: Split) -> int:
        """Steps per epoch."""
        return math.ceil(len(split.y) / (self.arguments.batch or len(split.y)))

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes: the only one, or the first of a team."""
        return self.team is None or self.team.rank == 0

    @property
    def shift(self) -> int:
        """Pixels that training images move at random; none when a few are to be learnt by heart."""
        asked = self.arguments.shift
        own = 0 if self.arguments.overfit else self.data.shift
        return int(own if asked is None else asked)

    @property
    def augment(self) -> Augmentation | None:
        """What happens to a batch before it is used."""
        return random_shift(self.data.x.shape[1], self.shift) if self.shift else None

    def model(self, split: Split) -> Sequential:
        """Return a fresh network."""
        options = self.arguments
        names = ("seed", "activation", "init", "batch_norm", "dropout", "input_dropout")
        return mlp(self.sizes(split), **{name: getattr(options, name) for name in names})

    def objective(self, split: Split) -> Objective:
        """Return the loss and the scores."""
        if not self.data.classes:
            return Regression(self.arguments.loss or "squared", split.scale)
        balanced = self.arguments.class_weights == "balanced"
        classes = len(self.data.classes)
        weights = class_weights(split.y, "balanced", classes=classes) if balanced else None
        return Classification(weights)

    def set_up(self, name: str, lr: Any, split: Split) -> tuple[Any, Any, dict[str, Any]]:
        """Return a fresh model, its optimizer, and the keywords of `train` and `step_function`."""
        options = self.arguments
        model = self.model(split)
        settings = {"weight_decay": options.weight_decay, "clip_norm": options.clip_norm}
        make = kind = None
        if self.team is not None:
            self.team.take(model)
            make, kind = self.team.optimizer, self.team.training
        optimizer = training.make_optimizer(name, model.params, lr, make=make, **settings)
        keywords = {"batch_size": options.batch, "seed": options.seed, "kind": kind}
        keywords["objective"] = self.objective(split)
        return model, optimizer, keywords

    def find_rate(self, name: str, say: Callable[[str], None]) -> float:
        """Return the best of several learning rates, tried for 100 steps on the first split."""

        def make(lr: float) -> Callable[[], float]:
            model, optimizer, keywords = self.set_up(name, lr, self.splits[0])
            return training.step_function(model, self.splits[0], optimizer, **keywords)

        found = find_lr(make, steps=100)
        say(f"{name}, 100 steps at each rate\n{found}\n")
        return found.suggestion

    def fit(
        self,
        name: str,
        lr: float,
        split: Split,
        on_epoch: OnEpoch,
        start: Mapping[str, Any] | None = None,
    ) -> History:
        """Train on one split; start: see `train`."""
        options, steps = self.arguments, self.steps(split)
        schedule = SCHEDULE_NAMES[options.schedule](lr, steps * options.epochs, steps)
        model, optimizer, keywords = self.set_up(name, schedule, split)
        keywords |= {"epochs": options.epochs, "patience": options.early_stopping}
        keywords["augment"] = self.augment
        keywords |= {"on_epoch": on_epoch, "start": start}
        return training.train(model, split, optimizer, **keywords)
