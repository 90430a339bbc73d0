"""Normalisation of torch tensors, with the signatures of torch.nn.functional.

Statistics are kept in float64 between forward and backward. What our kernels do not take goes to
torch's function, which also raises the errors; so do gradients that are to be differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import torch
from torch.compiler import is_compiling
from torch.nn import functional as F

from gradstep import _core
from gradstep.arrays import Array
from gradstep.torch.tensors import (
    HALVES,
    HAS_BFLOAT16,
    array,
    channels_last_order,
    is_plain,
    is_watched,
    laid_out,
    written,
)

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]

Optional: TypeAlias = torch.Tensor | None
Stats: TypeAlias = tuple[Array, ...]


# A training loop makes the same few calls again and again.
_call = lru_cache(maxsize=1024)(_core.NormCall)


def _torchs_batch_norm(
    call: _core.NormCall, x: torch.Tensor, weight: Optional, bias: Optional, stats: Stats
) -> torch.Tensor:
    if call.training:
        y = F.batch_norm(x, None, None, weight, bias, True, 0.0, call.eps)
    else:
        # The statistics of then: the buffers may have changed.
        shape = (-1, *[1] * (x.dim() - 2))
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        mean, invstd = (torch.tensor(each).to(kind).reshape(shape) for each in stats[:2])
        y = (x - mean) * (invstd if weight is None else invstd * weight.reshape(shape))
        y = (y if bias is None else y + bias.reshape(shape)).to(x.dtype)
    return F.relu(y) if call.relu else y


# By kind of call: torch's norm, with which gradients are differentiated.
_TORCHS: dict[str, Callable[..., torch.Tensor]] = {
    "layer": lambda call, x, weight, bias, _: F.layer_norm(
        x, x.shape[x.dim() - call.axes :], weight, bias, call.eps
    ),
    "rms": lambda call, x, weight, _, __: F.rms_norm(
        x, x.shape[x.dim() - call.axes :], weight, call.eps
    ),
    "group": lambda call, x, weight, bias, _: F.group_norm(x, call.groups, weight, bias, call.eps),
    "instance": lambda call, x, weight, bias, _: F.instance_norm(
        x, weight=weight, bias=bias, eps=call.eps
    ),
    "batch": _torchs_batch_norm,
}


def _torchs_gradients(
    dy: torch.Tensor,
    inputs: Sequence[Optional],
    needs: Sequence[bool],
    call: _core.NormCall,
    stats: Stats,
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
        y = _TORCHS[call.kind](call, *own, stats)
        found = iter(torch.autograd.grad(y, wanted, dy, create_graph=differentiable))
    return [next(found) if needed else None for needed in needs]


def _gradients_otherwise(
    ctx: Any, dy: torch.Tensor, x: torch.Tensor, weight: Optional, bias: Optional
) -> tuple[Optional, ...]:
    """Gradients where the kernels cannot take the tensors as they are, or torch has its turn."""
    call, stats, needs = ctx.call, ctx.stats, ctx.needs_input_grad
    if not (torch.is_grad_enabled() or is_watched()) and is_plain(dy) and is_plain(x):
        order = (0, *range(2, x.dim()), 1) if stats[-1] is True else None
        ordered = laid_out(dy, order), laid_out(x, order)
        found = _core.norm_gradients(call, *ordered, weight, bias, stats, needs)
        if found is not None:
            return found
    if needs[2] and bias is None:  # it was not saved, any value will do
        shape = x.shape[x.dim() - call.axes :] if call.axes else x.shape[1:2]
        kind = x.dtype if weight is None else weight.dtype
        bias = torch.zeros(shape, dtype=kind, requires_grad=True)
    return (*_torchs_gradients(dy, (x, weight, bias), needs[:3], call, stats), None, None)


class _Normalize(torch.autograd.Function):
    """Records a call, for what backward finds in ctx.call and ctx.stats."""

    forward = staticmethod(_core.keep_for_backward)
    backward = staticmethod(_core.norm_backward)


# What torch calls in a backward pass. Its own method finds `backward` anew, in half a microsecond.
_Normalize._backward_cls.apply = _core.norm_backward_method
# Without the Python part of Function.apply, which looks after transforms: is_watched has.
_recorded = super(torch.autograd.Function, _Normalize).apply
_core.record_by(torch.is_grad_enabled, _recorded, _gradients_otherwise)


def _are_numbers(*values: Any) -> bool:
    """Whether torch's function would take them, as it does without a conversion."""
    return all(
        type(value) is float or (type(value) is int and abs(value) < 2**53) for value in values
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _is_strided(x: Any) -> bool:
    """Whether our kernels would take a contiguous copy."""
    return not is_watched() and is_plain(x) and not x.is_contiguous()


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
    are copied. The other tensors: (C,) of its type, or float32 beside bfloat16 and float16, or
    None; running statistics may be float64.
    Running statistics are updated in place in training. Raises what torch's function raises.
    Ioffe & Szegedy 2015 (arXiv:1502.03167).

    >>> import torch, gradstep.torch as gt
    >>> gt.functional.batch_norm(torch.tensor([[1.], [3.]]), None, None, training=True, eps=1e-30)
    tensor([[-1.],
            [ 1.]])
    """
    if relu is not True and relu is not False:
        raise TypeError(f"relu: {type(relu).__name__}, expected True or False")
    fits = (training is True or training is False) and _are_numbers(momentum, eps)
    if not is_compiling() and fits and (eps or not training):
        call = _call("batch", eps, 0, 1, training, relu)
        y = _core.tensor_batch_norm(
            *(call, input, weight, bias, running_mean, running_var),
            *(training, momentum, eps, relu),
        )
        if y is not None:
            if training and running_mean is not None and running_var is not None:
                written((running_mean, running_var))
            return y
        if _is_strided(input) and channels_last_order(input) is None:
            input = input.contiguous()
            given = (input, running_mean, running_var, weight, bias, training, momentum, eps)
            return batch_norm(*given, relu=relu)
    y = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return F.relu(y) if relu else y


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
    if not is_compiling() and _is_shape(normalized_shape) and _are_numbers(eps):
        call = _call("layer", eps, len(normalized_shape))
        y = _core.tensor_layer_norm(call, input, normalized_shape, weight, bias, eps)
        if y is not None:
            return y
        if _is_strided(input):
            return layer_norm(input.contiguous(), normalized_shape, weight, bias, eps)
    return F.layer_norm(input, normalized_shape, weight, bias, eps)


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
    fits = _is_shape(normalized_shape) and (eps is None or _are_numbers(eps))
    if not is_compiling() and fits:
        call = _call("rms", eps, len(normalized_shape))
        y = _core.tensor_rms_norm(call, input, normalized_shape, weight, eps)
        if y is not None:
            return y
        if _is_strided(input):
            return rms_norm(input.contiguous(), normalized_shape, weight, eps)
    return F.rms_norm(input, normalized_shape, weight, eps)


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
    if not is_compiling() and type(num_groups) is int and _are_numbers(eps):
        call = _call("group", eps, 0, num_groups)
        y = _core.tensor_group_norm(call, input, num_groups, weight, bias, eps)
        # torch's function refuses one value for each group.
        if y is not None and y.numel() != num_groups:
            return y
        if _is_strided(input) and channels_last_order(input) is None:
            return group_norm(input.contiguous(), num_groups, weight, bias, eps)
    return F.group_norm(input, num_groups, weight, bias, eps)


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
    fits = (use_input_stats is True or use_input_stats is False) and _are_numbers(momentum, eps)
    fits = fits and isinstance(input, torch.Tensor)
    if fits and not (is_compiling() or is_watched()) and channels_last_order(input) is None:
        running = (running_mean, running_var)
        if use_input_stats:
            call = _call("instance", eps, 0, None)
            found = _core.tensor_group_norm(None, input, None, weight, bias, eps)
            if found is not None and _follow(running, found, input, momentum, eps):
                return _core.recorded(call, input, weight, bias, found)
        else:
            call = _call("batch", eps, 0, 1, False)
            y = _core.tensor_batch_norm(
                *(call, input, weight, bias, *running), *(False, 0.0, eps, False)
            )
            if y is not None:
                return y
        if _is_strided(input):
            input = input.contiguous()
            return instance_norm(input, *running, weight, bias, use_input_stats, momentum, eps)
    return F.instance_norm(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def _follow(
    running: tuple[Optional, Optional], found: Any, x: torch.Tensor, momentum: float, eps: float
) -> bool:
    """Updates running statistics by those of the samples, or tells that these cannot be."""
    if running[0] is None and running[1] is None:
        return True
    kinds = (x.dtype, torch.float64, torch.float32 if x.dtype in HALVES else x.dtype)
    if not HAS_BFLOAT16:
        kinds = tuple(kind for kind in kinds if kind is not torch.bfloat16)
    if not all(
        each is not None
        and is_plain(each)
        and each.is_contiguous()
        and each.shape == x.shape[1:2]
        and each.dtype in kinds
        for each in running
    ):
        return False
    _, mean, invstd = found
    count = math.prod(x.shape[2:])
    # 0 for 1 / √0, too: that of a constant channel with eps 0.
    variance = np.zeros_like(invstd)
    np.power(invstd, -2, out=variance, where=invstd != 0)
    variance = np.maximum(variance - eps, 0) * (count / (count - 1))
    for each, batch in zip(running, (mean, variance), strict=True):
        own = array(each)
        own[...] = (1 - momentum) * own + momentum * batch.mean(0)
    written(running)
    return True
