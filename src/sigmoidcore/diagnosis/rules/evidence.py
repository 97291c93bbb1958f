"""What the rules look at: the measurements, and the latest one as a graph."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Weight

SIGMOIDS = frozenset({"Sigmoid", "Tanh", "sigmoid()", "tanh()", "SigmoidCore"})
"""Kinds of activations that `convert` makes cores of, and the core itself."""
GATED = frozenset({"RNN", "LSTM", "GRU"})
"""Kinds of recurrent layers that `convert` makes layers of cores of."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The measurements, latest last, and the latest one as a graph of layers.

    A layer is *live* if a gradient came back to it. A *sink* is a live layer with weights that feeds no other live
    layer with weights: it feeds the loss. The *level* of a layer is its gradient size over that of the sinks it feeds.
    """

    measurements: Sequence[Measurement]

    @property
    def now(self) -> Measurement:
        """The latest."""
        return self.measurements[-1]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Of the latest."""
        return self.now.layers

    @cached_property
    def weighted(self) -> tuple[str, ...]:
        """Names of the layers with weights, in order."""
        return tuple(layer.name for layer in self.now.weighted)

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """By name."""
        return {weight.name: weight for weight in self.now.weights}

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """Of each layer: those that read it with no other layer in between."""
        found: list[list[int]] = [[] for _ in self.layers]
        for i, layer in enumerate(self.layers):
            for source in layer.sources:
                found[source].append(i)
        return tuple(map(tuple, found))

    @cached_property
    def live(self) -> tuple[bool, ...]:
        """Of each layer: whether it has weights and a finite gradient came back to it."""
        return tuple(
            layer.role == "weights" and layer.gradient is not None and math.isfinite(layer.gradient)
            for layer in self.layers
        )

    @cached_property
    def feeds_live(self) -> tuple[bool, ...]:
        """Of each layer: whether a live layer comes after it."""
        found = [False] * len(self.layers)
        for i in reversed(range(len(found))):
            found[i] = any(self.live[c] or found[c] for c in self.consumers[i])
        return tuple(found)

    @cached_property
    def sinks(self) -> tuple[int, ...]:
        """Positions of the layers that feed the loss."""
        return tuple(i for i in range(len(self.layers)) if self.live[i] and not self.feeds_live[i])

    @cached_property
    def references(self) -> tuple[tuple[float, float] | None, ...]:
        """Of each layer: smallest and largest gradient size, not 0, of the sinks that it feeds, or is."""
        found: list[tuple[float, float] | None] = [None] * len(self.layers)
        sinks = set(self.sinks)
        for i in reversed(range(len(found))):
            reached = [r for c in self.consumers[i] if (r := found[c]) is not None]
            if i in sinks and (own := self.gradient(i)) > 0:
                reached.append((own, own))
            if reached:
                found[i] = min(low for low, _ in reached), max(high for _, high in reached)
        return tuple(found)

    def gradient(self, i: int) -> float:
        """Gradient size of a live layer."""
        size = self.layers[i].gradient
        assert size is not None
        return size

    def views(self, i: int) -> tuple[float, ...]:
        """The gradient size as it is, and in the units of the signal that the next layer gives.

        A normalisation gives what it reads a new scale, and its gradient the inverse. A layer before it may have
        outputs, and so gradients, of any size: that is no fault, and the second view does not see it.
        """
        size, rms = self.gradient(i), self.layers[i].rms
        after = next((r for c in self.consumers[i] if 0 < (r := self.layers[c].rms) < math.inf), None)
        return (size,) if after is None or not 0 < rms < math.inf else (size, size * (rms / after))

    @cached_property
    def lowest(self) -> dict[int, float]:
        """Level of each live layer that feeds a sink, from the view in which it is largest."""
        return {
            i: self._for_its_rows[i] * max(self.views(i)) / reference[0]
            for i, reference in enumerate(self.references)
            if self.live[i] and reference and self._for_its_rows[i] < math.inf
        }

    @cached_property
    def _for_its_rows(self) -> tuple[float, ...]:
        """Of each layer: how much larger its gradient size would be if it had seen all rows: an expert sees a few."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for i, layer in enumerate(self.layers):
            for name in kin(layer.name) if layer.role == "weights" else ():
                groups.setdefault((name, layer.kind, layer.shape[1:]), []).append(i)
        found = [1.0] * len(self.layers)
        for group in groups.values():
            rows = [self.layers[i].shape[0] if self.layers[i].shape else 1 for i in group]
            if len(set(rows)) > 1:
                for i, own in zip(group, rows, strict=True):
                    found[i] = max(found[i], math.sqrt(sum(rows) / own) if own else math.inf)
        return tuple(found)

    @cached_property
    def highest(self) -> dict[int, float]:
        """Level of each live layer that feeds a sink, from the view in which it is smallest."""
        return {
            i: min(self.views(i)) / reference[1]
            for i, reference in enumerate(self.references)
            if self.live[i] and reference
        }

    @cached_property
    def growing(self) -> tuple[Weight, ...]:
        """Weights that are 0 and get a gradient: they stop what is before them for one step, and no longer."""
        return tuple(w for w in self.now.weights if w.trains and is_zero(w) and w.gradient)

    def fallen(self, below: float) -> tuple[int, ...]:
        """Layers whose level is below, and that of all layers before them, too: no path brings a gradient there.

        A branch with a gradient of its own size beside a skip connection is none of them. Nor is what gets exactly 0
        while weights that start at 0 stand after it.
        """
        return self._closed(lambda i: self.lowest[i] < below)

    def risen(self, above: float) -> tuple[int, ...]:
        """Layers whose level is above, and that of all layers before them, too."""
        return self._closed(lambda i: self.highest[i] > above)

    def _closed(self, bad: Callable[[int], bool]) -> tuple[int, ...]:
        found, state = [], [True] * len(self.layers)
        for i, layer in enumerate(self.layers):
            state[i] = all(state[source] for source in layer.sources)
            if i not in self.lowest or (self.growing and self.gradient(i) == 0):
                continue
            state[i] = state[i] and bad(i)
            if state[i]:
                found.append(i)
        sound = {w for i in self.lowest.keys() - set(found) for w in self.layers[i].weights}
        return tuple(i for i in found if not self.layers[i].weights or not sound.issuperset(self.layers[i].weights))

    def next_live(self, i: int) -> Iterator[int]:
        """The live layers that come next, activations in between."""
        seen, waiting = {i}, list(self.consumers[i])
        while waiting:
            c = waiting.pop()
            if c in seen:
                continue
            seen.add(c)
            if self.live[c]:
                yield c
            else:
                waiting += self.consumers[c]

    @property
    def sigmoids(self) -> tuple[Layer, ...]:
        """Hidden sigmoids and tanhs that are no gates."""
        return tuple(self.layers[i] for i in self.hidden if self.layers[i].kind in SIGMOIDS)

    @cached_property
    def hidden(self) -> tuple[int, ...]:
        """Activations that feed another layer with weights and are no gates."""
        return tuple(
            i
            for i, layer in enumerate(self.layers)
            if layer.role == "activation" and not layer.gate and self.feeds_weights[i]
        )

    @cached_property
    def feeds_weights(self) -> tuple[bool, ...]:
        """Of each layer: whether a layer with weights comes after it."""
        found = [False] * len(self.layers)
        for i in reversed(range(len(found))):
            found[i] = any(self.layers[c].role == "weights" or found[c] for c in self.consumers[i])
        return tuple(found)


def is_zero(weight: Weight) -> bool:
    """Whether all of its numbers are 0, and it is no bias, which may well be."""
    return weight.size == 0 and not weight.name.rpartition(".")[2].startswith("bias")


def kin(name: str) -> tuple[str, ...]:
    """What the names of parts of the same kind have in common: the name without one of its numbers.

    Example:
        >>> kin("blocks.3.experts.12.up")
        ('blocks.*.experts.12.up', 'blocks.3.experts.*.up')
    """
    parts = name.split(".")
    return tuple(".".join([*parts[:i], "*", *parts[i + 1 :]]) for i, part in enumerate(parts) if part.isdigit())
