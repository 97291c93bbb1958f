"""What a loss compares: the sizes of outputs and targets, joined over the calls of one kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from unstuck.measure.measurement import Comparison
from unstuck.measure.statistics import Number, fetch, squared_size

MOST_KINDS = 16
"""Kinds of comparisons that are kept of one step."""

CallKey = tuple[str, str, tuple[int, ...], tuple[int, ...], bool, bool]
"""Function, name of the layer or "", shape of the outputs and of the targets, whether these are whole numbers, and
whether they are in each other's place."""


@dataclass
class Compared:
    """Sums over the calls of one kind; they stay on the tensors' device until they are fetched."""

    low: Tensor
    high: Tensor
    varied: Tensor  # whether the targets of a call are not all the same
    # sums of squares of the targets, of their differences from their means over the samples, of the outputs
    squares: list[Number]
    counts: tuple[int, int]  # of targets and outputs

    @classmethod
    def of(cls, outputs: Tensor, targets: Tensor) -> "Compared":
        """The sums of one call."""
        low, high = (bound.double() for bound in targets.aminmax())
        numbers = targets if targets.is_floating_point() else targets.float()
        squares = [squared_size(x)[0] for x in (numbers, numbers - numbers.mean(0), outputs.detach())]
        return cls(low, high, (low < high).double(), squares, (targets.numel(), outputs.numel()))

    def add(self, other: "Compared") -> None:
        """Join another call."""
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self.varied = torch.maximum(self.varied, other.varied)
        self.squares = [one + more for one, more in zip(self.squares, other.squares, strict=True)]
        self.counts = self.counts[0] + other.counts[0], self.counts[1] + other.counts[1]


def joined(passes: Sequence[Mapping[CallKey, Compared]], places: Mapping[str, int]) -> tuple[Comparison, ...]:
    """The comparisons of several passes; `places` has where layers are in the measurement, by name."""
    kinds: dict[CallKey, Compared] = {}
    for kind, sums in (item for compared in passes for item in compared.items()):
        if kind in kinds:
            kinds[kind].add(sums)
        else:
            kinds[kind] = sums
    found = []
    for (function, reads, shape, target_shape, classes, swapped), sums in islice(kinds.items(), MOST_KINDS):
        low, high, varied = fetch([sums.low, sums.high, sums.varied])
        of_targets, apart, of_outputs = fetch(sums.squares)
        targets, outputs = sums.counts
        rms = {"target_rms": (of_targets / targets) ** 0.5, "target_deviation": (apart / targets) ** 0.5}
        bounds = {"low": low, "high": high, "varied": varied > 0, "output_rms": (of_outputs / outputs) ** 0.5}
        place = places.get(reads)
        found.append(Comparison(function, place, shape, target_shape, classes, swapped, **bounds, **rms))
    return tuple(found)
