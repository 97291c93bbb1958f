"""Small data of the kinds that people train on today, and the scores that they looked at."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from modern_failures.blocks import IGNORED

PAD, END, ASK = 0, 1, 2
"""Padding, the end of a text, and the sign between a question and its answer; words follow from 3 on."""
WORDS = 8
VOCABULARY = 3 + WORDS


def walks(samples: int = 64, length: int = 12) -> Tensor:
    """Words of which the next one is the sum of the two before, modulo their number [samples, length]."""
    words = torch.randint(WORDS, (samples, length))
    for place in range(2, length):
        words[:, place] = (words[:, place - 1] + words[:, place - 2]) % WORDS
    return words + 3


def chains(samples: int = 64, length: int = 12) -> Tensor:
    """Words that follow one another in a fixed order, from a random one on [samples, length]."""
    order = torch.randperm(WORDS, generator=torch.Generator().manual_seed(5))
    return order[(torch.randint(WORDS, (samples, 1)) + torch.arange(length)) % WORDS] + 3


def questions(samples: int = 128, words: int = 4, answer: int = 3, length: int | None = None) -> Tensor:
    """Random words, ASK, the first of them again (each plus one), END, padding up to a length [samples, length]."""
    question = torch.randint(WORDS, (samples, words))
    sign, end = torch.full((samples, 1), ASK), torch.full((samples, 1), END)
    rows = torch.cat([question + 3, sign, (question[:, :answer] + 1) % WORDS + 3, end], 1)
    return nn.functional.pad(rows, (0, (length or rows.shape[1]) - rows.shape[1]), value=PAD)


def stories(samples: int = 128, shortest: int = 2, longest: int = 6) -> Tensor:
    """Texts of different lengths that count upwards and stop: words, END, padding [samples, longest + 2].

    The first word says how many follow, so a model can learn where to stop.
    """
    count = torch.randint(shortest, longest + 1, (samples, 1))
    place = torch.arange(longest + 2)
    words = (count + place) % WORDS + 3
    return torch.where(place <= count, words, torch.where(place == count + 1, END, PAD))


def answers_only(rows: Tensor) -> Tensor:
    """Labels of questions: what follows ASK, without padding."""
    after = (rows == ASK).cumsum(1) - (rows == ASK).long()
    return rows.where((after > 0) & (rows != PAD), IGNORED)


def without_padding(rows: Tensor) -> Tensor:
    """Labels that leave padding out of the loss."""
    return rows.where(rows != PAD, IGNORED)


@torch.no_grad()
def continued(logits: Callable[[Tensor], Tensor], prompt: Tensor, count: int) -> Tensor:
    """The likeliest next tokens, one after the other [samples, count]."""
    rows = prompt
    for _ in range(count):
        rows = torch.cat([rows, logits(rows)[:, -1].argmax(-1, keepdim=True)], 1)
    return rows[:, prompt.shape[1] :]


def continues(logits: Callable[[Tensor], Tensor], rows: Tensor, start: int, count: int | None = None) -> float:
    """Fraction of the tokens from a place on that a model writes as they are, given those before."""
    count = count or rows.shape[1] - start
    return (continued(logits, rows[:, :start], count) == rows[:, start : start + count]).float().mean().item()


@torch.no_grad()
def foresees(logits: Callable[[Tensor], Tensor], rows: Tensor, start: int = 2) -> float:
    """Fraction of the tokens from a place on that a model expects, given those before."""
    return (logits(rows)[:, start - 1 : -1].argmax(-1) == rows[:, start:]).float().mean().item()


def clusters(samples: int = 256, kinds: int = 8, spread: float = 0.1) -> tuple[Tensor, Tensor]:
    """Points of the plane around centres on a circle of radius 1.5, and their classes."""
    labels = torch.arange(samples) % kinds
    angles = labels * 2 * torch.pi / kinds
    return 1.5 * torch.stack([angles.cos(), angles.sin()], 1) + spread * torch.randn(samples, 2), labels


def near_clusters(points: Tensor, labels: Tensor | None = None, kinds: int = 8, within: float = 0.4) -> float:
    """Fraction of the points that are near a centre of `clusters`, or near that of their class."""
    angles = torch.arange(kinds) * 2 * torch.pi / kinds
    distances = torch.cdist(points, 1.5 * torch.stack([angles.cos(), angles.sin()], 1))
    wanted = distances.amin(1) if labels is None else distances.gather(1, labels[:, None])[:, 0]
    return (wanted < within).float().mean().item()


def two_views(samples: int = 256, kinds: int = 8, features: int = 16, noise: float = 0.5) -> tuple[Tensor, ...]:
    """Two noisy views of the same hidden things, through different mixtures, and their classes."""
    labels = torch.arange(samples) % kinds
    hidden = torch.randn(kinds, 6)[labels] + 0.5 * torch.randn(samples, 6)
    first, second = (hidden @ torch.randn(6, features) + noise * torch.randn(samples, features) for _ in range(2))
    return first, second, labels


@torch.no_grad()
def retrieval(first: Tensor, second: Tensor) -> float:
    """Fraction of the rows whose most similar row of the other side is their own."""
    similar = nn.functional.normalize(first, dim=-1) @ nn.functional.normalize(second, dim=-1).T
    return (similar.argmax(1) == torch.arange(len(similar))).float().mean().item()


@torch.no_grad()
def spread(features: Tensor) -> float:
    """How far normalised features are spread: 1 if evenly in all directions, 0 if collapsed to a point."""
    return (nn.functional.normalize(features, dim=-1).std(0).mean() * features.shape[-1] ** 0.5).item()


@torch.no_grad()
def neighbours(features: Tensor, labels: Tensor) -> float:
    """Fraction of the samples whose most similar other sample has their class."""
    features = nn.functional.normalize(features, dim=-1)
    similar = (features @ features.T).fill_diagonal_(-2)
    return (labels[similar.argmax(1)] == labels).float().mean().item()
