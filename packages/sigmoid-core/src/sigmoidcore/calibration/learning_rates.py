"""One learning rate for every depth, width and number of inputs."""

import math
import statistics
import warnings
from collections.abc import Container, Hashable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.orthogonal import TRANSPOSED, WEIGHTED
from sigmoidcore.core import CoreModule
from sigmoidcore.nn.recurrent import CoreRNN
from unstuck.observation.batch import check_model

SHARE = 0.1  # the largest share of the total change that one layer gets
FLOOR = 0.01  # of an equal share: the least that a layer gets; one behind a single feature passes on no directions
HIDDEN, FIRST, LAST, RECURRENT, LAST_RECURRENT = 50.0, 400.0, 16.0, 370.0, 128.0
"""Measured constants of the rates of Adam (benchmarks/learning_rate.py, benchmarks/recurrent.py)."""
SGD = 100.0  # measured constant of the rates of SGD (benchmarks/sgd.py)
MEAN_SQUARE = 1 / 64  # of the outputs of centered cores at the saturation level 0.5, (0.5 / 4)^2


def depth_scaled_lr(
    model: nn.Module, lr: float = 0.03, *, optimizer: Literal["adam", "sgd"] = "adam"
) -> list[dict[str, Any]]:
    """Parameter groups for Adam, AdamW or SGD: one `lr` that suits every depth, width and number of inputs.

    `torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)`; let the rates fall to 0 in the second half of training.

    Adam's steps change all layers together by a relative size of `lr`, to first order: the rule divides it among them,
    in equal shares for orthogonal weights of one width, 0.8 lr / L for 64 x 64. The rate of a layer is

        r_l = lr * share_l * 50 / sqrt(fan_in fan_out) * size(W_l),    sum of the shares at most 1,

    with 400 for the first layer, because `prepare` made its weights small, lr * 16 / fan_in for the last at any depth,
    and lr / steps * 370 / hidden_size for a `CoreRNN` (the last layer: 128). share_l is proportional to D_l - 1,
    the directions that orthogonal weights of these shapes pass on to layer l, less one; no layer has more than a tenth.
    Towers, such as branch and trunk of a DeepONet, divide `lr` each for itself: a module with cores begins a new one if
    its inputs are not the outputs of the layer before it, nor these flattened.
    A bias has its weight's rate; in front of the first core of the model, a tower or a block, with a size of at most 1.

    SGD's rates are r_l = 100 lr * share_l * mean(W_l^2), the last layer's share is 1, and a bias has fan_in / 64 of its
    weight's rate, if that is less. With momentum, multiply `lr` by 1 - momentum:
    `torch.optim.SGD(sc.depth_scaled_lr(model, 0.003, optimizer="sgd"), momentum=0.9)`. The default is for
    cross-entropy; for the mean squared error start with 0.001. docs/method.md derives both.

    **Trained weights.** The groups, their order and their members follow the architecture alone. So an optimizer's
    state fits, whether the weights were loaded before or after this call, and it brings its own rates. Only the size of
    a group (the median of its weights) is read from the weights: a new optimizer on trained weights has nearly the
    rates of the old one.

    L-BFGS needs no rule: it has one rate for all parameters. Use it after Adam (docs/physics.md).

    Args:
        model: a model of Linear layers, convolutions and cores, prepared or calibrated. In a convolution, fan_in counts
            the taps of the kernel, too.
        lr: the total change a step; 0.03 at any depth, a third or three times as much works as well.
        optimizer: "adam" (also for AdamW) or "sgd".

    Returns:
        Parameter groups (`params`, `lr`); every parameter that requires a gradient is in one of them. Parameters of
        other kinds of layers get lr / L.

    Warns:
        UserWarning: layers behind a single feature get the least share.

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
    groups: dict[Hashable, list[nn.Parameter]] = {}
    for parameter in trained:
        groups.setdefault(rates[parameter][0], []).append(parameter)
    return [
        {"params": group, "lr": float(f"{statistics.median_low(rates[p][1] for p in group):.2g}")}
        for group in groups.values()
    ]


_Rates = dict[nn.Parameter, tuple[Hashable, float]]
"""For each parameter the key of its group, which follows the architecture alone, and its rate."""


def _adam_rates(model: nn.Module, lr: float) -> _Rates:
    layers = [m for m in model.modules() if isinstance(m, WEIGHTED)]
    recurrent = [m for m in model.modules() if isinstance(m, CoreRNN)]
    hidden, last, entries = layers[:-1], layers[-1:], _entries(model)
    rates: _Rates = dict.fromkeys(model.parameters(), ("other", lr / max(1, len(hidden))))
    for number, tower in enumerate(_towers(hidden, entries)):
        for layer, share in zip(tower, _shares(tower), strict=True):
            weight, first = _matrices(layer), layer is tower[0]
            rate = lr * share * (FIRST if first else HIDDEN) / math.sqrt(weight.numel())
            size = _size(weight)
            for parameter in layer.parameters(recurse=False):
                apart = layer in entries and parameter.dim() == 1
                key = (number if first else None, entries.get(layer), apart, rate)
                rates[parameter] = key, rate * (min(size, 1.0) if apart else size)
    for layer in last:
        rate = lr * (LAST_RECURRENT if recurrent else LAST) / _matrices(layer)[0].numel()
        rates.update(dict.fromkeys(layer.parameters(recurse=False), ("last", rate)))
    for module in recurrent:
        rate = lr / max(1, int(module.steps)) * RECURRENT / module.hidden_size
        rates.update(dict.fromkeys(module.parameters(recurse=False), (module, rate)))
    return rates


def _sgd_rates(model: nn.Module, lr: float) -> _Rates:
    recurrent = [name for name, m in model.named_modules() if isinstance(m, nn.RNNBase)]
    if recurrent:
        raise ValueError(f"'{recurrent[0]}' is a recurrent layer, for which there is no rule for SGD: use Adam")
    layers, entries = [m for m in model.modules() if isinstance(m, WEIGHTED)], _entries(model)
    rates: _Rates = dict.fromkeys(model.parameters(), ("other", SGD * lr / max(1, len(layers) - 1)))
    shares = [share for tower in _towers(layers[:-1], entries) for share in _shares(tower)]
    for layer, share in zip(layers, [*shares, 1.0], strict=False):  # the last layer has a share of its own
        weight = _matrices(layer)
        square = float(weight.square().mean())
        if not 0 < square < math.inf:  # that of orthogonal rows or columns
            square = 1 / max(weight.shape[0], weight[0].numel())
        for parameter in layer.parameters(recurse=False):
            size = 1.0 if parameter.dim() > 1 else min(1.0, weight[0].numel() * MEAN_SQUARE)
            key = (layer is layers[0], layer is layers[-1], entries.get(layer), weight.shape, share * size)
            rates[parameter] = key, SGD * lr * share * square * size
    return rates


_RULES = {"adam": _adam_rates, "sgd": _sgd_rates}


def _entries(model: nn.Module) -> dict[nn.Module, int]:
    """Layers in front of the first core of a module, and the depth of the outermost such module.

    `prepare` gives a layer that reads inputs another size. The architecture does not show which do, but those are here.
    """
    entries: dict[nn.Module, int] = {}
    for name, module in model.named_modules():
        for layer in () if isinstance(module, WEIGHTED) else module.modules():
            if isinstance(layer, CoreModule):
                break
            if isinstance(layer, WEIGHTED):
                entries.setdefault(layer, len(name.split(".")) if name else 0)
    return entries


def _towers(layers: Sequence[nn.Module], entries: Container[nn.Module]) -> list[list[nn.Module]]:
    """The layers of each tower, see `depth_scaled_lr`."""
    towers: list[list[nn.Module]] = []
    outputs = 0
    for layer in layers:
        n, m, _ = _matrices(layer).shape
        if not towers or (layer in entries and m % outputs != 0):
            towers.append([])
        towers[-1].append(layer)
        outputs = n
    return towers


def _matrices(layer: nn.Module) -> Tensor:
    """The weight of a layer in float64, [out, in, taps of the kernel]; one tap for a Linear."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().to(torch.float64).reshape(*weight.shape[:2], -1)
    return weight.transpose(0, 1) if isinstance(layer, TRANSPOSED) else weight


