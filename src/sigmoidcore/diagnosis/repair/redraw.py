"""Fresh weights for any activation: orthogonal, and sized so that every layer's outputs have one size on the batch."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.orthogonal import WEIGHTED, is_frozen, make_orthogonal
from sigmoidcore.observation.observer import LayerObserver
from sigmoidcore.observation.profile import Inputs, run, undisturbed

SIZE = 0.5
"""Root mean square of a layer's outputs: small enough for the nearly linear part of a bounded activation."""


def redraw(model: nn.Module, inputs: Inputs) -> int:
    """Draw the weights of all Linear layers and convolutions that train; returns their number.

    Source:
        Layer-sequential unit variance (Mishkin and Matas 2016, arXiv 1511.06422), with outputs of `SIZE` instead of 1.
    """
    drawing = _Drawing(model)
    with undisturbed(model, inputs), torch.no_grad(), drawing:
        run(model, inputs)
    return len(drawing.drawn)


class _Drawing(LayerObserver):
    """Draws and sizes a layer when the batch first reaches it."""

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
