"""Dropout and its relatives; the mask is a function of (seed, offset, element) and never stored.

All of them drop with probability p and scale what is kept, so that the mean stays, at training
time; nothing is left to do at inference. A call with the same seed and offset makes the same mask,
whatever the CPU, the number of threads and the type: that is how the backward functions know it.
Give every layer its own seed and every call its own offset (`gs.Dropout` counts them).

p is rounded to a multiple of 2**-16, and the scale is the reciprocal of the probability to keep
that this gives. What is dropped is 0 even where x is infinite or NaN. p = 0 copies, p = 1 gives 0.
"""

from __future__ import annotations

import math
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np

from gradstep import _core
from gradstep.arguments import flag
from gradstep.arguments import shape as checked_shape
from gradstep.arrays import Array

__all__ = [
    "alpha_dropout",
    "alpha_dropout_backward",
    "drop_connect",
    "drop_connect_backward",
    "drop_path",
    "drop_path_backward",
    "dropout",
    "dropout_backward",
    "dropout_mask",
    "spatial_dropout",
    "spatial_dropout_backward",
]


def dropout(
    x: Array, p: SupportsFloat, *, seed: SupportsIndex, offset: SupportsIndex = 0, out: Any = None
) -> Array:
    """Sets each element to 0 with probability p and scales the others by 1 / (1 - p).

    x: a C-order array of float32, float64, bfloat16 or float16, any shape. p: in [0, 1]. seed,
    offset: integers from 0 to 2**64 - 1. out: where the result goes, like x or x itself; a new
    array if None.

    Returns the result. Raises TypeError or ValueError, and then nothing was written. Source:
    Srivastava et al. 2014, in the inverted form.

    >>> import numpy as np, gradstep as gs
    >>> gs.dropout(np.ones(8), 0.5, seed=110)
    array([0., 2., 0., 0., 2., 0., 2., 2.])
    """
    return _core.dropout(x, p, seed, offset, out, "x")


def dropout_backward(
    dy: Array, p: SupportsFloat, *, seed: SupportsIndex, offset: SupportsIndex = 0, out: Any = None
) -> Array:
    """The gradient of `dropout` for its input, from that for its output; the mask is made again.

    dy, out: as x and out there. p, seed, offset: those of the forward call. Raises as `dropout`.

    >>> import numpy as np, gradstep as gs
    >>> gs.dropout_backward(np.ones(8), 0.5, seed=110)
    array([0., 2., 0., 0., 2., 0., 2., 2.])
    """
    return _core.dropout(dy, p, seed, offset, out, "dy")


