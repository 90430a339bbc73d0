"""A click-through model with embeddings, where AUC and group AUC disagree.

python examples/click_through.py [picture.png]

Made-up users see made-up items and click. Some users click on nearly everything, some on nearly
nothing; items are more or less popular; and tastes differ. Three models learn from the past
impressions of each user and are judged on later ones, by AUC over all impressions and by AUC
within each user, which is what an order of items shown to one user depends on.
Sources: Rendle 2010 (factorization machines), 2009 (arXiv:1205.2618, pairs of one user); Zhou et
al. 2018 (arXiv:1706.06978, the group AUC of section 6.2).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradstep as gs
import numpy as np
from gradstep import nn
from gradstep.train.metrics import group_auc, roc_auc

PICTURE = Path(__file__).parent.parent / "docs" / "examples" / "click_through.png"
WIDTH = 8  # numbers that describe a user, or an item


@dataclass(frozen=True)
class Impressions:
    """pairs: (N, 2), the number of a user and of the item shown. clicked: (N,), 0 or 1."""

    pairs: Any
    clicked: Any


def impressions(
    users: int = 2000, items: int = 400, past: int = 50, later: int = 25, seed: int = 0
) -> tuple[Impressions, Impressions]:
    """Past impressions of every user, and later ones, drawn from a model of activity and taste."""
    rng = np.random.default_rng(seed)
    activity, popularity = rng.normal(-1.5, 1.8, users), rng.normal(0, 0.8, items)
    taste, kind = rng.standard_normal((users, 3)), rng.standard_normal((items, 3))
    shown = rng.integers(items, size=(users, past + later))
    logit = activity[:, None] + popularity[shown] + (taste[:, None] * kind[shown]).sum(axis=2)
    clicked = (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    pairs = np.stack([np.broadcast_to(np.arange(users)[:, None], shown.shape), shown], axis=2)
    return tuple(
        Impressions(pairs[:, when].reshape(-1, 2), clicked[:, when].reshape(-1))
        for when in (slice(past), slice(past, None))
    )


class Embeddings(nn.Layer):
    """Looks up a vector for the user and one for the item, and multiplies them if asked to.

    y (N, 2 D) for pairs of numbers (N, 2); with products (N, 3 D).
    """

    def __init__(self, users: int, items: int, products: bool, rng: np.random.Generator) -> None:
        super().__init__()
        for name, rows in (("user", users), ("item", items)):
            self.params[name] = (0.1 * rng.standard_normal((rows, WIDTH))).astype(np.float32)
            self.grads[name] = np.zeros_like(self.params[name])
        self._products = products

    def forward(self, x: Any, training: bool = True) -> Any:
        """Return y of pairs x."""
        self._pairs = x
        self._user, self._item = self.params["user"][x[:, 0]], self.params["item"][x[:, 1]]
        parts = [self._user, self._item]
        return np.hstack([*parts, self._user * self._item] if self._products else parts)

    def backward(self, dy: Any) -> Any:
        """Add up in `grads` what came for each row of the tables."""
        duser, ditem = dy[:, :WIDTH].copy(), dy[:, WIDTH : 2 * WIDTH].copy()
        if self._products:
            duser += dy[:, 2 * WIDTH :] * self._item
            ditem += dy[:, 2 * WIDTH :] * self._user
        for column, (name, rows) in enumerate((("user", duser), ("item", ditem))):
            self.grads[name].fill(0)
            np.add.at(self.grads[name], self._pairs[:, column], rows)
        return dy


def log_loss(score: Any, clicked: Any) -> Any:
    """The gradient of the mean log loss in the scores (N, 1)."""
    return (gs.sigmoid(score) - clicked[:, None]).astype(np.float32) / len(clicked)


def by_impression(data: Impressions, size: int, rng: Any) -> Iterator[tuple[Any, Any]]:
    """Rows of an epoch, with a function that makes the gradient of their scores."""
    order = rng.permutation(len(data.clicked))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        yield data.pairs[rows], lambda score, rows=rows: log_loss(score, data.clicked[rows])


def by_pair(data: Impressions, size: int, rng: Any) -> Iterator[tuple[Any, Any]]:
    """Each click beside a random impression without one of the same user: which scores higher?"""
    order = np.lexsort((data.clicked, data.pairs[:, 0]))  # by user, clicks last
    users = data.pairs[order, 0]
    first = np.searchsorted(users, users)
    without = np.bincount(users, weights=1 - data.clicked[order]).astype(np.intp)[users]
    clicks = rng.permutation(np.flatnonzero((data.clicked[order] == 1) & (without > 0)))
    for start in range(0, len(clicks), size // 2):
        above = clicks[start : start + size // 2]
        below = first[above] + rng.integers(without[above])
        yield data.pairs[order[np.concatenate([above, below])]], pairwise


def pairwise(score: Any) -> Any:
    """The gradient of the mean of log(1 + exp(-difference)), the first half being the clicks."""
    half = len(score) // 2
    slope = gs.sigmoid(score[half:] - score[:half]) / half
    return np.concatenate([-slope, slope])


# Name -> whether it multiplies vectors, and what it learns from.
MODELS: dict[str, tuple[bool, Any]] = {
    "activity and popularity": (False, by_impression),
    "with tastes": (True, by_impression),
    "with tastes, from pairs": (True, by_pair),
}
COLORS = {"AUC": "tab:gray", "group AUC": "tab:blue"}


@dataclass(frozen=True)
class Run:
    """The two numbers after every epoch, and users of one class, whom the second leaves out."""

    auc: list[float]
    group_auc: list[float]
    left_out: int


def train(
    name: str, past: Impressions, later: Impressions, epochs: int = 12, size: int = 512
) -> Run:
    """Train a model of MODELS on the past and look at the later impressions after every epoch."""
    products, batches = MODELS[name]
    rng = np.random.default_rng(1)
    users, items = past.pairs.max(axis=0) + 1
    embeddings = Embeddings(users, items, products, rng)
    model = nn.Sequential(embeddings, nn.Linear((2 + products) * WIDTH, 1, rng))
    steps = epochs * -(-len(past.clicked) // size)
    optimizer = gs.AdamW(model.params, lr=gs.cosine(0.02, steps), weight_decay=0.2)
    optimizer.bind(model.grads)
    run = Run([], [], 0)
    for _ in range(epochs):
        for pairs, gradient in batches(past, size, rng):
            model.parameter_gradients(gradient(model.forward(pairs)))
            optimizer.step()
        score = model.forward(later.pairs, False)[:, 0]
        within = group_auc(later.clicked, score, later.pairs[:, 0])
        run.auc.append(roc_auc(later.clicked, score))
        run.group_auc.append(within.auc)
    return Run(run.auc, run.group_auc, len(within.left_out))


def compare(past: Impressions, later: Impressions, epochs: int = 12) -> dict[str, Run]:
    """What became of each model."""
    return {name: train(name, past, later, epochs) for name in MODELS}


def report(runs: dict[str, Run]) -> str:
    """A line for each model."""
    lines = [
        f"{name:26} AUC {run.auc[-1]:.3f}  group AUC {run.group_auc[-1]:.3f}"
        for name, run in runs.items()
    ]
    left_out = next(iter(runs.values())).left_out
    return "\n".join([*lines, f"{left_out} users clicked on all or nothing and are left out"])


def draw(runs: dict[str, Run], path: Path) -> None:
    """Write the picture; needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    places = np.arange(len(runs))
    for side, (quantity, color) in zip((-0.2, 0.2), COLORS.items(), strict=True):
        key = quantity.replace(" ", "_").lower()
        values = [getattr(run, key)[-1] for run in runs.values()]
        bars = left.bar(places + side, values, 0.38, color=color, label=quantity)
        left.bar_label(bars, [f"{value:.3f}" for value in values], padding=2)
        curve = getattr(runs["with tastes"], key)
        right.plot(range(1, len(curve) + 1), curve, "o-", ms=4, lw=1.8, color=color)
    left.set_xticks(places, [name.replace(", ", ",\n") for name in runs])
    left.set_ylim(0.5, 0.95)
    left.set_title("At the end", loc="left", fontsize=11, weight="bold")
    left.legend(frameon=False, ncols=2, loc="upper center")
    right.set_title('"with tastes", epoch by epoch', loc="left", fontsize=11, weight="bold")
    right.set(xlabel="epoch", ylim=left.get_ylim())
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in (left, right):
        axes.grid(alpha=0.3, axis="y")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    found = compare(*impressions())
    print(report(found))
    draw(found, Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
