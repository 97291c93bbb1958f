"""A network that is known to train, and random data of its kind: any error or warning about it is a false accusation.

Networks are built as their authors initialise them, without pretrained weights, and as small as their builders allow.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType

import torch
from torch import Tensor, nn

from catalogue.case import Problem

SAMPLES, KINDS, SIZE = 16, 8, 64


@dataclass(frozen=True)
class Network:
    """A healthy network.

    Attributes:
        name: unique in its group.
        make: builds model, inputs, targets and loss function; random numbers come from the global generator.
        rate: learning rate of AdamW.
        training: `diagnose` runs it in training mode, because its loss needs that.
        optimizer: what trains it, if not AdamW.
        true: rules that accuse it rightly, with the reason.
    """

    name: str
    make: Callable[[], Problem]
    rate: float = 1e-3
    training: bool = False
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    true: Mapping[str, str] = field(default_factory=dict)

    def problem(self, seed: int = 0) -> Problem:
        """What `make` gives, the same every time for a seed."""
        torch.manual_seed(seed)
        return self.make()


def package(name: str) -> ModuleType:
    """An optional package, which only its group needs."""
    return importlib.import_module(name)


def images(samples: int = SAMPLES, size: int = SIZE, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Smooth images around a centre for each class, normalised as usual: about as bright as photographs."""
    targets = torch.arange(samples) % KINDS
    centres = nn.functional.interpolate(torch.randn(KINDS, channels, 4, 4), size=size, mode="bilinear")
    inputs = 2 * centres[targets] + 0.3 * torch.randn(samples, channels, size, size)
    return (inputs - inputs.mean()) / inputs.std(), targets


def walks(samples: int = SAMPLES, length: int = 24, vocabulary: int = 96) -> Tensor:
    """Tokens: each is the one before plus 1, 2 or 3; the first four are special and left out."""
    steps = torch.randint(1, 4, (samples, length)).cumsum(1)
    return 4 + (torch.randint(0, vocabulary, (samples, 1)) + steps) % (vocabulary - 4)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Classes are in the last dimension of the outputs."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
