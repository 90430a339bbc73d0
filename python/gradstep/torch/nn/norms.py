"""Normalisation of torch tensors, with the signatures of torch.nn.functional.

Statistics are kept in float64 between forward and backward. What our kernels do not take goes to
torch's function, which also raises the errors; so do gradients that are to be differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.nn import functional as F

import gradstep as gs
from gradstep.arrays import Array
from gradstep.torch.kept_memory import new_like
from gradstep.torch.tensors import (
    Order,
    array,
    channels_last_order,
    copied,
    is_native,
    is_plain,
    laid_out,
    optional_array,
    wants_grad,
    written,
)
from gradstep.torch.threads import on_team

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]

Optional: TypeAlias = torch.Tensor | None
Maybe: TypeAlias = Array | None
Stats: TypeAlias = tuple[Array, ...]


class _Call(NamedTuple):
    """One call of a norm: which, and its options. Those that a kind does not have stay as here."""

    kind: _Kind
    eps: Any  # None only for RMS norm
    order: Order = None
    axes: int = 1
    groups: int = 1
    training: bool = True
    momentum: float = 0.0
    relu: bool = False
    running: tuple[Maybe, Maybe] = (None, None)

    @property
    def axis(self) -> int:
        return 1 if self.order is None else -1

    @property
    def activation(self) -> Any:
        return "relu" if self.relu else None


class _Kind(NamedTuple):
    """A norm of ours, and torch's with which its gradients are differentiated."""

    # (call, x, weight, bias, out) -> (out, *statistics)
    forward: Callable[[_Call, Array, Maybe, Maybe, Array], Any]
    # (call, dy, x, weight, bias, statistics, out) -> (out, gradients of weight and bias)
    backward: Callable[[_Call, Array, Array, Maybe, Maybe, Stats, Array], Any]
    # (call, x, weight, bias, statistics) -> y
    torchs: Callable[..., torch.Tensor]


_LAYER = _Kind(
    lambda call, x, weight, bias, out: gs.layer_norm(
        x, weight, bias, axes=call.axes, eps=call.eps, out=out
    ),
    lambda call, dy, x, weight, _, stats, out: gs.layer_norm_backward(
        dy, x, weight, *stats, axes=call.axes, out=out
    ),
    lambda call, x, weight, bias, _: F.layer_norm(
        x, x.shape[x.dim() - call.axes :], weight, bias, call.eps
    ),
)
_RMS = _Kind(
    lambda call, x, weight, _, out: gs.rms_norm(x, weight, axes=call.axes, eps=call.eps, out=out),
    lambda call, dy, x, weight, _, stats, out: gs.rms_norm_backward(
        dy, x, weight, *stats, axes=call.axes, out=out
    ),
    lambda call, x, weight, _, __: F.rms_norm(x, x.shape[x.dim() - call.axes :], weight, call.eps),
)
_GROUP = _Kind(
    lambda call, x, weight, bias, out: gs.group_norm(
        x, call.groups, weight, bias, eps=call.eps, out=out
    ),
    lambda call, dy, x, weight, _, stats, out: gs.group_norm_backward(
        dy, x, call.groups, weight, *stats, out=out
    ),
    lambda call, x, weight, bias, _: F.group_norm(x, call.groups, weight, bias, call.eps),
)


def _instance_forward(call: _Call, x: Array, weight: Maybe, bias: Maybe, out: Array) -> Any:
    found = gs.instance_norm(x, weight, bias, eps=call.eps, out=out)
    _, mean, invstd = found
    count = math.prod(x.shape[2:])
    # 0 for 1 / √0, too: that of a constant channel with eps 0.
    variance = np.zeros_like(invstd)
    np.power(invstd, -2, out=variance, where=invstd != 0)
    variance = np.maximum(variance - call.eps, 0) * (count / (count - 1))
    for running, batch in zip(call.running, (mean, variance), strict=True):
        if running is not None:
            running[...] = (1 - call.momentum) * running + call.momentum * batch.mean(0)
    return found


_INSTANCE = _Kind(
    _instance_forward,
    lambda call, dy, x, weight, _, stats, out: gs.instance_norm_backward(
        dy, x, weight, *stats, out=out
    ),
    lambda call, x, weight, bias, _: F.instance_norm(x, weight=weight, bias=bias, eps=call.eps),
)


def _torchs_batch_norm(
    call: _Call, x: torch.Tensor, weight: Optional, bias: Optional, stats: Stats
) -> torch.Tensor:
    if call.training:
        y = F.batch_norm(x, None, None, weight, bias, True, 0.0, call.eps)
    else:
        # The statistics of then: the buffers may have changed.
        shape = (-1, *[1] * (x.dim() - 2))
        mean, invstd = (torch.tensor(each).to(x.dtype).reshape(shape) for each in stats)
        y = (x - mean) * (invstd if weight is None else invstd * weight.reshape(shape))
        y = y if bias is None else y + bias.reshape(shape)
    return F.relu(y) if call.relu else y


_BATCH = _Kind(
    lambda call, x, weight, bias, out: gs.batch_norm(
        x,
        weight,
        bias,
        *call.running,
        training=call.training,
        momentum=call.momentum,
        eps=call.eps,
        axis=call.axis,
        activation=call.activation,
        out=out,
    ),
    lambda call, dy, x, weight, bias, stats, out: gs.batch_norm_backward(
        dy,
        x,
        weight,
        *stats,
        training=call.training,
        axis=call.axis,
        activation=call.activation,
        bias=bias,
        out=out,
    ),
    _torchs_batch_norm,
)


