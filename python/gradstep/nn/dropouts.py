"""Dropout as objects that count their calls, so that no mask repeats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, SupportsFloat, SupportsIndex

import numpy as np

from gradstep.arguments import array, entry, flag, integer, shown
from gradstep.arrays import Array
from gradstep.nn.settings import Setting
from gradstep.ops import dropout as functions
from gradstep.spec.philox import STREAM_VERSION

__all__ = [
    "DROPOUTS",
    "AlphaDropout",
    "DropConnect",
    "DropPath",
    "Dropout",
    "SpatialDropout",
]

LAST_CALL = 2**64 - 1


def _check(p: Any, seed: Any, calls: Any = 0) -> None:
    """Raises what a call with them would raise."""
    functions.dropout_mask(0, p, seed=seed, offset=calls)


def _as_it_is(name: str, x: Any) -> Array:
    return array(name, x) if isinstance(x, np.ndarray) else functions.dropout(x, 0.0, seed=0)


class Dropout:
    """`gs.dropout` as a layer: call number n, from 0 on, uses offset n of its seed.

    p: the probability to drop, in [0, 1]; may be assigned between steps. seed: an integer from 0 to
    2**64 - 1; layers with the same seed drop the same elements, so give each its own. Raises
    TypeError or ValueError. Source: Srivastava et al. 2014.

    >>> import numpy as np, gradstep as gs
    >>> drop = gs.Dropout(0.5, seed=110)
    >>> drop(np.ones(8))
    array([0., 2., 0., 0., 2., 0., 2., 2.])
    >>> drop(np.ones(8))
    array([2., 2., 0., 2., 0., 0., 2., 0.])
    >>> drop.backward(np.ones(8))
    array([2., 2., 0., 2., 0., 0., 2., 0.])
    >>> drop(np.ones(8), training=False)
    array([1., 1., 1., 1., 1., 1., 1., 1.])
    """

    LAST_CALL: ClassVar[int] = LAST_CALL

    def __init__(self, p: SupportsFloat, seed: SupportsIndex) -> None:
        _check(p, seed)
        self._p, self._seed = float(p), int(seed)
        self._calls = 0
        # (p, offset, shape) of the latest forward call, p None at inference; None before any.
        self._latest: tuple[float | None, int, tuple[int, ...]] | None = None

    @property
    def p(self) -> float:
        """The probability to drop. A backward call uses that of its forward call."""
        return self._p

    @p.setter
    def p(self, p: SupportsFloat) -> None:
        _check(p, 0)
        self._p = float(p)

    @property
    def seed(self) -> int:
        """The seed of all masks of this layer."""
        return self._seed

    @property
    def calls(self) -> int:
        """The number of forward calls in training so far: the offset of the next one."""
        return self._calls

    def __repr__(self) -> str:
        return f"{type(self).__name__}(p={self._p}, seed={self._seed}, calls={self._calls})"

    def _apply(self, x: Array, p: float, offset: int, out: Any) -> Array:
        return functions.dropout(x, p, seed=self._seed, offset=offset, out=out)

    def _apply_backward(self, dy: Array, p: float, offset: int, out: Any) -> Array:
        return functions.dropout_backward(dy, p, seed=self._seed, offset=offset, out=out)

    def forward(self, x: Array, training: bool = True, out: Any = None) -> Array:
        """Drops with the next mask; without `training`, returns x as it is.

        x, out: as for the function of the same name; at inference x is copied to `out` if given.
        Raises TypeError or ValueError, and then nothing was written or counted.
        """
        if not flag("training", training):
            y = _as_it_is("x", x) if out is None else functions.dropout(x, 0.0, seed=0, out=out)
            self._latest = (None, 0, y.shape)
            return y
        if self._calls > self.LAST_CALL:
            raise ValueError(
                f"calls: {self._calls}, expected at most 2**64 - {2**64 - self.LAST_CALL}"
            )
        y = self._apply(x, self._p, self._calls, out)
        self._latest = (self._p, self._calls, y.shape)
        self._calls += 1
        return y

    __call__ = forward

    def backward(self, dy: Array, out: Any = None) -> Array:
        """The gradient for the input of the latest forward call, from that for its output.

        dy, out: as for the function of the same name; after a call at inference, dy as it is.
        Raises RuntimeError before any forward call; TypeError or ValueError, also where dy is not
        shaped like x.
        """
        if self._latest is None:
            raise RuntimeError("backward: called before forward")
        p, offset, shape = self._latest
        if isinstance(dy, (np.ndarray, np.generic, float)) and np.shape(dy) != shape:
            raise ValueError(f"dy: shape {np.shape(dy)}, expected {shape} as in x")
        if p is not None:
            return self._apply_backward(dy, p, offset, out)
        if out is not None:
            return functions.dropout_backward(dy, 0.0, seed=0, out=out)
        return _as_it_is("dy", dy)

    def state_dict(self) -> dict[str, Any]:
        """All that the next masks depend on, as plain numbers and strings."""
        return {
            "layer": type(self).__name__,
            "stream": STREAM_VERSION,
            "p": self._p,
            "seed": self._seed,
            "calls": self._calls,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` gave; all of it is checked before anything changes.

        Raises TypeError or ValueError. The latest forward call is forgotten.
        """
        expected = self.state_dict()
        found = {key: entry(state_dict, key, "state_dict") for key in expected}
        for key in ("layer", "stream"):
            if found[key] != expected[key]:
                what = f"state_dict[{key!r}]: {shown(found[key])}"
                raise ValueError(f"{what}, expected {expected[key]!r}")
        p, seed, calls = (found[key] for key in ("p", "seed", "calls"))
        _check(p, seed)
        integer("calls", calls, 0, LAST_CALL + 1)
        self._p, self._seed, self._calls, self._latest = float(p), int(seed), int(calls), None


