"""The networks of cores for each kind of data: rows of numbers, images, sequences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from sigmoidcore.nn.networks import MLP, RNN, ConvNet
from sigmoidcore.language import _
from unstuck.language.errors import InputError

SMALLEST = 7
"""Pixels of the shorter side of a feature map that is not halved any more."""


class SequenceNet(nn.Module):
    """Recurrent layers of cores, and a linear layer on the outputs of the last step.

    Shape:
        Input [batch, steps, features], output [batch, out_features].
    """

    def __init__(self, features: int, width: int, depth: int, out_features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(RNN(width if i else features, width, batch_first=True) for i in range(depth))
        self.last = nn.Linear(width, out_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Run over all steps."""
        for layer in self.layers:
            inputs, _ = layer(inputs)
        outputs: Tensor = self.last(inputs[:, -1])
        return outputs


def image_net(
    in_channels: int, height: int, width: int, channels: int, depth: int, out_features: int, halvings: int
) -> ConvNet:
    """A `ConvNet` with all arguments as numbers."""
    return ConvNet(in_channels, channels, depth, out_features, image_size=(height, width), halvings=halvings)


def images(samples: Tensor) -> Tensor:
    """Each sample as [channels, height, width]; [height, width] is an image of one channel."""
    return samples.unsqueeze(1) if samples.dim() == 3 else samples


def sequences(samples: Tensor) -> Tensor:
    """Each sample as [steps, features]: a row step by step, an image pixel by pixel."""
    if samples.dim() == 2:
        return samples.unsqueeze(2)
    return samples.flatten(2).transpose(1, 2) if samples.dim() > 3 else samples


@dataclass(frozen=True)
class Architecture:
    """A kind of network."""

    make: Callable[..., nn.Module]  # makes the network from its sizes by name
    sizes: tuple[str, ...]  # their names
    arrange: Callable[[Tensor], Tensor]  # the network's inputs, from samples of a data set, [batch, ...]
    depth: int  # default number of hidden layers


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(MLP, ("in_features", "width", "depth", "out_features"), lambda rows: rows.flatten(1), 100),
    "conv": Architecture(
        image_net, ("in_channels", "height", "width", "channels", "depth", "out_features", "halvings"), images, 20
    ),
    "rnn": Architecture(SequenceNet, ("features", "width", "depth", "out_features"), sequences, 1),
}


@dataclass(frozen=True)
class Network:
    """A network and its description."""

    architecture: str  # a name in `ARCHITECTURES`
    sizes: Mapping[str, int]  # arguments of the architecture
    model: nn.Module  # the network

    def arranged(self, samples: Tensor) -> Tensor:
        """Samples of a data set, [batch, ...], as inputs of this network."""
        return ARCHITECTURES[self.architecture].arrange(samples)


def network(architecture: str, **sizes: int) -> Network:
    """A new network."""
    if architecture not in ARCHITECTURES:
        given = {"architecture": architecture[:60], "kinds": ", ".join(ARCHITECTURES)}
        raise InputError("there is no architecture {architecture!r}: choose one of {kinds}", **given)
    known = ARCHITECTURES[architecture]
    wrong = sorted(set(sizes) ^ set(known.sizes))
    if wrong:
        raise InputError(
            "{wrong!r} is unknown or missing: the sizes of {architecture} are {sizes}",
            wrong=wrong[0][:60],
            architecture=architecture,
            sizes=known.sizes,
        )
    return Network(architecture, dict(sizes), known.make(**sizes))


def kind_for(shape: Sequence[int]) -> str:
    """The kind of network for samples of a shape."""
    return {1: "mlp", 2: "rnn"}.get(len(shape), "conv")


def sizes_for(kind: str, shape: Sequence[int], outputs: int, width: int, depth: int) -> dict[str, int]:
    """The sizes of a network for samples of a shape."""
    if kind == "mlp":
        return {"in_features": prod(shape), "width": width, "depth": depth, "out_features": outputs}
    if kind == "rnn":
        features = sequences(torch.empty(1, *shape)).shape[2]
        return {"features": features, "width": width, "depth": depth, "out_features": outputs}
    if len(shape) not in (2, 3):
        raise ValueError(
            _(
                "a convolutional network needs images, and a sample has the shape {shape}: use mlp, or "
                "rnn for a sequence",
                shape=list(shape),
            )
        )
    channels, height, image_width = images(torch.empty(1, *shape)).shape[1:]
    return {
        "in_channels": channels, "height": height, "width": image_width, "channels": width, "depth": depth,
        "out_features": outputs, "halvings": min(depth - 1, _halvings(min(height, image_width))),
    }  # fmt: skip


def _halvings(side: int) -> int:
    """How often a side can be halved, rounded up, without falling below `SMALLEST` pixels."""
    halvings = 0
    while -(-side // 2) >= SMALLEST:
        side, halvings = -(-side // 2), halvings + 1
    return halvings
