"""One case: a network, a batch and a loss, and what a tool that diagnoses it should say.

A **broken** case has one cause, injected by construction; `Case.cause` says which. A **healthy** case is a near miss of
a broken one, or something unusual that learns well.

**The right rule**: an error or a warning with this identifier is among the findings. Others may be there too. Where
one cause has two effects of the same standing, both identifiers are right: a LayerNorm over a single number gives the
same for all samples, and a gradient of exactly 0.

**The right layer**: `Case.layers` is as narrow as the cause allows, and the *first* name of that finding must be one of
it. A cause that sits in one layer names that layer, together with the activation or the parameter that it shows at; a
cause that is spread over all layers (depth) names the end at which its effect is largest: where the gradient that
reaches the layer is smallest or largest, which is at the inputs. A cause in the inputs has no layer: then the finding
must name none.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Loss = Callable[[Any, Any], Tensor]
Problem = tuple[nn.Module, Any, Any, Loss]
"""Model, inputs, targets, loss function."""


@dataclass(frozen=True)
class Case:
    """A network to diagnose.

    Attributes:
        name: unique in the catalogue.
        cause: of a broken case, what was done to it; of a healthy one, what might mislead.
        make: builds model, inputs, targets and loss function; random numbers come from the global generator.
        rules: identifiers of the rules of which one must find it; none: healthy.
        layers: the right layers, see above.
        optimizer: what trains the network where it is trained.
        steps: steps of training that a `Monitor` watches; 0: one batch shows it.
        slow: takes more than about half a second.
    """

    name: str
    cause: str
    make: Callable[[], Problem]
    rules: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = torch.optim.Adam
    steps: int = 0
    slow: bool = False

    @property
    def broken(self) -> bool:
        """Whether something is wrong with it."""
        return bool(self.rules)

    def problem(self, seed: int = 0) -> Problem:
        """What `make` gives, the same every time for a seed; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()


def adam(lr: float) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr)


def sgd(lr: float, momentum: float = 0.0) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def train(problem: Problem, optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Plain training on the one batch."""
    model, inputs, targets, loss_fn = problem
    for _ in range(steps):
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()


def classes(samples: int = 64, features: int = 32, kinds: int = 10) -> tuple[Tensor, Tensor]:
    """Normalised points around a centre for each class."""
    targets = torch.arange(samples) % kinds
    inputs = torch.randn(kinds, features)[targets] + 0.7 * torch.randn(samples, features)
    return (inputs - inputs.mean(0)) / inputs.std(0), targets


def images(samples: int = 32, channels: int = 3, size: int = 12, kinds: int = 10) -> tuple[Tensor, Tensor]:
    """As `classes`, smooth enough for a convolution."""
    targets = torch.arange(samples) % kinds
    centres = nn.functional.interpolate(torch.randn(kinds, channels, 3, 3), size=size, mode="bilinear")
    inputs = 2 * centres[targets] + 0.5 * torch.randn(samples, channels, size, size)
    return (inputs - inputs.mean()) / inputs.std(), targets


def sequences(samples: int = 16, steps: int = 30, features: int = 8, kinds: int = 4) -> tuple[Tensor, Tensor]:
    """A class that is seen at every step, in noise; [samples, steps, features]."""
    targets = torch.arange(samples) % kinds
    return torch.randn(kinds, 1, features)[targets] + torch.randn(samples, steps, features), targets


def tokens(samples: int = 16, length: int = 16, vocabulary: int = 40) -> tuple[Tensor, Tensor]:
    """Each token is the one before plus 1, 2 or 3; the targets are the next tokens."""
    walk = torch.randint(0, vocabulary, (samples, 1)) + torch.randint(1, 4, (samples, length + 1)).cumsum(1)
    walk = walk % vocabulary
    return walk[:, :-1], walk[:, 1:]


def next_token(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def scaled(module: nn.Module, factor: float) -> None:
    """Multiplies the weight, not the bias."""
    module.get_parameter("weight").mul_(factor)


@torch.no_grad()
def shifted(module: nn.Module, offset: float) -> None:
    """Adds to the bias."""
    module.get_parameter("bias").add_(offset)