class DropConnect(Dropout):
    """`gs.drop_connect` as a layer over weights; arguments and errors as of Dropout.

    >>> import numpy as np, gradstep as gs
    >>> gs.DropConnect(0.5, seed=110)(np.ones(4))
    array([0., 2., 0., 0.])
    """


class SpatialDropout(Dropout):
    """`gs.spatial_dropout` as a layer; arguments and errors as of Dropout.

    axis: that of the channels, 1 or -1 as a rule.

    >>> import numpy as np, gradstep as gs
    >>> gs.SpatialDropout(0.5, seed=110)(np.ones((1, 2, 3)))
    array([[[0., 0., 0.],
            [2., 2., 2.]]])
    """

    axis: Any = Setting(integer)

    def __init__(self, p: SupportsFloat, seed: SupportsIndex, axis: SupportsIndex = 1) -> None:
        super().__init__(p, seed)
        self.axis = axis

    def _apply(self, x: Array, p: float, offset: int, out: Any) -> Array:
        return functions.spatial_dropout(
            x, p, seed=self._seed, offset=offset, axis=self.axis, out=out
        )

    def _apply_backward(self, dy: Array, p: float, offset: int, out: Any) -> Array:
        return functions.spatial_dropout_backward(
            dy, p, seed=self._seed, offset=offset, axis=self.axis, out=out
        )


class DropPath(Dropout):
    """`gs.drop_path` as a layer; arguments and errors as of Dropout.

    >>> import numpy as np, gradstep as gs
    >>> gs.DropPath(0.5, seed=110)(np.ones((2, 2)))
    array([[0., 0.],
           [2., 2.]])
    """

    def _apply(self, x: Array, p: float, offset: int, out: Any) -> Array:
        return functions.drop_path(x, p, seed=self._seed, offset=offset, out=out)

    def _apply_backward(self, dy: Array, p: float, offset: int, out: Any) -> Array:
        return functions.drop_path_backward(dy, p, seed=self._seed, offset=offset, out=out)


class AlphaDropout(Dropout):
    """`gs.alpha_dropout` as a layer; arguments and errors as of Dropout.

    >>> import numpy as np, gradstep as gs
    >>> gs.AlphaDropout(0.5, seed=110)(np.zeros(2)).round(3)
    array([-0.779,  0.779])
    """

    def _apply(self, x: Array, p: float, offset: int, out: Any) -> Array:
        return functions.alpha_dropout(x, p, seed=self._seed, offset=offset, out=out)

    def _apply_backward(self, dy: Array, p: float, offset: int, out: Any) -> Array:
        return functions.alpha_dropout_backward(dy, p, seed=self._seed, offset=offset, out=out)


DROPOUTS: dict[str, type[Dropout]] = {
    layer.__name__: layer
    for layer in (Dropout, DropConnect, SpatialDropout, DropPath, AlphaDropout)
}
