"""What the optimizers for PyTorch take beside the arguments of torch's own classes."""

from __future__ import annotations

import inspect

__all__ = ["EXTRA", "signature_of"]

EXTRA = """
    Arguments that torch's class does not have
    ------------------------------------------
    clip_norm: number > 0 or None
        Scales all gradients so that their L2 norm over all groups is at most this, as
        `torch.nn.utils.clip_grad_norm_` does, but leaves the gradients themselves as they are.
    on_nonfinite: "apply", "skip" or "raise"
        What to do with gradients that are not finite; the last two write nothing.
    zero_grads: bool
        Fill the gradients with zeros once they are read, while they are in cache.
    master: None, "split" or "float32"
        How bfloat16 and float16 parameters keep the bits that they lack, in the state.
    state_dtype: "float32", "bfloat16" or "int8"
        How states that are averages are kept.
    ema: None, "float32" or "bfloat16"
        Keep an average of the weights over the steps, of this type, in the state: see `averaged`.
    ema_decay: number in [0, 1)
        ema = ema_decay ema + (1 - ema_decay) weight, of the masters where there are some.
    seed: integer >= 0
        Of the random bits by which bfloat16 and 8-bit numbers are rounded.
    copy_to: tensors or None
        One bfloat16 or float16 tensor (or None) for each parameter, in order: a step writes the new
        weights there too, rounded to nearest.

    `master` to `copy_to` may also stand in a group, and `copy_to` is then of its parameters.
    `foreach` and `fused` change nothing; `differentiable=True` and `capturable=True` are refused.
    Parameters are dense float32, float64, bfloat16 or (with `master="float32"`) float16 tensors on
    the CPU, or DTensors of such parts, and gradients lie in memory as they do; for others `step`
    raises TypeError or ValueError, and writes nothing.
"""


def signature_of(cls: type, native: type) -> inspect.Signature:
    """The signature of torch's class with the arguments of `native`, its base of ours, behind."""
    order = cls.__mro__
    source = cls if "__init__" in cls.__dict__ else order[order.index(native) + 1]
    theirs = list(inspect.signature(source.__dict__["__init__"]).parameters.values())[1:]
    own = inspect.signature(native.__dict__["__init__"]).parameters.values()
    extra = [p for p in own if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature([*(p for p in theirs if p.kind is not p.VAR_KEYWORD), *extra])
