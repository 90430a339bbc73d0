"""The dropout family on torch tensors, with the signatures of torch.nn.functional.

Each call draws its seed from torch's default generator; no mask is stored, backward makes it again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

import gradstep as gs
from gradstep.arrays import Array
from gradstep.torch.kept_memory import new_like
from gradstep.torch.tensors import (
    HAS_BFLOAT16,
    Order,
    array,
    channels_last_order,
    draw_seed,
    inverse,
    is_native,
    laid_out,
    memory_order,
    wants_grad,
    written,
)
from gradstep.torch.threads import on_team

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d"]


class _Draw(NamedTuple):
    """One call: which elements are dropped and what happens to them."""

    kernel: Callable[[Array, _Draw, Array], Array]
    backward: Callable[[Array, _Draw, Array], Array]
    p: float
    seed: int
    order: Order


def _elements(x: Array, draw: _Draw, out: Array) -> Array:
    return gs.dropout(x, draw.p, seed=draw.seed, out=out)


def _channels(x: Array, draw: _Draw, out: Array) -> Array:
    axis = 1 if draw.order is None else -1
    return gs.spatial_dropout(x, draw.p, seed=draw.seed, axis=axis, out=out)


def _alpha(x: Array, draw: _Draw, out: Array) -> Array:
    return gs.alpha_dropout(x, draw.p, seed=draw.seed, out=out)


def _alpha_backward(dy: Array, draw: _Draw, out: Array) -> Array:
    return gs.alpha_dropout_backward(dy, draw.p, seed=draw.seed, out=out)


@on_team
def _new(x: torch.Tensor, draw: _Draw) -> torch.Tensor:
    y = new_like(x)
    draw.kernel(array(x, draw.order), draw, array(y, draw.order))
    return y


@on_team
def _in_place(x: torch.Tensor, draw: _Draw) -> torch.Tensor:
    found = array(x, draw.order)
    draw.kernel(found, draw, found)
    return x


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, draw: _Draw, inplace: bool) -> torch.Tensor:
        ctx.draw = draw._replace(kernel=draw.backward)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        if not inplace:
            return _new(x, draw)
        ctx.mark_dirty(x)
        return _in_place(x, draw)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        # Linear in dy, so that its own gradient is once more the same function.
        if is_native(dy):
            return _apply(laid_out(dy, ctx.draw.order), ctx.draw, False), None, None
        # Batched gradients, tangents, and what a mode watches: torch multiplies.
        return dy * _factors(ctx.shape, ctx.dtype, ctx.draw), None, None


@on_team
def _factors(shape: Sequence[int], dtype: torch.dtype, draw: _Draw) -> torch.Tensor:
    """What a draw multiplies each element by."""
    order = draw.order or tuple(range(len(shape)))
    factors = np.ones([shape[d] for d in order], "f8" if dtype == torch.float64 else "f4")
    draw.kernel(factors, draw, factors)
    return torch.tensor(factors.transpose(inverse(order))).to(dtype)


# Without the Python part of Function.apply, which looks after transforms: is_native has.
_recorded: Any = super(torch.autograd.Function, _Dropout).apply


def _apply(x: torch.Tensor, draw: _Draw, inplace: bool) -> torch.Tensor:
    if wants_grad(x):
        y: torch.Tensor = _recorded(x, draw, inplace)
        return y
    if not inplace:
        return _new(x, draw)
    written([x])
    return _in_place(x, draw)


def _is_drawn(x: torch.Tensor, p: float, training: bool, inplace: bool) -> bool:
    """Whether there is something to draw and our kernels can; torch's function does the rest."""
    if training is not True or not isinstance(p, float) or not 0 < p < 1 or not is_native(x):
        return False
    if x.dtype == torch.bfloat16 and not HAS_BFLOAT16:
        return False
    if not inplace:
        return True
    if not x.is_contiguous() and memory_order(x) is None:
        return False
    # Autograd refuses to overwrite a leaf, but after the fact; torch's function does so before.
    owner = x if x._base is None else x._base
    return not (torch.is_grad_enabled() and owner.is_leaf and owner.requires_grad)


