"""A mistake in the training of a modern network, rebuilt small, and the same training without it.

The programs are written by somebody who has not read the rules of the tool: from public threads where there is one,
else from what practitioners know. Each trains in at most three seconds on one core. After the same number of steps
the broken one has a clearly worse `score` than the repaired one.

A program is a `Training` of `real_failures.program`. Where the inputs of a batch are a dictionary, as in most
trainers, its `step` calls the network with `**inputs`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from real_failures.program import Training


@dataclass(frozen=True)
class Program:
    """A training with a mistake, and its repair.

    Attributes:
        name: unique in the collection.
        source: address of the thread where somebody made the mistake; empty if there is none.
        symptom: what one sees, in a sentence.
        explanation: what is wrong, in a sentence; and where it is known from, if there is no source.
        cause: the kind of mistake, in a few plain words; at most three programs share one.
        make: builds the training; True: with the repair. Random numbers come from the global generator.
        steps: number of steps after which the broken one is clearly worse.
        margin: by how much the score of the repaired one is larger, at least.
    """

    name: str
    source: str
    symptom: str
    explanation: str
    cause: str
    make: Callable[[bool], Training]
    steps: int
    margin: float

    def score(self, repaired: bool, seed: int = 0) -> float:
        """Build the training, the same every time for a seed, and train it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make(repaired).run(self.steps)

    def holds(self, broken: float, repaired: float) -> bool:
        """Whether the mistake matters: the broken score is worse by the margin, or not a number."""
        return math.isfinite(repaired) and (math.isnan(broken) or repaired - broken >= self.margin)


@dataclass(frozen=True)
class Healthy:
    """A training that does something unusual on purpose, and learns.

    Attributes:
        name: unique in the collection.
        unusual: what looks like a mistake and is none.
        make: builds the training.
        steps: number of steps.
        gain: by how much the score grows over these steps, at least.
    """

    name: str
    unusual: str
    make: Callable[[], Training]
    steps: int
    gain: float

    def scores(self, seed: int = 0) -> tuple[float, float]:
        """Scores before and after the training."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            before = self.make().run(0)
            torch.manual_seed(seed)
            return before, self.make().run(self.steps)
