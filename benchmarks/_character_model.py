"""A language model of characters: a small decoder whose norms, queries, keys and branches are chosen by the caller."""

import inspect
import random
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONTEXT, HEADS = 64, 4
Place = Callable[[int], nn.Module]
"""Makes what stands in the place of a norm of so many features."""


class Block(nn.Module):
    """Attention and a perceptron, each as a branch of a residual stream."""

    def __init__(self, width: int, norm: Place, query_norm: Place, scale: float) -> None:
        super().__init__()
        self.scale, self.heads = scale, HEADS
        self.norm1, self.norm2 = norm(width), norm(width)
        self.query_norm, self.key_norm = query_norm(width // HEADS), query_norm(width // HEADS)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v, is_causal=True)
        x = x + self.scale * self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.scale * self.down(F.gelu(self.up(self.norm2(x))))


class CharacterModel(nn.Module):
    """Embeddings of size 1, blocks, a last norm, a head; weights of size 1 / sqrt(inputs), biases 0."""

    def __init__(self, characters: int, width: int, blocks: int, norm: Place, query_norm: Place, scale: float) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(characters, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, norm, query_norm, scale) for _ in range(blocks))
        self.norm, self.head = norm(width), nn.Linear(width, characters)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=2**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Text:
    """The characters of a text: the first nine tenths to train, the rest to validate.

    Without a file: sources of Python's standard library, which are on every machine.
    """

    def __init__(self, path: Path | None) -> None:
        text = path.read_text(encoding="utf-8") if path else inspect.getsource(random) + inspect.getsource(inspect)
        self.name = path.name if path else "sources of the modules random and inspect"
        characters = sorted(set(text))
        self.characters = len(characters)
        codes = {character: i for i, character in enumerate(characters)}
        tokens = torch.tensor([codes[character] for character in text])
        self.train, self.validation = tokens.split([len(tokens) * 9 // 10, len(tokens) - len(tokens) * 9 // 10])

    def batch(self, tokens: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and the characters that follow them, [size, CONTEXT] each."""
        starts = torch.randint(len(tokens) - CONTEXT, (size,), generator=generator)
        rows = torch.stack([tokens[i : i + CONTEXT + 1] for i in starts.tolist()])
        return rows[:, :-1], rows[:, 1:]
