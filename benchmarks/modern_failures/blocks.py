"""Networks of today in their smallest form: language models, encoder-decoders, vision transformers, adapters, experts.

Their structure and the names of their parts are those of the libraries; their mistakes are in the programs. A mask
`visible` is true where a query may look at a key, [..., queries, keys].
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, scaled_dot_product_attention

IGNORED = -100
"""The label that is in no loss."""


class Output(NamedTuple):
    """What a model of transformers returns."""

    loss: Tensor | None
    logits: Tensor


def mlp(*widths: int, norm: bool = False) -> nn.Sequential:
    """Linear layers with GELU between them, and batch normalisation before it if asked."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), *([nn.BatchNorm1d(after)] if norm else []), nn.GELU()]
    return nn.Sequential(*layers[: -2 if norm else -1])


class Attention(nn.Module):
    """Attention of several heads, of the hidden states to themselves or to those of a source."""

    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, hidden: Tensor, visible: Tensor | None = None, source: Tensor | None = None) -> Tensor:
        source = hidden if source is None else source
        query, key, value = self.split(self.query(hidden)), self.split(self.key(source)), self.split(self.value(source))
        visible = visible.unsqueeze(-3) if visible is not None else None
        return self.output(self.joined(scaled_dot_product_attention(*self.placed(query, key), value, visible)))

    def split(self, hidden: Tensor) -> Tensor:
        """[batch, places, width] to [batch, heads, places, width of a head]."""
        return hidden.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def placed(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys that know their places; here the embedding tells them."""
        return query, key

    def joined(self, heads: Tensor) -> Tensor:
        """[batch, heads, places, width of a head] to [batch, places, width]."""
        return heads.transpose(1, 2).flatten(2)


def rotated(heads: Tensor, dimension: int) -> Tensor:
    """Rotary embedding: pairs of features are turned by an angle that grows along a dimension."""
    half = heads.shape[-1] // 2
    places = torch.arange(heads.shape[dimension]).float()
    angles = places[:, None] * 10 ** -(2 * torch.arange(half) / half)
    angles = angles.view([-1 if n == dimension % heads.dim() else 1 for n in range(heads.dim() - 1)] + [half])
    first, second = heads.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class Block(nn.Module):
    """One layer of a transformer, normalised before its parts; a decoder also looks at a source."""

    def __init__(
        self,
        width: int,
        attention: type[Attention] = Attention,
        feed_forward: Callable[[int], nn.Module] | None = None,
        cross: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention(width)
        self.feed_forward = feed_forward(width) if feed_forward else mlp(width, 2 * width, width)
        self.norm3, self.cross = (nn.LayerNorm(width), Attention(width)) if cross else (None, None)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Tensor,
        visible: Tensor | None = None,
        source: Tensor | None = None,
        source_visible: Tensor | None = None,
    ) -> Tensor:
        hidden = hidden + self.dropout(self.attention(self.norm1(hidden), visible))
        if self.cross is not None:
            hidden = hidden + self.dropout(self.cross(self.norm3(hidden), source_visible, source))
        return hidden + self.dropout(self.feed_forward(self.norm2(hidden)))


def causal(length: int) -> Tensor:
    """Each place sees itself and those before."""
    return torch.ones(length, length, dtype=torch.bool).tril()


class GPT(nn.Module):
    """A decoder: logits of the next token at each place. Without causality it is a BERT."""

    def __init__(
        self,
        vocabulary: int,
        width: int = 32,
        layers: int = 2,
        length: int = 32,
        attention: type[Attention] = Attention,
        feed_forward: Callable[[int], nn.Module] | None = None,
        dropout: float = 0.0,
        is_causal: bool = True,
    ):
        super().__init__()
        self.is_causal = is_causal
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.3)
        self.blocks = nn.ModuleList(Block(width, attention, feed_forward, dropout=dropout) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def hidden(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Hidden states; `attention_mask` is 0 for padding [batch, keys], or says all [batch, queries, keys]."""
        length = input_ids.shape[1]
        visible = causal(length) if self.is_causal else torch.ones(length, length, dtype=torch.bool)
        if attention_mask is not None:
            mask = attention_mask if attention_mask.dim() == 3 else attention_mask[:, None]
            visible = visible & mask.bool() | torch.eye(length, dtype=torch.bool)
        places = self.places.weight[:length] if position_ids is None else self.places(position_ids)
        hidden = self.tokens(input_ids) + places
        for block in self.blocks:
            hidden = block(hidden, visible)
        return self.norm(hidden)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        return self.head(self.hidden(input_ids, attention_mask, position_ids))


class CausalLM(nn.Module):
    """A language model as in transformers: it shifts the labels itself and returns its loss."""

    def __init__(self, vocabulary: int, **options):
        super().__init__()
        self.transformer = GPT(vocabulary, **options)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> Output:
        logits = self.transformer(input_ids, attention_mask, position_ids)
        return Output(None if labels is None else next_token_loss(logits, labels), logits)


def next_token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each token with the logits one place before it."""
    return token_loss(logits[:, :-1], labels[:, 1:])


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the tokens with the logits at their own places."""
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


class EncoderDecoder(nn.Module):
    """A small T5 without its loss: logits at each place of the decoder's inputs."""

    def __init__(self, vocabulary: int, width: int = 32, layers: int = 1, length: int = 16, is_causal: bool = True):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        for embedding in (self.tokens, self.places):
            nn.init.normal_(embedding.weight, std=0.3)
        self.encoder = nn.ModuleList(Block(width) for _ in range(layers))
        self.decoder = nn.ModuleList(Block(width, cross=True) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.is_causal = is_causal

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        seen = attention_mask.bool()[:, None] if attention_mask is not None else None
        source, target = self.embedded(input_ids), self.embedded(decoder_input_ids)
        for block in self.encoder:
            source = block(source, seen)
        visible = causal(target.shape[1]) if self.is_causal else None
        for block in self.decoder:
            target = block(target, visible, source, seen)
        return self.head(self.norm(target))

    def embedded(self, ids: Tensor) -> Tensor:
        return self.tokens(ids) + self.places.weight[: ids.shape[1]]


def shifted_right(labels: Tensor, start: int = 0) -> Tensor:
    """Inputs of a decoder: a start token, then the labels without their last one; ignored ones are padding."""
    return torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], 1).clamp(min=0)


