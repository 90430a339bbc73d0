"""Shapes of the parameters of well-known models, written out from their architectures."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeAlias

Shapes: TypeAlias = tuple[tuple[int, ...], ...]

__all__ = ["MANY_SMALL", "MODELS", "Shapes", "count", "gpt2_small", "mlp", "resnet50"]


def count(shapes: Shapes) -> int:
    """The number of parameters.

    >>> count(((2, 3), (4,)))
    10
    """
    return sum(math.prod(shape) for shape in shapes)


def mlp(*widths: int) -> Shapes:
    """Weight (outputs, inputs) and bias of each layer of a multilayer perceptron.

    >>> mlp(4, 3, 2)
    ((3, 4), (3,), (2, 3), (2,))
    """
    shapes: list[tuple[int, ...]] = []
    for inputs, outputs in pairwise(widths):
        shapes += [(outputs, inputs), (outputs,)]
    return tuple(shapes)


def resnet50() -> Shapes:
    """ResNet-50 (He et al. 2016, arXiv:1512.03385): 161 tensors, 25 557 032 parameters.

    Convolutions are (outputs, inputs, height, width), each followed by the weight and the bias of
    its batch normalisation.
    """

    def convolution(outputs: int, inputs: int, kernel: int) -> Shapes:
        return ((outputs, inputs, kernel, kernel), (outputs,), (outputs,))

    shapes = [*convolution(64, 3, 7)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, channels, 1)
            shapes += convolution(width, width, 3)
            shapes += convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, channels, 1)
            channels = 4 * width
    return (*shapes, (1000, channels), (1000,))


def gpt2_small() -> Shapes:
    """GPT-2 small (Radford et al. 2019): 148 tensors, 124 439 808 parameters.

    Token and position embeddings, twelve blocks of attention and MLP with their layer norms, and
    the last layer norm; the output layer is the token embedding.
    """
    width = 768
    norm: Shapes = ((width,), (width,))
    block: list[tuple[int, ...]] = [*norm]
    block += [(width, 3 * width), (3 * width,), (width, width), (width,)]
    block += norm
    block += [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return ((50257, width), (1024, width), *(block * 12), *norm)


MODELS: dict[str, Shapes] = {
    "MLP 784-256-128-10": mlp(784, 256, 128, 10),
    "ResNet-50": resnet50(),
    "GPT-2 small": gpt2_small(),
}

MANY_SMALL: dict[str, Shapes] = {
    "100 tensors of 64": ((64,),) * 100,
    "10 000 tensors of 64": ((64,),) * 10_000,
}
