"""A language model of characters, and the text that it learns."""

import inspect
import random
from pathlib import Path

import torch
from torch import Tensor, nn

from _residual_block import Block, Places, start

CONTEXT = 64


class CharacterModel(nn.Module):
    """Embeddings of size 1, blocks, a last norm, a head."""

    def __init__(self, characters: int, width: int, blocks: int, places: Places) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(characters, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, blocks, places, causal=True) for _ in range(blocks))
        self.norm, self.head = places.norm(width), nn.Linear(width, characters)
        start(self, places)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Text:
    """The characters of a text: the first nine tenths to train, the rest to validate.

    Without a file: sources of Python's standard library, which are on every machine.
    """

    task, batch_size = "text", 16

    def __init__(self, path: Path | None) -> None:
        text = path.read_text(encoding="utf-8") if path else inspect.getsource(random) + inspect.getsource(inspect)
        self.name = path.name if path else "sources of the modules random and inspect"
        characters = sorted(set(text))
        self.characters = len(characters)
        codes = {character: i for i, character in enumerate(characters)}
        tokens = torch.tensor([codes[character] for character in text])
        self.train, self.validation = tokens.split([len(tokens) * 9 // 10, len(tokens) - len(tokens) * 9 // 10])

    def model(self, width: int, blocks: int, places: Places) -> nn.Module:
        return CharacterModel(self.characters, width, blocks, places)

    def batch(self, size: int, generator: torch.Generator, *, validate: bool = False) -> tuple[Tensor, Tensor]:
        """Inputs and the characters that follow them, [size, CONTEXT] each."""
        tokens = self.validation if validate else self.train
        starts = torch.randint(len(tokens) - CONTEXT, (size,), generator=generator)
        rows = torch.stack([tokens[i : i + CONTEXT + 1] for i in starts.tolist()])
        return rows[:, :-1], rows[:, 1:]
