"""Normalisation: batch, layer, RMS, group and instance norm, forward and backward, on any arrays.

Arrays are float32, float64, bfloat16 or float16 in C order. The last two are computed in float32
and rounded once; weight, bias and running statistics beside them are float32 or of x's type, and
gradients of weight and bias of weight's type, float32 where there is none. Sums are in double, in
an order that depends on the shape alone. `mean` and `invstd` = 1 / √(variance + eps) are float64
for any type, so that backward is exact for a mean of 1e6 with deviation 1. `out` is the result's
memory: None for new memory, x (or dy) for in place. A TypeError or ValueError leaves everything as
it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradstep import _core
from gradstep.arguments import array, integer, kind, several
from gradstep.arrays import Array

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_stats",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "merge_stats",
    "rms_norm",
    "rms_norm_backward",
]

Doubles: TypeAlias = NDArray[np.float64]
Activation: TypeAlias = Literal["relu"] | None
Stats: TypeAlias = tuple[Doubles, Doubles, int]


def batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    training: bool,
    momentum: float | None = 0.1,
    num_batches_tracked: int | None = None,
    eps: float = 1e-5,
    axis: int = 1,
    activation: Activation = None,
    out: Array | None = None,
) -> tuple[Array, Doubles, Doubles]:
    """Normalises every channel: y = (x - mean) invstd weight + bias. Returns (y, mean, invstd).

    x: (N, C, ...) for axis 1, (..., C) for axis -1, (N, C) for either. weight, bias: (C,) of x's
    type, or None for 1 and 0. running_mean, running_var: (C,) of x's type or float64, or None in
    training. In training the statistics are those of x (the variance biased), and the running ones
    become (1 - momentum) running + momentum batch (the variance unbiased). momentum None averages
    all batches, of which this is number `num_batches_tracked` = 1, 2, ... Otherwise the running
    statistics are used. eps: >= 0. activation "relu" makes what is below 0 zero in the same pass.

    Raises TypeError or ValueError, also for one value per channel in training. An empty batch
    leaves the running statistics. A constant channel gives exactly its bias. Ioffe & Szegedy 2015
    (arXiv:1502.03167).

    >>> import numpy as np, gradstep as gs
    >>> x = np.array([[1.0, 5.0], [3.0, 5.0]])
    >>> y, mean, invstd = gs.batch_norm(x, None, None, None, None, training=True, eps=0)
    >>> y
    array([[-1.,  0.],
           [ 1.,  0.]])
    """
    return _core.batch_norm(
        x,
        weight,
        bias,
        running_mean,
        running_var,
        training,
        momentum,
        num_batches_tracked,
        eps,
        axis,
        activation,
        out,
    )


def batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Doubles,
    invstd: Doubles,
    *,
    training: bool = True,
    axis: int = 1,
    activation: Activation = None,
    bias: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `batch_norm`: (dx, dweight, dbias), from the gradient dy of y.

    x, weight, training, axis, activation: as forward. mean, invstd: (C,) float64, what forward
    returned. bias: what forward had, needed with activation "relu", whose zeros are found again
    from x. out: where dx goes. dweight and dbias are (C,) of x's type, also where weight is None.
    With training False dx = weight invstd dy: the statistics are constants.

    Raises TypeError or ValueError. Ioffe & Szegedy 2015 (arXiv:1502.03167).

    >>> import numpy as np, gradstep as gs
    >>> x, dy = np.array([[1.0], [2.0], [6.0]]), np.array([[1.0], [0.0], [0.0]])
    >>> _, mean, invstd = gs.batch_norm(x, None, None, None, None, training=True)
    >>> dx, dweight, dbias = gs.batch_norm_backward(dy, x, None, mean, invstd)
    >>> dx.sum().round(9), dbias
    (np.float64(0.0), array([1.]))
    """
    return _core.batch_norm_backward(
        dy, x, weight, mean, invstd, training, axis, activation, bias, out
    )


