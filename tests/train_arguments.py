"""The same for training: `gradstep.train`, its metrics, checkpoints and the fused functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, ValuesView
from typing import Any

import gradstep as gs
import numpy as np
from argument_kinds import (
    BELOW_1,
    POSITIVE,
    RATE,
    Argument,
    any_array,
    array,
    between,
    choice,
    filled,
    flag,
    function,
    instance,
    integer,
    is_index,
    is_tree,
    number,
    optional,
    real,
)
from gradstep import nn

Y_TRUE, Y_PRED, SCORES = [0, 1, 1, 0], [1, 1, 0, 0], [0.1, 0.9, 0.4, 0.5]
ORDERED = (list, tuple, np.ndarray, range)


def network() -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm(6), nn.Dropout(0.5, 1), nn.Linear(6, 6, 0))


def as_array(value: Any) -> Any:
    """What NumPy makes of a value, or None where that is nothing of one kind."""
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, OSError):
        return None
    if found.dtype == object and found.size:
        found = np.array(found.tolist())
    return found


def labels(good: list[Any], *others: Callable[[Any], bool]) -> Argument:
    """Rows of whole numbers, truth values or texts, as many as in `good`."""

    def takes(value: Any) -> bool:
        if any(fits(value) for fits in others):
            return True
        found = as_array(value)
        if found is None or found.shape != (len(good),) or found.dtype.kind not in "biufU":
            return False
        return found.dtype.kind != "f" or bool((found == np.trunc(found)).all())

    return Argument(lambda: np.array(good), takes)


def any_labels(value: Any) -> bool:
    """Six of one kind."""
    found = as_array(value)
    return found is not None and found.shape == (6,)


def rows_of_numbers(good: list[Any], *fits: Callable[[Any], Any], axes: int = 1) -> Argument:
    """(N,), or up to (N, C), of numbers that fit."""

    def takes(value: Any) -> bool:
        found = as_array(value)
        if found is None or found.dtype.kind not in "biuf" or not 1 <= found.ndim <= axes:
            return False
        if len(found) != len(good) or np.isnan(found.astype(float)).any():
            return False
        return all(np.all(fit(found)) for fit in fits)

    return Argument(lambda: np.array(good), takes)


def several_labels(good: list[Any]) -> Argument:
    def takes(value: Any) -> bool:
        found = as_array(value)
        return value is None or (
            found is not None and found.ndim == 1 and found.dtype.kind in "biufU"
        )

    return Argument(lambda: list(good), takes)


def is_model(value: Any, written: bool = True) -> bool:
    """A layer, or a tree with an array in it."""
    if isinstance(value, nn.Layer):
        return True
    return is_tree(value, written)


def is_writable(value: Any) -> bool:
    """An array of any type, to be kept and put back."""
    return isinstance(value, np.ndarray) and value.flags.writeable


def is_whole(value: Any) -> bool:
    """An array of any type, with rows."""
    return isinstance(value, np.ndarray) and value.ndim > 0 and len(value) > 0


def counts_rows(value: Any) -> bool:
    sized = hasattr(value, "__len__") and not isinstance(value, (str, bytes, type))
    return (is_index(value) and int(value) >= 2) or (sized and len(value) >= 2)


def are_classes(value: Any) -> bool:
    found = as_array(value)
    return found is not None and found.dtype.kind in "iu" and found.ndim == 1 and len(found) > 0


def weights_of_classes(value: Any) -> bool:
    if isinstance(value, str):
        return value == "balanced"
    if isinstance(value, Mapping):
        keys, found = list(value), list(value.values())
        return all(is_index(key) and 0 <= int(key) < 2 for key in keys) and all(map(weighs, found))
    if isinstance(value, (Iterator, ValuesView)):
        return True
    if not isinstance(value, Iterable) or isinstance(value, (bytes, bytearray, set, type)):
        return False
    return all(map(weighs, value))


def weighs(value: Any) -> bool:
    value = value.item() if isinstance(value, np.generic) else value
    return bool(RATE(real(value)))


def any_number(good: float) -> Argument:
    """NaN and infinities too."""
    return Argument(
        lambda: good, lambda v: not np.isnan(real(v)) or isinstance(v, (float, np.floating))
    )


def saved() -> str:
    """Where there is a checkpoint now."""
    if not os.path.exists("good.safetensors"):
        gs.save("good.safetensors", part=filled(4, 6))
    return "good.safetensors"


def path(make: Callable[[], str]) -> Argument:
    """Where a file may be; whether it can is the system's matter."""
    kinds = (str, bytes, os.PathLike)
    return Argument(make, lambda v: isinstance(v, kinds))


