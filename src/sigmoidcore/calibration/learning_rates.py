"""One learning rate for every depth, width and number of inputs."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.orthogonal import TRANSPOSED, WEIGHTED
from sigmoidcore.nn.networks import RNN

SHARE = 0.1
"""The largest share of the total change that one layer gets."""
HIDDEN, FIRST, LAST, RECURRENT, LAST_RECURRENT = 50.0, 400.0, 16.0, 370.0, 128.0
"""Measured constants of the rates (benchmarks/learning_rate.py, benchmarks/recurrent.py)."""


def depth_scaled_lr(model: nn.Module, lr: float = 0.03) -> list[dict[str, Any]]:
    """Parameter groups for Adam or AdamW: one `lr` that suits every depth, width and number of inputs.

    `torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)`; let the rates fall to 0 in the second half of training.

    Adam changes a weight W by about its rate times sqrt(fan_in fan_out) in spectral norm, and a layer's function by the
    ratio of this to the size of W (its typical singular value). In a plain network the changes of all layers add up, to
    first order. The rule fixes their sum:

        r_l = lr * share_l * 50 / sqrt(fan_in fan_out) * size(W_l),    sum of the shares at most 1,

    which is 0.8 lr / L for orthogonal 64 x 64 weights. share_l is proportional to D_l - 1, where D_l is the effective
    number (participation ratio) of the singular values of W_l ... W_1 with rows of size 1: a layer
    learns nothing if all samples reach it along one line. No layer has more than a tenth. The first layer has 400 in
    place of 50, because `prepare` made its weights small. The last layer's rate is lr * 16 / fan_in, at any
    depth. That of an `RNN` is lr / steps * 370 / hidden_size, with the steps that it was prepared for; the last layer
    then has 128 in place of 16.
    A bias has its weight's rate, with a size of at most 1.

    Args:
        model: a model of Linear layers, convolutions and cores, prepared or calibrated: rates follow the weights it has
            now. In a convolution, fan_in counts the taps of the kernel, too.
        lr: the total change a step; 0.03 at any depth, a third or three times as much works as well.

    Returns:
        Parameter groups (`params`, `lr`); every parameter that requires a gradient is in one of them. Parameters of
        other kinds of layers get lr / L.

    Raises:
        ValueError: `lr` is not positive, or nothing in the model can be trained.

    Example:
        >>> import sigmoidcore as sc
        >>> model = sc.MLP(64, 64, 100, 10)
        >>> optimizer = torch.optim.Adam(depth_scaled_lr(model))

    Source:
        The size of Adam's update by fan-in: Yang et al. (2022), arXiv 2203.03466. The shares: docs/method.md,
        benchmarks/learning_rate.py and benchmarks/untouched_weights.py.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be a positive finite number, got {lr}")
    layers = [m for m in model.modules() if isinstance(m, WEIGHTED)]
    hidden, last = layers[:-1], layers[-1:]
    rates = {p: lr / max(1, len(hidden)) for p in model.parameters() if p.requires_grad}
    if not rates:
        raise ValueError("the model has no parameters that require a gradient: nothing to train")

    def set_rate(module: nn.Module, rate: float, size: float = 1.0) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter in rates:
                rates[parameter] = rate * (size if parameter.dim() > 1 else min(size, 1.0))

    for layer, share in zip(hidden, _shares(hidden), strict=True):
        weight = _matrices(layer)
        factor = FIRST if layer is hidden[0] else HIDDEN
        set_rate(layer, lr * share * factor / math.sqrt(weight.numel()), _size(weight))
    recurrent = [m for m in model.modules() if isinstance(m, RNN)]
    for layer in last:
        set_rate(layer, lr * (LAST_RECURRENT if recurrent else LAST) / _matrices(layer)[0].numel())
    for module in recurrent:
        set_rate(module, lr / max(1, int(module.steps)) * RECURRENT / module.hidden_size)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter, rate in rates.items():
        groups.setdefault(float(f"{rate:.2g}"), []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def _matrices(layer: nn.Module) -> Tensor:
    """The weight of a layer in float64, [out, in, taps of the kernel]; one tap for a Linear."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().to(torch.float64).reshape(*weight.shape[:2], -1)
    return weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else weight


def _shares(layers: Sequence[nn.Module]) -> list[float]:
    """Shares proportional to the signal's effective number of directions less one; convolutions as the sum of taps."""
    product: Tensor | None = None
    directions = []
    for layer in layers:
        weight = _matrices(layer).sum(2)
        fits = product is not None and product.shape[0] == weight.shape[1]
        if not fits:  # it reads features, whose sizes its columns make up for
            weight = _over(weight, torch.linalg.vector_norm(weight, dim=0))
        weight = _over(weight, torch.linalg.vector_norm(weight, dim=1, keepdim=True))  # a slope may undo these
        product = weight @ product if fits and product is not None else weight
        product = product / torch.linalg.matrix_norm(product).clamp_min(torch.finfo(torch.float64).tiny)
        gram = product @ product.T if product.shape[0] <= product.shape[1] else product.T @ product
        ratio = float(gram.square().sum())
        directions.append(max(1 / ratio - 1, 1e-3) if math.isfinite(ratio) and ratio > 0 else 1e-3)
    total = sum(directions)
    return [min(SHARE, d / total) for d in directions]


def _over(weight: Tensor, sizes: Tensor) -> Tensor:
    return weight / torch.where(sizes > 0, sizes, 1.0)


def _size(weight: Tensor) -> float:
    """Typical singular value of a weight [out, in, taps]: harmonic mean of its columns or rows that are not 0."""
    sizes = []
    for dim in (0, 1):
        lines = torch.linalg.vector_norm(weight, dim=(dim, 2))
        lines = lines[lines > 0]
        if not len(lines) or not bool(torch.isfinite(lines).all()):
            return 1.0
        sizes.append(float(lines.pow(-2).mean().rsqrt()) * math.sqrt(weight.shape[1 - dim] / min(weight.shape[:2])))
    return min(sizes)
