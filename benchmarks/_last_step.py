"""A network that reads a sequence."""

from typing import Any

from torch import Tensor, nn


class LastStep(nn.Module):
    """A recurrent layer [batch, steps, features], and a linear layer on the outputs of its last step, or of several."""

    def __init__(self, layer: nn.Module, outputs: int, answers: int = 1) -> None:
        super().__init__()
        self.answers = answers
        self.layer: Any = layer
        self.last = nn.Linear(self.layer.hidden_size, outputs)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.layer(x)[0][:, -self.answers :])
        return outputs.squeeze(1) if self.answers == 1 else outputs
