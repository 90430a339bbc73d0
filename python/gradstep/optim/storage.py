"""How an optimizer keeps what is float32 in fewer bits: parameters, masters, states."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from gradstep.arrays import Array, Name, bfloat16, label
from gradstep.spec import storage as spec
from gradstep.spec.optim import ewma

__all__ = [
    "SCALE",
    "Layout",
    "bfloat16",
    "check_own_values",
    "first_tiles",
    "laid_out",
    "layout_of",
    "order_of",
    "put_state",
    "saved_state",
    "state_values",
    "tiles_of_sizes",
    "values_of",
]


SIGNED = ("exp_avg", "momentum_buffer", "grad_avg")
POSITIVE = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "acc_delta", "exp_inf")
# Tensors of fewer elements keep float32 states beside others of 8 bits, as is usual.
LEAST_8_BIT = 4096
# What the name of a state's scales ends with.
SCALE = "_scale"


def first_tiles(arrays: Iterable[Any]) -> list[int]:
    """Where the elements of each array begin in the stream of random bits, in tiles of 64."""
    # The plan names what is no array.
    return tiles_of_sizes(a.size if isinstance(a, np.ndarray) else 0 for a in arrays)


def tiles_of_sizes(sizes: Iterable[int]) -> list[int]:
    """The same for arrays of these sizes."""
    tiles = [0]
    for size in sizes:
        tiles.append(tiles[-1] - (-size // 64))
    return tiles[:-1]


def check_own_values(what: str, averaged: bool) -> None:
    """Raises RuntimeError for a call that cannot be while parameters hold their averages."""
    if averaged:
        raise RuntimeError(f"{what}: parameters hold their averages, expected a {what} after that")


def is_bfloat16(dtype: Any) -> bool:
    """Whether a dtype is the bfloat16 of ml_dtypes."""
    return getattr(dtype, "name", None) == "bfloat16"


class Layout(NamedTuple):
    """How the arrays of one parameter are kept.

    master: None, "split" or "float32". copy: an array that gets every new value rounded, or None.
    states: name -> dtype. first_tile, seed: of the random bits. ema: the type of the average of the
    values over the steps, or None.
    """

    parameter: Array
    master: str | None
    copy: Array | None
    states: Mapping[str, np.dtype[Any]]
    first_tile: int
    seed: int
    ema: np.dtype[Any] | None = None

    def specs(self, names: Iterable[str]) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Dtype and shape of all arrays beside the parameter: states, scales, master."""
        shape = self.parameter.shape
        blocks = (-(-self.parameter.size // spec.SCALE_BLOCK),)
        found: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        for name in names:
            found[name] = self.states[name], shape
            if self.states[name].itemsize == 1:
                found[name + SCALE] = np.dtype(np.float32), blocks
        if self.master == "split":
            found["master_low"] = np.dtype(np.int16), shape
        elif self.master == "float32":
            found["master"] = np.dtype(np.float32), shape
        if self.ema is not None:
            found["ema"] = self.ema, shape
        return found

    def arrays(
        self,
        names: Iterable[str],
        there: Mapping[str, Array],
        initial: Callable[[str], float],
    ) -> dict[str, Array]:
        """All arrays beside the parameter, new ones where they are not there yet.

        initial: the first value of a state by its name, 0 of those that are not float32.
        """
        order: Any = "F" if self.parameter.flags.f_contiguous else "C"
        own = {}
        for name, (dtype, shape) in self.specs(names).items():
            if name in there:
                own[name] = there[name]
            elif name in ("master", "ema"):
                own[name] = np.array(self.parameter, dtype, order=order)
            else:
                own[name] = np.zeros(shape, dtype, order=order)
                if dtype == np.float32 and name in self.states:
                    own[name].fill(initial(name))
        return own

    def native(self, names: Iterable[str], own: Mapping[str, Array]) -> tuple[Any, ...]:
        """What follows a tensor's name and group in the arguments of a plan."""
        names = list(names)
        given: dict[str, Any] = {
            "scales": [own.get(name + SCALE) for name in names],
            "seed": self.seed,
            "first_tile": self.first_tile,
        }
        if self.master == "float32":
            given |= {"copy": self.parameter, "copy_argument": "params"}
        elif self.copy is not None:
            given |= {"copy": self.copy, "copy_argument": "copy_to"}
        if self.master == "split":
            given["low"] = own["master_low"]
        if self.ema is not None:
            given["ema"] = own["ema"]
        return own.get("master", self.parameter), *(own[name] for name in names), given

    def reload(self, own: Mapping[str, Array]) -> None:
        """Makes the master what the parameter is, where this is not the rounded master."""
        raw = self.parameter
        if self.master == "float32":
            master = own["master"]
            changed = _raw(_rounded(master, raw.dtype)) != _raw(raw)
            flat = master.reshape(-1, order="A")
            np.copyto(flat, _values(raw), where=changed)
        elif self.master == "split":
            own["master_low"].fill(0)

    # The specification

    def load(self, names: Iterable[str], own: Mapping[str, Array]) -> tuple[Array, ...]:
        """The float32 values of the parameter and the states, flat."""
        found = []
        if self.master == "split":
            low = own["master_low"].reshape(-1, order="A")
            found.append(spec.from_split(_bits(self.parameter), low))
        else:
            found.append(_values(own.get("master", self.parameter)))
        found += [state_values(own[name], own.get(name + SCALE)) for name in names]
        return tuple(found)

    def store(
        self,
        names: Iterable[str],
        own: Mapping[str, Array],
        new: Iterable[Array],
        step: int,
        ema_decay: float,
    ) -> None:
        """Writes new float32 values, flat, as the native step of number `step` does."""
        p, *states = new
        size = len(p)
        if self.master == "split":
            high, low = spec.to_split(p)
            _write(self.parameter, high)
            _write(own["master_low"], low)
        elif self.master == "float32":
            _write(own["master"], p)
            _write(self.parameter, _rounded(p, self.parameter.dtype))
        else:
            put_state(self.parameter, None, p, partial(self._random, size, step, 0))
        if self.copy is not None:
            _write(self.copy, _rounded(p, self.copy.dtype))
        if self.ema is not None:
            with np.errstate(all="ignore"):
                average, _ = ewma(state_values(own["ema"], None), p, ema_decay)
            put_state(own["ema"], None, average, partial(self._random, size, step, spec.AVERAGE))
        for number, (name, values) in enumerate(zip(names, states, strict=True), 1):
            random = partial(self._random, size, step, number)
            put_state(own[name], own.get(name + SCALE), values, random)

    def _random(self, n: int, step: int, number: int) -> Array:
        return spec.random_bits(n, self.seed, step, number, self.first_tile)


def state_values(array: Array, scale: Array | None) -> Array:
    """The float32 values of a state in any form, flat as it lies in memory.

    scale: those of its blocks, where it has 8 bits.
    """
    if scale is None:
        return _values(array)
    bits = array.reshape(-1, order="A").view(np.uint8)
    return spec.from_blocks(bits, scale, array.dtype == np.int8)


def order_of(array: Array) -> Literal["C", "F"]:
    """The order of a contiguous array's memory."""
    return "C" if array.flags.c_contiguous else "F"


def saved_state(step: int, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """What a state dict has of a parameter: beside the arrays the number of its step and, with
    scales, which are of blocks of memory, the order of that: files keep elements in C order.
    """
    codes = [arrays[name.removesuffix(SCALE)] for name in arrays if name.endswith(SCALE)]
    return {"step": step, **({"order": order_of(codes[0])} if codes else {}), **arrays}


def laid_out(saved: Mapping[str, Any], order: Literal["C", "F"]) -> Mapping[str, Any]:
    """The state of a parameter that lies in memory in this order.

    8-bit arrays that were saved in another are rounded anew, to nearest, as other elements share
    their scales.
    """
    given: Literal["C", "F"] = saved.get("order", order)
    if given == order:
        return saved
    found = dict(saved)
    for name in [name.removesuffix(SCALE) for name in saved if name.endswith(SCALE)]:
        codes, scales = np.asarray(saved[name], order=given), saved[name + SCALE]
        values = state_values(codes, scales).reshape(codes.shape, order=given)
        found[name] = np.empty(codes.shape, codes.dtype, order=order)
        found[name + SCALE] = np.empty_like(scales)
        put_state(found[name], found[name + SCALE], values.reshape(-1, order=order))
    return found


def put_state(
    array: Array, scale: Array | None, values: Array, random: Callable[[], Array] | None = None
) -> None:
    """Writes float32 values, flat, into such an array.

    random: makes a random word for each; None rounds to nearest.
    """
    if scale is not None:
        words = None if random is None else random()
        values, largest = spec.to_blocks(values, array.dtype == np.int8, words)
        _write(scale, largest)
    elif is_bfloat16(array.dtype):
        values = spec.to_bfloat16(values, None if random is None else random())
    _write(array, values)


def _bits(array: Array) -> Array:
    return array.reshape(-1, order="A").view(np.uint16)


def _raw(array: Array) -> Array:
    return array.reshape(-1, order="A").view(f"u{array.itemsize}")


def _values(array: Array) -> Array:
    if is_bfloat16(array.dtype):
        return spec.from_bfloat16(_bits(array))
    return np.asarray(array.reshape(-1, order="A"), np.float32)


def _rounded(x: Array, dtype: np.dtype[Any]) -> Array:
    flat = x.reshape(-1, order="A")
    return spec.to_bfloat16(flat) if is_bfloat16(dtype) else spec.to_float16(flat)


def _write(array: Array, values: Array) -> None:
    """Bits over those of an array, in whatever order it has."""
    flat = array.reshape(-1, order="A")
    assert np.shares_memory(flat, array) or not array.size
    flat.view(f"u{flat.itemsize}")[...] = values.view(f"u{flat.itemsize}")


def values_of(gradient: Array) -> Array:
    """The float32 or float64 values of a gradient, flat as it lies in memory."""
    if gradient.dtype in (np.float32, np.float64):
        return gradient.reshape(-1, order="A")
    return _values(gradient)


def layout_of(
    name: Name,
    array: Any,
    copy: Any,
    group: Mapping[str, Any],
    names: Iterable[str],
    first_tile: int,
) -> Layout | None:
    """The layout of a parameter, or None where all is of its own type.

    group: its hyperparameters. names: of its states. Raises TypeError or ValueError for what does
    not go together, ImportError where bfloat16 states need a package.
    """
    master, state_dtype = group["master"], group["state_dtype"]
    dtype = getattr(array, "dtype", None)
    half = dtype == np.float16 or is_bfloat16(dtype)
    where = label("params", name)
    if isinstance(array, np.ndarray) and not half and dtype not in (np.float32, np.float64):
        raise TypeError(
            f"{where}: dtype {array.dtype.str} ({dtype}), expected native float32, float64, "
            "bfloat16 or float16"
        )
    if not half and master is not None:
        raise ValueError(
            f"{where}: {dtype} with master={master!r}, expected None: only bfloat16 and float16 "
            "parameters have one"
        )
    if dtype == np.float16 and master != "float32":
        raise ValueError(
            f"{where}: float16 with master={master!r}, expected master='float32', without which "
            "small steps are lost"
        )
    if copy is not None and dtype != np.float32:
        raise TypeError(f"{where}: {dtype} with copy_to, expected float32")
    if copy is not None and not (
        isinstance(copy, np.ndarray) and (copy.dtype == np.float16 or is_bfloat16(copy.dtype))
    ):
        found = copy.dtype if isinstance(copy, np.ndarray) else type(copy).__name__
        raise TypeError(f"{label('copy_to', name)}: {found}, expected bfloat16 or float16 arrays")
    if state_dtype != "float32" and not (half or dtype == np.float32):
        raise TypeError(f"{where}: {dtype} with state_dtype={state_dtype!r}, expected 'float32'")
    ema = group["ema"]
    if ema is not None and not (half or dtype == np.float32):
        raise TypeError(
            f"{where}: {dtype} with ema={ema!r}, expected None; gradstep.train.EMA averages those"
        )
    if not half and copy is None and ema is None and state_dtype == "float32":
        return None
    states: dict[str, np.dtype[Any]] = {}
    for state in names:
        if state_dtype != "float32" and state not in (*SIGNED, *POSITIVE):
            raise ValueError(
                f"state_dtype: {state_dtype!r} for the state {state!r}, expected 'float32': it is "
                "no average"
            )
        states[state] = np.dtype(np.float32)
        if state_dtype == "bfloat16":
            states[state] = bfloat16("state_dtype='bfloat16'")
        elif state_dtype == "int8" and array.size >= LEAST_8_BIT:
            states[state] = np.dtype(np.int8 if state in SIGNED else np.uint8)
    average = None
    if ema is not None:
        average = bfloat16("ema='bfloat16'") if ema == "bfloat16" else np.dtype(np.float32)
    return Layout(array, master, copy, states, first_tile, group["seed"], average)
