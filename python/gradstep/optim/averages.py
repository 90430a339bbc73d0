"""Exponentially weighted averages, in place."""

from __future__ import annotations

import numpy as np

from gradstep import _core
from gradstep.arguments import integer
from gradstep.arrays import Array, Tree, as_array, flatten, label, leaves_like, listed, rebuilt
from gradstep.optim.hyperparameters import check_range
from gradstep.optim.state import MAX_STEP

__all__ = ["BoundAverage", "ewma_"]

HYPER = ["maximize", "clip_value", "l1", "l2", "beta"]


def _step(step: int | None) -> int:
    return 1 if step is None else integer("step", step, 1, MAX_STEP)


def ewma_(
    average: Tree, value: Tree, beta: float, *, step: int | None = None, out: Tree = None
) -> Tree:
    """Moves averages towards values in place: average = beta average + (1 - beta) value.

    average: an array or a tree of arrays, float32 or float64, updated in place. value: the same
    shapes and dtypes. beta: in [0, 1). With `step`, the number of values seen including this one,
    the average without its bias towards a start at 0, average / (1 - beta**step), is written to
    `out` (new arrays if None); `average` itself stays the plain sum.

    Returns `average`, or the corrected one with `step`. Raises TypeError or ValueError, and then
    nothing was written. Source: the moments of Kingma & Ba 2015 (arXiv:1412.6980), section 3.

    >>> import numpy as np, gradstep as gs
    >>> average = np.zeros(1)
    >>> gs.ewma_(average, np.array([10.0]), 0.75)
    array([2.5])
    >>> gs.ewma_(average, np.array([10.0]), 0.75, step=2)
    array([10.])
    """
    average = listed(average)
    names, averages = flatten(average, "average")
    values = leaves_like(average, value, "value", "average")
    for name, leaf in zip(names, values, strict=True):
        if leaf is None:  # of a gradient it would mean to leave the tensor alone
            raise TypeError(f"{label('value', name)}: NoneType, expected a numpy.ndarray")
    count = _step(step)
    if step is None and out is not None:
        raise ValueError("out: given without step, expected both or none")
    outs: list[Array] = []
    if step is not None and out is None:
        outs = [np.empty_like(a) for a in averages]
    elif step is not None:
        leaves = leaves_like(average, out, "out", "average")
        outs = [as_array(leaf, "out", name) for name, leaf in zip(names, leaves, strict=True)]
    rows = list(zip(names, averages, *([outs] if outs else []), strict=True))
    tensors = [(name, 0, *arrays) for name, *arrays in rows]
    kernel = "Average" if step is None else "CorrectedAverage"
    plan = _core.Plan([(kernel, HYPER)], tensors, ("average", "out", "value"))
    plan.set_hyper(0, [0.0, np.inf, 0.0, 0.0, check_range("betas", beta, "beta")])
    plan.steps = [count - 1] * len(tensors)
    plan.step(values, 1.0, 0.0, False)
    if step is None:
        return average
    return rebuilt(average, outs) if out is None else out


class BoundAverage:
    """`ewma_` over the same arrays again and again: checked once, then one native call an update.

    average, value: as for `ewma_`; both must stay in place. Raises TypeError or ValueError.

    >>> average, value = np.zeros(1), np.ones(1)
    >>> bound = BoundAverage({"w": average}, {"w": value})
    >>> bound.update(0.75)
    >>> bound.update(0.75)
    >>> average
    array([0.4375])
    """

    def __init__(self, average: Tree, value: Tree) -> None:
        names, averages = flatten(average, "average")
        values = leaves_like(average, value, "value", "average")
        tensors = [(name, 0, array) for name, array in zip(names, averages, strict=True)]
        self._plan = _core.Plan([("Average", HYPER)], tensors, ("average", "out", "value"))
        self._plan.bind([as_array(v, "value", n) for n, v in zip(names, values, strict=True)])

    def update(self, beta: float) -> None:
        """Move the averages: average = beta average + (1 - beta) value."""
        self._plan.set_hyper(0, [0.0, np.inf, 0.0, 0.0, check_range("betas", beta, "beta")])
        self._plan.step(None, 1.0, 0.0, False)
