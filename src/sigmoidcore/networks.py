"""Networks of cores: an MLP of any depth, a recurrent layer, and the learning rate that suits them at every depth."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import slope_for_gain

ENDS = 0.1
"""Share of the rate that the first and the last layer get: they are one layer each, at any depth."""


class MLP(nn.Sequential):
    """A plain multilayer perceptron: `depth` times Linear and activation, then Linear. No skips, no normalisation.

    Call `sigmoidcore.prepare(model, inputs)` before training.

    Args:
        in_features: number of inputs.
        width: neurons of each hidden layer.
        depth: number of hidden layers.
        out_features: number of outputs.
        activation: makes the activation of a layer from its width; default: a centered `SigmoidCore` of slope 4.
            Use `activation=lambda width: nn.Sigmoid()` for the plain network of the same weights.

    Shape:
        Input [batch, ..., in_features], output [batch, ..., out_features].

    Raises:
        ValueError: a size is smaller than 1.

    Example:
        >>> MLP(64, 32, 3, 10)(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        depth: int,
        out_features: int,
        *,
        activation: Callable[[int], nn.Module] | None = None,
    ) -> None:
        for name, value in [
            ("in_features", in_features),
            ("width", width),
            ("depth", depth),
            ("out_features", out_features),
        ]:
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        make = activation or (lambda features: SigmoidCore(features, alpha=4.0, centered=True))
        layers: list[nn.Module] = []
        for layer in range(depth):
            layers += [nn.Linear(width if layer else in_features, width), make(width)]
        super().__init__(*layers, nn.Linear(width, out_features))


def depth_scaled_lr(model: nn.Module, lr: float = 0.03) -> list[dict[str, Any]]:
    """Parameter groups for Adam or AdamW with one rate that suits every depth, width and number of inputs.

    `torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)`; let the rate fall to 0 in the second half of training.

    Reason. Adam moves every entry of a weight W by about its rate r, and for one direction of the gradient all
    entries move together: W changes by about r sqrt(fan_in fan_out) in spectral norm. A layer's function changes by the
    ratio of this to the size of W (its typical singular value). In a plain network the changes of all L layers
    multiply, so the change of the whole is their sum. The rule gives every hidden layer the share 1/L of one total
    change, set by `lr`: r = lr / L * 64 / sqrt(fan_in fan_out) * size(W), which is lr / L for orthogonal 64 x 64
    weights. The first and the last layer are one layer each and get the share 1/10 (1/L in networks of less than
    10 layers). The size of W is that of its smaller columns (a harmonic mean), so that weights which have taken the
    scale of unlike features (`prepare`) change slowly enough for the largest of them.

    Args:
        model: a model of Linear layers (and cores), prepared or calibrated: rates follow the weights it has now.
        lr: the total change; 0.03 at any depth, a third or three times as much works as well.

    Returns:
        Parameter groups (`params`, `lr`), at most a few; every parameter of the model that requires a gradient is in
        one of them. Parameters that are not of Linear or recurrent layers get the hidden layers' rate lr / L.

    Raises:
        ValueError: `lr` is not positive, or nothing in the model can be trained.

    Example:
        >>> groups = depth_scaled_lr(MLP(64, 64, 100, 10))
        >>> sorted(len(group["params"]) for group in groups)
        [2, 2, 198]

    Source:
        The size of Adam's update by fan-in: Yang et al. (2022), arXiv 2203.03466. The share 1/L: first order of
        prod(1 + delta_l); benchmarks/learning_rate.py.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be a positive finite number, got {lr}")
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    depth = max(1, len(linears) - 1)
    ends = {linears[0], linears[-1]} if linears else set()
    rates: dict[nn.Parameter, float] = {p: lr / depth for p in model.parameters() if p.requires_grad}
    if not rates:
        raise ValueError("the model has no parameters that require a gradient: nothing to train")
    for linear in linears:
        share = max(ENDS, 1 / depth) if linear in ends else 1 / depth
        rate = lr * share * 64 / math.sqrt(linear.weight.numel()) * _size(linear.weight)
        for parameter in linear.parameters(recurse=False):
            if parameter.requires_grad:
                rates[parameter] = rate
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter, rate in rates.items():
        groups.setdefault(float(f"{rate:.2g}"), []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


@torch.no_grad()
def _size(weight: Tensor) -> float:
    """Typical singular value of a weight; the columns enter by a harmonic mean, columns of 0 are left out."""
    columns = torch.linalg.vector_norm(weight.to(torch.float64), dim=0)
    columns = columns[columns > 0]
    if not len(columns) or not bool(torch.isfinite(columns).all()):
        return 1.0
    return float(columns.pow(-2).mean().rsqrt()) * math.sqrt(weight.shape[1] / min(weight.shape))
