"""The observer of layers shows and replaces what they read and make."""

import pytest
import torch
from torch import nn

from sigmoidcore.observation.layer_observer import LayerObserver


class Doubles(LayerObserver):
    """Doubles what a layer reads and halves what it makes."""

    def reads(self, name, layer, x):
        return 2 * x

    def makes(self, name, layer, args, kwargs, output):
        return output / 2


@pytest.mark.parametrize("by_keyword", [False, True])
def test_a_layer_observer_may_replace_inputs_and_outputs_of_a_layer(by_keyword):
    core, x = nn.Sigmoid(), torch.randn(5)
    with Doubles({"core": core}):
        y = core(input=x) if by_keyword else core(x)
    assert torch.equal(y, torch.sigmoid(2 * x) / 2)
