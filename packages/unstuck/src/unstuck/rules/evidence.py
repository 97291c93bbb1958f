"""The input of the rules: the measurements, and the latest one as a graph of layers."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from unstuck.measure.measurement import Layer, Measurement, Role, Weight
from unstuck.rules.question import Answer, Question
from unstuck.wording import listed

USUAL_ROW_NORM = 0.5
"""Root mean square of the norms of a weight's rows, just below that of PyTorch's default for a Linear, 0.58."""

FEWEST_MEASUREMENTS = 3
"""With fewer measurements of a training, its steps and its normalisations are not judged."""
PATIENT_MEASUREMENTS, PATIENT_SPAN = 6, 9
"""What is the same in so many measurements, over so many steps, is no accident."""
SMALL_SCALE = 0.1
"""A head or a scale of less than this share of the usual size was started small on purpose."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The measurements, latest last, and the latest one as a graph of layers, which are named by their position.

    A layer is *live* if it has weights and a finite gradient arrived at it. A *sink* is a live layer that no
    other live layer follows: it feeds the loss. The *level* of a layer is its gradient size over that of the sinks that
    it feeds.

    Example:
        >>> first = Layer("first", "first", "Linear", "weights", gradient=0.01)
        >>> relu = Layer("relu", "relu", "ReLU", "activation", sources=(0,), gradient=0.02)
        >>> head = Layer("head", "head", "Linear", "weights", sources=(1,), gradient=0.5)
        >>> evidence = Evidence([Measurement((first, relu, head), (), samples=8)])
        >>> evidence.consumers, evidence.live, evidence.sinks
        (((1,), (2,), ()), (True, False, True), (2,))
        >>> evidence.references, evidence.upper_level
        (((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)), {0: 0.02, 2: 1.0})
    """

    measurements: Sequence[Measurement]
    ends: bool = True  # False: the training goes on, and what has taken all its steps so far may pass

    @property
    def latest(self) -> Measurement:
        """The measurement that is judged."""
        return self.measurements[-1]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the latest measurement."""
        return self.latest.layers

    @property
    def lasts(self) -> bool:
        """Whether there are `PATIENT_MEASUREMENTS`, and `PATIENT_SPAN` steps between the first and the last."""
        steps = [m.step for m in self.measurements if m.step is not None]
        return len(steps) >= PATIENT_MEASUREMENTS and steps[-1] - steps[0] >= PATIENT_SPAN

    def names(self, places: Iterable[int]) -> tuple[str, ...]:
        """Names of the layers at these positions."""
        return tuple(self.layers[i].name for i in places)

    def listed(self, names: Sequence[str], role: str = "weights", noun: str = "layer") -> str:
        """Names of layers of a role in a sentence."""
        return listed(names, [layer.name for layer in self.layers if layer.role == role], noun)

    def layer_of_call(self, module: str, role: Role, number: int) -> str:
        """The name of the layer of a role that the call of this number in a module has made, or else the module's."""
        names = [layer.name for layer in self.layers if (layer.module, layer.role) == (module, role)]
        return names[number % len(names)] if names else module

    def ask(self, question: Question[Answer]) -> Answer | None:
        """What was found in the recorded step; None if that is nothing, or if no step was recorded."""
        return question.answer(self.latest.answers or {})

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """Parameters by name."""
        return {weight.name: weight for weight in self.latest.weights}

    @cached_property
    def consumers(self) -> tuple[tuple[int, ...], ...]:
        """For each layer: the layers that read it directly."""
        found: list[list[int]] = [[] for _ in self.layers]
        for i, layer in enumerate(self.layers):
            for source in layer.sources:
                found[source].append(i)
        return tuple(map(tuple, found))

    @cached_property
    def live(self) -> tuple[bool, ...]:
        """For each layer: whether it has weights and a finite gradient arrived at it."""
        return tuple(x.role == "weights" and x.gradient is not None and math.isfinite(x.gradient) for x in self.layers)

    @cached_property
    def feeds_live(self) -> tuple[bool, ...]:
        """For each layer: whether a live layer comes after it."""
        return self._followed_by(self.live)

    @cached_property
    def feeds_weights(self) -> tuple[bool, ...]:
        """For each layer: whether a layer with weights comes after it."""
        return self._followed_by([layer.role == "weights" for layer in self.layers])

    def _followed_by(self, wanted: Sequence[bool]) -> tuple[bool, ...]:
        found = [False] * len(self.layers)
        for i in reversed(range(len(found))):
            found[i] = any(wanted[c] or found[c] for c in self.consumers[i])
        return tuple(found)

    @cached_property
    def hidden(self) -> tuple[int, ...]:
        """Activations that feed a layer with weights and are not gates."""
        ungated = (i for i, layer in enumerate(self.layers) if layer.role == "activation" and not layer.gate)
        return tuple(i for i in ungated if self.feeds_weights[i])

    @cached_property
    def sinks(self) -> tuple[int, ...]:
        """Layers that feed the loss."""
        return tuple(i for i in range(len(self.layers)) if self.live[i] and not self.feeds_live[i])

    @cached_property
    def references(self) -> tuple[tuple[float, float] | None, ...]:
        """For each layer: smallest and largest gradient size above 0 of the sinks that it feeds."""
        found: list[tuple[float, float] | None] = [None] * len(self.layers)
        sinks = set(self.sinks)
        for i in reversed(range(len(found))):
            reached = [r for c in self.consumers[i] if (r := found[c]) is not None]
            if i in sinks and (size := self.gradient(i)) > 0:
                reached.append((size, size))
            if reached:
                found[i] = min(low for low, _ in reached), max(high for _, high in reached)
        return tuple(found)

    def gradient(self, i: int) -> float:
        """Gradient size of a live layer."""
        size = self.layers[i].gradient
        assert size is not None
        return size

    def _sizes(self, i: int) -> tuple[float, ...]:
        """The gradient size, and the same in units of the signal that the next layer returns.

        A normalisation gives its input a new scale, and the gradient the inverse. A layer before it may have any
        scale: only the first of the two sizes depends on it.
        """
        size, rms = self.gradient(i), self.layers[i].rms
        after = next((r for c in self.consumers[i] if 0 < (r := self.layers[c].rms) < math.inf), None)
        return (size,) if after is None or not 0 < rms < math.inf else (size, size * (rms / after))

    @cached_property
    def upper_level(self) -> dict[int, float]:
        """Level of each live layer that feeds a sink, by the larger of its two sizes and the smallest sink."""
        known = ((i, reference) for i, reference in enumerate(self.references) if self.live[i] and reference)
        return {i: max(self._sizes(i)) / smallest for i, (smallest, _) in known}

    @cached_property
    def lower_level(self) -> dict[int, float]:
        """Level of each live layer that feeds a sink, by the smaller of its two sizes and the largest sink."""
        known = ((i, reference) for i, reference in enumerate(self.references) if self.live[i] and reference)
        return {i: min(self._sizes(i)) / largest for i, (_, largest) in known}

    @cached_property
    def _own_scales(self) -> tuple[float, ...]:
        """The smallest trained scale of each branch (LayerScale), or the size of a head; 1 unless small."""
        found = []
        for i, layer in enumerate(self.layers):
            own = [w for name in layer.scaled_by if (w := self.weights.get(name))]
            if self.live[i] and not self.feeds_live[i]:
                own += [w for name in layer.weights if (w := self.weights.get(name)) and len(w.shape) > 1]
            sizes = [w.size / usual_size(w) for w in own if w.trains and w.gradient and w.size > 0]
            found.append(min([1.0, *(size for size in sizes if size < SMALL_SCALE)]))
        return tuple(found)

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """For each layer: the smallest scale on its way to the loss."""
        found = list(self._own_scales)
        for i in reversed(range(len(found))):
            found[i] = min([found[i], *(found[c] for c in self.consumers[i])])
        return tuple(found)

    @cached_property
    def scales_before(self) -> tuple[float, ...]:
        """For each layer: the smallest scale of the branches that lead to it."""
        found: list[float] = []
        for layer in self.layers:
            found.append(min([1.0, *(min(self._own_scales[s], found[s]) for s in layer.sources)]))
        return tuple(found)

    @cached_property
    def zero_initialised(self) -> tuple[Weight, ...]:
        """Weights that are 0 and get a gradient: they block the layers before them for one step only."""
        return tuple(w for w in self.latest.weights if w.trains and is_zero(w) and w.gradient)

    @cached_property
    def constant(self) -> tuple[bool, ...]:
        """For each layer: whether it is the same for all samples because it reads parameters only: learned queries."""
        found: list[bool] = []
        for layer in self.layers:
            alike = layer.spread == 0 or (layer.spread is None and self.latest.samples > 1)
            found.append(alike and all(found[source] for source in layer.sources))
        return tuple(found)

    @cached_property
    def _judged(self) -> tuple[bool, ...]:
        """For each layer: whether its level is that of the way to the inputs.

        Layers behind weights that start at 0 are left out, and those that read parameters only.
        """
        waits = bool(self.zero_initialised)
        judged = (i in self.upper_level and not (waits and self.gradient(i) == 0) for i in range(len(self.layers)))
        return tuple(a and not constant for a, constant in zip(judged, self.constant, strict=True))

    @cached_property
    def best_level(self) -> tuple[float, ...]:
        """Largest upper level of each layer and of all before it, which may reach it by a skip connection."""
        found: list[float] = []
        for i, layer in enumerate(self.layers):
            found.append(max([self.upper_level.get(i, 0.0), *(found[source] for source in layer.sources)]))
        return tuple(found)

    def from_inputs_on(self, bad: Callable[[int], bool]) -> tuple[int, ...]:
        """Bad live layers that only bad layers precede: no path brings them a sound gradient.

        A branch beside a skip connection is left out, a layer behind weights that start at 0, a layer that reads
        parameters only, and a layer that shares its weights with a sound one.
        """
        found, state = [], [True] * len(self.layers)
        for i, layer in enumerate(self.layers):
            state[i] = all(state[source] for source in layer.sources)
            if not self._judged[i]:
                continue
            state[i] = state[i] and bad(i)
            if state[i]:
                found.append(i)
        sound = {w for i in self.upper_level.keys() - set(found) for w in self.layers[i].weights}
        return tuple(i for i in found if not self.layers[i].weights or not sound.issuperset(self.layers[i].weights))

    def next_live(self, i: int) -> Iterator[int]:
        """The live layers that come next, with layers that are not live in between."""
        visited, waiting = {i}, list(self.consumers[i])
        while waiting:
            c = waiting.pop()
            if c not in visited:
                visited.add(c)
                if self.live[c]:
                    yield c
                else:
                    waiting += self.consumers[c]


def is_zero(weight: Weight) -> bool:
    """Whether all numbers of a weight are 0, if it has any; a bias of 0 is usual and does not count."""
    return weight.size == 0 and 0 not in weight.shape and not weight.name.rpartition(".")[2].startswith("bias")


def usual_size(weight: Weight) -> float:
    """L2 norm of a usual initial weight of this shape, at least."""
    return USUAL_ROW_NORM * math.sqrt(weight.shape[0] if weight.shape else 1)
