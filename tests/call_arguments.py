"""What each argument of the functions and layers may be: by its name, or by that of its call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import gradstep as gs
import numpy as np
from argument_kinds import (
    BELOW_1,
    CHANNELS,
    COUNT,
    F4,
    F8,
    FLOATS,
    LIKE_X,
    POSITIVE,
    PROBABILITY,
    RATE,
    SIZE,
    STORED,
    WORD,
    Argument,
    any_array,
    array,
    between,
    choice,
    dense,
    filled,
    flag,
    function,
    hyper,
    instance,
    integer,
    is_dtype,
    is_index,
    is_shape,
    mapping,
    number,
    optional,
    pair,
    real,
    schedule,
    sequence,
    tree,
)
from gradstep import nn

LARGEST = float(np.finfo(F4).max)


def descend(lr: float) -> Callable[[], float]:
    """One of `find_lr`'s models."""
    weight = np.array([1.0, 1.0])

    def step() -> float:
        loss = 0.5 * float(weight @ weight)
        weight[:] -= lr * weight
        return loss

    return step


# By name of the argument.
ARGUMENTS: dict[str, Argument] = {
    # arrays
    "x": any_array(4, 6),
    "dy": LIKE_X,
    "y": LIKE_X,
    "out": optional(array(4, 6, written=True)),
    "weight": CHANNELS,
    "bias": CHANNELS,
    "running_mean": optional(any_array(6, written=True)),
    "running_var": optional(any_array(6, written=True)),
    "mean": array(6, dtype=F8),
    "invstd": array(6, dtype=F8),
    "logits": any_array(4, 6),
    "targets": Argument(
        lambda: np.array([0, 1, 2, 3]), partial(dense, dtypes=(np.dtype("i4"), np.dtype("i8")))
    ),
    "prediction": array(4, 6, order="any"),
    "target": LIKE_X,
    "sample_weight": Argument(
        partial(filled, 4),
        lambda v: v is None or (isinstance(v, np.ndarray) and v.shape == (4,)),
    ),
    "stats": sequence([(filled(6, dtype=F8), filled(6, dtype=F8), 4)] * 2, lambda v: False),
    # trees
    "grads": tree(written=True),
    "tree": tree(written=False),
    "params": tree(written=True),
    "average": tree(written=True),
    "sums": optional(array(1, dtype=F8, order="none")),
    "into": array(4, 6, written=True),
    "value": LIKE_X,
    # numbers
    "p": PROBABILITY,
    "seed": WORD,
    "offset": WORD,
    "slope": number(0.1, np.isfinite),
    "label_smoothing": PROBABILITY,
    "ignore_index": integer(-100, -(2**63), 2**63 - 1),
    "num_batches_tracked": optional(integer(1, 1, 2**63 - 1)),
    "axes": optional(integer(1, 1, 1)),
    "groups": integer(3, 1, 3),
    "k": integer(2, 1, 2),
    "axis": integer(1, -2, 1),
    "n": integer(2, 1, 1024),
    "beta": number(0.5, BELOW_1),
    "step": optional(integer(2, 1, 2**62)),
    "max_norm": number(1.0, POSITIVE),
    "gain": number(1.0, between(0, LARGEST)),
    "std": number(1.0, between(0, LARGEST)),
    # hyperparameters
    "lr": hyper(0.1, RATE),
    "eps": hyper(1e-5, RATE),
    "momentum": hyper(0.5, RATE),
    "dampening": hyper(0.0, np.isfinite),
    "lr_decay": hyper(0.0, RATE),
    "initial_accumulator_value": number(0.0, RATE),
    "weight_decay": hyper(0.0, RATE),
    "l1": hyper(0.0, RATE),
    "alpha": hyper(0.9, between(0, 1)),
    "rho": hyper(0.9, between(0, 1)),
    "betas": pair((0.9, 0.99), BELOW_1),
    "momentum_decay": hyper(0.004, between(0, 100)),
    "clip_value": optional(hyper(1.0, POSITIVE)),
    "clip_norm": optional(hyper(1.0, POSITIVE)),
    "grad_scale": hyper(1.0, np.isfinite),
    # schedules and searches
    "steps": COUNT,
    "every": COUNT,
    "period": COUNT,
    "growth": COUNT,
    "boundaries": sequence([3], lambda v: is_index(v) and int(v) >= 1),
    "values": sequence([0.1, 0.2], lambda v: bool(RATE(real(v)))),
    "schedules": sequence([0.1, 0.2], lambda v: callable(v) or bool(RATE(real(v)))),
    "schedule": schedule(0.1),
    "then": schedule(0.1),
    "factor": number(0.5, RATE),
    "decay": number(0.5, RATE),
    "power": number(0.5, POSITIVE),
    "floor": number(0.05, between(0, 0.1)),
    "pct_start": PROBABILITY,
    "div_factor": number(2.0, between(1)),
    "final_div_factor": number(2.0, between(1)),
    "start_factor": optional(PROBABILITY),
    "make": function(descend),
    "low": number(0.01, POSITIVE),
    "high": number(0.1, POSITIVE),
    "progress": optional(function(lambda row: None)),
    # layers
    "inputs": SIZE,
    "outputs": SIZE,
    "channels": SIZE,
    "dtype": Argument(lambda: np.float32, is_dtype),
    "columns": SIZE,
    "frequencies": SIZE,
    "features": integer(3, 1),
    "sigma": number(0.1, RATE),
    "function": instance(nn.ReLU, nn.Layer),
    "master": choice(None, "split", "float32"),
    "state_dtype": choice("float32", "bfloat16", "int8"),
    "ema": choice(None, "float32", "bfloat16"),
    "ema_decay": hyper(0.999, BELOW_1),
    "copy_to": Argument(
        lambda: None, lambda v: v is None or getattr(v, "dtype", None) == np.float16
    ),
    "rng": Argument(
        lambda: np.random.default_rng(0),
        lambda v: v is None or isinstance(v, np.random.Generator) or (is_index(v) and int(v) >= 0),
    ),
    "init": Argument(lambda: "he_normal", lambda v: callable(v) or v in [*nn.INITIALISERS]),
    "sizes": sequence([6, 5, 3], lambda v: is_index(v) and int(v) >= 1),
    "dropout": number(0.5, BELOW_1),
    "input_dropout": number(0.5, BELOW_1),
    "layers": instance(lambda: (nn.Linear(6, 6, 0), nn.ReLU()), nn.Layer),
    "state_dict": mapping(dict),
    # flags and names
    **dict.fromkeys(
        ("training", "packed", "on", "nesterov", "centered", "amsgrad", "maximize", "batch_norm"),
        flag(True),
    ),
    **dict.fromkeys(("decoupled_weight_decay", "lr_in_momentum", "zero_grads"), flag(False)),
    "activation": choice(None, "relu"),
    "approximate": choice("none", "tanh"),
    "reduction": choice("mean", "sum", "none"),
    "on_nonfinite": choice("apply", "skip", "raise"),
    "level": choice("baseline", *gs.build_info()["simd_levels"]),
    "shape": Argument(lambda: (3, 4), is_shape),
}

