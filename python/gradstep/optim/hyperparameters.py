"""Which values hyperparameters may have, and their value at a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

from gradstep.arguments import choice, flag, integer, real, shown

# A number, or a function of the step (1, 2, ...).
Number: TypeAlias = float | Callable[[int], float]

__all__ = [
    "EMA_DECAY",
    "FIXED",
    "RANGES",
    "Number",
    "at_step",
    "check_ema",
    "check_hyperparameter",
    "check_range",
    "is_schedule",
    "likely",
]

INF = math.inf

# How a group keeps its numbers: fixed when the optimizer is made, and no numbers.
FIXED = ("master", "state_dtype", "ema")
# What else in a group is no scalar of a formula.
NO_SCALARS = ("params", "seed", *FIXED)

# The share of the past in an average of weights where nothing is said.
EMA_DECAY = 0.999

# name -> (least, most, whether `most` is allowed)
RANGES: dict[str, tuple[float, float, bool]] = {
    "lr": (0.0, INF, False),
    "momentum": (0.0, INF, False),
    "dampening": (-INF, INF, False),
    "lr_decay": (0.0, INF, False),
    "initial_accumulator_value": (0.0, INF, False),
    "alpha": (0.0, 1.0, True),
    "rho": (0.0, 1.0, True),
    "betas": (0.0, 1.0, False),
    "eps": (0.0, INF, False),
    "weight_decay": (0.0, INF, False),
    "momentum_decay": (0.0, 100.0, True),
    "l1": (0.0, INF, False),
    "clip_value": (0.0, INF, True),
    "clip_norm": (0.0, INF, True),
    "grad_scale": (-INF, INF, False),
    "ema_decay": (0.0, 1.0, False),
}
# Names that other libraries have for ours, without underscores.
ELSEWHERE = {
    **dict.fromkeys(("learningrate", "rate", "stepsize"), "lr"),
    **dict.fromkeys(("beta", "beta1", "beta2", "b1", "b2"), "betas"),
    **dict.fromkeys(("epsilon",), "eps"),
    **dict.fromkeys(("wd", "decay", "l2"), "weight_decay"),
    **dict.fromkeys(("clipnorm", "globalclipnorm", "maxnorm", "maxgradnorm"), "clip_norm"),
    **dict.fromkeys(("gradclip", "gradclipnorm", "gradientclipnorm"), "clip_norm"),
    **dict.fromkeys(("clipvalue",), "clip_value"),
    **dict.fromkeys(("lossscale",), "grad_scale"),
    **dict.fromkeys(("averagedecay", "emamomentum"), "ema_decay"),
}
POSITIVE = ("clip_value", "clip_norm")


def check_range(name: str, value: Any, argument: str | None = None) -> float:
    """The value as a float, in the range of the hyperparameter `name`.

    argument: what the caller calls it, if not `name`. Raises TypeError or ValueError.
    """
    argument = argument or name
    number = real(argument, value)
    least, most, included = RANGES[name]
    open_left = name in POSITIVE or least == -INF
    above = least < number if open_left else least <= number
    below = number <= most if included else number < most
    if not (above and below):
        interval = f"{'(' if open_left else '['}{least:g}, {most:g}{']' if included else ')'}"
        raise ValueError(f"{argument}: {number:g}, expected a number in {interval}")
    return number


def check_ema(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for a decay of averages that nobody keeps."""
    decays = [group["ema_decay"] for group in groups if group["ema_decay"] != EMA_DECAY]
    if decays and all(group["ema"] is None for group in groups):
        what = f"ema_decay: {shown(decays[0])} without ema"
        raise ValueError(f"{what}, expected ema='float32' or 'bfloat16' with it")


def likely(key: str, known: Sequence[str]) -> str:
    """What an unknown name was meant to be, or all names."""
    meant = ELSEWHERE.get(key.lower().replace("_", ""))
    close = [meant] if meant in known else get_close_matches(key, known, 1)
    return repr(close[0]) if close else f"one of {', '.join(known)}"


def is_schedule(value: Any) -> bool:
    """Whether a hyperparameter, or one of a pair, depends on the step."""
    return callable(value) or (isinstance(value, tuple) and any(map(callable, value)))


def at_step(name: str, value: Any, step: int) -> float:
    """The value of a hyperparameter at a step, checked again where a schedule gives it."""
    if callable(value):
        return check_range(name, value(step))
    return float(value)


def scalars(group: Mapping[str, Any], t: int, decoupled: bool) -> dict[str, float]:
    """All numbers of a group at step t, under the names that formulas ask for.

    decoupled: whether weight decay shrinks the parameter rather than adding to the gradient.
    """
    h: dict[str, float] = {}
    for key, value in group.items():
        if key == "betas":
            h["beta1"], h["beta2"] = (at_step(key, beta, t) for beta in value)
        elif key == "clip_value":
            h[key] = INF if value is None else at_step(key, value, t)
        elif key not in NO_SCALARS:
            h[key] = at_step(key, value, t)
    decay = h.pop("weight_decay", 0.0)
    h["l2"], h["decay"] = (0.0, decay) if decoupled else (decay, 0.0)
    return h


def check_hyperparameter(name: str, value: Any, default: Any) -> Any:
    """The value as a group keeps it. Raises TypeError or ValueError for what cannot be one."""
    if name == "on_nonfinite":
        return choice(name, value, ("apply", "skip", "raise"))
    if name == "master":
        return None if value is None else choice(name, value, ("split", "float32"))
    if name == "state_dtype":
        return choice(name, value, ("float32", "bfloat16", "int8"))
    if name == "ema":
        return None if value is None else choice(name, value, ("float32", "bfloat16"))
    if name == "seed":
        return integer(name, value, 0, 2**64 - 1)
    if isinstance(default, bool):
        return flag(name, value)
    if isinstance(default, tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(default):
            raise TypeError(f"{name}: {shown(value)}, expected {len(default)} numbers")
        return tuple(v if callable(v) else check_range(name, v) for v in value)
    if value is None and default is None:
        return None
    if name == "initial_accumulator_value":  # used once, before any step
        return check_range(name, value)
    return value if callable(value) else check_range(name, value)
