"""Open the saturated neurons of cores."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.diagnosis.measure.measurement import SHUT
from sigmoidcore.equalizer.neuron_rule import in_rows, open_neurons
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import Inputs, given, run, undisturbed


def open_saturated(model: nn.Module, inputs: Inputs, cores: Mapping[str, SigmoidCore]) -> dict[str, tuple[int, int]]:
    """Open the saturated neurons of these cores in one forward pass, from the input on.

    Each core reads the outputs of cores that are opened already, so a neuron that another one had saturated stays.

    Returns:
        For each core with opened neurons: their number, and the number of all its neurons.
    """
    opened: dict[str, tuple[int, int]] = {}
    ranks = Ranks()

    def before(name: str, core: Any, args: Any, kwargs: Any) -> None:
        x = in_rows(core, given(args, kwargs).detach()).to(core.shift.dtype)
        z = core.alpha.reshape(-1) * (x - core.shift.reshape(-1))
        shut = ranks.means([mean_relative_slope(z)], [len(x)])[0] < SHUT
        count = open_neurons(core, x[:, shut], shut, SHUT, ranks) if bool(shut.any()) else 0
        if count:
            opened[name] = count, shut.numel()

    with undisturbed(model, inputs), torch.no_grad(), ExitStack() as stack:
        for name, core in cores.items():
            hook = core.register_forward_pre_hook(partial(before, name), with_kwargs=True)
            stack.callback(hook.remove)
        run(model, inputs)
    return opened
