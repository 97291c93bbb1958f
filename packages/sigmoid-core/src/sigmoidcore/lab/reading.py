"""What the lab reads off a network at one moment: gradient, slopes and saturation of every layer, and its outputs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.lab.datasets import DataSet
from sigmoidcore.lab.networks import Network
from unstuck.observation import LayerObserver, norms, undisturbed

PROBED = 128
"""Training samples on which loss, gradient and saturation are measured."""
GRID = 40
"""Points on a side of the picture of the outputs."""
EDGE = 2.6
"""The picture shows inputs from -EDGE to EDGE."""
HUGE = 1e15
"""Outputs that are larger, or no numbers, have no score."""
BINS, REACH = 48, 8.0
"""Of the histogram of z, which shows z from -REACH to REACH; what is outside is in the last bins."""


@dataclass(frozen=True)
class Reading:
    """The numbers of one moment."""

    loss: float  # of the probed training samples
    score: float  # the metric of all test samples
    sizes: Tensor  # gradient size of every layer, float64, [layers]
    slopes: tuple[float, ...]  # mean slope of every layer; empty without slopes
    relative: Tensor  # mean relative slope of every neuron, [layers, neurons]; of a ReLU, how often it is open
    histogram: Tensor  # counts of z of the chosen layer or neuron, [BINS]
    chosen: tuple[float, float]  # slope and shift, of the same
    outputs: Tensor  # of the grid; see `grid`
    tests: Tensor  # outputs of the test samples


class _Preactivations(LayerObserver):
    """Collects what arrives at the layers of a network."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__(layers)
        self.found: list[Tensor] = []

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        self.found.append(x)
        return x


def grid(data: DataSet) -> Tensor:
    """The inputs of the picture: a line or a plane of points; none for data with more features."""
    line = torch.linspace(-EDGE, EDGE, GRID)
    if data.features == 1:
        return line[:, None]
    if data.features == 2:
        return torch.cartesian_prod(line.flip(0), line).flip(1)  # row by row, from the upper left
    return torch.empty(0, data.features)


def read(network: Network, data: DataSet, layer: int, neuron: int | None) -> Reading:
    """Measure a network; nothing in it changes. The histogram is that of this layer, or of one of its neurons."""
    model, inputs, targets = network.model, data.train_x[:PROBED], data.train_y[:PROBED]
    observer = _Preactivations({str(i): layer for i, layer in enumerate(network.layers)})
    with undisturbed(model, inputs), torch.enable_grad(), observer:
        loss = data.loss_fn(model(inputs), targets)
        found: tuple[Tensor | None, ...] = torch.autograd.grad(loss, observer.found, allow_unused=True)
    gradients = [torch.zeros(1) if g is None else g for g in found]
    with torch.no_grad():
        scaled, relative = zip(*map(_scaled, network.layers, observer.found), strict=True)
        outputs = model.eval()(torch.cat([data.test_x, grid(data)]))
        model.train()
        z = scaled[layer] if neuron is None else scaled[layer][:, neuron]
        kept = z[torch.isfinite(z)].clamp(-REACH, REACH)
        tests = outputs[: len(data.test_x)]
        return Reading(
            loss=loss.item(),
            score=data.score(tests) if bool((tests.abs() < HUGE).all()) else math.nan,
            sizes=norms(gradients) / len(inputs) ** 0.5,
            slopes=tuple(float(core.alpha.mean()) for core in network.cores),
            relative=torch.stack(relative),
            histogram=torch.histc(kept, BINS, -REACH, REACH),
            chosen=_slope_and_shift(network.layers[layer], neuron),
            outputs=outputs[len(data.test_x) :],
            tests=tests,
        )


def _scaled(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The scaled preactivations, and the mean relative slopes; a ReLU has no slope, and is open or shut."""
    if not isinstance(layer, SigmoidCore):
        return x, (x > 0).float().mean(0)
    alpha, shift = layer.align(x)
    z = alpha * (x - shift)
    return z, mean_relative_slope(z)


def _slope_and_shift(layer: nn.Module, neuron: int | None) -> tuple[float, float]:
    if not isinstance(layer, SigmoidCore):
        return 1.0, 0.0
    parts = (layer.alpha, layer.shift)
    slope, shift = (float(p.mean() if neuron is None or p.dim() == 0 else p[neuron]) for p in parts)
    return slope, shift
