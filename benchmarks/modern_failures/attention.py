"""Axes of attention and of maps of tokens: heads joined or split without a permutation, rotations along heads."""

import torch
from torch import Tensor, nn

from modern_failures.blocks import GPT, Attention, ViT, next_token_loss, rotated, token_loss
from modern_failures.data import VOCABULARY, WORDS, answers_only, continues, questions
from modern_failures.program import Program, Training


def answering(model: GPT, words: int = 4) -> Training:
    """A language model on questions, scored by the answers that it writes."""
    rows = questions(256, words)
    labels = answers_only(rows)
    return Training(
        model,
        batch=lambda step: (rows[step % 4 * 64 :][:64], labels[step % 4 * 64 :][:64]),
        loss=next_token_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=lambda model: continues(model, rows, words + 1, 3),
    )


class JoinedWithoutPermute(Attention):
    """Puts pieces of several tokens into one."""

    def joined(self, heads: Tensor) -> Tensor:
        return heads.reshape(len(heads), heads.shape[2], -1)


def heads_joined_without_permute(repaired: bool) -> Training:
    return answering(GPT(VOCABULARY, attention=Attention if repaired else JoinedWithoutPermute))


class SplitByView(Attention):
    """Takes [batch, places, width] for [batch, heads, places, width of a head] of the same memory."""

    def split(self, hidden: Tensor) -> Tensor:
        batch, places, width = hidden.shape
        return hidden.reshape(batch, self.heads, places, width // self.heads)


def heads_split_by_view(repaired: bool) -> Training:
    series = torch.randint(WORDS, (256, 12)) + 3
    labels = series.gather(1, series - 3)  # each word points to a place
    model = GPT(VOCABULARY, layers=1, attention=Attention if repaired else SplitByView, is_causal=False)

    @torch.no_grad()
    def score(model: GPT) -> float:
        return (model(series).argmax(-1) == labels).float().mean().item()

    return Training(
        model,
        batch=lambda step: (series[step % 4 * 64 :][:64], labels[step % 4 * 64 :][:64]),
        loss=token_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=score,
    )


class Rotary(Attention):
    """Turns queries and keys by their places."""

    dimension = -2

    def placed(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return rotated(query, self.dimension), rotated(key, self.dimension)


class RotaryOverHeads(Rotary):
    """Turns them by the number of their head."""

    dimension = -3


def rotated_by_head(repaired: bool) -> Training:
    model = GPT(VOCABULARY, attention=Rotary if repaired else RotaryOverHeads)
    nn.init.zeros_(model.places.weight).requires_grad_(False)
    return answering(model, words=10)


class Segmenter(nn.Module):
    """A vision transformer whose patches become a map again, with a convolution that names the class of each."""

    def __init__(self, permute: bool):
        super().__init__()
        self.vit, self.head, self.permute = ViT(kinds=1), nn.Conv2d(32, 3, 1), permute

    def forward(self, images: Tensor) -> Tensor:
        patches = self.vit.hidden(images)[:, 1:]
        return self.head((patches.mT if self.permute else patches).reshape(-1, 32, 3, 3))


def map_of_tokens(repaired: bool) -> Training:
    labels = torch.randint(3, (256, 3, 3))
    textures = torch.randn(3, 4, 4)
    images = textures[labels].permute(0, 1, 3, 2, 4).reshape(-1, 1, 12, 12) + 0.3 * torch.randn(256, 1, 12, 12)
    model = Segmenter(permute=repaired)

    @torch.no_grad()
    def score(model: Segmenter) -> float:
        return (model(images).argmax(1) == labels).float().mean().item()

    return Training(
        model,
        batch=lambda step: (images[step % 4 * 64 :][:64], labels[step % 4 * 64 :][:64]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=score,
    )


class TokenLearner(nn.Module):
    """Attention that wants [places, batch, width]; the mean of its outputs is classified."""

    def __init__(self, transpose: bool, width: int = 32):
        super().__init__()
        self.embedding, self.places = nn.Embedding(VOCABULARY, width), nn.Parameter(torch.randn(8, width))
        self.attention = nn.MultiheadAttention(width, 2)
        self.output, self.transpose = nn.Linear(width, WORDS), transpose

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens) + self.places
        samples, places, width = hidden.shape
        inputs = hidden.transpose(0, 1) if self.transpose else hidden.reshape(places, samples, width)
        mixed, _ = self.attention(inputs, inputs, inputs)
        mixed = mixed.transpose(0, 1) if self.transpose else mixed.reshape(samples, places, width)
        return self.output(mixed[:, 0])


def view_for_transpose(repaired: bool) -> Training:
    tokens = torch.randint(3, VOCABULARY, (512, 8))
    labels = tokens[:, 5] - 3
    model = TokenLearner(transpose=repaired)
    return Training(
        model,
        batch=lambda step: (tokens[step % 8 * 64 :][:64], labels[step % 8 * 64 :][:64]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        score=lambda model: (model(tokens).argmax(-1) == labels).float().mean().item(),
    )


class VideoAutoencoder(nn.Module):
    """Attention within each frame of a video [batch, channels, frames, height, width]; it says where the dot is."""

    def __init__(self, permute: bool, width: int = 16):
        super().__init__()
        self.inputs, self.attention = nn.Conv3d(1, width, 1), Attention(width)
        self.output, self.permute = nn.Linear(width, 1), permute
        self.places = nn.Parameter(torch.randn(16, width))

    def forward(self, video: Tensor) -> Tensor:
        hidden = self.inputs(video)
        batch, channels, frames, height, width = hidden.shape
        if self.permute:
            hidden = hidden.permute(0, 2, 1, 3, 4)
        hidden = hidden.reshape(batch * frames, channels, height * width).mT
        return self.output(hidden + self.attention(hidden + self.places)).reshape(batch, frames, height * width)


def frames_are_mixed(repaired: bool) -> Training:
    places = torch.randint(16, (256, 4))
    dots = nn.functional.one_hot(places, 16).float().reshape(256, 1, 4, 4, 4)
    videos = dots + 0.2 * torch.randn(256, 1, 4, 4, 4)
    model = VideoAutoencoder(permute=repaired)
    return Training(
        model,
        batch=lambda step: (videos[step % 4 * 64 :][:64], places[step % 4 * 64 :][:64]),
        loss=lambda logits, places: nn.functional.cross_entropy(logits.flatten(0, 1), places.flatten()),
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        score=lambda model: (model(videos).argmax(-1) == places).float().mean().item(),
    )


PROGRAMS = [
    Program(
        name="transformer from scratch whose heads are joined without a permutation",
        source="https://github.com/jsbaan/transformer-from-scratch/pull/6",
        symptom="training passes its test, and the model is worse than it should be",
        explanation="a permutation is missing before the reshape, so a token gets pieces of other tokens",
        causes=("axes mixed", "later tokens visible"),
        make=heads_joined_without_permute,
        steps=150,
        margin=0.2,
        layers=("blocks.0.attention", "blocks.1.attention"),
    ),
    Program(
        name="Informer whose heads are split by a view",
        source="https://github.com/zhouhaoyi/Informer2020/issues/59",
        symptom="a question why the order of dimensions is changed by a view",
        explanation="[batch, places, heads, width] is viewed as [batch, heads, places, width] and not permuted",
        causes=("axes mixed",),
        make=heads_split_by_view,
        steps=100,
        margin=0.15,
        layers=("blocks.0.attention",),
    ),
    Program(
        name="rotary embedding over the heads",
        source="https://github.com/mlfoundations/open_lm/issues/4",
        symptom="another position encoding trains much better",
        explanation="queries and keys are turned along the dimension of the heads, so no token knows its place",
        causes=("axes mixed", "positions wrong"),
        make=rotated_by_head,
        steps=60,
        margin=0.15,
        layers=("blocks.0.attention", "blocks.1.attention"),
    ),
    Program(
        name="vision transformer whose patches become a wrong map",
        source="https://github.com/lightly-ai/lightly-train/pull/119",
        symptom="the features of the vision transformer are reshaped wrongly",
        explanation="[batch, patches, width] is reshaped to [batch, width, rows, columns] without a permutation",
        causes=("axes mixed",),
        make=map_of_tokens,
        steps=12,
        margin=0.2,
    ),
    Program(
        name="TokenLearner that attends over the batch",
        source="https://github.com/rish-16/tokenlearner-pytorch/issues/1",
        symptom="a view in the example is wrong",
        explanation="[batch, places, width] is viewed as [places, batch, width], so samples are mixed",
        causes=("axes mixed", "other samples visible"),
        make=view_for_transpose,
        steps=100,
        margin=0.3,
        layers=("attention",),
    ),
    Program(
        name="video autoencoder that mixes channels and frames",
        source="https://github.com/PKU-YuanGroup/Open-Sora-Plan/issues/171",
        symptom="values are not grouped correctly for the attention within a frame",
        explanation="[batch, channels, frames, ...] is reshaped to [batch * frames, channels, ...] as it lies",
        causes=("axes mixed",),
        make=frames_are_mixed,
        steps=15,
        margin=0.2,
    ),
]
