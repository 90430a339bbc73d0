"""Optimizer steps as SIMD kernels that update NumPy arrays in place.

>>> import numpy as np, gradstep as gs
>>> w = np.zeros(3, np.float32)
>>> opt = gs.AdamW(w, lr=0.1)
>>> opt.step(np.ones(3, np.float32)).step
1
>>> w
array([-0.1, -0.1, -0.1], dtype=float32)
"""

from gradstep import init
from gradstep._core import __version__
from gradstep.activations import (
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    log_softmax,
    log_softmax_backward,
    maxout,
    maxout_backward,
    prelu,
    prelu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from gradstep.averages import ewma_
from gradstep.gradients import (
    Summary,
    clip_norm_,
    clip_value_,
    describe,
    global_norm,
    nonfinite,
)
from gradstep.losses import cross_entropy, mse
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
    "build_info",
    "clip_norm_",
    "clip_value_",
    "constant",
    "cosine",
    "cosine_restarts",
    "cross_entropy",
    "describe",
    "ewma_",
    "exponential",
    "find_lr",
    "gelu",
    "gelu_backward",
    "get_num_threads",
    "global_norm",
    "init",
    "inverse_time",
    "join",
    "leaky_relu",
    "leaky_relu_backward",
    "log_softmax",
    "log_softmax_backward",
    "maxout",
    "maxout_backward",
    "mse",
    "nonfinite",
    "one_cycle",
    "per_epoch",
    "piecewise",
    "polynomial",
    "power",
    "prelu",
    "prelu_backward",
    "relu",
    "relu_backward",
    "set_num_threads",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "simd_level",
    "softmax",
    "softmax_backward",
    "step_decay",
    "tanh",
    "tanh_backward",
    "threads",
    "use_simd",
    "warmup",
]

_register_with_threadpoolctl()
