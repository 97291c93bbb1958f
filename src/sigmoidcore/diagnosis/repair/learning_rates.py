"""New learning rates in the groups of an optimizer that has begun to train."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.calibration.orthogonal import WEIGHTED
from sigmoidcore.core import SigmoidCore
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.nn.networks import RNN

ADAMS = (torch.optim.Adam, torch.optim.AdamW)
SIGMOIDS = ("SigmoidCore", "Sigmoid", "Tanh", "sigmoid()", "tanh()")


def why_not(model: nn.Module, measurement: Measurement, optimizer: torch.optim.Optimizer) -> str | None:
    """Why `depth_scaled_lr` says nothing of this model and optimizer; None: it does."""
    if not isinstance(optimizer, ADAMS):
        return (
            f"the rule sc.depth_scaled_lr is for Adam and AdamW, whose steps have a size of their own; this is "
            f"{type(optimizer).__name__}"
        )
    ours = {id(p) for p in model.parameters() if p.requires_grad}
    if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
        return "the optimizer has no parameter of this model that trains"
    if any("initial_lr" in group for group in optimizer.param_groups):
        return (
            "a learning-rate scheduler holds the optimizer's rates: make the optimizer with sc.depth_scaled_lr(model), "
            "and then the scheduler"
        )
    others = [row for row in measurement.layers if row.role == "activation" and row.kind not in SIGMOIDS]
    if others:
        return f"the rule sc.depth_scaled_lr is for networks of sigmoids; '{others[0].name}' is a {others[0].kind}"
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)) and not isinstance(module, (*WEIGHTED, SigmoidCore, RNN)):
            kinds = "Linear layers, convolutions and cores"
            return f"the rule sc.depth_scaled_lr is for {kinds}; '{name}' is a {type(module).__name__}"
    return None


def set_rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[float], list[float]]:
    """Give every parameter of the model the rate of `depth_scaled_lr`; the rates before and after, sorted.

    A group is split where its parameters get several rates, and keeps its other options. What the optimizer remembers
    of a parameter stays; parameters that are not of this model, or do not train, keep their rate.
    """
    rates = {id(p): group["lr"] for group in depth_scaled_lr(model) for p in group["params"]}
    groups = [part for group in optimizer.param_groups for part in _split(group, rates)]
    before = _rates(optimizer.param_groups)
    optimizer.param_groups[:] = groups
    return before, _rates(groups)


def _split(group: dict[str, Any], rates: dict[int, float]) -> list[dict[str, Any]]:
    places: dict[float | None, list[int]] = {}
    for place, parameter in enumerate(group["params"]):
        places.setdefault(rates.get(id(parameter)), []).append(place)
    lists = [key for key in ("params", "param_names") if key in group]
    return [
        group | {key: [group[key][i] for i in part] for key in lists} | {"lr": _like(group["lr"], rate)}
        for rate, part in places.items()
    ]


def _like(lr: float | Tensor, rate: float | None) -> float | Tensor:
    """A rate of the kind that the group has: a number, or a tensor that a captured graph reads."""
    if rate is None:
        return lr
    return torch.full_like(lr, rate) if isinstance(lr, Tensor) else rate


def _rates(groups: Iterable[dict[str, Any]]) -> list[float]:
    return sorted({float(group["lr"]) for group in groups})
