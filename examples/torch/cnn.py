"""A small residual network on MNIST digits that move about; try it with --workers 1.

python examples/torch/cnn.py
"""

import sys
from functools import partial
from itertools import pairwise

from compare import Example, main
from images import Digits
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)
CLASSES = 10


def convolution(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Sequential:
    """Convolution and batch norm, which adds the bias."""
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs)
    )


class Block(nn.Module):
    """Two convolutions and a way past them (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, stride)
        self.second = convolution(outputs, outputs, 1)
        same = inputs == outputs and stride == 1
        self.past = nn.Identity() if same else convolution(inputs, outputs, stride, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        return F.relu(y + self.past(x))


def network(dropout: float) -> nn.Module:
    """(N, 1, 32, 32) -> (N, 10)."""
    first = WIDTHS[0]
    layers = [convolution(1, first, 1), nn.ReLU(), Block(first, first, 1)]
    for inputs, outputs in pairwise(WIDTHS):
        layers.append(Block(inputs, outputs, 2))
    top = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, *top, nn.Linear(WIDTHS[-1], CLASSES))


EXAMPLE = Example(
    title="cnn: ResNet-8 of 16 to 64 channels on 4,000 MNIST digits of 32x32, batch 64",
    data=partial(Digits, size=64, flat=False, shift=2),
    network=network,
    score="accuracy",
    dropout=0.2,
    steps=200,
    lr=3e-3,
)

if __name__ == "__main__":
    sys.exit(main(EXAMPLE))
