"""torch's dropout and normalisation modules on gradstep's kernels.

Each is a subclass of torch's module that overrides the computation only: constructor, parameters,
buffers, state dict and repr are torch's own. See `gradstep.torch.functional` for what is native.
Errors are torch's own too, raised when it is made and in `forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F  # noqa: F401  torch's scripting compiler looks for it here

from gradstep.torch.nn import functional as ours

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


_Forward: TypeAlias = Callable[..., Tensor]


def _scripted_as(torchs: _Forward) -> Callable[[_Forward], _Forward]:
    """Lets torch.jit.script, which compiles the source of a method, read torch's instead."""

    def mark(forward: _Forward) -> _Forward:
        forward.__wrapped__ = torchs  # type: ignore[attr-defined]
        return forward

    return mark


def _node(module: nn.Module, input: Any) -> Any:
    """The call as one node of torch.fx, which takes torch's own modules so by their package."""
    tracer = input.tracer
    if module is tracer.root:  # is traced into, as torch's is
        forward: Any = type(module).forward
        return forward.__wrapped__(module, input)
    return tracer.create_proxy("call_module", tracer.path_of_module(module), (input,), {})


def _affine(module: nn.Module) -> tuple[Any, Any]:
    """Its weight and bias; nn.Module.__getattr__ takes longer than the norm of a short row."""
    own = module._parameters
    if "weight" in own and "bias" in own:
        return own["weight"], own["bias"]
    return module.weight, module.bias  # replaced by tensors or properties, as FSDP does


def _running(module: nn.Module) -> tuple[Any, Any]:
    """The same of the running statistics."""
    own = module._buffers
    if "running_mean" in own and "running_var" in own:
        return own["running_mean"], own["running_var"]
    return module.running_mean, module.running_var


class Dropout(nn.Dropout):
    """torch.nn.Dropout; the mask follows torch.manual_seed and is not stored.

    Arguments and errors as of torch's.

    >>> import torch, gradstep.torch as gt
    >>> gt.Dropout(0.5).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    @_scripted_as(nn.Dropout.forward)
    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return _node(self, input)
        return ours.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(nn.Dropout1d):
    """torch.nn.Dropout1d: whole channels of (N, C, L); arguments and errors as of torch's."""

    @_scripted_as(nn.Dropout1d.forward)
    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return _node(self, input)
        return ours.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(nn.Dropout2d):
    """torch.nn.Dropout2d: whole channels of (N, C, H, W); arguments and errors as of torch's."""

    @_scripted_as(nn.Dropout2d.forward)
    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return _node(self, input)
        return ours.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(nn.Dropout3d):
    """torch.nn.Dropout3d: whole channels of (N, C, D, H, W); arguments and errors as of torch's."""

    @_scripted_as(nn.Dropout3d.forward)
    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return _node(self, input)
        return ours.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(nn.AlphaDropout):
    """torch.nn.AlphaDropout, for SELU networks; arguments and errors as of torch's. As there,
    `inplace` does nothing.
    """

    @_scripted_as(nn.AlphaDropout.forward)
    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return _node(self, input)
        return ours.alpha_dropout(input, self.p, self.training)


def _count_batch(module: Any) -> float:
    """Counts this batch; the weight of its statistics in the running ones."""
    if not module.training or not module.track_running_stats:
        return 0.0 if module.momentum is None else module.momentum
    counted = module.num_batches_tracked
    if counted is None:
        return 0.0 if module.momentum is None else module.momentum
    counted.add_(1)
    return 1.0 / float(counted) if module.momentum is None else module.momentum


def batch_norm(module: Any, input: Tensor, eps: float, relu: bool) -> Tensor:
    """What `forward` of a torch.nn.BatchNorm does, with our function."""
    module._check_input_dim(input)
    momentum = _count_batch(module)
    # In training they are there to be updated, otherwise to normalise with.
    training = module.training
    mean, var = _running(module) if not training or module.track_running_stats else (None, None)
    training = training or (mean is None and var is None)
    return ours.batch_norm(input, mean, var, *_affine(module), training, momentum, eps, relu=relu)


