"""Optimizer steps as SIMD kernels that update NumPy arrays in place.

>>> import numpy as np, gradstep as gs
>>> w = np.zeros(3, np.float32)
>>> opt = gs.AdamW(w, lr=0.1)
>>> opt.step(np.ones(3, np.float32)).step
1
>>> w
array([-0.1, -0.1, -0.1], dtype=float32)
"""

from gradstep._core import __version__
from gradstep.averages import ewma_
from gradstep.dropout_layers import (
    DROPOUTS,
    AlphaDropout,
    DropConnect,
    Dropout,
    DropPath,
    SpatialDropout,
)
from gradstep.dropouts import (
    alpha_dropout,
    alpha_dropout_backward,
    drop_connect,
    drop_connect_backward,
    drop_path,
    drop_path_backward,
    dropout,
    dropout_backward,
    dropout_mask,
    spatial_dropout,
    spatial_dropout_backward,
)
from gradstep.gradients import (
    Summary,
    clip_norm_,
    clip_value_,
    describe,
    global_norm,
    nonfinite,
)
from gradstep.lr_search import LrSearch, find_lr
from gradstep.optimizer import Group, Optimizer, StepInfo
from gradstep.optimizers import (
    OPTIMIZERS,
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
from gradstep.runtime import (
    _register_with_threadpoolctl,
    build_info,
    get_num_threads,
    set_num_threads,
    simd_level,
    threads,
    use_simd,
)
from gradstep.schedules import (
    SCHEDULES,
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_time,
    join,
    one_cycle,
    per_epoch,
    piecewise,
    polynomial,
    power,
    step_decay,
    warmup,
)

__all__ = [
    "DROPOUTS",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "AlphaDropout",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Group",
    "Lion",
    "LrSearch",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Schedule",
    "SpatialDropout",
    "StepInfo",
    "Summary",
    "__version__",
    "alpha_dropout",
    "alpha_dropout_backward",
    "build_info",
    "clip_norm_",
    "clip_value_",
    "constant",
    "cosine",
    "cosine_restarts",
    "describe",
    "drop_connect",
    "drop_connect_backward",
    "drop_path",
    "drop_path_backward",
    "dropout",
    "dropout_backward",
    "dropout_mask",
    "ewma_",
    "exponential",
    "find_lr",
    "get_num_threads",
    "global_norm",
    "inverse_time",
    "join",
    "nonfinite",
    "one_cycle",
    "per_epoch",
    "piecewise",
    "polynomial",
    "power",
    "set_num_threads",
    "simd_level",
    "spatial_dropout",
    "spatial_dropout_backward",
    "step_decay",
    "threads",
    "use_simd",
    "warmup",
]

_register_with_threadpoolctl()
