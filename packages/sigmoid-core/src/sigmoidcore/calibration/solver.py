"""The solver behind `calibrate` and `prepare`: sets the cores' shifts and slopes while a batch goes forward."""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sigmoidcore.calibration import recurrent_solver
from sigmoidcore.calibration.orthogonal import FreshWeights, reads_one_feature
from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import local_derivative, relative_slope, set_to_level, slope_for_gain, tangential_weights
from sigmoidcore.nn.recurrent import RecurrentCores
from sigmoidcore.observation.graph import Segments
from sigmoidcore.observation.layer_observer import LayerObserver
from sigmoidcore.observation.profile import watched_layers
from unstuck.observation import NONE, backward_pass, bare
from unstuck.observation.batch import Inputs, floating_tensors, run

SMALLEST = 1e-5  # preactivations that differ between samples by less than this part of their size are taken to be alike


@dataclass
class Solution:
    """The result of one pass, by the names of the layers, in the order in which they ran."""

    layers: Mapping[str, nn.Module]
    slopes: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)
    sources: dict[str, list[str]] = field(default_factory=dict)  # the cores that feed each core
    fixed: set[str] = field(default_factory=set)  # cores whose slope a saturation level has fixed
    normalised: set[str] = field(default_factory=set)  # cores behind a normalisation

    def by_gain(self, name: str) -> bool:
        """Whether this is a core whose slope a gain sets, not a saturation level."""
        return isinstance(self.layers.get(name), SigmoidCore) and name not in self.fixed | self.normalised


class Solver(LayerObserver):
    """Goes forward through a model and sets each core's shift and slope as its input arrives.

    The graph behind a core's input is one segment, from the cores that feed it; one vector-Jacobian product gives the
    size of its rows, to all of them together. Behind a normalisation the gain does not depend on their slopes: the
    slope is that of the saturation level.
    """

    def __init__(
        self, model: nn.Module, saturation: float | None, fresh_weights: bool, note: Callable[[str], None]
    ) -> None:
        super().__init__(watched_layers(model))
        self._model = model
        self._saturation = saturation
        self._note = note
        self._segments = Segments()
        self._weights = FreshWeights(model, self._segments, note) if fresh_weights else None
        self.levels_by_features: Mapping[int, float] = {}  # saturation levels behind first layers of so many features
        self._signs: dict[torch.Size, Tensor] = {}
        self._over_bound = 1.0

    def solve(self, inputs: Inputs, log_gains: Mapping[str, float]) -> Solution:
        """One forward pass that solves every core in turn, for the gains of these logarithms (default 0)."""
        self._solution, self._log_gains = Solution(self.layers), log_gains
        with self._weights or nullcontext(), self, torch.enable_grad():
            outputs = floating_tensors(run(self._model, inputs))
            if self._weights is not None:
                self._weights.finish(outputs)
        return self._solution

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Solve a core or a recurrent layer."""
        if backward_pass() != NONE:
            raise ValueError(
                f"core '{name}' runs again in an activation checkpoint, whose two passes must be alike: switch "
                "checkpoints off while slopes are set"
            )
        if isinstance(layer, SigmoidCore):
            return self._solve_core(name, layer, x)
        self._solve_recurrent(name, layer, x)
        return x

    def makes(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Begin the next segments."""
        return self._segments.cut(name, output)

    def _solve_recurrent(self, name: str, layer: nn.Module, sequences: Any) -> None:
        data = sequences.data if isinstance(sequences, PackedSequence) else sequences
        if not bool(torch.isfinite(data).all()):
            raise _not_finite(name, data)
        assert isinstance(layer, RecurrentCores)
        self._solution.sources[name] = self._segments.behind(data)[1]
        drawn = self._weights is not None and layer in self._weights.drawn
        slope, level, *notes = recurrent_solver.solve_layer(layer, sequences, self._saturation if drawn else None)
        self._solution.slopes[name], self._solution.levels[name] = slope, level
        if self._saturation is not None and self._weights is None:
            notes.append("its slopes are those of a level gradient; only `prepare` gives it a saturation level")
        for note in notes:
            self._note(f"layer '{name}': {note}")

    @torch.no_grad()
    def _solve_core(self, name: str, core: SigmoidCore, x: Tensor) -> Tensor:
        """Set shift and slope of one core; return its input (scaled, if the first layer's weights will be)."""
        leaves, self._solution.sources[name], normalised = self._segments.behind(x)
        layer = None if self._weights is None else self._weights.take_layer(x)
        around, shift, size = centre(name, core, x)
        alike = size == 0
        if alike:
            self._note(f"the samples of the batch do not differ at core '{name}': its slope is set for z near 0")
            size = 1.0
        elif self._weights is not None and not leaves and reads_one_feature(core, layer, x):
            shift = self._weights.sample_for_each_neuron(name, bare(x))
            around = bare(x) - shift
        signal = around / size
        gain = math.exp(self._log_gains.get(name, 0.0)) / core.scale
        if not leaves and self._saturation is not None and not alike:
            features = layer.in_features if isinstance(layer, nn.Linear) else 0
            level = self.levels_by_features.get(features, self._saturation)
            if self._weights is not None and layer is not None:
                alpha = gain / float(local_derivative(signal * level, 1.0).square().mean().sqrt())
                scale = level / (alpha * size)
                self._weights.scales.append((layer, scale))
                x, shift, size = x * scale, shift * scale, size * scale
            else:
                self._solution.fixed.add(name)
        elif leaves and normalised and not alike:
            level = self._saturation or 1.0
            self._solution.normalised.add(name)
        else:
            level = self._level_for_gain(name, gain, core.scale, leaves, x, signal, size)
        slope, shift = set_to_level(shift, size, 0.0, level)
        if x.shape[0] > 1:
            core.set_shift(shift.reshape(core.shift.shape))
        core.set_slope(slope)
        self._solution.slopes[name] = float(slope)
        self._solution.levels[name] = 0.0 if alike else level
        return x

    def _level_for_gain(
        self, name: str, gain: float, scale: float, leaves: list[Tensor], x: Tensor, signal: Tensor, size: float
    ) -> float:
        """The saturation level, that is the slope for the signal of size 1, that gives the segment this gain."""
        rows = self._row_size(name, leaves, x, signal) if leaves else 1.0
        wanted = gain * size / rows
        start = 4 * wanted * self._over_bound
        solved, reached = slope_for_gain(signal, wanted, weights=tangential_weights(signal), start=start)
        self._over_bound = solved / (4 * wanted)
        if reached < 0.99 * wanted:
            self._note(
                f"no slope gives core '{name}' a gain of {gain * scale:.3g}; "
                f"the largest is {reached * scale * rows / size:.3g}"
            )
        return solved

    def _row_size(self, name: str, leaves: list[Tensor], x: Tensor, signal: Tensor) -> float:
        """Root mean square size of the Jacobian rows from the sources to `x`, weighed as a gradient is."""
        level = min(self._solution.levels[self._solution.sources[name][0]], 2.0)
        cotangent = relative_slope(signal * level).mul_(self._signs_like(x))
        with torch.enable_grad():
            gradients = torch.autograd.grad(x, leaves, cotangent, retain_graph=True)
        total = math.hypot(*(float(torch.linalg.vector_norm(g, dtype=torch.float64)) for g in gradients))
        size = total / float(torch.linalg.vector_norm(cotangent, dtype=torch.float64))
        if not 0 < size < math.inf:
            self._note(f"the segment before core '{name}' passes no gradient back: its weights are 0 or not finite")
            return 1.0
        return size

    def _signs_like(self, x: Tensor) -> Tensor:
        """Random signs, the same for every layer of one shape; made on the CPU, so that every device has the same."""
        if x.shape not in self._signs:
            generator = torch.Generator().manual_seed(0)
            signs = torch.randint(0, 2, x.shape, generator=generator).mul_(2).sub_(1)
            self._signs[x.shape] = signs.to(x.device, x.dtype)
        return self._signs[x.shape]


