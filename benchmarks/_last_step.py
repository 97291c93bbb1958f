"""A network that reads a sequence."""

from torch import Tensor, nn

import sigmoidcore as sc


class LastStep(nn.Module):
    """A recurrent layer [batch, steps, features], and a linear layer on the outputs of its last step."""

    def __init__(self, layer: nn.RNNBase | sc.recurrent.CoreRNN, outputs: int) -> None:
        super().__init__()
        self.layer = layer
        self.last = nn.Linear(layer.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.layer(x)[0][:, -1])
        return outputs