def _by_element(
    kernel: Any, backward: Any, x: torch.Tensor, p: float, inplace: bool
) -> torch.Tensor:
    order = memory_order(x)
    if order is None:
        x = x.contiguous()
    return _apply(x, _Draw(kernel, backward, p, draw_seed(), order), inplace)


def dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """torch.nn.functional.dropout: zeroes elements with probability p, scales the rest.

    input: any shape. p: in [0, 1], rounded to a multiple of 2**-16. The mask follows
    torch.manual_seed. Raises what torch's function raises. Srivastava et al. 2014.

    >>> import torch, gradstep.torch as gt
    >>> _ = torch.manual_seed(0)
    >>> sorted(set(gt.functional.dropout(torch.ones(1000)).tolist()))
    [0.0, 2.0]
    """
    if not _is_drawn(input, p, training, inplace):
        return F.dropout(input, p, training, inplace)
    return _by_element(_elements, _elements, input, p, inplace)


def alpha_dropout(
    input: torch.Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> torch.Tensor:
    """torch.nn.functional.alpha_dropout: for SELU networks; keeps mean 0 and variance 1.

    Arguments and errors as in `dropout`. Klambauer et al. 2017 (arXiv:1706.02515).

    >>> import torch, gradstep.torch as gt
    >>> _ = torch.manual_seed(0)
    >>> len(set(gt.functional.alpha_dropout(torch.ones(1000), training=True).tolist()))
    2
    """
    if not _is_drawn(input, p, training, inplace):
        return F.alpha_dropout(input, p, training, inplace)
    return _by_element(_alpha, _alpha_backward, input, p, inplace)


def _by_channel(
    dims: int,
    torchs: Callable[[torch.Tensor, float, bool, bool], torch.Tensor],
    x: torch.Tensor,
    p: float,
    training: bool,
    inplace: bool,
) -> torch.Tensor:
    if not _is_drawn(x, p, training, inplace) or x.dim() != dims + 2:
        return torchs(x, p, training, inplace)
    order = channels_last_order(x)
    if order is None and not x.is_contiguous():
        if inplace:
            return torchs(x, p, training, inplace)
        x = x.contiguous()
    draw = _Draw(_channels, _channels, p, draw_seed(), order)
    return _apply(x, draw, inplace)


def dropout1d(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """torch.nn.functional.dropout1d: zeroes whole channels of (N, C, L).

    An input without N goes to torch's function. The rest as in `dropout`. Tompson et al. 2015
    (arXiv:1411.4280).

    >>> import torch, gradstep.torch as gt
    >>> y = gt.functional.dropout1d(torch.ones(8, 4, 100))
    >>> bool((y == y[:, :, :1]).all())
    True
    """
    return _by_channel(1, F.dropout1d, input, p, training, inplace)


def dropout2d(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """torch.nn.functional.dropout2d: zeroes whole channels of (N, C, H, W), in any memory format.

    Other dimensions go to torch's function. The rest as in `dropout1d`.

    >>> import torch, gradstep.torch as gt
    >>> gt.functional.dropout2d(torch.ones(2, 3, 4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """
    return _by_channel(2, F.dropout2d, input, p, training, inplace)


def dropout3d(
    input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> torch.Tensor:
    """torch.nn.functional.dropout3d: zeroes whole channels of (N, C, D, H, W).

    An input without N goes to torch's function. The rest as in `dropout1d`.

    >>> import torch, gradstep.torch as gt
    >>> gt.functional.dropout3d(torch.ones(2, 3, 4, 4, 4)).shape
    torch.Size([2, 3, 4, 4, 4])
    """
    return _by_channel(3, F.dropout3d, input, p, training, inplace)
