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
    target_squares: Number
    targets: float
    output_squares: Number
    outputs: float
    deviations: Number  # sum of the squared differences of the targets from their means over the samples
    varied: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, outputs: Tensor, targets: Tensor) -> "Compared":
        """The sums of one call."""
        low, high = (bound.double() for bound in targets.aminmax())
        numbers = targets if targets.is_floating_point() else targets.float()
        sizes = squared_size(numbers)[0], squared_size(outputs.detach())[0]
        apart, _ = squared_size(numbers - numbers.mean(0))
        totals = sizes[0], float(targets.numel()), sizes[1], float(outputs.numel())
        return cls(low, high, *totals, apart, (low < high).double())

    def add(self, other: "Compared") -> None:
        """Join another call."""
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self.target_squares, self.targets = self.target_squares + other.target_squares, self.targets + other.targets
        self.deviations, self.varied = self.deviations + other.deviations, torch.maximum(self.varied, other.varied)
        self.output_squares, self.outputs = self.output_squares + other.output_squares, self.outputs + other.outputs


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
        bounds = fetch([sums.low, sums.high, sums.varied])
        of_targets, of_outputs, apart = fetch([sums.target_squares, sums.output_squares, sums.deviations])
        found.append(
            Comparison(
                function=function,
                reads=places.get(reads),
                shape=shape,
                target_shape=target_shape,
                classes=classes,
                swapped=swapped,
                low=bounds[0],
                high=bounds[1],
                varied=bounds[2] > 0,
                target_rms=(of_targets / sums.targets) ** 0.5,
                target_deviation=(apart / sums.targets) ** 0.5,
                output_rms=(of_outputs / sums.outputs) ** 0.5,
            )
        )
    return tuple(found)
