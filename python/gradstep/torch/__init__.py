"""PyTorch on the CPU with gradstep's kernels: optimizers and modules on the tensors' own memory.

Needs PyTorch: `pip install gradstep[torch]`. Importing this package imports torch; nothing else in
gradstep does. What is in it computes on the threads of torch's OpenMP.

>>> import torch, gradstep.torch
>>> model = torch.nn.Linear(4, 2)
>>> opt = gradstep.torch.AdamW(model.parameters(), lr=1e-3, clip_norm=1.0)
>>> model(torch.ones(3, 4)).sum().backward()
>>> opt.step()
"""

# isort: off
from gradstep.torch import threads  # first: it asks whether torch was here before
from gradstep.torch import distributed

# isort: on
from gradstep.torch.kept_memory import keep_memory
from gradstep.torch.nn import functional
from gradstep.torch.nn.accelerate import Swapped, accelerate, restore
from gradstep.torch.nn.families import register
from gradstep.torch.nn.modules import (
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
from gradstep.torch.optim.offload import OffloadOptimizer
from gradstep.torch.optim.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
    SparseAdam,
)

threads.borrow_threads()

OPTIMIZERS = {
    cls.__name__: cls
    for cls in (SGD, Adagrad, RMSprop, Adadelta, Adam, AdamW, NAdam, Adamax, RAdam, Lion)
}

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
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
    "Lion",
    "NAdam",
    "OffloadOptimizer",
    "RAdam",
    "RMSNorm",
    "RMSprop",
    "SparseAdam",
    "Swapped",
    "accelerate",
    "distributed",
    "functional",
    "keep_memory",
    "register",
    "restore",
]
