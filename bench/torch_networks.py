"""The networks of the suite `training`, of stock PyTorch modules; imported where torch is there."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import nn

__all__ = ["NETWORKS"]


def mlp(work: Any, widths: tuple[int, ...]) -> Any:
    """(N, I) -> (N, C). Batch norm adds the bias, so the layers before it have none."""
    layers: list[Any] = []
    for inputs, outputs in pairwise((work.x[1], *widths)):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        layers.append(nn.Dropout(work.dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-1], work.classes))


class Attention(nn.Module):
    """Self-attention (Vaswani et al. 2017, arXiv:1706.03762), (N, L, W) -> (N, L, W).

    causal: a token sees none that follow it.
    """

    def __init__(
        self, length: int, width: int, heads: int, dropout: float, causal: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        # No bias: that of the keys has no gradient, and Adam would make steps of rounding errors.
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.outputs = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("future", _future(length) if causal else None)

    def forward(self, x: Any) -> Any:
        n, length, _ = x.shape
        q, k, v = self.inputs(x).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if self.future is not None:
            scores = scores.masked_fill(self.future, -math.inf)
        mixed = self.dropout(scores.softmax(-1)) @ v
        return self.outputs(mixed.transpose(1, 2).reshape(x.shape))


def _future(length: int) -> Any:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


class Sum(nn.Module):
    """x plus what layers make of it, or plus both of two ways; then `after`."""

    def __init__(self, *layers: Any, past: Any = None, after: Any = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.past, self.after = past or nn.Identity(), after or nn.Identity()

    def forward(self, x: Any) -> Any:
        return self.after(self.past(x) + self.layers(x))


class Embeddings(nn.Module):
    """(N, L) tokens -> (N, L, W), tokens and positions."""

    def __init__(self, tokens: int, length: int, width: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(tokens, width), nn.Embedding(length, width)

    def forward(self, x: Any) -> Any:
        return self.tokens(x) + self.positions.weight


def transformer(work: Any, width: int, heads: int, layers: int) -> Any:
    """(N, L) tokens -> (N, L, C), as GPT-2 (Radford et al. 2019)."""
    length, p = work.x[1], work.dropout
    blocks: list[Any] = []
    for _ in range(layers):
        forward = [nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
        attention = Attention(length, width, heads, p)
        blocks.append(Sum(nn.LayerNorm(width), attention, nn.Dropout(p)))
        blocks.append(Sum(nn.LayerNorm(width), *forward, nn.Dropout(p)))
    first = [Embeddings(work.classes, length, width), nn.Dropout(p)]
    return nn.Sequential(*first, *blocks, nn.LayerNorm(width), nn.Linear(width, work.classes))


def encoder(work: Any, width: int, heads: int, layers: int) -> Any:
    """(N, L) tokens -> (N, L, C), norms behind the sums, as BERT (Devlin et al. 2019)."""
    length, p = work.x[1], work.dropout
    blocks: list[Any] = []
    for _ in range(layers):
        forward = [nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
        attention = Attention(length, width, heads, p, causal=False)
        for part in ([attention], forward):
            blocks.append(Sum(*part, nn.Dropout(p), after=nn.LayerNorm(width)))
    first = [Embeddings(work.classes, length, width), nn.LayerNorm(width), nn.Dropout(p)]
    return nn.Sequential(*first, *blocks, nn.Linear(width, work.classes))


def residual_cnn(work: Any, widths: tuple[int, ...]) -> Any:
    """(N, 3, H, W) -> (N, C), as the small networks of He et al. 2016 (arXiv:1512.03385)."""
    blocks = [*_convolution(work.x[1], widths[0], 1), nn.ReLU(inplace=True)]
    blocks.append(_block(widths[0], widths[0], 1))
    blocks += [_block(inputs, outputs, 2) for inputs, outputs in pairwise(widths)]
    top = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], work.classes)]
    return nn.Sequential(*blocks, *top)


def _block(inputs: int, outputs: int, stride: int) -> Any:
    first, second = _convolution(inputs, outputs, stride), _convolution(outputs, outputs, 1)
    past = None if stride == 1 else nn.Sequential(*_convolution(inputs, outputs, stride, 1))
    relu = nn.ReLU(inplace=True)
    return Sum(*first, relu, *second, past=past, after=nn.ReLU(inplace=True))


def _convolution(inputs: int, outputs: int, stride: int, kernel: int = 3) -> list[Any]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


NETWORKS: dict[str, Any] = {
    "MLP": mlp,
    "Transformer": transformer,
    "encoder": encoder,
    "residual CNN": residual_cnn,
}
