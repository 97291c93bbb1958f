"""One learning rate for every depth, width and number of inputs."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.orthogonal import TRANSPOSED, WEIGHTED
from sigmoidcore.nn.networks import RNN
from unstuck.observation import check_model

SHARE = 0.1
"""The largest share of the total change that one layer gets."""
HIDDEN, FIRST, LAST, RECURRENT, LAST_RECURRENT = 50.0, 400.0, 16.0, 370.0, 128.0
"""Measured constants of the rates of Adam (benchmarks/learning_rate.py, benchmarks/recurrent.py)."""
SGD = 100.0
"""Measured constant of the rates of SGD (benchmarks/sgd.py)."""
MEAN_SQUARE = 1 / 64
"""Of the outputs of centered cores at the saturation level 0.5, (0.5 / 4)^2."""


def depth_scaled_lr(
    model: nn.Module, lr: float = 0.03, *, optimizer: Literal["adam", "sgd"] = "adam"
) -> list[dict[str, Any]]:
    """Parameter groups for Adam, AdamW or SGD: one `lr` that suits every depth, width and number of inputs.

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

    SGD changes the outputs by each layer's rate times the squared size of the outputs' gradient by its weight. In a
    level network with outputs of variance 1, this squared size is 1 / mean(W_l^2). So with

        r_l = 100 lr * share_l * mean(W_l^2)

    the changes of the hidden layers add up to the same at every depth. The last layer's share is 1. A bias has its
    weight's rate, times fan_in / 64 if that is less than 1. With momentum, multiply `lr` by 1 - momentum:
    `torch.optim.SGD(sc.depth_scaled_lr(model, 0.003, optimizer="sgd"), momentum=0.9)`. The default is for
    cross-entropy. For the mean squared error, whose curvature is larger, start with 0.001.

    L-BFGS needs no rule: it has one rate for all parameters. Use it after Adam (docs/physics.md).

    Args:
        model: a model of Linear layers, convolutions and cores, prepared or calibrated: rates follow the weights it has
            now. In a convolution, fan_in counts the taps of the kernel, too.
        lr: the total change a step; 0.03 at any depth, a third or three times as much works as well.
        optimizer: "adam" (also for AdamW) or "sgd".

    Returns:
        Parameter groups (`params`, `lr`); every parameter that requires a gradient is in one of them. Parameters of
        other kinds of layers get lr / L.

    Raises:
        TypeError: not an nn.Module.
        ValueError: `lr` is not positive, `optimizer` is something else, nothing in the model can be trained, or it has
            recurrent layers, for which there is no rule for SGD.

    Example:
        >>> import sigmoidcore as sc
        >>> model = sc.MLP(64, 64, 100, 10)
        >>> optimizer = torch.optim.Adam(depth_scaled_lr(model))

    Source:
        The size of Adam's update by fan-in: Yang et al. (2022), arXiv 2203.03466. The shares: docs/method.md,
        benchmarks/learning_rate.py and benchmarks/untouched_weights.py.
    """
    check_model(model)
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be a positive finite number, got {lr}")
    if optimizer.lower() in ("lbfgs", "l-bfgs"):
        raise ValueError(
            "L-BFGS has one rate for all parameters and chooses its steps by a line search, so it has no rule: train "
            'with Adam first, then use torch.optim.LBFGS(model.parameters(), lr=1, line_search_fn="strong_wolfe")'
        )
    if optimizer not in _RULES:
        raise ValueError(f"optimizer must be {' or '.join(map(repr, _RULES))}, got {optimizer!r}")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError("the model has no parameters that require a gradient: nothing to train")
    rates = _RULES[optimizer](model, lr)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in trained:
        groups.setdefault(float(f"{rates[parameter]:.2g}"), []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


_Rates = dict[nn.Parameter, float]


def _adam_rates(model: nn.Module, lr: float) -> _Rates:
    layers = [m for m in model.modules() if isinstance(m, WEIGHTED)]
    recurrent = [m for m in model.modules() if isinstance(m, RNN)]
    hidden, last = layers[:-1], layers[-1:]
    rates = dict.fromkeys(model.parameters(), lr / max(1, len(hidden)))

    def set_rate(module: nn.Module, rate: float, size: float = 1.0) -> None:
        for parameter in module.parameters(recurse=False):
            rates[parameter] = rate * (size if parameter.dim() > 1 else min(size, 1.0))

    for layer, share in zip(hidden, _shares(hidden), strict=True):
        weight = _matrices(layer)
        factor = FIRST if layer is hidden[0] else HIDDEN
        set_rate(layer, lr * share * factor / math.sqrt(weight.numel()), _size(weight))
    for layer in last:
        set_rate(layer, lr * (LAST_RECURRENT if recurrent else LAST) / _matrices(layer)[0].numel())
    for module in recurrent:
        set_rate(module, lr / max(1, int(module.steps)) * RECURRENT / module.hidden_size)
    return rates


def _sgd_rates(model: nn.Module, lr: float) -> _Rates:
    recurrent = [name for name, m in model.named_modules() if isinstance(m, RNN | nn.RNNBase)]
    if recurrent:
        raise ValueError(f"'{recurrent[0]}' is a recurrent layer, for which there is no rule for SGD: use Adam")
    layers = [m for m in model.modules() if isinstance(m, WEIGHTED)]
    rates = dict.fromkeys(model.parameters(), SGD * lr / max(1, len(layers) - 1))
    shares = [*_shares(layers[:-1]), *(1.0 for _ in layers[-1:])]
    for layer, share in zip(layers, shares, strict=True):
        weight = _matrices(layer)
        for parameter in layer.parameters(recurse=False):
            size = 1.0 if parameter.dim() > 1 else min(1.0, weight[0].numel() * MEAN_SQUARE)
            rates[parameter] = SGD * lr * share * _mean_square(weight) * size
    return rates


_RULES = {"adam": _adam_rates, "sgd": _sgd_rates}


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


def _mean_square(weight: Tensor) -> float:
    """Mean of the squares of a weight [out, in, taps]; that of orthogonal rows or columns if it is 0 or not finite."""
    found = float(weight.square().mean())
    return found if 0 < found < math.inf else 1 / max(weight.shape[0], weight[0].numel())
