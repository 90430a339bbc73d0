"""The certificate of bits: a training whose weights are the same on every machine.

`EXPECTED` has their SHA-256 after so many steps. They change when a formula does, and then the
changelog says so.
"""

from __future__ import annotations

from gradstep.certificate.kernels import BOTH, NATIVE, SPECIFICATION, DifferenceError, Kernels
from gradstep.certificate.network import Training

__all__ = ["EXPECTED", "NATIVE", "SPECIFICATION", "Kernels", "Training", "first_difference"]

EXPECTED = {
    10: "483c5e654aad12f57fb9dcceca098b47ecd9d466b6859c60b48648a1836876c8",
    100: "6b617e8967c675ed8f7241724aa7ee61f2af238e1ca470e25d6c43c5c48a97fd",
    1000: "57c6daf250ab6c25d98773cd5278a928744a379f30bf12decdad3641f8a450c0",
}


def first_difference(steps: int) -> str | None:
    """The first kernel that gives other bits than its specification within so many steps.

    >>> first_difference(1) is None
    True
    """
    training = Training(BOTH)
    for _ in range(steps):
        try:
            training.step()
        except DifferenceError as difference:
            return f"{difference}, in step {training.steps}"
    return None