class LevelObserver(LayerObserver):
    """Measures the mean slope and the saturation level of each layer, in the order in which they ran."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(watched_layers(model))
        self.slopes: dict[str, float] = {}
        self.levels: dict[str, float] = {}

    @torch.no_grad()
    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Measure a core or a recurrent layer."""
        if isinstance(layer, SigmoidCore):
            self.slopes[name] = layer.alpha.mean().item()
            self.levels[name] = self.slopes[name] * centre(name, layer, x)[2]
        else:
            assert isinstance(layer, RecurrentCores)
            self.slopes[name], self.levels[name] = recurrent_solver.measure_layer(layer, x)
        return x


def centre(name: str, core: SigmoidCore, x: Tensor) -> tuple[Tensor, Tensor, float]:
    """The preactivations less their mean, their mean, and their standard deviation: 0 if all samples are alike."""
    signal = bare(x)
    dim = core.dim % x.dim()
    mean = signal.mean([i for i in range(x.dim()) if core.num_features is None or i != dim], keepdim=True)
    largest = float(torch.linalg.vector_norm(signal, math.inf))
    around = signal - mean if signal.shape[0] > 1 else signal
    size = float(torch.linalg.vector_norm(around, dtype=torch.float64)) / math.sqrt(signal.numel())
    if not math.isfinite(largest) or not math.isfinite(size):
        raise _not_finite(name, signal)
    if size <= SMALLEST * largest:
        return torch.zeros_like(signal), mean, 0.0
    return around, mean, size


def _not_finite(name: str, x: Tensor) -> ValueError:
    count = int((~torch.isfinite(x)).sum())
    return ValueError(
        f"the preactivations of core '{name}' are not finite ({f'{count} of {x.numel()}' if count else 'their mean'}): "
        "a weight before it is not finite or the inputs are too large for their dtype; scale them down"
    )
