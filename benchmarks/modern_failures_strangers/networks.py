"""Small networks of the usual kinds, by hand."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Attention with several heads; `mask` is True where a query may look."""

    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.heads = heads

    def split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, states: Tensor, mask: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        memory = states if memory is None else memory
        query, key, value = self.split(self.query(states)), self.split(self.key(memory)), self.split(self.value(memory))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two layers, both beside a residual path and after a normalisation."""

    def __init__(self, width: int, heads: int = 2, dropout: float = 0.0):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, mask: Tensor | None = None) -> Tensor:
        states = states + self.dropout(self.attention(self.norm1(states), mask))
        return states + self.dropout(self.mlp(self.norm2(states)))


def causal(length: int) -> Tensor:
    """Each position may look at itself and at those before."""
    return torch.ones(length, length, dtype=torch.bool).tril()


class GPT(nn.Module):
    """Decoder-only language model; `mask` replaces the causal one, and `positions` the running numbers."""

    def __init__(self, vocabulary: int, length: int, width: int = 32, layers: int = 1, dropout: float = 0.0):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 2, dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def hidden(self, tokens: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        positions = torch.arange(tokens.shape[1]) if positions is None else positions
        states = self.tokens(tokens) + self.positions(positions)
        for block in self.blocks:
            states = block(states, causal(tokens.shape[1]) if mask is None else mask)
        return self.norm(states)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
        return self.head(self.hidden(tokens, mask, positions))

    @torch.no_grad()
    def complete(self, prompts: Tensor, length: int, greedy: bool = True) -> Tensor:
        """Append tokens one by one."""
        for _ in range(length):
            logits = self(prompts)[:, -1]
            token = logits.argmax(-1, keepdim=True) if greedy else torch.multinomial(logits.softmax(-1), 1)
            prompts = torch.cat([prompts, token], 1)
        return prompts


class Encoder(nn.Module):
    """Transformer that reads all tokens at once; a state for each."""

    def __init__(self, vocabulary: int, length: int, width: int = 32, layers: int = 1, dropout: float = 0.0):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.5 * torch.randn(length, width))
        self.blocks = nn.ModuleList(Block(width, 2, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        states = self.tokens(tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            states = block(states, mask)
        return self.norm(states)


class LoRA(nn.Module):
    """A frozen linear layer and a correction of low rank, which is zero at first."""

    def __init__(self, base: nn.Linear, rank: int = 4, alpha: float = 8.0):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / math.sqrt(base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank

    def forward(self, states: Tensor) -> Tensor:
        return self.base(states) + self.scale * (states @ self.down.mT) @ self.up.mT


def add_lora(model: nn.Module, rank: int = 4, alpha: float = 8.0, skip: tuple[str, ...] = ()) -> nn.Module:
    """Freeze a network and replace its linear layers, except those named, by `LoRA`."""
    model.requires_grad_(False)
    for child in list(model.modules()):
        for part, layer in list(child.named_children()):
            if isinstance(layer, nn.Linear) and not isinstance(child, LoRA) and part not in skip:
                setattr(child, part, LoRA(layer, rank, alpha))
    return model


class MLP(nn.Sequential):
    """Linear layers with GELU between them."""

    def __init__(self, *widths: int):
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.GELU()]
        super().__init__(*layers[:-1])


class Denoiser(nn.Module):
    """Predicts noise or a velocity for points in the plane, from a time between 0 and 1 and maybe a class."""

    def __init__(self, classes: int = 1, width: int = 64):
        super().__init__()
        self.classes = nn.Embedding(classes + 1, 8)
        self.net = MLP(2 + 9 + 8, width, width, 2)

    def forward(self, points: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        labels = torch.zeros(len(points), dtype=torch.long) if labels is None else labels
        angles = times[:, None] * math.pi * torch.tensor([0.5, 1, 2, 4])
        return self.net(torch.cat([points, times[:, None], angles.sin(), angles.cos(), self.classes(labels)], -1))
