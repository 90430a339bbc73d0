"""Characters of this repository: its documentation and the Python sources of gradstep.

They are read as they are, so losses belong to a commit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from compare import Batch
from torch import Tensor

__all__ = ["CHARACTERS", "Characters"]

REPOSITORY = Path(__file__).parents[2]
FILES = [
    *sorted(REPOSITORY.glob("docs/*.md")),
    *sorted(REPOSITORY.glob("python/gradstep/**/*.py")),
]
TEXTS = [file.read_text(encoding="utf-8") for file in FILES]
CHARACTERS = sorted(set("".join(TEXTS)))
HELD_OUT_BATCHES = 8


class Characters:
    """Random windows of the text; the last tenth of every file is held out.

    size, length: windows in a batch, characters in a window. The class of a character is the one
    that follows it.
    """

    def __init__(self, seed: int, size: int, length: int) -> None:
        self.seed, self.shape = seed, (size, length)
        self.tokens = _encoded(text[: len(text) * 9 // 10] for text in TEXTS)
        rest = _encoded(text[len(text) * 9 // 10 :] for text in TEXTS)
        self.held_out = [_windows(rest, self.shape, number) for number in range(HELD_OUT_BATCHES)]

    def __getitem__(self, number: int) -> Batch:
        return _windows(self.tokens, self.shape, 1_000_003 * (self.seed + 1) + number)


def _encoded(texts: Iterable[str]) -> Tensor:
    number = {character: i for i, character in enumerate(CHARACTERS)}
    return torch.tensor([number[c] for c in "".join(texts)])


def _windows(tokens: Tensor, shape: tuple[int, int], seed: int) -> Batch:
    random = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(tokens) - shape[1] - 1, (shape[0], 1), generator=random)
    window = tokens[starts + torch.arange(shape[1] + 1)]
    return window[:, :-1], window[:, 1:]
