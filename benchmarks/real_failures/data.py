"""Small data on which the programs of the collection train, and the scores that their authors looked at."""

from collections.abc import Callable

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


def rectangles(samples: int = 64, size: int = 12) -> tuple[Tensor, Tensor]:
    """A bright rectangle in noise, and where it is: images and masks of zeros and ones [samples, 1, size, size]."""
    start, extent = torch.randint(1, size // 2, (2, samples, 1)), torch.randint(3, size // 2, (2, samples, 1))
    place = torch.arange(size)
    rows, columns = (place >= start) & (place < start + extent)
    masks = (rows[:, :, None] & columns[:, None, :]).float()[:, None]
    return masks + 0.5 * torch.randn(samples, 1, size, size), masks


def minibatches(size: int, inputs: Tensor, targets: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The batches of a loader, again and again: inputs and targets by the number of the step."""
    batches = list(zip(inputs.split(size), targets.split(size), strict=True))
    return lambda step: batches[step % len(batches)]


def shuffled(size: int, inputs: Tensor, targets: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
    """The batches of a loader that shuffles: other samples in each step."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.randperm(len(inputs))[:size]
        return inputs[rows], targets[rows]

    return batch


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


@torch.no_grad()
def overlap(model: nn.Module, images: Tensor, masks: Tensor, threshold: float = 0.0) -> float:
    """Intersection over union of the masks and the outputs above a threshold, in evaluation mode."""
    model.eval()
    found, there = model(images) > threshold, masks > 0
    return (found & there).sum().item() / max((found | there).sum().item(), 1)


@torch.no_grad()
def explained(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Fraction of the targets' variance that the outputs explain, at least -1, in evaluation mode."""
    model.eval()
    error = (model(inputs).reshape(targets.shape) - targets).square().mean() / targets.var()
    return max(1 - error.item(), -1.0) if error.isfinite() else -1.0
