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
from gradstep.gradients import (
    Summary,
    clip_norm_,
    clip_value_,
    describe,
    global_norm,
    nonfinite,
)
from gradstep.lr_search import LrSearch, find_lr
from gradstep.norm import (
    batch_norm,
    batch_norm_backward,
    batch_norm_stats,
    group_norm,
    group_norm_backward,
    instance_norm,
    instance_norm_backward,
    layer_norm,
    layer_norm_backward,
    merge_stats,
    rms_norm,
    rms_norm_backward,
)
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
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Group",
    "Lion",
    "LrSearch",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Schedule",
    "StepInfo",
    "Summary",
    "__version__",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_stats",
    "build_info",
    "clip_norm_",
    "clip_value_",
    "constant",
    "cosine",
    "cosine_restarts",
    "describe",
    "ewma_",
    "exponential",
    "find_lr",
    "get_num_threads",
    "global_norm",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "inverse_time",
    "join",
    "layer_norm",
    "layer_norm_backward",
    "merge_stats",
    "nonfinite",
    "one_cycle",
    "per_epoch",
    "piecewise",
    "polynomial",
    "power",
    "rms_norm",
    "rms_norm_backward",
    "set_num_threads",
    "simd_level",
    "step_decay",
    "threads",
    "use_simd",
    "warmup",
]

_register_with_threadpoolctl()
