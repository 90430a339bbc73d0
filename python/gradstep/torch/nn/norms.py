"""Normalisation of torch tensors, with the signatures of torch.nn.functional.

Statistics are kept in float64 between forward and backward. What our kernels do not take goes to
torch's function, which also raises the errors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

import gradstep as gs
from gradstep.arrays import Array
from gradstep.torch.kept_memory import new_array
from gradstep.torch.tensors import (
    Order,
    array,
    channels_last_order,
    is_native,
    is_plain,
    laid_out,
    only_once,
    optional_array,
    tensor,
    wants_grad,
    written,
)
from gradstep.torch.threads import on_team

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]

Optional: TypeAlias = torch.Tensor | None
Maybe: TypeAlias = Array | None
Stats: TypeAlias = tuple[Array, ...]


class _Saved(NamedTuple):
    x: Array
    weight: Maybe
    bias: Maybe
    stats: Stats


class _Norm(Protocol):
    """One call: its options, its kernels, and the order in which x is contiguous."""

    @property
    def module(self) -> str: ...
    @property
    def order(self) -> Order: ...
    @property
    def reads_bias(self) -> bool: ...
    def forward(self, x: Array, weight: Maybe, bias: Maybe, out: Array) -> Stats: ...
    def backward(self, dy: Array, saved: _Saved, out: Array) -> Stats: ...


@on_team
def _forward(
    x: torch.Tensor, weight: Optional, bias: Optional, norm: _Norm
) -> tuple[torch.Tensor, Stats]:
    found = array(x, norm.order)
    y = new_array(found)
    stats = norm.forward(found, optional_array(weight), optional_array(bias), y)
    return tensor(y, norm.order), stats


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: Optional, bias: Optional, norm: _Norm
    ) -> torch.Tensor:
        y, ctx.stats = _forward(x, weight, bias, norm)
        ctx.norm = norm
        ctx.save_for_backward(x, weight, bias if norm.reads_bias else None)
        return y

    @staticmethod
    @on_team
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[object, ...]:
        norm = ctx.norm
        x, weight, bias = ctx.saved_tensors
        found = array(x, norm.order)
        dx = new_array(found)
        dy = laid_out(dy, norm.order, norm.module)
        saved = _Saved(found, optional_array(weight), optional_array(bias), ctx.stats)
        sums = norm.backward(array(dy, norm.order), saved, dx)
        needs_x, *needs, _ = ctx.needs_input_grad
        # RMS norm has one sum, for its weight.
        parameters = [
            tensor(values) if needed else None
            for values, needed in zip((*sums, None)[:2], needs, strict=True)
        ]
        grads = (tensor(dx, norm.order) if needs_x else None, *parameters)
        return (*only_once(norm.module, grads), None)


# Any: torch's own annotations leave it untyped.
_recorded: Any = _Normalize.apply


def _normalize(x: torch.Tensor, weight: Optional, bias: Optional, norm: _Norm) -> torch.Tensor:
    if norm.order is None:
        x = x.contiguous()
    if wants_grad(x, weight, bias):
        y: torch.Tensor = _recorded(x, weight, bias, norm)
        return y
    return _forward(x, weight, bias, norm)[0]


def _fit(shape: Sequence[int], *tensors: Optional) -> bool:
    # A loop: a generator would cost as much as the checks, at every call of every layer.
    for each in tensors:  # noqa: SIM110
        if each is not None and each.shape != shape:
            return False
    return True


class _BatchNorm(NamedTuple):
    module: str
    order: Order
    training: bool
    momentum: float
    eps: float
    activation: Any
    running: tuple[Array | None, Array | None]

    @property
    def reads_bias(self) -> bool:
        return self.activation is not None

    @property
    def axis(self) -> int:
        return 1 if self.order is None else -1

    def forward(self, x: Array, weight: Maybe, bias: Maybe, out: Array) -> Stats:
        return gs.batch_norm(
            x,
            weight,
            bias,
            *self.running,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            axis=self.axis,
            activation=self.activation,
            out=out,
        )[1:]

    def backward(self, dy: Array, saved: _Saved, out: Array) -> Stats:
        x, weight, bias, stats = saved
        return gs.batch_norm_backward(
            dy,
            x,
            weight,
            *stats,
            training=self.training,
            axis=self.axis,
            activation=self.activation,
            bias=bias,
            out=out,
        )[1:]


def _running_fit(x: torch.Tensor, mean: Optional, var: Optional, training: bool) -> bool:
    """Whether our kernel can read and write these running statistics."""
    if mean is None or var is None:
        return training and mean is None and var is None
    if not _fit(x.shape[1:2], mean, var):
        return False
    return all(
        is_plain(each) and each.is_contiguous() and each.dtype in (x.dtype, torch.float64)
        for each in (mean, var)
    )


def batch_norm(
    input: torch.Tensor,
    running_mean: Optional,
    running_var: Optional,
    weight: Optional = None,
    bias: Optional = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    relu: bool = False,
) -> torch.Tensor:
    """torch.nn.functional.batch_norm, with a ReLU in the same pass if `relu`.

    input: (N, C, ...), contiguous or channels last, which the result is then too; other strides
    are copied. The other tensors: (C,) of its type, or None; running statistics may be float64.
    Running statistics are updated in place in training. Raises what torch's function raises.
    Ioffe & Szegedy 2015 (arXiv:1502.03167).

    >>> import torch, gradstep.torch as gt
    >>> gt.functional.batch_norm(torch.tensor([[1.], [3.]]), None, None, training=True, eps=1e-30)
    tensor([[-1.],
            [ 1.]])
    """
    native = (
        is_native(input, weight, bias)
        and input.dim() > 1
        and _fit(input.shape[1:2], weight, bias)
        and _running_fit(input, running_mean, running_var, training)
        and 0 <= momentum <= 1
        and 0 <= eps < math.inf
        and not (training and eps == 0)
        and not (training and input.numel() == input.size(1))
    )
    if not native:
        y = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return F.relu(y) if relu else y
    running = optional_array(running_mean), optional_array(running_var)
    activation = "relu" if relu else None
    order = channels_last_order(input)
    norm = _BatchNorm("BatchNorm", order, training, momentum, eps, activation, running)
    y = _normalize(input, weight, bias, norm)
    if training and running_mean is not None and running_var is not None:
        written([running_mean, running_var])
    return y


class _LayerNorm(NamedTuple):
    axes: int
    eps: float
    module: str = "LayerNorm"
    order: Order = None
    reads_bias: bool = False

    def forward(self, x: Array, weight: Maybe, bias: Maybe, out: Array) -> Stats:
        return gs.layer_norm(x, weight, bias, axes=self.axes, eps=self.eps, out=out)[1:]

    def backward(self, dy: Array, saved: _Saved, out: Array) -> Stats:
        x, weight, _, stats = saved
        return gs.layer_norm_backward(dy, x, weight, *stats, axes=self.axes, out=out)[1:]


def layer_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: Optional = None,
    bias: Optional = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """torch.nn.functional.layer_norm: over the trailing dimensions, with weight by element.

    input: (..., *normalized_shape); strides that are not contiguous are copied. weight, bias:
    `normalized_shape`, or None. Raises what torch's function raises. Ba, Kiros & Hinton 2016
    (arXiv:1607.06450).

    >>> import torch, gradstep.torch as gt
    >>> gt.functional.layer_norm(torch.tensor([[1., 3.]]), (2,), eps=0.0)
    tensor([[-1.,  1.]])
    """
    if not is_native(input, weight, bias) or not _is_trailing(
        input, normalized_shape, eps, weight, bias
    ):
        return F.layer_norm(input, normalized_shape, weight, bias, eps)
    return _normalize(input, weight, bias, _LayerNorm(len(normalized_shape), eps))


def _is_trailing(
    x: torch.Tensor, shape: Sequence[int], eps: float | None, *parameters: Optional
) -> bool:
    shape = tuple(shape)
    if eps is not None and not 0 <= eps < math.inf:
        return False
    return len(shape) > 0 and x.shape[-len(shape) :] == shape and _fit(shape, *parameters)


class _RMSNorm(NamedTuple):
    axes: int
    eps: float | None
    module: str = "RMSNorm"
    order: Order = None
    reads_bias: bool = False

    def forward(self, x: Array, weight: Maybe, bias: Maybe, out: Array) -> Stats:
        return gs.rms_norm(x, weight, axes=self.axes, eps=self.eps, out=out)[1:]

    def backward(self, dy: Array, saved: _Saved, out: Array) -> Stats:
        x, weight, _, stats = saved
        return gs.rms_norm_backward(dy, x, weight, *stats, axes=self.axes, out=out)[1:]


def rms_norm(
    input: torch.Tensor,
    normalized_shape: Sequence[int],
    weight: Optional = None,
    eps: float | None = None,
) -> torch.Tensor:
    """torch.nn.functional.rms_norm: divides by the root of the mean square.

    Arguments as in `layer_norm`; eps None is the machine epsilon of the type. Raises what torch's
    function raises. Zhang & Sennrich 2019 (arXiv:1910.07467).

    >>> import torch, gradstep.torch as gt
    >>> gt.functional.rms_norm(torch.tensor([[3., 3., -3.]]), (3,), eps=0.0)
    tensor([[ 1.,  1., -1.]])
    """
    if not is_native(input, weight) or not _is_trailing(input, normalized_shape, eps, weight):
        return F.rms_norm(input, normalized_shape, weight, eps)
    return _normalize(input, weight, None, _RMSNorm(len(normalized_shape), eps))


class _GroupNorm(NamedTuple):
    groups: int
    eps: float
    module: str = "GroupNorm"
    order: Order = None
    reads_bias: bool = False

    def forward(self, x: Array, weight: Maybe, bias: Maybe, out: Array) -> Stats:
        return gs.group_norm(x, self.groups, weight, bias, eps=self.eps, out=out)[1:]

    def backward(self, dy: Array, saved: _Saved, out: Array) -> Stats:
        x, weight, _, stats = saved
        return gs.group_norm_backward(dy, x, self.groups, weight, *stats, out=out)[1:]


def group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: Optional = None,
    bias: Optional = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """torch.nn.functional.group_norm: over groups of neighbouring channels of every sample.

    input: (N, C, ...); channels last goes to torch's function, other strides are copied. weight,
    bias: (C,), or None. Raises what torch's function raises. Wu & He 2018 (arXiv:1803.08494).

    >>> import torch, gradstep.torch as gt
    >>> gt.functional.group_norm(torch.tensor([[1., 3., 7., 7.]]), 2, eps=0.0)
    tensor([[-1.,  1.,  0.,  0.]])
    """
    native = (
        is_native(input, weight, bias)
        and input.dim() > 1
        and _fit(input.shape[1:2], weight, bias)
        and num_groups > 0
        and input.size(1) % num_groups == 0
        and input.numel() != num_groups
        and 0 <= eps < math.inf
        and channels_last_order(input) is None
    )
    if not native:
        return F.group_norm(input, num_groups, weight, bias, eps)
    return _normalize(input, weight, bias, _GroupNorm(num_groups, eps))


class _InstanceNorm(NamedTuple):
    eps: float
    momentum: float
    running: tuple[Array, Array] | None
    module: str = "InstanceNorm"
    order: Order = None
    reads_bias: bool = False

    def forward(self, x: Array, weight: Maybe, bias: Maybe, out: Array) -> Stats:
        mean, invstd = gs.instance_norm(x, weight, bias, eps=self.eps, out=out)[1:]
        if self.running is not None:
            count = math.prod(x.shape[2:])
            variance = np.maximum(invstd**-2 - self.eps, 0) * (count / (count - 1))
            for running, batch in zip(self.running, (mean, variance), strict=True):
                running[...] = (1 - self.momentum) * running + self.momentum * batch.mean(0)
        return mean, invstd

    def backward(self, dy: Array, saved: _Saved, out: Array) -> Stats:
        x, weight, _, stats = saved
        return gs.instance_norm_backward(dy, x, weight, *stats, out=out)[1:]


def instance_norm(
    input: torch.Tensor,
    running_mean: Optional = None,
    running_var: Optional = None,
    weight: Optional = None,
    bias: Optional = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """torch.nn.functional.instance_norm: every channel of every sample by itself.

    input: (N, C, ...); strides that are not contiguous are copied. The other tensors: (C,), or
    None. With use_input_stats False it is `batch_norm` with the running statistics, otherwise
    these are updated by the mean over the samples. Raises what torch's function raises. Ulyanov,
    Vedaldi & Lempitsky 2016 (arXiv:1607.08022).

    >>> import torch, gradstep.torch as gt
    >>> gt.functional.instance_norm(torch.tensor([[[1., 3.]]]), eps=0.0)
    tensor([[[-1.,  1.]]])
    """
    native = (
        is_native(input, weight, bias)
        and input.dim() > 2
        and _fit(input.shape[1:2], weight, bias)
        and _running_fit(input, running_mean, running_var, use_input_stats)
        and 0 <= eps < math.inf
        and channels_last_order(input) is None
        and not (use_input_stats and math.prod(input.shape[2:]) == 1)
    )
    if not native:
        return F.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    if not use_input_stats:
        running = optional_array(running_mean), optional_array(running_var)
        fixed = _BatchNorm("InstanceNorm", None, False, 0.0, eps, None, running)
        return _normalize(input, weight, bias, fixed)
    arrays = None
    if running_mean is not None and running_var is not None:
        arrays = array(running_mean), array(running_var)
    y = _normalize(input, weight, bias, _InstanceNorm(eps, momentum, arrays))
    if running_mean is not None and running_var is not None:
        written([running_mean, running_var])
    return y