def is_plain(value: Any) -> bool:
    """What a checkpoint may hold."""
    if value is None or isinstance(value, (bool, int, float, str, np.number, np.bool_)):
        return not isinstance(value, (complex, np.complexfloating, np.longdouble, np.timedelta64))
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(k, (str, int)) for k in value) and all(map(is_plain, value.values()))
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        return False
    return value.dtype.isnative and value.dtype.str[1:] in (
        "b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8",
    )  # fmt: skip


SHARE = number(0.5, lambda x: 0 < x < 1)
SEED = integer(0, 0)
TRUE, PRED = labels(Y_TRUE), labels(Y_PRED)
WEIGHT = optional(rows_of_numbers([1, 2, 0, 1], np.isfinite, lambda a: a >= 0, np.any))
AVERAGE = choice("binary", "macro", "micro", "weighted", None)
LABEL = Argument(lambda: 1, lambda v: True)  # what is among the labels
LAYER = instance(network, nn.Layer)
MODEL = Argument(network, is_model)
COUNTED = ("precision", "recall", "f1")
NAME_OF_BIASED = choice("relu", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "selu", "mish")
SCORED = ("roc_auc", "roc_curve", "group_auc")

SPECIAL_IN_TRAINING: dict[str, Argument] = {
    # averages and monitors
    **{f"{name}.model": MODEL for name in ("EMA", "SWA")},
    "EarlyStopping.model": Argument(network, lambda v: is_model(v) or is_writable(v)),
    "EMA.decay": Argument(lambda: 0.5, lambda v: callable(v) or bool(BELOW_1(real(v)))),
    "EMA.warmup": flag(True),
    "update_batch_norm.model": LAYER,
    "update_batch_norm.batches": Argument(
        lambda: [filled(4, 6)], lambda v: isinstance(v, (np.ndarray, Iterator))
    ),
    "EarlyStopping.patience": integer(2, 1),
    "ReduceOnPlateau.patience": integer(2, 1),
    "EMA.optimizer": optional(instance(lambda: gs.SGD(filled(3)), gs.Optimizer)),
    "ReduceOnPlateau.optimizer": instance(lambda: gs.SGD(filled(3)), gs.Optimizer),
    "ReduceOnPlateau.factor": SHARE,
    "ReduceOnPlateau.cooldown": integer(0, 0),
    "ReduceOnPlateau.min_lr": number(0.0, RATE),
    **{f"{name}.min_delta": number(0.0, RATE) for name in ("EarlyStopping", "ReduceOnPlateau")},
    **{f"{name}.mode": choice("min", "max") for name in ("EarlyStopping", "ReduceOnPlateau")},
    **{f"{name}.update.value": any_number(0.5) for name in ("EarlyStopping", "ReduceOnPlateau")},
    # batches, splits, weights
    "MiniBatches.arrays": Argument(
        lambda: filled(4, 6), lambda v: all(map(is_whole, v if isinstance(v, tuple) else [v]))
    ),
    "MiniBatches.size": optional(integer(2, 1)),
    "MiniBatches.shuffle": flag(True),
    "MiniBatches.seed": SEED,
    "MiniBatches.drop_last": flag(True),
    "MiniBatches.smallest": integer(1, 1, 2),
    "k_fold.folds": integer(2, 2, 6),
    "validation_split.share": SHARE,
    **{
        f"{name}.{argument}": rule
        for name in ("k_fold", "validation_split")
        for argument, rule in {
            "rows": Argument(lambda: 6, counts_rows),
            "stratify": optional(Argument(lambda: [0, 1, 1, 0, 1, 0], any_labels)),
            "seed": SEED,
        }.items()
    },
    **{
        f"{name}.{argument}": rule
        for name in ("class_weights", "sample_weights")
        for argument, rule in {
            "y": Argument(lambda: np.array(Y_TRUE), are_classes),
            "weights": Argument(lambda: "balanced", weights_of_classes),
            "classes": optional(integer(2, 1)),
        }.items()
    },
    # looking into a network
    "describe.model": LAYER,
    "describe.x": optional(any_array(4, 6, order="none")),
    "overfit_test.model": LAYER,
    "overfit_test.x": any_array(16, 6, order="none"),
    "overfit_test.y": Argument(
        lambda: np.arange(16) % 6,
        lambda v: isinstance(v, np.ndarray) and v.dtype.kind in "iu" and len(v) == 16,
    ),
    "overfit_test.rows": integer(2, 2, 16),
    "overfit_test.steps": integer(2, 1),
    "overfit_test.target": number(0.5, POSITIVE),
    "overfit_test.loss": function(gs.cross_entropy),
    "overfit_test.make_optimizer": optional(function(gs.SGD)),
    # metrics
    **{
        f"{name}.{argument}": rule
        for name in ("accuracy", "confusion_matrix", *COUNTED)
        for argument, rule in {"y_true": TRUE, "y_pred": PRED}.items()
    },
    **{f"{name}.labels": several_labels([0, 1]) for name in ("confusion_matrix", *COUNTED)},
    **{
        f"{name}.sample_weight": WEIGHT
        for name in ("accuracy", "confusion_matrix", "log_loss", *COUNTED, *SCORED)
    },
    **{f"{name}.average": AVERAGE for name in COUNTED},
    **{f"{name}.pos_label": LABEL for name in (*COUNTED, *SCORED)},
    **{f"{name}.zero_division": any_number(0.0) for name in COUNTED},
    "confusion_matrix.normalize": choice(None, "true", "pred", "all"),
    "log_loss.y_true": TRUE,
    "log_loss.y_prob": rows_of_numbers(SCORES, lambda a: (a >= 0) & (a <= 1), axes=2),
    "log_loss.labels": several_labels([0, 1]),
    "log_loss.normalize": flag(True),
    **{f"{name}.y_true": TRUE for name in SCORED},
    **{f"{name}.y_score": rows_of_numbers(SCORES, axes=2) for name in SCORED},
    "group_auc.groups": labels(["a", "a", "b", "b"]),
    "group_auc.weights": choice("impressions", "clicks", "equal"),
    "roc_auc.method": choice("area", "pairs"),
    "roc_auc.multi_class": choice(None, "ovr", "ovo"),
    "roc_auc.average": choice("macro", "weighted", "micro", None),
    "roc_auc.labels": several_labels([0, 1]),
    "roc_curve.drop_intermediate": flag(True),
    # in one pass
    "bias_activation.bias": array(6),
    "bias_activation.x": any_array(4, 6),
    "bias_activation_backward.bias": optional(array(6)),
    "bias_activation_backward.saved": array(4, 6),
    "bias_activation.activation": NAME_OF_BIASED,
    "bias_activation_backward.activation": NAME_OF_BIASED,
    "bias_activation.p": number(0.0, between(0, 1)),
    "bias_activation_backward.p": number(0.0, between(0, 1)),
    # checkpoints
    "save.path": path(lambda: "new.safetensors"),
    "save.part": Argument(lambda: {"w": filled(3)}, is_plain),
    "load.path": path(saved),
    "load.part": array(4, 6, order="none", written=True),
}


def save(path: Any, part: Any) -> None:
    gs.save(path, part=part)


def load(path: Any, part: Any) -> None:
    gs.load(path, part=part)