class ViT(nn.Module):
    """A vision transformer for images of 12 x 12: a class token, and a token for each patch of 4 x 4."""

    def __init__(self, kinds: int, channels: int = 1, width: int = 32, layers: int = 2, **options):
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(0.3 * torch.randn(10, width))
        self.blocks = nn.ModuleList(Block(width, **options) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, kinds)

    def hidden(self, images: Tensor) -> Tensor:
        """Hidden states of the class token and the patches [batch, 10, width]."""
        patches = self.patches(images).flatten(2).mT
        hidden = torch.cat([self.token.expand(len(images), -1, -1), patches], 1) + self.places
        for block in self.blocks:
            hidden = block(hidden)
        return self.norm(hidden)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(images)[:, 0])


class LoRA(nn.Module):
    """A linear layer that is frozen, and beside it a product of two small matrices that is learned."""

    def __init__(self, base: nn.Linear, rank: int, scale: float):
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), scale
        self.lora_A, self.lora_B = (
            nn.Linear(base.in_features, rank, bias=False),
            nn.Linear(rank, base.out_features, bias=False),
        )
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.base(inputs) + self.scale * self.lora_B(self.lora_A(inputs))


def add_adapters(model: nn.Module, rank: int = 4, scale: float = 2.0) -> list[nn.Parameter]:
    """Freeze a model and put a LoRA around its queries, values and feed-forward layers; returns what is learned."""
    model.requires_grad_(False)
    for block in (module for module in model.modules() if isinstance(module, Block)):
        block.attention.query = LoRA(block.attention.query, rank, scale)
        block.attention.value = LoRA(block.attention.value, rank, scale)
        block.feed_forward[0] = LoRA(block.feed_forward[0], rank, scale)
        block.feed_forward[2] = LoRA(block.feed_forward[2], rank, scale)
    return trainable(model)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that want a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def average(target: nn.Module, online: nn.Module, decay: float = 0.99) -> None:
    """Move the weights of a target a little towards those of an online network."""
    for mean, current in zip(target.parameters(), online.parameters(), strict=True):
        mean.lerp_(current, 1 - decay)


class Denoiser(nn.Module):
    """What a diffusion model or a flow predicts for a noisy point, by time in [0, 1] and class, if it has classes."""

    def __init__(self, features: int = 2, kinds: int = 0, width: int = 64):
        super().__init__()
        self.kinds = nn.Embedding(kinds, 16) if kinds else None
        self.layers = mlp(features + 8 + (16 if kinds else 0), width, width, features)

    def forward(self, noisy: Tensor, time: Tensor, kind: Tensor | None = None) -> Tensor:
        waves = time[:, None] * math.pi * torch.tensor([0.5, 1, 2, 4])
        parts = [noisy, waves.sin(), waves.cos()]
        if self.kinds is not None:
            parts.append(self.kinds(kind))
        return self.layers(torch.cat(parts, 1))


class Diffusion:
    """The schedule of a diffusion in 40 steps, what it adds to the data and how it is run back."""

    steps = 40

    def __init__(self) -> None:
        time = torch.arange(1, self.steps + 1) / self.steps
        self.kept = (time * math.pi / 2).cos().square().clamp(min=1e-3)

    def noisy(self, clean: Tensor, noise: Tensor, step: Tensor) -> Tensor:
        """The data after a number of steps: sqrt(kept) data + sqrt(1 - kept) noise."""
        kept = self.kept[step].view(-1, *[1] * (clean.dim() - 1))
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    @torch.no_grad()
    def sample(self, predict: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Tensor:
        """Run back from noise, without new noise (DDIM); `predict` says the noise in a point at a time."""
        for step in reversed(range(self.steps)):
            kept = self.kept[step]
            noise = predict(start, torch.full((len(start),), step / self.steps))
            clean = ((start - (1 - kept).sqrt() * noise) / kept.sqrt()).clamp(-4, 4)
            before = self.kept[step - 1] if step else torch.tensor(1.0)
            start = before.sqrt() * clean + (1 - before).sqrt() * noise
        return start


def contrast(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Symmetric loss of CLIP: each row of one belongs to the same row of the other."""
    similar = normalize(first, dim=-1) @ normalize(second, dim=-1).T / temperature
    rows = torch.arange(len(similar))
    return (cross_entropy(similar, rows) + cross_entropy(similar.T, rows)) / 2
