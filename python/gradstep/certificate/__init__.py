"""The certificate of bits: a training whose weights are the same on every machine.

`EXPECTED` has their SHA-256 after so many steps. They change when a formula does, and then the
changelog says so.
"""

from __future__ import annotations

from gradstep.certificate.kernels import BOTH, NATIVE, SPECIFICATION, DifferenceError, Kernels
from gradstep.certificate.network import Training

__all__ = ["EXPECTED", "NATIVE", "SPECIFICATION", "Kernels", "Training", "first_difference"]

EXPECTED = {
    10: "51a3e868fff53f87aeeb44e061ae086384f97bdf2c0aee19a1563620c590fc73",
    100: "edd6c32850914ccff830748f5b1642a7bf438b6be53d2b63152cfb68ca52c1c5",
    1000: "c2d4da029fa7f50c7620b3f7693e44b541b15f104da2cb97d99c2b35ee1a5d10",
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
