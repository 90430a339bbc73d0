"""A multilayer perceptron with batch norm and dropout on MNIST digits.

python examples/torch/mlp.py
"""

import sys
from functools import partial
from itertools import pairwise

from compare import Example, main
from images import Digits
from torch import nn

WIDTHS = (784, 1024, 1024)
CLASSES = 10


def network(dropout: float) -> nn.Module:
    """(N, 784) -> (N, 10). Batch norm adds the bias, so the layers before it have none."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], CLASSES))


EXAMPLE = Example(
    title="mlp: 784-1024-1024-10 on 4,000 MNIST digits, batch 128",
    data=partial(Digits, size=128, flat=True),
    network=network,
    score="accuracy",
    dropout=0.5,
    steps=600,
)

if __name__ == "__main__":
    sys.exit(main(EXAMPLE))
