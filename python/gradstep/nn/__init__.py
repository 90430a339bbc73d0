"""The layers that a NumPy network needs, on the kernels of gradstep.

A layer computes `y = forward(x, training)` and `dx = backward(dy)`. Both write into buffers that
the layer keeps, so their memory is allocated once, for the largest batch; what they return is valid
until the next call of the same method, and neither x nor dy is written to. `params` and `grads` map
names to arrays that stay the same objects for the whole training: an optimizer binds them once.

>>> import numpy as np, gradstep as gs
>>> from gradstep import nn
>>> rng = np.random.default_rng(0)
>>> net = nn.Sequential(nn.Linear(4, 8, rng), nn.BatchNorm(8), nn.Tanh(), nn.Linear(8, 3, rng))
>>> optimizer = gs.Adam(net.params, lr=0.1)
>>> optimizer.bind(net.grads)
>>> x, labels = rng.standard_normal((30, 4), np.float32), np.arange(30) % 3
>>> for _ in range(100):
...     loss, gradient = gs.cross_entropy(net.forward(x, True), labels)
...     net.parameter_gradients(gradient)
...     info = optimizer.step()
>>> loss < 0.1
True
"""

from gradstep.nn.activations import (
    ACTIVATIONS,
    GELU,
    SELU,
    LeakyReLU,
    LogSoftmax,
    Maxout,
    Mish,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Tanh,
)
from gradstep.nn.layer import FloatArray, Layer
from gradstep.nn.layers import INITIALISERS, BatchNorm, Dropout, LayerNorm, Linear
from gradstep.nn.networks import Residual, Sequential, mlp
from gradstep.nn.tabular import Parametric, PeriodicEmbedding, Scale

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "INITIALISERS",
    "SELU",
    "BatchNorm",
    "Dropout",
    "FloatArray",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Maxout",
    "Mish",
    "PReLU",
    "Parametric",
    "PeriodicEmbedding",
    "ReLU",
    "Residual",
    "Scale",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "mlp",
]
