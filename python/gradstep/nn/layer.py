"""What every layer is: forward, backward, the arrays it learns and those it keeps up to date."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from copy import copy
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from gradstep.arguments import array, entry, flag, mapping

__all__ = ["Buffer", "FloatArray", "Layer", "check_batch", "check_forward", "walk"]

FloatArray = npt.NDArray[np.floating]


class Buffer:
    """Rows of scratch memory: grows to the largest batch seen, smaller batches are a view of it."""

    def __init__(self) -> None:
        self._array: npt.NDArray[np.generic] | None = None

    def like(self, x: FloatArray, columns: tuple[int, ...] | None = None) -> FloatArray:
        """Return uninitialised (len(x), *columns) of x's dtype; x.shape[1:] unless given."""
        shape = (len(x), *(x.shape[1:] if columns is None else columns))
        held = self._array
        fits = held is not None and held.shape[1:] == shape[1:] and held.dtype == x.dtype
        if held is None or not fits or len(held) < len(x):
            held = self._array = np.empty(shape, x.dtype)
        return held[: len(x)]  # type: ignore[return-value]


def check_batch(
    name: str, x: Any, *shape: int | str, dtype: Any = None, c_order: bool = True
) -> None:
    """Raises TypeError or ValueError unless x is an array of this shape.

    shape: sizes, or letters for any size; "..." at either end is any number of axes. dtype: the
    only one allowed, instead of float32 and float64.

    >>> check_batch("x", np.zeros((2, 3)), "N", 4)
    Traceback (most recent call last):
    ValueError: x: shape (2, 3), expected (N, 4)
    """
    array(name, x, *([] if dtype is None else [dtype]))
    found, wanted = x.shape, shape
    if "..." in shape:
        wanted = tuple(size for size in shape if size != "...")
        found = found[-len(wanted) :] if shape[0] == "..." else found[: len(wanted)]
    fits = len(found) == len(wanted) and all(
        size == expected or type(expected) is str
        for size, expected in zip(found, wanted, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: shape {x.shape}, expected ({', '.join(map(str, shape))})")
    if c_order and not x.flags.c_contiguous:
        raise ValueError(
            f"{name}: shape {x.shape} with strides {x.strides}, expected C order; "
            "numpy.ascontiguousarray makes it"
        )


def check_forward(
    x: Any, training: Any, *shape: int | str, dtype: Any = None, c_order: bool = True
) -> None:
    """check_batch of x, and the same for the other argument of `forward`."""
    flag("training", training)
    check_batch("x", x, *shape, dtype=dtype, c_order=c_order)


class Layer(ABC):
    """A differentiable function of a batch, with the arrays it learns.

    params, grads: name -> array, what an optimizer takes. buffers: name -> array, what else the
    results of later calls depend on: running statistics, counters of dropout. All of these are the
    same objects for the whole life of the layer. layers: the layers inside, if any. seconds: kind
    of layer -> time spent in such layers, which networks count. smallest_batch: rows that a batch
    needs in training.
    Layers here take float32 and float64. They raise TypeError for another kind or type and
    ValueError for a value or a shape, where they are made, in `forward` and in `backward`, and
    RuntimeError in `backward` before any `forward`.

    >>> class Double(Layer):
    ...     def forward(self, x, training=True):
    ...         return 2 * x
    ...
    ...     def backward(self, dy):
    ...         return 2 * dy
    >>> from gradstep.nn import Sequential
    >>> Sequential(Double(), Double()).forward(np.ones(2)).tolist()
    [4.0, 4.0]
    """

    kind: ClassVar[str] = "other"

    def __init__(self) -> None:
        self.params: dict[str, FloatArray] = {}
        self.grads: dict[str, FloatArray] = {}
        self.buffers: dict[str, npt.NDArray[Any]] = {}
        self.layers: tuple[Layer, ...] = ()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.smallest_batch = 1

    @abstractmethod
    def forward(self, x: FloatArray, training: bool = True) -> FloatArray:
        """Return y of x (N, ...), and keep what `backward` needs; x must not change until then.

        Raises TypeError or ValueError.
        """

    @abstractmethod
    def backward(self, dy: FloatArray) -> FloatArray:
        """Fill `grads` from dy, the gradient of the loss in y, and return the gradient in x.

        Raises TypeError or ValueError, RuntimeError before any forward call.
        """

    def parameter_gradients(self, dy: FloatArray) -> None:
        """Fill `grads` only: all that the first layer of a network has to do.

        Raises as `backward` does.
        """
        if self.grads:
            self.backward(dy)

    def twin(self: Self) -> Self:
        """Return a layer of the same parameters and buffers with memory of its own to compute in.

        For other threads: each may call the methods of its twin at inference.

        >>> from gradstep.nn import Scale
        >>> layer = Scale(1)
        >>> other, x = layer.twin(), np.ones((1, 1), np.float32)
        >>> other.params is layer.params, other.forward(x) is layer.forward(x)
        (True, False)
        """
        other = copy(self)
        other.seconds = defaultdict(float)
        other.layers = tuple(layer.twin() for layer in self.layers)
        for name, value in vars(self).items():
            if isinstance(value, Buffer):
                setattr(other, name, Buffer())
            elif isinstance(value, Layer):
                setattr(other, name, value.twin())
        return other

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of `params` and `buffers` by name, as numpy.savez takes them."""
        return {name: array.copy() for name, array in (self.params | self.buffers).items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, in place, after all of it was checked.

        Raises TypeError for a wrong kind or dtype, ValueError for a name or a shape.

        >>> from gradstep.nn import BatchNorm
        >>> layer, other = BatchNorm(2), BatchNorm(2)
        >>> y = layer.forward(np.eye(2, dtype=np.float32))
        >>> other.load_state_dict(layer.state_dict())
        >>> other.buffers["running_mean"]
        array([0.05, 0.05], dtype=float32)
        """
        live = self.params | self.buffers
        mapping("state_dict", state_dict)
        for name in live:
            entry(state_dict, name, "state_dict")
        for name, found in state_dict.items():
            if name not in live:
                raise ValueError(f"state_dict: {name!r}, expected one of {', '.join(live)}")
            _check_entry(found, live[name], f"state_dict[{name!r}]")
            if not live[name].flags.writeable:
                raise ValueError(f"{name}: read-only, expected a writable array")
        for name, own in live.items():
            np.copyto(own, state_dict[name])


def _check_entry(found: Any, expected: npt.NDArray[Any], where: str) -> None:
    if not isinstance(found, np.ndarray):
        raise TypeError(f"{where}: {type(found).__name__}, expected a numpy.ndarray")
    if found.dtype != expected.dtype:
        raise TypeError(f"{where}: dtype {found.dtype}, expected {expected.dtype}")
    if found.shape != expected.shape:
        raise ValueError(f"{where}: shape {found.shape}, expected {expected.shape}")


def walk(layer: Layer) -> Iterator[Layer]:
    """Yield the layer and all layers inside it, from the outside in."""
    yield layer
    for inner in layer.layers:
        yield from walk(inner)
