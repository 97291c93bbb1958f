"""A program that somebody asked about, rebuilt small: what it does, why it fails, and the same program repaired.

Each program is written in our own words and code, from the description in its source: the same mistake, in a small
network on small data that train in about a second. Nothing is copied. A program has to show that the mistake matters:
after the same number of steps, the broken one has a clearly worse `score` than the repaired one.

The collection is split by source: programs of one repository or one page are all in the same half, which the hash of
`Program.origin` decides. The rules of the diagnosis are developed on the half
`"development"`. The half `"held out"` is diagnosed once per release, and its score is reported as it comes out.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Cause = Literal[
    "vanishing gradient",
    "exploding gradient",
    "gradient lost through time",
    "saturated units",
    "dead units",
    "collapsed units",
    "learning rate too low",
    "learning rate too high",
    "weight decay too strong",
    "no step",
    "gradients not cleared",
    "gradients cleared too early",
    "optimizer state lost",
    "parameters not in the optimizer",
    "frozen parameters",
    "graph cut",
    "gradient not stopped",
    "parameters not registered",
    "weights all alike",
    "initialisation too large",
    "initialisation too small",
    "loss input wrong",
    "loss weights wrong",
    "axes mixed",
    "targets broadcast",
    "targets out of reach",
    "targets not scaled",
    "inputs not scaled",
    "inputs constant",
    "information across the batch",
    "normalisation wrong",
    "wrong mode",
    "no activation between layers",
    "not finite",
    "precision too low",
    "dropout too strong",
    "mask wrong",
    "positions missing",
    "data wrong",
]


@dataclass
class Training:
    """What a program builds before its loop, and what its loop does in a step.

    Attributes:
        model: the network.
        batch: inputs and targets of a step, by its number.
        loss: loss function of outputs and targets, as the program calls it.
        optimizer: the program's optimizer; None if it has none.
        score: what the asker looked at, after the training: accuracy or a negative error. Larger is better.
        step: one step of the loop; None: zero_grad, forward, loss, backward, step.
        after: called after each step, such as a schedule's `step`.
    """

    model: nn.Module
    batch: Callable[[int], tuple[Any, Any]]
    loss: Callable[[Any, Any], Tensor]
    optimizer: torch.optim.Optimizer | None
    score: Callable[[nn.Module], float]
    step: "Callable[[Training, Any, Any], None] | None" = None
    after: Callable[[], object] | None = None

    def run(self, steps: int) -> float:
        """Train for a number of steps; returns the score."""
        for number in range(steps):
            inputs, targets = self.batch(number)
            (self.step or usual_step)(self, inputs, targets)
            if self.after is not None:
                self.after()
        return self.score(self.model)


def usual_step(training: Training, inputs: Any, targets: Any) -> None:
    """The five lines of nearly every loop."""
    assert training.optimizer is not None
    training.optimizer.zero_grad()
    training.loss(training.model(inputs), targets).backward()
    training.optimizer.step()


@dataclass(frozen=True)
class Program:
    """A program that failed, and its repair.

    Attributes:
        name: unique in the collection.
        source: address of the question or report.
        symptom: what the asker saw, in a sentence.
        explanation: the cause that was accepted there (by the asker, the maintainers or the fix), in a sentence.
        causes: the same, in the words of this collection; a tool that names one of them is right.
        make: builds the program; True: with the repair. Random numbers come from the global generator.
        steps: number of steps after which the broken one is clearly worse.
        margin: by how much the score of the repaired one is larger, at least.
        layers: the layers at fault; empty if the cause is in no layer.
        visible: `"batch"` if one batch before the training can show the cause, `"training"` if only steps can.
    """

    name: str
    source: str
    symptom: str
    explanation: str
    causes: tuple[Cause, ...]
    make: Callable[[bool], Training]
    steps: int
    margin: float
    layers: tuple[str, ...] = ()
    visible: Literal["batch", "training"] = "batch"

    @property
    def origin(self) -> str:
        """The repository of the source, or the page: what the halves are split by."""
        host, *path = self.source.removeprefix("https://").split("#")[0].rstrip("/").split("/")
        return "/".join([host, *(path[:2] if host == "github.com" else path)]).lower()

    @property
    def half(self) -> Literal["development", "held out"]:
        """The half of the collection that the program belongs to."""
        return "held out" if hashlib.sha256(self.origin.encode()).digest()[0] % 2 else "development"

    def training(self, repaired: bool, seed: int = 0) -> Training:
        """Build the program, the same every time for a seed; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make(repaired)

    def compare(self, seed: int = 0) -> tuple[float, float]:
        """Scores of the broken and of the repaired program after the same steps."""
        scores = []
        for repaired in (False, True):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                scores.append(self.make(repaired).run(self.steps))
        return scores[0], scores[1]
