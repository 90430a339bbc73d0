"""PyTorch on the CPU with gradstep's kernels: optimizers on the parameters' own memory.

Needs PyTorch: `pip install gradstep[torch]`. Importing this package imports torch; nothing else in
gradstep does.

>>> import torch, gradstep.torch
>>> model = torch.nn.Linear(4, 2)
>>> opt = gradstep.torch.AdamW(model.parameters(), lr=1e-3, clip_norm=1.0)
>>> model(torch.ones(3, 4)).sum().backward()
>>> opt.step()
"""

# Optimizers
from gradstep.torch.optimizers import (
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
)

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
    "Lion",
    "NAdam",
    "RAdam",
    "RMSprop",
]
