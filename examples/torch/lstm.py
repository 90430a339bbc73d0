"""A character language model of two LSTM layers on the text of this repository.

python examples/torch/lstm.py
"""

import sys
from functools import partial

from compare import Example, main
from text import CHARACTERS, Characters
from torch import Tensor, nn

WIDTH = 256
LAYERS = 2


class Network(nn.Module):
    """(N, L) characters -> (N, L, C) logits of the next ones."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(CHARACTERS), WIDTH)
        self.layers = nn.ModuleList(nn.LSTM(WIDTH, WIDTH, batch_first=True) for _ in range(LAYERS))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(LAYERS))
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in range(LAYERS + 1))
        self.head = nn.Linear(WIDTH, len(CHARACTERS))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.dropouts[0](self.embedding(tokens))
        for layer, norm, dropout in zip(self.layers, self.norms, self.dropouts[1:], strict=True):
            x = dropout(norm(layer(x)[0]))
        return self.head(x)


EXAMPLE = Example(
    title="lstm: 2 layers of 256 on the characters of this repository, batch 32x64",
    data=partial(Characters, size=32, length=64),
    network=Network,
    score="perplexity",
    dropout=0.2,
    steps=200,
    lr=3e-3,
)

if __name__ == "__main__":
    sys.exit(main(EXAMPLE))
