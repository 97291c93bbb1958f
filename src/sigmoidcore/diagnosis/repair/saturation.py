"""Open the saturated neurons of cores."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.diagnosis.measure.measurement import SHUT
from sigmoidcore.equalizer.neuron_rule import open_neurons
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.observation.observer import LayerObserver
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import Inputs, run, undisturbed


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
    """Opens the saturated neurons of a core when the batch reaches it."""

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
