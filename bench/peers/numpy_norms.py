"""Normalisation as a careful NumPy user writes it: with einsum and results in place."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from ..layers import EPS, Layer
from ..work import Contender, Work
from .numpy_layers import Array, Call, Formulas, Values, make

REQUIRES = ()


class View:
    """A work's arrays as (before, kept, after), in which the statistics are those of `kept`.

    Of batch norm, kept are the channels; of layer norm, the rows; of group norm, the groups of all
    samples.
    """

    def __init__(self, work: Layer) -> None:
        shape, forward = work.shape, work.forward
        if forward.startswith("batch_norm"):
            axis = work.channel_axis
            self.shape = (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        elif forward in ("layer_norm", "rms_norm"):
            self.shape = (1, math.prod(shape[:-1]), shape[-1])
        else:
            groups = work.groups if forward == "group_norm" else shape[1]
            self.shape = (1, shape[0] * groups, math.prod(shape[1:]) // groups)
        self.count = self.shape[0] * self.shape[2]

    def __call__(self, x: Array) -> Array:
        return x.reshape(self.shape)

    def mean(self, a: Array) -> Array:
        kept: Array = np.einsum("akb->k", a)[:, None] / np.float32(self.count)
        return kept

    def mean_product(self, a: Array, b: Array) -> Array:
        kept: Array = np.einsum("akb,akb->k", a, b)[:, None] / np.float32(self.count)
        return kept


class Parameters:
    """The arrays of a work so that weight and bias broadcast against them, and sums for these."""

    def __init__(self, work: Layer) -> None:
        c, axis = work.channels, work.channel_axis % len(work.shape)
        self.shape = (math.prod(work.shape[:axis]), c, math.prod(work.shape[axis + 1 :]))

    def __call__(self, x: Array) -> Array:
        return x.reshape(self.shape)

    def sum(self, a: Array) -> Array:
        summed: Array = np.einsum("acb->c", self(a))
        return summed

    def sum_product(self, a: Array, b: Array) -> Array:
        summed: Array = np.einsum("acb,acb->c", self(a), self(b))
        return summed


def statistics(work: Layer, x: Array, y: Array, view: View) -> tuple[Array, Array]:
    """Mean and 1 / deviation; y becomes x - mean."""
    if work.forward == "rms_norm":
        np.copyto(y, x)
        mean = np.zeros((view.shape[1], 1), np.float32)
    else:
        mean = view.mean(view(x))
        np.subtract(view(x), mean, out=view(y))
    return mean, 1 / np.sqrt(view.mean_product(view(y), view(y)) + np.float32(EPS))


def forward(work: Layer, v: Values, y: Array) -> Call:
    view, parameters = View(work), Parameters(work)
    batch = work.forward == "batch_norm"
    w, b = v["weight"][:, None], v["bias"][:, None]

    def fixed() -> Any:
        scale = w / np.sqrt(v["running_var"][:, None] + np.float32(EPS))
        np.multiply(view(v["x"]), scale, out=view(y))
        np.add(view(y), b - v["running_mean"][:, None] * scale, out=view(y))
        return y, None, None

    def run() -> Any:
        mean, invstd = statistics(work, v["x"], y, view)
        np.multiply(view(y), invstd * w if batch else invstd, out=view(y))
        if not batch:
            np.multiply(parameters(y), w, out=parameters(y))
        if work.forward != "rms_norm":
            np.add(parameters(y), b, out=parameters(y))
        return y, mean, invstd

    return run if work.training else fixed


def backward(work: Layer, v: Values, dx: Array) -> Call:
    """dx = invstd (g - mean(g) - xhat mean(g xhat)), g = weight dy; RMS norm has no mean(g)."""
    view, parameters = View(work), Parameters(work)
    w, xhat, rms = v["weight"][:, None], np.zeros_like(dx), work.forward == "rms_norm"

    def run() -> Any:
        np.subtract(view(v["x"]), v["mean"], out=view(xhat))
        np.multiply(view(xhat), v["invstd"], out=view(xhat))
        gradients = [parameters.sum_product(v["dy"], xhat)]
        if not rms:
            gradients.append(parameters.sum(v["dy"]))
        np.multiply(parameters(v["dy"]), w, out=parameters(dx))
        product = view.mean_product(view(dx), view(xhat))
        if not rms:
            np.subtract(view(dx), view.mean(view(dx)), out=view(dx))
        np.multiply(view(xhat), product, out=view(xhat))
        np.subtract(dx, xhat, out=dx)
        np.multiply(view(dx), v["invstd"], out=view(dx))
        return dx, *gradients

    return run


def moments(work: Layer, v: Values, y: Array) -> Call:
    view, centred = View(work), np.full(work.shape, 0, np.float32)

    def run() -> Any:
        mean = view.mean(view(v["x"]))
        np.subtract(view(v["x"]), mean, out=view(centred))
        variance = view.mean_product(view(centred), view(centred))
        return mean[:, 0], variance[:, 0], view.count

    return run


KINDS = ("batch_norm", "layer_norm", "rms_norm", "group_norm", "instance_norm")
FORMULAS: Formulas = {
    **dict.fromkeys(KINDS, forward),
    **{f"{kind}_backward": backward for kind in KINDS},
    "batch_norm_stats": moments,
}


def contenders(work: Work) -> list[Contender]:
    """The formulas above."""
    if not isinstance(work, Layer) or work.function not in FORMULAS:
        return []
    return [Contender("NumPy", partial(make, FORMULAS))]