def _shares(layers: Sequence[nn.Module]) -> list[float]:
    """Shares proportional to the directions that orthogonal weights pass on, less one: D_l - 1.

    For a random projection P of m dimensions to n and a signal B = A A^T with tr B = 1 and tr B^2 = 1/D, the mean of
    P P^T over all rotations gives D' = E (tr PB)^2 / E tr (PB)^2 = (a + 2b/D) / (a/D + b (1 + 1/D)), with
    b = n (m - n) / (m (m - 1) (m + 2)) and a = n/m - b (m + 1). More outputs than inputs lose nothing.

    Source:
        The second moments of the orthogonal group: Collins and Sniady (2006), arXiv math-ph/0402073.
    """
    directions: list[float] = []
    outputs = 0
    for layer in layers:
        n, m, taps = _matrices(layer).shape
        known = directions[-1] if outputs == m else float(m)
        # `prepare` draws these kernels orthogonal as a whole, others at their centre.
        whole = not directions or max(getattr(layer, "stride", (1,))) > 1
        m, outputs = m * taps if whole else m, n
        b = max(0, m - n) * n / max(1, m * (m - 1) * (m + 2))
        a = min(1.0, n / m) - b * (m + 1)
        directions.append((a + 2 * b / known) / (a / known + b * (1 + 1 / known)))
    more = [max(d - 1, 1e-3) for d in directions]
    least = FLOOR * sum(more) / max(1, len(more))
    behind = [layer for layer, d in zip(layers[1:], more[1:], strict=True) if d < least]
    if behind:
        warnings.warn(
            f"{behind[0]} passes on a single direction, and gets the least share of the rate, {FLOOR:g} of an equal "
            f"one ({len(behind)} such layers); if they are a tower beside others, call depth_scaled_lr for each tower",
            stacklevel=4,
        )
    total = sum(more)
    return [min(SHARE, max(d, least) / total) for d in more]


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
