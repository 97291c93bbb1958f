"""Transformers: attention, normalised residuals, embeddings."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from catalogue.case import Case, Problem, next_token, scaled, shifted, tokens, train

VOCABULARY = 40


class Language(nn.Module):
    """Says the next token: embedding, position, causal blocks, head."""

    def __init__(
        self,
        blocks: int = 2,
        pre_norm: bool = True,
        activation: str = "relu",
        tied: bool = False,
        positions: bool = True,
        last: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.position = nn.Parameter(0.1 * torch.randn(16, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, activation, batch_first=True, norm_first=pre_norm)
        self.encoder = nn.TransformerEncoder(layer, blocks, nn.LayerNorm(32), enable_nested_tensor=False)
        self.head = nn.Linear(32, VOCABULARY)
        self.last = last
        self.positions = positions
        for parameter in self.encoder.parameters():  # the copies of a layer start the same
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        if tied:
            nn.init.normal_(self.embedding.weight, std=0.2)
            self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        if self.positions:
            h = h + self.position[: x.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        logits = self.head(self.encoder(h, mask=mask, is_causal=True))
        return logits if self.last is None else self.last(logits)


def language(change: Callable[[Language], None] | None = None, **options: object) -> Problem:
    model = Language(**options)
    if change is not None:
        with torch.no_grad():
            change(model)
    return model, *tokens(), next_token


def sharpened(block: int, by: float) -> Callable[[Language], None]:
    """Queries and keys of one block are multiplied."""

    def change(model: Language) -> None:
        model.encoder.layers[block].self_attn.in_proj_weight[:64] *= by

    return change


def dead_feed_forward(block: int) -> Callable[[Language], None]:
    return lambda model: shifted(model.encoder.layers[block].linear1, -50.0)


class Attention(nn.Module):
    """One head written out, with its own softmax; reads vectors, says one class for each sequence."""

    def __init__(self, scale: float, pooled: int = 1) -> None:
        super().__init__()
        self.rise = nn.Linear(8, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.weights = nn.Softmax(-1)
        self.pooled = pooled
        self.head = nn.Linear(32, 4)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        h = self.rise(x)
        scores = self.scale * self.query(h) @ self.key(h).mT
        found = (self.weights(scores) @ self.value(h)).mean(self.pooled)
        return self.head(found if self.pooled == 1 else found.mean(0, keepdim=True).expand(len(x), -1))


def attention(scale: float, pooled: int = 1) -> Problem:
    targets = torch.arange(32) % 4
    return (
        Attention(scale, pooled),
        torch.randn(4, 1, 8)[targets] + torch.randn(32, 12, 8),
        targets,
        nn.functional.cross_entropy,
    )


class Masked(nn.Module):
    """Attention over padded sequences: PyTorch's, or written out."""

    def __init__(self, written_out: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32, padding_idx=0)
        self.attention = None if written_out else nn.MultiheadAttention(32, 4, batch_first=True)
        self.query, self.key = (nn.Linear(32, 32) if written_out else None for _ in range(2))
        self.weights = nn.Softmax(-1)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        if self.attention is not None:
            attended, _ = self.attention(h, h, h, key_padding_mask=x == 0, need_weights=False)
        else:
            scores = self.query(h) @ self.key(h).mT / 32**0.5
            attended = self.weights(scores.masked_fill((x == 0)[:, None], -torch.inf)) @ h
        return self.head(h + attended)


def padded(empty: int, written_out: bool = True) -> Problem:
    """Sequences of many lengths, the first `empty` of length 0."""
    inputs, targets = tokens()
    inputs, targets = inputs.clone(), targets.clone()
    for row in range(empty, len(inputs)):
        inputs[row, 4 + row % 12 :] = 0
    inputs[:empty] = 0
    return Masked(written_out), inputs, targets, next_token


