"""A decoder-only Transformer on the characters of this repository.

python examples/torch/transformer.py
"""

import math
import sys
from functools import partial

import torch
from compare import Example, main
from text import CHARACTERS, Characters
from torch import Tensor, nn

WIDTH = 256
HEADS = 4
LAYERS = 4
LENGTH = 128


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, arXiv:1706.03762)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.inputs = nn.Linear(WIDTH, 3 * WIDTH)
        self.outputs = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("future", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.inputs(x).view(n, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(self.future[:length, :length], -math.inf)
        mixed = self.dropout(scores.softmax(-1)) @ v
        return self.outputs(mixed.transpose(1, 2).reshape(x.shape))


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        forward = [nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)]
        self.attention = nn.Sequential(nn.LayerNorm(WIDTH), Attention(dropout), nn.Dropout(dropout))
        self.forwards = nn.Sequential(nn.LayerNorm(WIDTH), *forward, nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.forwards(x)


class Network(nn.Module):
    """(N, L) characters -> (N, L, C) logits of the next ones, as in GPT-2 (Radford et al. 2019)."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(CHARACTERS), WIDTH)
        self.positions = nn.Embedding(LENGTH, WIDTH)
        blocks = [Block(dropout) for _ in range(LAYERS)]
        self.blocks = nn.Sequential(nn.Dropout(dropout), *blocks, nn.LayerNorm(WIDTH))
        self.head = nn.Linear(WIDTH, len(CHARACTERS))

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1])
        return self.head(self.blocks(self.tokens(tokens) + self.positions(positions)))


EXAMPLE = Example(
    title="transformer: 4 layers of 256 on the characters of this repository, batch 8x128",
    data=partial(Characters, size=8, length=LENGTH),
    network=Network,
    score="perplexity",
    dropout=0.1,
    steps=200,
    lr=5e-4,
)

if __name__ == "__main__":
    sys.exit(main(EXAMPLE))
