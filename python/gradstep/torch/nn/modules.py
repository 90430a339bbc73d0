"""torch's dropout and normalisation modules on gradstep's kernels.

Each is a subclass of torch's module that overrides the computation only: constructor, parameters,
buffers, state dict and repr are torch's own. See `gradstep.torch.functional` for what is native.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gradstep.torch.nn import functional as F

__all__ = [
    "AlphaDropout",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "RMSNorm",
]


class Dropout(nn.Dropout):
    """torch.nn.Dropout; the mask follows torch.manual_seed and is not stored.

    >>> import torch, gradstep.torch as gt
    >>> gt.Dropout(0.5).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(nn.Dropout1d):
    """torch.nn.Dropout1d: whole channels of (N, C, L)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(nn.Dropout2d):
    """torch.nn.Dropout2d: whole channels of (N, C, H, W)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(nn.Dropout3d):
    """torch.nn.Dropout3d: whole channels of (N, C, D, H, W)."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(nn.AlphaDropout):
    """torch.nn.AlphaDropout, for SELU networks. As there, `inplace` does nothing."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.alpha_dropout(input, self.p, self.training)


class _FusedBatchNorm(nn.modules.batchnorm._BatchNorm):
    # On the class, so that torch's own instances have it once they are accelerated.
    relu = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        relu: bool = False,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        if not isinstance(relu, bool):
            raise TypeError(f"relu: {type(relu).__name__}, expected True or False")
        self.relu = relu

    def _count_batch(self) -> float:
        """Counts this batch; the weight of its statistics in the running ones."""
        counted = self.num_batches_tracked
        if counted is None or not self.training or not self.track_running_stats:
            return 0.0 if self.momentum is None else self.momentum
        counted.add_(1)
        return 1.0 / float(counted) if self.momentum is None else self.momentum

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        parent: Any = self
        parent._check_input_dim(input)
        momentum = self._count_batch()
        # In training they are there to be updated, otherwise to normalise with.
        running = not self.training or self.track_running_stats
        mean, var = (self.running_mean, self.running_var) if running else (None, None)
        training = self.training or (mean is None and var is None)
        return F.batch_norm(
            input,
            mean,
            var,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
            relu=self.relu,
        )

    def extra_repr(self) -> str:
        parent: Any = super()
        return f"{parent.extra_repr()}{', relu=True' if self.relu else ''}"


class BatchNorm1d(_FusedBatchNorm, nn.BatchNorm1d):
    """torch.nn.BatchNorm1d. relu: True applies a ReLU in the same pass.

    >>> import torch, gradstep.torch as gt
    >>> gt.BatchNorm1d(1, relu=True)(torch.tensor([[1.0], [3.0]])).round().detach()
    tensor([[0.],
            [1.]])
    """


class BatchNorm2d(_FusedBatchNorm, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d. relu: True applies a ReLU in the same pass."""


class BatchNorm3d(_FusedBatchNorm, nn.BatchNorm3d):
    """torch.nn.BatchNorm3d. relu: True applies a ReLU in the same pass."""


class LayerNorm(nn.LayerNorm):
    """torch.nn.LayerNorm.

    >>> import torch, gradstep.torch as gt
    >>> gt.LayerNorm(2, eps=0.0)(torch.tensor([[1.0, 3.0]])).detach()
    tensor([[-1.,  1.]])
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """torch.nn.RMSNorm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


class _InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    def _apply_instance_norm(self, input: torch.Tensor) -> torch.Tensor:
        return F.instance_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            self.momentum if self.momentum is not None else 0.0,
            self.eps,
        )


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """torch.nn.InstanceNorm1d."""


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d."""


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d."""
