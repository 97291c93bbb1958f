"""Networks that several tests train."""

from torch import nn

from sigmoidcore import SigmoidCore


def convolutions(inputs, channels, depth, outputs, *, size):
    """A plain convolutional network for images of this size; the second layer halves it."""
    layers = []
    for layer in range(depth):
        layers += [nn.Conv2d(channels if layer else inputs, channels, 3, 2 if layer == 1 else 1, padding=1)]
        layers += [SigmoidCore(channels, dim=1, alpha=4.0, centered=True)]
    pixels = ((size + 1) // 2) ** 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * pixels, outputs))


class Net(nn.Module):
    """A network of these parts, which `run(net, x)` runs."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


class Towers(nn.Module):
    """Branch and trunk of a DeepONet."""

    def __init__(self, branch, trunk):
        super().__init__()
        self.branch, self.trunk = branch, trunk

    def forward(self, values, places):
        return self.branch(values) @ self.trunk(places).T