class _HiddenEps:
    """Stands for the `eps` of a batch norm with relu=True, which keeps its own elsewhere.

    Whoever makes another module of a batch norm reads it (`fuse_conv_bn_eval`, conversion to
    SyncBatchNorm or to frozen statistics), and would lose the ReLU without a word.
    """

    def __get__(self, module: nn.Module | None, kind: type) -> Any:
        if module is None:
            return self
        raise RuntimeError(
            f"gradstep.torch.{kind.__name__} with relu=True: what is made from its eps would lose "
            "the ReLU; to fuse or convert it, use relu=False and torch.nn.ReLU behind it"
        )


class _FusedBatchNorm(nn.modules.batchnorm._BatchNorm):
    # On the class, so that torch's own instances have it once they are accelerated.
    relu = False
    # Found only where the instance has no eps.
    eps = _HiddenEps()

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

    def __setattr__(self, name: str, value: Any) -> None:
        own = self.__dict__
        if name == "relu":
            present, wanted = ("eps", "_eps_of_relu") if value else ("_eps_of_relu", "eps")
            if present in own:
                own[wanted] = own.pop(present)
        super().__setattr__("_eps_of_relu" if name == "eps" and self.relu else name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.relu:
            self.relu = True  # hides the eps of a pickle in which it was not hidden

    @_scripted_as(nn.modules.batchnorm._BatchNorm.forward)
    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return _node(self, input)
        return batch_norm(self, input, self._eps_of_relu if self.relu else self.eps, self.relu)

    def extra_repr(self) -> str:
        if not self.relu:
            return str(super().extra_repr())
        seen: Any = SimpleNamespace(**vars(self), eps=self._eps_of_relu, bias=self.bias)
        return f"{nn.modules.batchnorm._NormBase.extra_repr(seen)}, relu=True"


class BatchNorm1d(_FusedBatchNorm, nn.BatchNorm1d):
    """torch.nn.BatchNorm1d. relu: True applies a ReLU in the same pass.

    Other arguments and errors as of torch's; TypeError for another `relu`. With one, reading `eps`
    raises RuntimeError: what is made from it would lose the ReLU.

    >>> import torch, gradstep.torch as gt
    >>> gt.BatchNorm1d(1, relu=True)(torch.tensor([[1.0], [3.0]])).round().detach()
    tensor([[0.],
            [1.]])
    """


class BatchNorm2d(_FusedBatchNorm, nn.BatchNorm2d):
    """torch.nn.BatchNorm2d. Its `relu` and errors as of BatchNorm1d."""


class BatchNorm3d(_FusedBatchNorm, nn.BatchNorm3d):
    """torch.nn.BatchNorm3d. Its `relu` and errors as of BatchNorm1d."""


class LayerNorm(nn.LayerNorm):
    """torch.nn.LayerNorm, with arguments and errors as of torch's.

    >>> import torch, gradstep.torch as gt
    >>> gt.LayerNorm(2, eps=0.0)(torch.tensor([[1.0, 3.0]])).detach()
    tensor([[-1.,  1.]])
    """

    @_scripted_as(nn.LayerNorm.forward)
    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return _node(self, input)
        return ours.layer_norm(input, self.normalized_shape, *_affine(self), self.eps)


class RMSNorm(nn.RMSNorm):
    """torch.nn.RMSNorm, with arguments and errors as of torch's."""

    @_scripted_as(nn.RMSNorm.forward)
    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Proxy):
            return _node(self, x)
        return ours.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class GroupNorm(nn.GroupNorm):
    """torch.nn.GroupNorm, with arguments and errors as of torch's."""

    @_scripted_as(nn.GroupNorm.forward)
    def forward(self, input: Tensor) -> Tensor:
        if isinstance(input, Proxy):
            return _node(self, input)
        return ours.group_norm(input, self.num_groups, *_affine(self), self.eps)


class _InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    @_scripted_as(nn.modules.instancenorm._InstanceNorm.forward)
    def forward(self, input: Tensor) -> Tensor:
        return _node(self, input) if isinstance(input, Proxy) else super().forward(input)

    @_scripted_as(nn.modules.instancenorm._InstanceNorm._apply_instance_norm)
    def _apply_instance_norm(self, input: Tensor) -> Tensor:
        return ours.instance_norm(
            input,
            *_running(self),
            *_affine(self),
            self.training or not self.track_running_stats,
            self.momentum if self.momentum is not None else 0.0,
            self.eps,
        )


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """torch.nn.InstanceNorm1d, with arguments and errors as of torch's."""


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """torch.nn.InstanceNorm2d, with arguments and errors as of torch's."""


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """torch.nn.InstanceNorm3d, with arguments and errors as of torch's."""
