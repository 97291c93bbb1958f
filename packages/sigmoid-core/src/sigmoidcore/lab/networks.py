"""The networks of the lab, each with its training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from sigmoidcore.lab.datasets import DataSet
from sigmoidcore.lab.setting import WITH_SLOPES, Contender, Setting
from sigmoidcore.training_loop import Training

PROBES = 256  # training samples from which a network is prepared
MOMENTUM = 0.9

# Each makes a network of a kind. Exported scripts show the source: it may use torch, nn, Tensor and sc.


def sigmoid(features: int, width: int, depth: int, outputs: int) -> nn.Module:
    """Sigmoids with PyTorch's default weights."""
    return sc.MLP(features, width, depth, outputs, activation=lambda width: nn.Sigmoid())


def tanh(features: int, width: int, depth: int, outputs: int) -> nn.Module:
    """Tanh with orthogonal weights: Pennington, Schoenholz and Ganguli (2017), arXiv 1711.04735."""
    model = sc.MLP(features, width, depth, outputs, activation=lambda width: nn.Tanh())
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def relu(features: int, width: int, depth: int, outputs: int) -> nn.Module:
    """ReLU with He's weights: He, Zhang, Ren and Sun (2015), arXiv 1502.01852."""
    model = sc.MLP(features, width, depth, outputs, activation=lambda width: nn.ReLU())
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return model


def batchnorm(features: int, width: int, depth: int, outputs: int) -> nn.Module:
    """ReLU after batch normalisation: Ioffe and Szegedy (2015), arXiv 1502.03167."""
    return sc.MLP(features, width, depth, outputs, activation=lambda n: nn.Sequential(nn.BatchNorm1d(n), nn.ReLU()))


class Residual(nn.Module):
    """x + branch(x): He, Zhang, Ren and Sun (2016), arXiv 1603.05027."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        added: Tensor = x + self.branch(x)
        return added


def resnet(features: int, width: int, depth: int, outputs: int) -> nn.Module:
    """Residual blocks with He's weights, whose branches begin as 0: Goyal et al. (2017), arXiv 1706.02677."""
    blocks = [Residual(width) for _ in range(max(1, (depth - 1) // 2))]
    model = nn.Sequential(nn.Linear(features, width), *blocks, nn.ReLU(), nn.Linear(width, outputs))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    for block in blocks:
        nn.init.zeros_(block.branch.get_parameter("3.weight"))
    return model


BUILDERS: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "sigmoid": sigmoid, "sigmoid-core": sc.MLP, "tanh": tanh, "relu": relu, "resnet": resnet, "batchnorm": batchnorm,
}  # fmt: skip


class Network(Training):
    """A network of the lab."""

    def __init__(self, setting: Setting, contender: Contender, data: DataSet) -> None:
        # Sigmoids and tanhs become cores of slope 1 and 2: the same functions, with a slope that can be changed.
        kind, rate, sgd = contender.kind, contender.rate, contender.optimizer == "sgd"
        torch.manual_seed(setting.seed)
        model = BUILDERS[kind](data.features, setting.width, setting.depth, data.outputs)
        groups = [{"params": list(model.parameters()), "lr": rate}]
        if kind == "sigmoid-core":
            x, y, loss_fn = data.train_x[:PROBES], data.train_y[:PROBES], data.loss_fn
            sc.prepare(model, x, targets=y, loss_fn=loss_fn, saturation=contender.saturation)
            rate *= 1 - MOMENTUM if sgd else 1
            groups = sc.depth_scaled_lr(model, rate, optimizer="sgd" if sgd else "adam")
        elif kind in WITH_SLOPES:
            sc.convert(model)
        optimizer = torch.optim.SGD(groups, momentum=MOMENTUM) if sgd else torch.optim.Adam(groups)
        with_equalizer = contender.equalizer and kind in WITH_SLOPES
        super().__init__(model, data.loss_fn, optimizer, sc.Equalizer(model, optimizer) if with_equalizer else None)
        # The activations at which it is watched, input to loss, in a residual network those that read a sum; and of
        # these the ones with slopes.
        inner = {id(block.branch[2]) for block in model.modules() if isinstance(block, Residual)}
        watched = (m for m in model.modules() if isinstance(m, sc.SigmoidCore | nn.ReLU) and id(m) not in inner)
        self.layers = tuple(watched)
        self.cores = tuple(layer for layer in self.layers if isinstance(layer, sc.SigmoidCore))
