"""Looking at gradients and keeping them in bounds; works on any arrays.

A tree is an array, a sequence, a mapping, or these nested, of contiguous float32 or float64.
Sums are in double, in an order that does not depend on threads or the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from gradstep import _core
from gradstep.arrays import (
    Array,
    Name,
    Tree,
    as_array,
    check_names,
    flatten,
    label,
    leaves_like,
    listed,
    rebuilt,
)
from gradstep.optim.hyperparameters import check_range

__all__ = [
    "Summary",
    "accumulate",
    "clip_norm_",
    "clip_value_",
    "describe",
    "global_norm",
    "nonfinite",
]

HYPER = ["maximize", "clip_value", "l1", "l2"]


class Summary(NamedTuple):
    """What an array holds. All but `nonfinite` are over its finite elements.

    min, max, mean, rms (root of the mean square): NaN where there is no finite element.
    nonfinite: the number of elements that are NaN or infinite. size: the number of elements.
    """

    min: float
    max: float
    mean: float
    rms: float
    nonfinite: int
    size: int


def global_norm(grads: Tree) -> float:
    """L2 norm of all arrays together.

    grads: a tree of float32 or float64 arrays, or numbers. Raises TypeError or ValueError for
    others.

    >>> import numpy as np, gradstep as gs
    >>> gs.global_norm({"w": np.array([3.0]), "b": np.array([4.0])})
    5.0
    """
    names, arrays = flatten(grads, "grads")
    return _core.global_norm(arrays, names, "grads")


def block_sums(array: Array) -> NDArray[np.float64]:
    """The sums of squares of each 4096 elements, which a norm is made of."""
    return _core.block_sums(array, "array")


def narrow(x: Array, out: Array) -> None:
    """Rounds float32 to bfloat16 or float16, to nearest; both in C order and of one shape."""
    _core.narrow(x, out)


def widen(x: Array, into: Array, add: bool) -> None:
    """The reverse; add: to what is there."""
    _core.widen(x, into, add)


def accumulate(grads: Tree, *, into: Tree) -> Tree:
    """Adds the gradients of a batch to those of the batches before, in one pass.

    grads: a tree of arrays, float32, bfloat16 or float16, or float64 beside float64. into: writable
    float32 or float64 arrays of the same shapes and order, zeros at first. float16 and bfloat16 are
    added as float32.

    Returns what the norm of `into` is made of, arranged like it: for each array the sums of the
    squares of 4096 elements, float64 (ceil(N / 4096),). Given to `step(into, sums=...)`, they spare
    the step another pass for `clip_norm` and `on_nonfinite`; they hold until `into` changes. Raises
    TypeError or ValueError, and then nothing was written.

    >>> import numpy as np, gradstep as gs
    >>> w, total = np.ones(2, np.float32), np.zeros(2, np.float32)
    >>> opt = gs.SGD(w, lr=1.0, clip_norm=1.0, on_nonfinite="skip")
    >>> for batch in ([1.0, 4.0], [2.0, 0.0]):
    ...     sums = gs.accumulate(np.float32(batch), into=total)
    >>> opt.step(total, sums=sums, zero_grads=True).grad_norm
    5.0
    >>> w.round(3), total
    (array([0.4, 0.2], dtype=float32), array([0., 0.], dtype=float32))
    """
    into = listed(into)
    names, totals = flatten(into, "into")
    check_names(names, "into")
    values = leaves_like(into, grads, "grads", "into")
    for name, leaf in zip(names, values, strict=True):
        if leaf is None:  # of a step it would mean to leave the tensor alone
            raise TypeError(f"{label('grads', name)}: NoneType, expected a numpy.ndarray")
    tensors = [(name, 0, array) for name, array in zip(names, totals, strict=True)]
    plan = _core.Plan([("Assign", HYPER)], tensors, ("into", "state", "grads"))
    sums = [np.empty(-(-array.size // _core.SUM_BLOCK)) for array in totals]
    arranged = rebuilt(into, sums)
    plan.accumulate(values, sums)
    return arranged


def _assign(grads: Tree, clip_value: float, clip_norm: float) -> float:
    names, arrays = flatten(grads, "grads")
    tensors = [(name, 0, array) for name, array in zip(names, arrays, strict=True)]
    plan = _core.Plan([("Assign", HYPER)], tensors, ("grads", "state", "grads"))
    plan.set_hyper(0, [0.0, clip_value, 0.0, 0.0])
    _, norm, _ = plan.step(arrays, 1.0, clip_norm, False)
    return 0.0 if norm is None else norm


def clip_norm_(grads: Tree, max_norm: float) -> float:
    """Scales arrays in place so that their global L2 norm is at most `max_norm`.

    All are multiplied by min(1, max_norm / (norm + 1e-6)), as in `torch.nn.utils.clip_grad_norm_`.
    Returns the norm before. Pascanu, Mikolov & Bengio 2013 (arXiv:1211.5063). An optimizer's
    `clip_norm=` does the same without writing the gradients. Raises TypeError or ValueError.

    >>> import numpy as np, gradstep as gs
    >>> g = np.array([3.0, 4.0])
    >>> gs.clip_norm_(g, 1.0)
    5.0
    >>> g.round(3)
    array([0.6, 0.8])
    """
    return _assign(grads, math.inf, check_range("clip_norm", max_norm, "max_norm"))


def clip_value_(grads: Tree, value: float) -> None:
    """Limits every element to [-value, value] in place; NaN stays.

    Raises TypeError or ValueError.

    >>> import numpy as np, gradstep as gs
    >>> g = np.array([-3.0, 0.5])
    >>> gs.clip_value_(g, 1.0)
    >>> g
    array([-1. ,  0.5])
    """
    _assign(grads, check_range("clip_value", value, "value"), 0.0)


def describe(tree: Tree) -> dict[Name, Summary]:
    """A Summary of each array, by name (None for a lone array).

    Raises TypeError or ValueError.

    >>> import numpy as np, gradstep as gs
    >>> gs.describe({"w": np.array([1.0, 3.0, np.nan])})["w"]
    Summary(min=1.0, max=3.0, mean=2.0, rms=2.23606797749979, nonfinite=1, size=3)
    """
    names, arrays = flatten(tree, "tree")
    check_names(names, "tree")
    found: dict[Name, Summary] = {}
    for name, array, row in zip(names, arrays, _core.summarize(arrays, names, "tree"), strict=True):
        found[name] = _summary(array, *row)
    return found


def _summary(
    array: Any, low: float, high: float, total: float, squares: float, bad: int
) -> Summary:
    size = np.size(array)
    count = size - bad
    if count == 0:
        return Summary(math.nan, math.nan, math.nan, math.nan, bad, size)
    return Summary(low, high, total / count, math.sqrt(squares / count), bad, size)


def raise_nonfinite(names: Iterable[Name], grads: Iterable[Any]) -> NoReturn:
    """Raises FloatingPointError that names the first gradient with elements that are not finite."""
    for name, leaf in zip(names, grads, strict=True):
        bad = 0 if leaf is None else nonfinite(leaf).get(None, 0)
        if bad:
            what = f"{label('grads', name)}: {bad} of {np.size(as_array(leaf))} elements"
            raise FloatingPointError(f"{what} are not finite")
    raise FloatingPointError("grads: the sum of their squares overflows float64")


def nonfinite(tree: Tree) -> dict[Name, int]:
    """The number of NaN or infinite elements of each array that has any, by name.

    Tells which parameter or gradient is the first suspect when the loss is NaN. Raises TypeError
    or ValueError.

    >>> import numpy as np, gradstep as gs
    >>> gs.nonfinite({"w": np.ones(3), "b": np.array([np.inf, 0.0])})
    {'b': 1}
    """
    return {name: row.nonfinite for name, row in describe(tree).items() if row.nonfinite}
