"""Made data, and scores."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

PAD, END, ASK = 0, 1, 2
"""The first tokens of each vocabulary: padding, end of text, and the mark between a question and its answer."""
FIRST_WORD = 3


def batches(*tensors: Tensor, size: int = 32) -> Callable[[int], Any]:
    """Rows of the tensors, a batch for each step, from the start again at the end."""

    def batch(step: int) -> tuple[Tensor, ...]:
        start = step * size % (len(tensors[0]) - size + 1)
        return tuple(tensor[start : start + size] for tensor in tensors)

    return batch


def walks(rows: int, length: int, vocabulary: int = 12) -> Tensor:
    """Sequences in which each token follows from the one before, always the same way."""
    following = torch.randperm(vocabulary - FIRST_WORD) + FIRST_WORD
    tokens = [torch.randint(FIRST_WORD, vocabulary, (rows,))]
    for _ in range(length - 1):
        tokens.append(following[tokens[-1] - FIRST_WORD])
    return torch.stack(tokens, 1)


def translations(rows: int, length: int = 3, vocabulary: int = 12) -> tuple[Tensor, Tensor]:
    """Questions of random words and their answers, word by word from a dictionary."""
    dictionary = torch.randperm(vocabulary - FIRST_WORD) + FIRST_WORD
    questions = torch.randint(FIRST_WORD, vocabulary, (rows, length))
    return questions, dictionary[questions - FIRST_WORD]


def column(rows: int, token: int) -> Tensor:
    """The same token for each row."""
    return torch.full((rows, 1), token)


def ring(rows: int, modes: int = 8) -> tuple[Tensor, Tensor]:
    """Points around the corners of a polygon of radius 2, and the number of the corner."""
    corner = torch.randint(modes, (rows,))
    angle = 2 * math.pi * corner / modes
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(rows, 2), corner


def distance(samples: Tensor, data: Tensor) -> float:
    """Energy distance of two sets of points; zero if they are distributed alike."""
    between = torch.cdist(samples, data).mean()
    return (2 * between - torch.cdist(samples, samples).mean() - torch.cdist(data, data).mean()).item()


def agreement(guesses: Tensor, targets: Tensor) -> float:
    """Fraction of equal entries."""
    return (guesses == targets).float().mean().item()


def views(rows: int, latent: int = 6, width: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """Two different observations of the same things, and the things."""
    things = torch.randn(rows, latent)
    one, other = (torch.tanh(things @ torch.randn(latent, width)) for _ in range(2))
    return one + 0.1 * torch.randn_like(one), other + 0.1 * torch.randn_like(other), things


def retrieval(one: Tensor, other: Tensor) -> float:
    """How often the nearest of the other view, by angle, is the right one."""
    similarity = torch.nn.functional.normalize(one, dim=-1) @ torch.nn.functional.normalize(other, dim=-1).mT
    return agreement(similarity.argmax(1), torch.arange(len(one)))


def clusters(rows: int, classes: int = 5, width: int = 16, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points around the centres of classes, and their classes."""
    centres = 2 * torch.randn(classes, width)
    labels = torch.randint(classes, (rows,))
    return centres[labels] + noise * torch.randn(rows, width), labels
