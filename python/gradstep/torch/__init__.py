"""gradstep for PyTorch: modules on the CPU that compute with gradstep's kernels."""

from gradstep.torch import functional
from gradstep.torch.accelerate import Swapped, accelerate, restore
from gradstep.torch.memory import keep_memory
from gradstep.torch.modules import (
    AlphaDropout,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    RMSNorm,
)

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
    "Swapped",
    "accelerate",
    "functional",
    "keep_memory",
    "restore",
]
