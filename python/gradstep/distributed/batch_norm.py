"""Batch norm whose statistics are those of the batches of all ranks."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradstep.arguments import kind
from gradstep.arrays import Array
from gradstep.distributed.transport import DistributedError, Transport, gather
from gradstep.nn import BatchNorm, Layer
from gradstep.nn.layer import walk
from gradstep.ops.norm import (
    Activation,
    batch_norm,
    batch_norm_backward,
    batch_norm_stats,
    merge_stats,
)

__all__ = ["sync_batch_norm", "sync_batch_norm_backward", "synchronize"]

Doubles: TypeAlias = NDArray[np.float64]
# An error or not, rows of a channel, channels; two arrays of doubles follow, or a text.
HEAD = struct.Struct("?qq")


def synchronize(model: Layer, comm: Transport) -> None:
    """From now on the layers BatchNorm of a network normalise by the statistics of all ranks.

    model: a layer or a network, in training; each rank calls it with its part of a batch, which may
    have no rows. comm: a `Transport`. The gradients of weights are those of this rank's rows.
    Raises TypeError; `forward` and `backward` of the layers raise as `sync_batch_norm` does.

    >>> import numpy as np, gradstep.distributed as gd
    >>> from gradstep.nn import BatchNorm
    >>> [alone] = gd.in_process(1)
    >>> norm = BatchNorm(1, eps=0)
    >>> gd.synchronize(norm, alone)
    >>> norm.forward(np.array([[1.0], [3.0]], np.float32)).tolist()
    [[-1.0], [1.0]]
    """
    transport = _checked(comm)
    if not isinstance(model, Layer):
        raise TypeError(f"model: {kind(model)}, expected a layer or network of gradstep.nn")
    for layer in walk(model):
        if isinstance(layer, BatchNorm):
            layer.functions = (
                partial(sync_batch_norm, comm=transport),
                partial(sync_batch_norm_backward, comm=transport),
            )


def sync_batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    running_mean: Array | None,
    running_var: Array | None,
    *,
    comm: Transport,
    momentum: float | None = 0.1,
    num_batches_tracked: int | None = None,
    eps: float = 1e-5,
    axis: int = 1,
    activation: Activation = None,
    out: Array | None = None,
) -> tuple[Array, Doubles, Doubles]:
    """`gradstep.batch_norm` in training, by the statistics of all ranks: (y, mean, invstd).

    Arguments as there; x is this rank's part of the batch, of any number of rows. comm: a
    `Transport`, such as `MpiTransport()`. The statistics of ranks are merged in the order of ranks:
    all have the same bits, which in the last places are not those of one process, as they depend on
    how rows are divided.

    All ranks call it together. Raises TypeError or ValueError (on other ranks DistributedError),
    also for one value per channel over all ranks. Ioffe & Szegedy 2015 (arXiv:1502.03167).

    >>> import numpy as np, gradstep.distributed as gd
    >>> [alone] = gd.in_process(1)
    >>> x = np.array([[1.0], [3.0]])
    >>> gd.sync_batch_norm(x, None, None, None, None, comm=alone, eps=0)[0].tolist()
    [[-1.0], [1.0]]
    """
    transport = _checked(comm)
    options: dict[str, Any] = {"eps": eps, "axis": axis, "activation": activation}
    moving: dict[str, Any] = {"momentum": momentum, "num_batches_tracked": num_batches_tracked}
    if transport.size == 1:
        return batch_norm(
            x,
            weight,
            bias,
            running_mean,
            running_var,
            training=True,
            out=out,
            **options,
            **moving,
        )
    error: Exception | None = None
    mean = variance = np.zeros(0)
    count = 0
    try:
        mean, variance, count = batch_norm_stats(x, axis)
        # No rows: only what this rank was given is checked, before any rank writes.
        none = None if out is None else out[:0]
        batch_norm(
            x[:0],
            weight,
            bias,
            running_mean,
            running_var,
            training=True,
            out=none,
            **options,
            **moving,
        )
        if out is not None and out.shape != x.shape:
            raise ValueError(f"out: shape {out.shape}, expected {x.shape}")
    except Exception as raised:
        error = raised
    parts = _gathered(transport, mean, variance, count, error)
    mean, variance, count = merge_stats(parts)
    if count == 1:
        raise ValueError("x: one value per channel over all ranks, expected more in training")
    y, mean, invstd = batch_norm(
        x, weight, bias, mean, variance, training=False, out=out, **options
    )
    if count:
        share = 1.0 / (num_batches_tracked or 1) if momentum is None else momentum
        unbiased = variance * (count / (count - 1))
        given = ((running_mean, mean), (running_var, unbiased))
        moved = [
            (old, (1 - share) * old.astype(np.float64) + share * new)
            for old, new in given
            if old is not None
        ]
        for old, values in moved:
            old[...] = values
    return y, mean, invstd


def sync_batch_norm_backward(
    dy: Array,
    x: Array,
    weight: Array | None,
    mean: Doubles,
    invstd: Doubles,
    *,
    comm: Transport,
    axis: int = 1,
    activation: Activation = None,
    bias: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The gradients of `sync_batch_norm`: (dx, dweight, dbias).

    Arguments as in `gradstep.batch_norm_backward`, of this rank's part; mean and invstd as
    returned. dx has the parts that come through the statistics of all ranks;
    dweight and dbias are sums over this rank's rows, which an optimizer sums with the others'.

    All ranks call it together. Raises as `sync_batch_norm` does.
    """
    transport = _checked(comm)
    options: dict[str, Any] = {"axis": axis, "activation": activation, "bias": bias, "out": out}
    if transport.size == 1:
        return batch_norm_backward(dy, x, weight, mean, invstd, training=True, **options)
    error: Exception | None = None
    of_weight = of_bias = np.zeros(0)
    rows = 0
    try:
        # As if the statistics were constants; what comes through them is added.
        dx, dweight, dbias = batch_norm_backward(
            dy, x, weight, mean, invstd, training=False, **options
        )
        of_weight, of_bias = dweight.astype(np.float64), dbias.astype(np.float64)
        rows = x.size // max(1, of_bias.size)
    except Exception as raised:
        error = raised
    parts = _gathered(transport, of_weight, of_bias, rows, error)
    of_weight = of_bias = np.zeros(parts[0][0].shape)
    for each in parts:
        of_weight, of_bias = of_weight + each[0], of_bias + each[1]
    count = max(1, sum(each[2] for each in parts))
    scale = invstd / count if weight is None else weight * invstd / count
    # -scale (of_bias + x̂ of_weight), where x̂ = (x - mean) invstd: a batch norm of x itself.
    through, _, _ = batch_norm(
        x,
        (-scale * of_weight).astype(x.dtype),
        (-scale * of_bias).astype(x.dtype),
        mean,
        1 / (invstd * invstd),
        training=False,
        eps=0.0,
        axis=axis,
    )
    return np.add(dx, through, out=dx), dweight, dbias


def _checked(comm: Transport) -> Transport:
    # A communicator would have to be duplicated at every call.
    if not isinstance(comm, Transport):
        raise TypeError(f"comm: {kind(comm)}, expected a Transport, such as MpiTransport()")
    return comm


def _gathered(
    transport: Transport, a: Doubles, b: Doubles, count: int, error: Exception | None
) -> list[tuple[Doubles, Doubles, int]]:
    """Two doubles a channel and a number from every rank. Raises where one has an error."""
    own = HEAD.pack(error is not None, count, a.size)
    own += f"{type(error).__name__}: {error}".encode() if error else a.tobytes() + b.tobytes()
    found: list[tuple[Doubles, Doubles, int]] = []
    every = gather(transport, own)
    if error is not None:
        raise error
    for rank, each in enumerate(every):
        failed, number, channels = HEAD.unpack_from(each)
        if failed:
            raise DistributedError(f"rank {rank}: {each[HEAD.size :].decode()}")
        values = np.frombuffer(each[HEAD.size :], np.float64)
        if channels != a.size:
            raise DistributedError(f"rank {rank}: {channels} channels, expected {a.size}")
        found.append((values[:channels], values[channels:], number))
    return found