class Fused(nn.Module):
    """Blocks of scaled dot products as one writes them today: RMSNorm, a gated feed-forward part, no biases."""

    def __init__(self, blocks: int = 3, gate_bias: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.norms = nn.ModuleList(nn.RMSNorm(32) for _ in range(2 * blocks))
        self.mixes = nn.ModuleList(nn.Linear(32, 96, bias=False) for _ in range(blocks))
        self.outs = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(blocks))
        self.gates = nn.ModuleList(nn.Linear(32, 64) for _ in range(blocks))
        self.rises = nn.ModuleList(nn.Linear(32, 64, bias=False) for _ in range(blocks))
        self.falls = nn.ModuleList(nn.Linear(64, 32, bias=False) for _ in range(blocks))
        self.head = nn.Linear(32, VOCABULARY, bias=False)
        for gate in self.gates:
            nn.init.constant_(gate.bias, gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        for i, mix in enumerate(self.mixes):
            q, k, v = mix(self.norms[2 * i](h)).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
            attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + self.outs[i](attended.transpose(1, 2).flatten(2))
            n = self.norms[2 * i + 1](h)
            h = h + self.falls[i](nn.functional.silu(self.gates[i](n)) * self.rises[i](n))
        return self.head(h)


class Squashed(nn.Module):
    """A feed-forward part of tanh in a residual; the norm before it is forgotten where `factor` is large."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.rise = nn.Linear(32, 64)
        self.tanh = nn.Tanh()
        self.fall = nn.Linear(64, 32)
        self.head = nn.Linear(32, VOCABULARY)
        scaled(self.embedding, factor)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        return self.head(nn.functional.layer_norm(h + self.fall(self.tanh(self.rise(h))), (32,)))


class Frozen(nn.Module):
    """Embeddings looked up without a gradient, though they should learn."""

    def __init__(self, on_purpose: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 32).requires_grad_(not on_purpose)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            h = self.embedding(x)
        return self.head(self.layer(h, nn.Transformer.generate_square_subsequent_mask(x.shape[1])))


class Patches(nn.Module):
    """A vision transformer: patches, a class token, post-norm or pre-norm blocks."""

    def __init__(self, pre_norm: bool, blocks: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 32))
        self.position = nn.Parameter(0.02 * torch.randn(1, 10, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=pre_norm)
        self.encoder = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).mT
        joined = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.position
        return self.head(self.encoder(joined)[:, 0])


def patches(pre_norm: bool, blocks: int) -> Problem:
    targets = torch.arange(16) % 10
    centres = nn.functional.interpolate(torch.randn(10, 3, 3, 3), size=12)
    return (
        Patches(pre_norm, blocks),
        centres[targets] + torch.randn(16, 3, 12, 12),
        targets,
        nn.functional.cross_entropy,
    )


def trained(make: Callable[[], Problem], steps: int) -> Problem:
    problem = make()
    train(problem, torch.optim.Adam(problem[0].parameters(), lr=3e-3), steps)
    return problem


BROKEN = (
    Case(
        "transformer, attention of block 1 collapsed",
        "queries and keys x 50: every query looks at one token, the softmax lets no gradient through",
        partial(language, sharpened(1, 50.0)),
        ("US204",),
        ("encoder.layers.1.self_attn",),
    ),
    Case(
        "attention of one head, scores x 300",
        "the division by the root of the width is forgotten, and more",
        partial(attention, 300.0),
        ("US204",),
        ("weights",),
    ),
    Case(
        "attention, pooled over the batch",
        "mean(0), where mean(1) was meant: all sequences get the mean of all",
        partial(attention, 32**-0.5, 0),
        ("US203",),
        ("head",),
    ),
    Case(
        "transformer, feed-forward part of block 0 dead",
        "bias - 50: its ReLU says 0 for every token",
        partial(language, dead_feed_forward(0)),
        ("US202",),
        ("encoder.layers.0.linear1", "encoder.layers.0.relu", "encoder.layers.0.activation"),
    ),
    Case(
        "attention over a sequence of padding",
        "softmax of nothing but minus infinity",
        partial(padded, 2),
        ("US401",),
        ("weights",),
    ),
    Case(
        "transformer, position never added",
        "forward has forgotten it",
        partial(language, positions=False),
        ("US501",),
        ("position",),
    ),
    Case(
        "transformer, embedding under no_grad",
        "it should learn, and does not",
        lambda: (Frozen(on_purpose=False), *tokens(), next_token),
        ("US501",),
        ("embedding.weight",),
    ),
    Case(
        "transformer, softmax before cross_entropy",
        "cross_entropy applies a softmax itself",
        partial(language, last=nn.Softmax(dim=-1)),
        ("US601",),
        ("last",),
    ),
    Case(
        "embeddings x 200 into a tanh",
        "no norm before the feed-forward part",
        lambda: (Squashed(200.0), *tokens(), next_token),
        ("US201",),
        ("tanh",),
    ),
)

HEALTHY = (
    Case("transformer, pre-norm, 4 blocks", "common", partial(language, blocks=4)),
    Case("transformer, post-norm, 4 blocks", "as it was first published", partial(language, blocks=4, pre_norm=False)),
    Case("transformer, pre-norm, 24 blocks", "deep", partial(language, blocks=24), slow=True),
    Case("transformer, GELU, tied weights", "one matrix at both ends", partial(language, activation="gelu", tied=True)),
    Case("transformer, trained", "confident", partial(trained, language, 60), slow=True),
    Case("transformer, sharp but healthy", "queries and keys x 2", partial(language, sharpened(1, 2.0))),
    Case("attention of one head", "as it should be", partial(attention, 32**-0.5)),
    Case("attention over padded sequences", "minus infinity in every row, but never everywhere", partial(padded, 0)),
    Case("PyTorch's attention over a sequence of padding", "gives 0 where ours gives NaN", partial(padded, 2, False)),
    Case(
        "transformer, embedding frozen on purpose", "frozen", lambda: (Frozen(on_purpose=True), *tokens(), next_token)
    ),
    Case("transformer, RMSNorm and gated SiLU", "as one writes them today", lambda: (Fused(), *tokens(), next_token)),
    Case("embeddings into a tanh", "as it should be", lambda: (Squashed(1.0), *tokens(), next_token)),
    Case("vision transformer, pre-norm", "the class token starts at 0", partial(patches, True, 4)),
    Case("vision transformer, post-norm", "the class token starts at 0", partial(patches, False, 2)),
)
