"""Optimizer steps as SIMD kernels that update NumPy arrays in place.

>>> import numpy as np, gradstep as gs
>>> w = np.zeros(3, np.float32)
>>> opt = gs.AdamW(w, lr=0.1)
>>> opt.step(np.ones(3, np.float32)).step
1
>>> w
array([-0.1, -0.1, -0.1], dtype=float32)
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from gradstep._load import __version__
from gradstep.nn import init
from gradstep.nn.dropouts import (
    DROPOUTS,
    AlphaDropout,
    DropConnect,
    Dropout,
    DropPath,
    SpatialDropout,
)
from gradstep.ops.activations import (
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    log_softmax,
    log_softmax_backward,
    maxout,
    maxout_backward,
    mish,
    mish_backward,
    prelu,
    prelu_backward,
    relu,
    relu_backward,
    selu,
    selu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from gradstep.ops.dropout import (
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
from gradstep.ops.losses import cross_entropy, mse
from gradstep.ops.norm import (
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
from gradstep.optim.averages import ewma_
from gradstep.optim.gradients import (
    Summary,
    accumulate,
    clip_norm_,
    clip_value_,
    describe,
    global_norm,
    nonfinite,
)
from gradstep.optim.optimizer import Group, Optimizer, StepInfo
from gradstep.optim.optimizers import (
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
from gradstep.optim.schedules import (
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
    scaled,
    step_decay,
    warmup,
)
from gradstep.runtime import (
    _register_with_threadpoolctl,
    build_info,
    flush_denormals,
    get_num_threads,
    set_num_threads,
    simd_level,
    threads,
    use_blas_threads,
    use_simd,
)
from gradstep.train.lr_search import LrSearch, find_lr

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
    "accumulate",
    "alpha_dropout",
    "alpha_dropout_backward",
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_stats",
    "build_info",
    "clip_norm_",
    "clip_value_",
    "constant",
    "cosine",
    "cosine_restarts",
    "cross_entropy",
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
    "flush_denormals",
    "gelu",
    "gelu_backward",
    "get_num_threads",
    "global_norm",
    "group_norm",
    "group_norm_backward",
    "init",
    "instance_norm",
    "instance_norm_backward",
    "inverse_time",
    "join",
    "layer_norm",
    "layer_norm_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "load",
    "log_softmax",
    "log_softmax_backward",
    "maxout",
    "maxout_backward",
    "merge_stats",
    "mish",
    "mish_backward",
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
    "rms_norm",
    "rms_norm_backward",
    "save",
    "scaled",
    "selu",
    "selu_backward",
    "set_num_threads",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "simd_level",
    "softmax",
    "softmax_backward",
    "spatial_dropout",
    "spatial_dropout_backward",
    "step_decay",
    "tanh",
    "tanh_backward",
    "threads",
    "use_blas_threads",
    "use_simd",
    "warmup",
]

if _TYPE_CHECKING:
    from gradstep.checkpoint import load, save

_LATE = {"load": "gradstep.checkpoint", "save": "gradstep.checkpoint"}


def __getattr__(name: str) -> _Any:
    """What is imported when it is first asked for."""
    if name not in _LATE:
        raise AttributeError(f"module 'gradstep' has no attribute {name!r}")
    return getattr(_import_module(_LATE[name]), name)


_register_with_threadpoolctl()