@on_team
def _forward(
    x: torch.Tensor, weight: Optional, bias: Optional, call: _Call
) -> tuple[torch.Tensor, Stats]:
    y = new_like(x)
    _, *stats = call.kind.forward(
        call,
        array(x, call.order),
        optional_array(weight),
        optional_array(bias),
        array(y, call.order),
    )
    return y, tuple(stats)


@on_team
def _backward(
    dy: torch.Tensor, x: torch.Tensor, weight: Optional, bias: Optional, call: _Call, stats: Stats
) -> tuple[torch.Tensor, Sequence[Array]]:
    dx = new_like(x)
    _, *sums = call.kind.backward(
        call,
        array(dy, call.order),
        array(x, call.order),
        optional_array(weight),
        optional_array(bias),
        stats,
        array(dx, call.order),
    )
    return dx, sums


def _torchs_gradients(
    dy: torch.Tensor, inputs: Sequence[Optional], needs: Sequence[bool], call: _Call, stats: Stats
) -> list[Optional]:
    """The gradients by torch's operators, for all that can be done with these.

    That they are differentiated again, batched, traced, or of a type that our kernels do not take.
    """
    differentiable = torch.is_grad_enabled()
    own = list(inputs)
    with torch.enable_grad():
        for i, each in enumerate(inputs):
            if each is not None and needs[i]:
                # An alias: hooks on the input would run here, and then once more.
                own[i] = each.view_as(each)
        wanted = [each for each, needed in zip(own, needs, strict=True) if needed]
        y = call.kind.torchs(call, *own, stats)
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=differentiable))
    return [next(found) if needed else None for needed in needs]


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: Optional, bias: Optional, call: _Call
    ) -> torch.Tensor:
        y, ctx.stats = _forward(x, weight, bias, call)
        ctx.call = call
        ctx.bias_shape = None if bias is None else bias.shape
        ctx.save_for_backward(x, weight, bias if call.relu else None)
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[Optional, ...]:
        x, weight, bias = ctx.saved_tensors
        call, stats, needs = ctx.call, ctx.stats, ctx.needs_input_grad[:3]
        native = is_native(dy, weight, bias) and is_plain(x) and x.dtype is dy.dtype
        if torch.is_grad_enabled() or not native:
            if needs[2] and bias is None:  # it was not saved, any value will do
                bias = torch.zeros(ctx.bias_shape, dtype=x.dtype, requires_grad=True)
            return (*_torchs_gradients(dy, (x, weight, bias), needs, call, stats), None)
        dy, x = laid_out(dy, call.order), laid_out(x, call.order)
        dx, sums = _backward(dy, x, weight, bias, call, stats)
        # RMS norm has one sum, for its weight, and no bias that could need another.
        dweight = copied(sums[0]) if needs[1] else None
        dbias = copied(sums[1]) if needs[2] else None
        return dx if needs[0] else None, dweight, dbias, None


# Any: torch's own annotations leave it untyped.
_recorded: Any = _Normalize.apply


def _normalize(x: torch.Tensor, weight: Optional, bias: Optional, call: _Call) -> torch.Tensor:
    if call.order is None:
        x = x.contiguous()
    if wants_grad(x, weight, bias):
        y: torch.Tensor = _recorded(x, weight, bias, call)
        return y
    return _forward(x, weight, bias, call)[0]


def _fit(shape: Sequence[int], *tensors: Optional) -> bool:
    # A loop: a generator would cost as much as the checks, at every call of every layer.
    for each in tensors:  # noqa: SIM110
        if each is not None and each.shape != shape:
            return False
    return True


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
    order = channels_last_order(input)
    call = _Call(
        _BATCH, eps, order, training=training, momentum=momentum, relu=relu, running=running
    )
    y = _normalize(input, weight, bias, call)
    if training and running_mean is not None and running_var is not None:
        written([running_mean, running_var])
    return y


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
    return _normalize(input, weight, bias, _Call(_LAYER, eps, axes=len(normalized_shape)))


def _is_trailing(
    x: torch.Tensor, shape: Sequence[int], eps: float | None, *parameters: Optional
) -> bool:
    shape = tuple(shape)
    if eps is not None and not 0 <= eps < math.inf:
        return False
    return len(shape) > 0 and x.shape[-len(shape) :] == shape and _fit(shape, *parameters)


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
    return _normalize(input, weight, None, _Call(_RMS, eps, axes=len(normalized_shape)))


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
        and math.prod(input.shape[1:]) != num_groups  # torch takes one value per group
        and 0 <= eps < math.inf
        and channels_last_order(input) is None
    )
    if not native:
        return F.group_norm(input, num_groups, weight, bias, eps)
    return _normalize(input, weight, bias, _Call(_GROUP, eps, groups=num_groups))


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
    running = optional_array(running_mean), optional_array(running_var)
    if not use_input_stats:
        fixed = _Call(_BATCH, eps, training=False, running=running)
        return _normalize(input, weight, bias, fixed)
    y = _normalize(input, weight, bias, _Call(_INSTANCE, eps, momentum=momentum, running=running))
    if running_mean is not None and running_var is not None:
        written([running_mean, running_var])
    return y