def batch_norm_stats(x: Array, axis: int = 1) -> Stats:
    """Mean (C,), biased variance (C,) and count of values of every channel, in float64.

    x: as in `batch_norm`. Raises TypeError or ValueError. Those of an empty batch are zeros.

    >>> import numpy as np, gradstep as gs
    >>> gs.batch_norm_stats(np.array([[1.0], [3.0]]))
    (array([2.]), array([1.]), 2)
    """
    return _core.batch_norm_stats(x, axis)


def merge_stats(stats: Iterable[Stats]) -> Stats:
    """The statistics of several batches as of one, from those of each, in the order given.

    stats: (mean, biased variance, count) of each, as `batch_norm_stats` returns them. For
    synchronised batch norm, give the result to `batch_norm` with training=False. Raises TypeError,
    or ValueError where there is none or channels differ. Chan, Golub & LeVeque 1979.

    >>> import numpy as np, gradstep as gs
    >>> parts = [gs.batch_norm_stats(np.array([[1.0], [3.0]])),
    ...          gs.batch_norm_stats(np.array([[5.0], [7.0]]))]
    >>> gs.merge_stats(parts)
    (array([4.]), array([5.]), 4)
    """
    total: Stats | None = None
    for mean, variance, count in _checked_stats(stats):
        if total is None or total[2] == 0:
            total = mean, variance, count
        elif count:
            both = total[2] + count
            delta = mean - total[0]
            m2 = total[1] * total[2] + variance * count + delta * delta * (total[2] * count / both)
            total = total[0] + delta * (count / both), m2 / both, both
    if total is None:
        raise ValueError("stats: none, expected (mean, variance, count) of one batch or more")
    return total


def _checked_stats(stats: Any) -> list[Stats]:
    found: list[Stats] = []
    for i, part in enumerate(several("stats", stats, lambda _, part: part)):
        where = f"stats[{i}]"
        if not isinstance(part, (tuple, list)) or len(part) != 3:
            raise TypeError(f"{where}: {kind(part)}, expected (mean, variance, count)")
        mean, variance = (array(f"{where}[{j}]", part[j], np.float64) for j in range(2))
        like = found[0][0].shape if found else mean.shape
        for j, each in enumerate((mean, variance)):
            if each.ndim != 1 or each.shape != like:
                expected = like if len(like) == 1 else "(C,)"
                raise ValueError(f"{where}[{j}]: shape {each.shape}, expected {expected}")
        found.append((mean, variance, integer(f"{where}[2]", part[2], 0)))
    return found


def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axes: int | None = None,
    eps: float = 1e-5,
    out: Array | None = None,
) -> tuple[Array, Doubles, Doubles]:
    """Normalises over the trailing axes, with weight and bias by element: (y, mean, invstd).

    weight, bias: the shape of those axes, of x's type, or None. axes: how many trailing axes;
    None: those of weight, or 1. mean and invstd have the shape of the axes before them. Raises
    TypeError or ValueError. Ba, Kiros & Hinton 2016 (arXiv:1607.06450).

    >>> import numpy as np, gradstep as gs
    >>> gs.layer_norm(np.array([[1.0, 3.0], [2.0, 2.0]]), eps=0)[0]
    array([[-1.,  1.],
           [ 0.,  0.]])
    """
    return _core.layer_norm(x, weight, bias, eps, axes, out)