DROPPING = ("dropout", "drop_connect", "drop_path", "spatial_dropout", "alpha_dropout")
NORMS = ("batch_norm", "layer_norm", "rms_norm", "group_norm")
# Where a name is another matter: the nearest of "Class.method.name", "method.name".
SPECIAL: dict[str, Argument] = {
    **{
        f"{name}.x": any_array(4, 6, order="any", dtypes=STORED)
        for name in ("relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "selu", "mish")
    },
    **{
        f"{name}.x": any_array(4, 6, dtypes=STORED)
        for name in ("softmax", "log_softmax", "dropout", "drop_path", "spatial_dropout")
    },
    **{f"{name}.x": any_array(4, 6, dtypes=STORED) for name in NORMS},
    "alpha_dropout.x": any_array(4, 6, dtypes=STORED),
    "batch_norm_stats.x": any_array(4, 6, dtypes=STORED),
    "batch_norm.momentum": optional(PROBABILITY),
    "layer_norm_backward.mean": array(4, dtype=F8),
    "layer_norm_backward.invstd": array(4, dtype=F8),
    "rms_norm_backward.invstd": array(4, dtype=F8),
    "rms_norm.eps": optional(number(1e-5, RATE)),
    "group_norm_backward.mean": array(4, 3, dtype=F8),
    "group_norm_backward.invstd": array(4, 3, dtype=F8),
    "instance_norm.x": any_array(4, 6, 5, dtypes=STORED),
    "instance_norm.out": optional(array(4, 6, 5, written=True)),
    "instance_norm_backward.x": array(4, 6, 5),
    "instance_norm_backward.dy": array(4, 6, 5),
    "instance_norm_backward.out": optional(array(4, 6, 5, written=True)),
    "instance_norm_backward.mean": array(4, 6, dtype=F8),
    "instance_norm_backward.invstd": array(4, 6, dtype=F8),
    "maxout.out": optional(array(4, 3, written=True)),
    "maxout_backward.dy": array(4, 3),
    "prelu.weight": array(6),
    "prelu_backward.weight": array(6),
    "drop_connect.weight": any_array(4, 6, dtypes=STORED),
    **{f"{name}_backward.dy": any_array(4, 6, dtypes=STORED) for name in DROPPING},
    **{f"Dropout.{name}.x": any_array(4, 6, dtypes=STORED) for name in ("__call__", "forward")},
    "Dropout.backward.dy": array(4, 6, dtype=STORED),
    "global_norm.grads": tree(written=False),
    "clip_value_.value": number(1.0, POSITIVE),
    "constant.value": number(0.5, lambda x: abs(x) <= LARGEST),
    **{f"{name}.lr": number(0.1, RATE) for name in gs.SCHEDULES},
    **{f"{name}.alpha": number(0.5, RATE) for name in gs.SCHEDULES},
    **{f"{name}.__call__.step": COUNT for name in gs.SCHEDULES},
    "warmup.steps": integer(9, 0, 2**63 - 1),
    "find_lr.factor": number(3.0, lambda x: 1 < x < np.inf),
    "find_lr.steps": integer(2, 2),
    "BatchNorm.momentum": optional(PROBABILITY),
    "mlp.seed": integer(3, 0),
    "PeriodicEmbedding.columns": sequence([1, 4], lambda v: is_index(v) and int(v) >= 0),
    "PeriodicEmbedding.forward.x": any_array(4, 6, order="none"),
    "PeriodicEmbedding.backward.dy": array(4, 12, dtype=FLOATS, order="none"),
    "PeriodicEmbedding.parameter_gradients.dy": array(4, 12, dtype=FLOATS, order="none"),
    "Scale.forward.x": any_array(4, 6, order="none"),
    "Scale.backward.dy": array(4, 6, dtype=FLOATS, order="none"),
    "Scale.parameter_gradients.dy": array(4, 6, dtype=FLOATS, order="none"),
    "Parametric.backward.dy": array(4, 6, order="none"),
    "Parametric.parameter_gradients.dy": array(4, 6, order="none"),
    "mlp.activation": choice("relu", *nn.ACTIVATIONS),
    "Linear.bias": flag(True),
    "Linear.forward.x": any_array(4, 6, order="none"),
    "Linear.backward.dy": array(4, 6, dtype=FLOATS, order="none"),
    "Linear.parameter_gradients.dy": array(4, 6, dtype=FLOATS, order="none"),
    "Sequential.forward.x": any_array(4, 6, order="none"),  # to a Linear
    "Maxout.backward.dy": array(4, 3),
    "Maxout.parameter_gradients.dy": array(4, 3),
    "Softmax.axis": integer(1),
    "LogSoftmax.axis": integer(1),
    "PReLU.axis": integer(1),
    "SpatialDropout.axis": integer(1),
    "Maxout.k": SIZE._replace(make=lambda: 2),
    "Optimizer.add_param_group.group": mapping(lambda: {"params": filled(3)}),
    "ewma_.value": array(4, 6, dtype=STORED),
    "Optimizer.bind.grads": optional(array(4, 6, dtype=STORED)),  # None leaves a tensor alone
    "accumulate.grads": array(4, 6, dtype=(F4, np.dtype(np.float16))),
    "Optimizer.step.grads": array(4, 6, dtype=STORED),
    "Optimizer.reference_step.grads": array(4, 6, dtype=STORED),
}
