"""The networks of cores for each kind of data: rows of numbers, images, sequences."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from sigmoidcore.nn.networks import RNN, ConvNet

SMALLEST = 7
"""Pixels that the shorter side of a feature map keeps, however often it is halved."""
DEPTHS = {"mlp": 100, "conv": 20, "rnn": 1}
"""Hidden layers where nobody says how many."""


class SequenceNet(nn.Module):
    """Recurrent layers of cores, and a linear reading of the last step's outputs.

    Args:
        features: of a step.
        width: neurons of a recurrent layer.
        depth: recurrent layers.
        out_features: number of outputs.

    Shape:
        Input [batch, steps, features], output [batch, out_features].

    Example:
        >>> SequenceNet(3, 16, 1, 2)(torch.zeros(5, 10, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(self, features: int, width: int, depth: int, out_features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(RNN(width if i else features, width, batch_first=True) for i in range(depth))
        self.last = nn.Linear(width, out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run over all steps."""
        for layer in self.layers:
            inputs, _ = layer(inputs)
        read: Tensor = self.last(inputs[:, -1])
        return read


def image_net(
    in_channels: int, height: int, width: int, channels: int, depth: int, out_features: int, halvings: int
) -> ConvNet:
    """A `ConvNet`, all of it told by numbers.

    Example:
        >>> image_net(1, 14, 10, 8, 4, 2, 1)(torch.zeros(5, 1, 14, 10)).shape
        torch.Size([5, 2])
    """
    return ConvNet(in_channels, channels, depth, out_features, image_size=(height, width), halvings=halvings)


# --- how samples are taken -------------------------------------------------------------------------------------------


def rows(samples: Tensor) -> Tensor:
    """Each sample as a row of numbers."""
    return samples.flatten(1)


def images(samples: Tensor) -> Tensor:
    """Each sample as [channels, height, width]; [height, width] is an image of one channel."""
    return samples.unsqueeze(1) if samples.dim() == 3 else samples


def sequences(samples: Tensor) -> Tensor:
    """Each sample as [steps, features]: a row step by step, an image pixel by pixel.

    Example:
        >>> sequences(torch.zeros(5, 3, 8, 8)).shape, sequences(torch.zeros(5, 40)).shape
        (torch.Size([5, 64, 3]), torch.Size([5, 40, 1]))
    """
    if samples.dim() == 2:
        return samples.unsqueeze(2)
    return samples.flatten(2).transpose(1, 2) if samples.dim() > 3 else samples


# --- which one, and of what size -------------------------------------------------------------------------------------


def kind_for(shape: Sequence[int]) -> str:
    """The kind of network for samples of a shape.

    Example:
        >>> kind_for([13]), kind_for([100, 3]), kind_for([1, 28, 28])
        ('mlp', 'rnn', 'conv')
    """
    return {1: "mlp", 2: "rnn"}.get(len(shape), "conv")


def sizes_for(kind: str, shape: Sequence[int], outputs: int, width: int, depth: int) -> dict[str, int]:
    """The sizes of a network of a kind, for samples of a shape.

    Args:
        kind: "mlp", "conv" or "rnn".
        shape: of a sample.
        outputs: of the network.
        width: neurons of a hidden layer, or its channels.
        depth: hidden layers.

    Raises:
        ValueError: such a network cannot take such samples.

    Example:
        >>> sizes_for("mlp", [1, 8, 8], 10, 64, 100)
        {'in_features': 64, 'width': 64, 'depth': 100, 'out_features': 10}
    """
    if kind == "mlp":
        return {"in_features": prod(shape), "width": width, "depth": depth, "out_features": outputs}
    if kind == "rnn":
        features = sequences(torch.empty(1, *shape)).shape[2]
        return {"features": features, "width": width, "depth": depth, "out_features": outputs}
    if len(shape) not in (2, 3):
        raise ValueError(
            f"a network of convolutions takes images, and a sample has the shape {list(shape)}: take mlp, or rnn for a "
            "sequence"
        )
    channels, height, width_of_image = images(torch.empty(1, *shape)).shape[1:]
    return {
        "in_channels": channels, "height": height, "width": width_of_image, "channels": width, "depth": depth,
        "out_features": outputs, "halvings": min(depth - 1, _halvings(min(height, width_of_image))),
    }  # fmt: skip


def _halvings(side: int) -> int:
    """How often a side can be halved, rounding up, and keep `SMALLEST` pixels."""
    halvings = 0
    while -(-side // 2) >= SMALLEST:
        side, halvings = -(-side // 2), halvings + 1
    return halvings
