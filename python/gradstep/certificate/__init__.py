"""The certificate of bits: a training whose weights are the same on every machine.

`EXPECTED` has their SHA-256 after so many steps. They change when a formula does, and then the
changelog says so.
"""

from __future__ import annotations

from gradstep.certificate.kernels import BOTH, NATIVE, SPECIFICATION, DifferenceError, Kernels
from gradstep.certificate.network import Training

__all__ = ["EXPECTED", "NATIVE", "SPECIFICATION", "Kernels", "Training", "first_difference"]

EXPECTED = {
    10: "f3f5b510417f3368f4a51083b54fc7ddad2e7e286b399bfe6e506df5e9494d1f",
    100: "a527b50c2b83479538e811ea05b05e34af210c61f403159be8ed0e8c17b187d8",
    1000: "ddd413551131bc764d6aef33961871a44394322b47b659567240798956900cd0",
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