def layer_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Doubles,
    invstd: Doubles,
    *,
    axes: int | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `layer_norm`: (dx, dweight, dbias). mean, invstd: what forward returned.

    Raises TypeError or ValueError. Ba, Kiros & Hinton 2016 (arXiv:1607.06450).

    >>> import numpy as np, gradstep as gs
    >>> x = np.array([[1.0, 3.0]])
    >>> _, mean, invstd = gs.layer_norm(x)
    >>> gs.layer_norm_backward(np.ones((1, 2)), x, None, mean, invstd)[2]
    array([1., 1.])
    """
    return _core.layer_norm_backward(dy, x, weight, mean, invstd, axes, out)


def rms_norm(
    x: Array,
    weight: Array | None = None,
    *,
    axes: int | None = None,
    eps: float | None = None,
    out: Array | None = None,
) -> tuple[Array, Doubles]:
    """Divides by the root of the mean square over the trailing axes: (y, invstd).

    y = x invstd weight, invstd = 1 / √(mean(x²) + eps). weight, axes: as in `layer_norm`. eps:
    None is the machine epsilon of x's type, as in torch. Raises TypeError or ValueError.
    Zhang & Sennrich 2019 (arXiv:1910.07467).

    >>> import numpy as np, gradstep as gs
    >>> gs.rms_norm(np.array([[3.0, 3.0, -3.0]]), eps=0)[0]
    array([[ 1.,  1., -1.]])
    """
    if eps is None:
        eps = float(np.finfo(np.float32 if getattr(x, "dtype", None) == np.float32 else float).eps)
    return _core.rms_norm(x, weight, eps, axes, out)


def rms_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    invstd: Doubles,
    *,
    axes: int | None = None,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """The gradients of `rms_norm`: (dx, dweight). invstd: what forward returned.

    Raises TypeError or ValueError. Zhang & Sennrich 2019 (arXiv:1910.07467).

    >>> import numpy as np, gradstep as gs
    >>> x = np.array([[2.0, 2.0]])
    >>> _, invstd = gs.rms_norm(x, eps=0)
    >>> gs.rms_norm_backward(np.ones((1, 2)), x, None, invstd)[1]
    array([1., 1.])
    """
    return _core.rms_norm_backward(dy, x, weight, invstd, axes, out)


def group_norm(
    x: Array,
    groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> tuple[Array, Doubles, Doubles]:
    """Normalises groups of neighbouring channels of every sample: (y, mean, invstd).

    x: (N, C, ...). groups: a divisor of C. weight, bias: (C,) of x's type, or None. mean and invstd
    are (N, groups). Raises TypeError or ValueError, also for one value per group. Wu & He 2018
    (arXiv:1803.08494).

    >>> import numpy as np, gradstep as gs
    >>> gs.group_norm(np.array([[1.0, 3.0, 7.0, 7.0]]), 2, eps=0)[0]
    array([[-1.,  1.,  0.,  0.]])
    """
    return _core.group_norm(x, groups, weight, bias, eps, out)


def group_norm_backward(
    dy: Array,
    x: Array,
    groups: int,
    weight: Array | None,
    mean: Doubles,
    invstd: Doubles,
    *,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `group_norm`: (dx, dweight, dbias). mean, invstd: what forward returned.

    Raises TypeError or ValueError. Wu & He 2018 (arXiv:1803.08494).

    >>> import numpy as np, gradstep as gs
    >>> x = np.array([[1.0, 3.0, 7.0, 9.0]])
    >>> _, mean, invstd = gs.group_norm(x, 2)
    >>> gs.group_norm_backward(np.ones((1, 4)), x, 2, None, mean, invstd)[2]
    array([1., 1., 1., 1.])
    """
    return _core.group_norm_backward(dy, x, groups, weight, mean, invstd, out)


def instance_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    eps: float = 1e-5,
    out: Array | None = None,
) -> tuple[Array, Doubles, Doubles]:
    """Normalises every channel of every sample: (y, mean, invstd), the latter (N, C).

    x: (N, C, ...). weight, bias: (C,) of x's type, or None. Raises TypeError or ValueError, also
    for one value per channel of a sample. Ulyanov, Vedaldi & Lempitsky 2016 (arXiv:1607.08022).

    >>> import numpy as np, gradstep as gs
    >>> gs.instance_norm(np.array([[[1.0, 3.0], [5.0, 5.0]]]), eps=0)[0]
    array([[[-1.,  1.],
            [ 0.,  0.]]])
    """
    return _core.instance_norm(x, weight, bias, eps, out)


def instance_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Doubles,
    invstd: Doubles,
    *,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `instance_norm`: (dx, dweight, dbias). mean, invstd: what forward returned.

    Raises TypeError or ValueError. Ulyanov, Vedaldi & Lempitsky 2016 (arXiv:1607.08022).

    >>> import numpy as np, gradstep as gs
    >>> x = np.array([[[1.0, 3.0]]])
    >>> _, mean, invstd = gs.instance_norm(x)
    >>> gs.instance_norm_backward(np.ones((1, 1, 2)), x, None, mean, invstd)[2]
    array([2.])
    """
    return _core.instance_norm_backward(dy, x, weight, mean, invstd, out)
