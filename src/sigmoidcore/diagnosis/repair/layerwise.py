"""Repairs that change a layer when the batch first reaches it: fresh weights, and open neurons of cores."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.orthogonal import WEIGHTED, is_frozen, make_orthogonal
from sigmoidcore.core import SigmoidCore
from sigmoidcore.diagnosis.measure.measurement import SHUT
from sigmoidcore.equalizer.neuron_rule import open_neurons
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.observation.observer import LayerObserver
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import Inputs, run, undisturbed

SIZE = 0.5
"""Root mean square of a layer's outputs: small enough for the nearly linear part of a bounded activation."""


def redraw(model: nn.Module, inputs: Inputs) -> int:
    """Draw the weights of all Linear layers and convolutions that train; returns their number.

    They are orthogonal, for any activation, and sized so that every layer's outputs have one size on the batch.

    Source:
        Layer-sequential unit variance (Mishkin and Matas 2016, arXiv 1511.06422), with outputs of `SIZE` instead of 1.
    """
    drawing = _Drawing(model)
    with undisturbed(model, inputs), torch.no_grad(), drawing:
        run(model, inputs)
    return len(drawing.drawn)


class _Drawing(LayerObserver):
    def __init__(self, model: nn.Module) -> None:
        super().__init__({name: m for name, m in model.named_modules() if isinstance(m, WEIGHTED)})
        self.drawn: set[nn.Module] = set()
        self._rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        if layer not in self.drawn and not is_frozen(layer):
            make_orthogonal(layer, self._rng)
            self.drawn.add(layer)
            output: Tensor = layer.forward(x)
            size = float(output.square().mean().sqrt())
            if 0 < size < math.inf:
                layer.get_parameter("weight").mul_(SIZE / size)
        return x


def open_cores(model: nn.Module, inputs: Inputs, cores: Mapping[str, SigmoidCore]) -> dict[str, tuple[int, int]]:
    """Open the saturated neurons of these cores in one forward pass, from the input on.

    Each core reads the outputs of opened cores: a neuron that was shut only because of an earlier core is not changed.
    Returns the number of opened and of all neurons for each core with opened ones.
    """
    opener = _NeuronOpener(cores)
    with undisturbed(model, inputs), torch.no_grad(), opener:
        run(model, inputs)
    return opener.opened


class _NeuronOpener(LayerObserver):
    def __init__(self, cores: Mapping[str, SigmoidCore]) -> None:
        super().__init__(cores)
        self.opened: dict[str, tuple[int, int]] = {}
        self._ranks = Ranks()

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        assert isinstance(layer, SigmoidCore)
        rows = layer.in_rows(x.detach()).to(layer.shift.dtype)
        z = layer.alpha.reshape(-1) * (rows - layer.shift.reshape(-1))
        shut = self._ranks.means([mean_relative_slope(z)], [len(rows)])[0] < SHUT
        count = open_neurons(layer, rows[:, shut], shut, SHUT, self._ranks) if bool(shut.any()) else 0
        if count:
            self.opened[name] = count, shut.numel()
        return x
