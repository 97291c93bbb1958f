"""Small data on which the programs of the collection train, and the scores that their authors looked at."""

import torch
from torch import Tensor, nn


def classes(samples: int = 256, features: int = 20, kinds: int = 4, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points around one centre a class: inputs [samples, features] of unit size, labels [samples]."""
    labels = torch.arange(samples) % kinds
    inputs = 1.5 * torch.randn(kinds, features)[labels] + spread * torch.randn(samples, features)
    return (inputs - inputs.mean(0)) / inputs.std(0), labels


def line(samples: int = 256, features: int = 4, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """A linear function of normal inputs, and noise: inputs [samples, features], targets [samples]."""
    inputs = torch.randn(samples, features)
    return inputs, inputs @ torch.linspace(-2, 2, features) + 1 + noise * torch.randn(samples)


def images(samples: int = 128, channels: int = 1, size: int = 12, kinds: int = 4) -> tuple[Tensor, Tensor]:
    """Smooth patterns, one a class, in noise: inputs [samples, channels, size, size], labels [samples]."""
    labels = torch.arange(samples) % kinds
    patterns = nn.functional.interpolate(torch.randn(kinds, channels, 3, 3), size=size, mode="bilinear")
    return patterns[labels] + 0.5 * torch.randn(samples, channels, size, size), labels


def sequences(samples: int = 128, steps: int = 20, features: int = 4, kinds: int = 4) -> tuple[Tensor, Tensor]:
    """A class that only the first step shows: inputs [samples, steps, features], labels [samples]."""
    labels = torch.arange(samples) % kinds
    inputs = 0.3 * torch.randn(samples, steps, features)
    inputs[:, 0] += 2 * torch.eye(kinds, features)[labels]
    return inputs, labels


def tokens(samples: int = 64, length: int = 12, vocabulary: int = 16) -> tuple[Tensor, Tensor]:
    """Counting upwards from a random token: tokens and next tokens, [samples, length] each."""
    walk = (torch.randint(vocabulary, (samples, 1)) + torch.arange(length + 1)) % vocabulary
    return walk[:, :-1], walk[:, 1:]


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Fraction of samples whose largest output is the label's, in evaluation mode."""
    model.eval()
    return (model(inputs).argmax(-1) == labels).float().mean().item()


@torch.no_grad()
def negative_error(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Minus the mean squared error, in evaluation mode; outputs are brought to the shape of the targets."""
    model.eval()
    error = (model(inputs).reshape(targets.shape) - targets).square().mean().item()
    return -error if error == error else -float("inf")
