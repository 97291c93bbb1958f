"""The networks of the lab: those of `sigmoidcore.peers`, each with its optimizer."""

from dataclasses import dataclass

import torch
from torch import nn

from sigmoidcore.calibration.calibrate import prepare
from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.conversion import convert
from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.lab.datasets import DataSet
from sigmoidcore.lab.setting import KINDS, WITH_SLOPES, Contender, Setting
from sigmoidcore.peers import Problem, find
from sigmoidcore.peers.methods.resnet import Residual

SOURCES = {kind: kind for kind in KINDS} | {"tanh": "tanh-orthogonal", "relu": "relu-he", "resnet": "resnet-zero"}
"""The method in `sigmoidcore.peers` of each kind of network."""
PROBES = 256
"""Training samples from which a network is prepared."""
MOMENTUM = 0.9


@dataclass(frozen=True)
class Network:
    """A network that can take a step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer  # of its parameters
    equalizer: Equalizer | None  # of its slopes
    # The activations at which it is watched, input to loss. In a residual network, those that read the sum of a block.
    layers: tuple[nn.Module, ...]

    @property
    def cores(self) -> tuple[SigmoidCore, ...]:
        """The cores, if it has slopes."""
        return tuple(layer for layer in self.layers if isinstance(layer, SigmoidCore))


def build(setting: Setting, contender: Contender, data: DataSet) -> Network:
    """The network at its first step. It has the weights of the seed.

    Sigmoids and tanhs are cores of slope 1 and 2: the same functions, with a slope that can be changed.
    """
    inputs, targets = data.train_x[:PROBES], data.train_y[:PROBES]
    problem = Problem(inputs, targets, data.task.loss_fn, data.outputs, setting.width, setting.depth)
    torch.manual_seed(setting.seed)
    if contender.kind == "sigmoid-core":
        model: nn.Module = problem.plain(None)
        prepare(model, inputs, targets=targets, loss_fn=data.task.loss_fn, saturation=contender.saturation)
    else:
        model = find(SOURCES[contender.kind]).network(problem)
    if contender.kind in WITH_SLOPES and contender.kind != "sigmoid-core":
        convert(model)
    optimizer = _optimizer(model, contender)
    equalizer = Equalizer(model, optimizer) if contender.equalizer and contender.kind in WITH_SLOPES else None
    return Network(model, optimizer, equalizer, _layers(model))


def _optimizer(model: nn.Module, contender: Contender) -> torch.optim.Optimizer:
    rate, sgd = contender.rate, contender.optimizer == "sgd"
    if contender.kind == "sigmoid-core":
        groups = depth_scaled_lr(model, rate * (1 - MOMENTUM) if sgd else rate, optimizer="sgd" if sgd else "adam")
    else:
        groups = [{"params": list(model.parameters()), "lr": rate}]
    return torch.optim.SGD(groups, momentum=MOMENTUM) if sgd else torch.optim.Adam(groups)


def _layers(model: nn.Module) -> tuple[nn.Module, ...]:
    inner = {
        id(module)
        for block in model.modules()
        if isinstance(block, Residual)
        for module in [m for m in block.branch if isinstance(m, nn.ReLU)][1:]
    }
    return tuple(m for m in model.modules() if isinstance(m, SigmoidCore | nn.ReLU) and id(m) not in inner)
