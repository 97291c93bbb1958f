"""First weights that several methods share."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.orthogonal import make_orthogonal


def weighted(model: nn.Module) -> Iterator[nn.Linear | nn.Conv2d]:
    """The layers of a network, from the inputs to the outputs."""
    return (module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d))


def initialised(model: nn.Module, draw: Callable[[Tensor], object]) -> nn.Module:
    """The network with its weights drawn anew, in place, and zero biases."""
    for layer in weighted(model):
        draw(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model


def he_normal(weight: Tensor) -> Tensor:
    """Draw N(0, 2 / fan_in): He et al. (2015), arXiv 1502.01852, equation 10."""
    return nn.init.kaiming_normal_(weight, nonlinearity="relu")


def lecun_normal(weight: Tensor) -> Tensor:
    """Draw N(0, 1 / fan_in): LeCun et al., Efficient BackProp (1998), equation 16."""
    return nn.init.kaiming_normal_(weight, nonlinearity="linear")


@torch.no_grad()
def orthogonal(model: nn.Module, gain: float) -> nn.Module:
    """The network with orthogonal weights (kernels: delta-orthogonal) times a gain, in place, and zero biases."""
    first, *_ = weighted(model)
    for layer in weighted(model):
        make_orthogonal(layer, torch.default_generator, reads_inputs=layer is first)
        layer.weight.mul_(gain)
    return model