def dropout_mask(
    shape: int | tuple[int, ...],
    p: SupportsFloat,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex = 0,
    packed: bool = False,
) -> Array:
    """The mask that `dropout` uses for an array of that shape: True where an element is kept.

    shape: an integer or a tuple. p, seed, offset: as in `dropout`. packed: a flat array of bytes
    with one bit an element instead, the lowest first, filled up with zeros, as in
    `np.packbits(mask, bitorder="little")`. Raises TypeError or ValueError.

    >>> import numpy as np, gradstep as gs
    >>> gs.dropout_mask(8, 0.5, seed=110)
    array([False,  True, False, False,  True, False,  True,  True])
    >>> gs.dropout_mask(8, 0.5, seed=110, packed=True)
    array([210], dtype=uint8)
    """
    sizes = checked_shape("shape", shape)
    packed = flag("packed", packed)
    n = math.prod(sizes)
    mask = np.empty((n + 7) // 8, np.uint8) if packed else np.empty(sizes, np.bool_)
    _core.dropout_mask(mask, n, p, seed, offset, packed)
    return mask


def spatial_dropout(
    x: Array,
    p: SupportsFloat,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex = 0,
    axis: SupportsIndex = 1,
    out: Any = None,
) -> Array:
    """Sets whole channels of each sample to 0 with probability p and scales the others.

    x: (samples, ...) with the channels along `axis`: 1 for channels first, -1 for channels last,
    and any number of other axes. Channel c of sample n is dropped where element (n, c) of
    `dropout_mask((samples, channels), p)` is False. The rest as in `dropout`. Source: Tompson et
    al. 2015 (arXiv:1411.4280).

    >>> import numpy as np, gradstep as gs
    >>> gs.spatial_dropout(np.ones((1, 3, 2)), 0.5, seed=110)
    array([[[0., 0.],
            [2., 2.],
            [0., 0.]]])
    """
    return _core.spatial_dropout(x, p, axis, seed, offset, out, "x")


def spatial_dropout_backward(
    dy: Array,
    p: SupportsFloat,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex = 0,
    axis: SupportsIndex = 1,
    out: Any = None,
) -> Array:
    """The gradient of `spatial_dropout` for its input, from that for its output.

    Arguments as there. Raises as `dropout`.

    >>> import numpy as np, gradstep as gs
    >>> gs.spatial_dropout_backward(np.ones((1, 2, 3)), 0.5, seed=110, axis=-1)
    array([[[0., 2., 0.],
            [0., 2., 0.]]])
    """
    return _core.spatial_dropout(dy, p, axis, seed, offset, out, "dy")


def drop_path(
    x: Array, p: SupportsFloat, *, seed: SupportsIndex, offset: SupportsIndex = 0, out: Any = None
) -> Array:
    """Sets whole samples to 0 with probability p and scales the others: stochastic depth.

    x: (samples, ...), the output of a residual branch; sample n is dropped where element n of
    `dropout_mask(samples, p)` is False. The rest as in `dropout`. Source: Huang et al. 2016
    (arXiv:1603.09382).

    >>> import numpy as np, gradstep as gs
    >>> gs.drop_path(np.ones((2, 3)), 0.5, seed=110)
    array([[0., 0., 0.],
           [2., 2., 2.]])
    """
    return _core.drop_path(x, p, seed, offset, out, "x")


def drop_path_backward(
    dy: Array, p: SupportsFloat, *, seed: SupportsIndex, offset: SupportsIndex = 0, out: Any = None
) -> Array:
    """The gradient of `drop_path` for its input, from that for its output.

    Arguments as there. Raises as `dropout`.

    >>> import numpy as np, gradstep as gs
    >>> gs.drop_path_backward(np.ones((2, 3)), 0.5, seed=110)
    array([[0., 0., 0.],
           [2., 2., 2.]])
    """
    return _core.drop_path(dy, p, seed, offset, out, "dy")


def drop_connect(
    weight: Array,
    p: SupportsFloat,
    *,
    seed: SupportsIndex,
    offset: SupportsIndex = 0,
    out: Any = None,
) -> Array:
    """Dropout of a layer's weights: use the result in the matrix product instead of `weight`.

    The mask is one for all samples of the batch. Keep `weight`: the optimizer updates it with
    `drop_connect_backward` of the gradient for the result. Arguments and errors as in `dropout`.
    Source: Wan et al. 2013, with the scale of inverted dropout in place of a sampled inference.

    >>> import numpy as np, gradstep as gs
    >>> gs.drop_connect(np.ones((2, 3)), 0.5, seed=110)
    array([[0., 2., 0.],
           [0., 2., 0.]])
    """
    return _core.dropout(weight, p, seed, offset, out, "weight")


def drop_connect_backward(
    dy: Array, p: SupportsFloat, *, seed: SupportsIndex, offset: SupportsIndex = 0, out: Any = None
) -> Array:
    """The gradient of `drop_connect` for its weights, from that for its result.

    Arguments as there. Raises as `dropout`.

    >>> import numpy as np, gradstep as gs
    >>> gs.drop_connect_backward(np.ones((2, 3)), 0.5, seed=110)
    array([[0., 2., 0.],
           [0., 2., 0.]])
    """
    return _core.dropout(dy, p, seed, offset, out, "dy")


def alpha_dropout(
    x: Array, p: SupportsFloat, *, seed: SupportsIndex, offset: SupportsIndex = 0, out: Any = None
) -> Array:
    """Dropout for SELU networks: keeps mean 0 and variance 1.

    With probability p an element becomes a' = -1.7580993408473766, where SELU saturates; then all
    are scaled by a = (q + a'^2 q (1 - q))^-1/2 and shifted by -a (1 - q) a', where q is the
    probability to keep. p = 1 gives 0, the limit. Arguments and errors as in `dropout`. Source:
    Klambauer et al. 2017 (arXiv:1706.02515).

    >>> import numpy as np, gradstep as gs
    >>> gs.alpha_dropout(np.zeros(4), 0.5, seed=110).round(3)
    array([-0.779,  0.779, -0.779, -0.779])
    """
    return _core.alpha_dropout(x, p, seed, offset, out, False)


def alpha_dropout_backward(
    dy: Array, p: SupportsFloat, *, seed: SupportsIndex, offset: SupportsIndex = 0, out: Any = None
) -> Array:
    """The gradient of `alpha_dropout` for its input, from that for its output.

    Arguments as there. Raises as `dropout`.

    >>> import numpy as np, gradstep as gs
    >>> gs.alpha_dropout_backward(np.ones(4), 0.5, seed=110).round(3)
    array([0.   , 0.886, 0.   , 0.   ])
    """
    return _core.alpha_dropout(dy, p, seed, offset, out, True)
