"""Changes to training images that keep their class, so that few images teach more."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import TypeAlias

import numpy as np

from gradstep.nn import FloatArray

# Takes a batch (N, I) and a source of chance, and returns one like it.
Augmentation: TypeAlias = Callable[[FloatArray, np.random.Generator], FloatArray]

__all__ = ["Augmentation", "random_shift"]


def random_shift(columns: int, most: int) -> Augmentation:
    """Return a function that moves every square image of a batch by up to `most` pixels.

    columns: pixels of an image, a square number. most: at least 1, each way in both directions, all
    moves alike likely; what comes in from outside is 0. Raises ValueError otherwise.
    Source: Simard, Steinkraus & Platt 2003, "Best practices for convolutional neural networks".

    >>> shift = random_shift(9, 1)
    >>> image = np.zeros((1, 9), np.float32)
    >>> image[0, 4] = 1.0  # the middle: never lost
    >>> float(shift(image, np.random.default_rng(0)).sum())
    1.0
    """
    side = isqrt(columns)
    if side * side != columns:
        raise ValueError(f"shift: images of {columns} columns, expected a square number")
    if most < 1:
        raise ValueError(f"shift: {most}, expected at least 1")

    def shift(x: FloatArray, rng: np.random.Generator) -> FloatArray:
        around = ((0, 0), (most, most), (most, most))
        padded = np.pad(x.reshape(len(x), side, side), around)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
        down, right = rng.integers(0, 2 * most + 1, (2, len(x)))
        moved: FloatArray = windows[np.arange(len(x)), down, right].reshape(len(x), columns)
        return moved

    return shift
