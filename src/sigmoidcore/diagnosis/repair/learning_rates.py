"""New learning rates in the groups of an optimizer that has begun to train."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.calibration.orthogonal import WEIGHTED
from sigmoidcore.core import SigmoidCore
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.repair.candidates import SIGMOIDS
from sigmoidcore.nn.networks import RNN


def why_not(model: nn.Module, measurement: Measurement, optimizer: torch.optim.Optimizer) -> str | None:
    """Why `depth_scaled_lr` does not apply to this model and optimizer; None if it does."""
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        return f"sc.depth_scaled_lr is for Adam and AdamW, this is {type(optimizer).__name__}"
    ours = {id(p) for p in model.parameters() if p.requires_grad}
    if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
        return "the optimizer has no trainable parameter of this model"
    if any("initial_lr" in group for group in optimizer.param_groups):
        how = "make the optimizer with sc.depth_scaled_lr(model), then the scheduler"
        return f"a learning-rate scheduler sets the optimizer's rates: {how}"
    for layer in measurement.layers:
        if layer.role == "activation" and layer.kind not in SIGMOIDS:
            return f"sc.depth_scaled_lr is for networks of sigmoids; '{layer.name}' is a {layer.kind}"
    for name, module in model.named_modules():
        if list(module.parameters(recurse=False)) and not isinstance(module, (*WEIGHTED, SigmoidCore, RNN)):
            kind = type(module).__name__
            return f"sc.depth_scaled_lr is for Linear layers, convolutions and cores; '{name}' is a {kind}"
    return None


def set_rates(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[list[float], list[float]]:
    """Give every parameter of the model the rate of `depth_scaled_lr`; returns the rates before and after, sorted.

    Groups are split by rate and keep their other options. Other parameters keep their rate, all keep their state.
    """
    rates = {id(p): group["lr"] for group in depth_scaled_lr(model) for p in group["params"]}
    before = {float(group["lr"]) for group in optimizer.param_groups}
    optimizer.param_groups[:] = [part for group in optimizer.param_groups for part in _split(group, rates)]
    return sorted(before), sorted({float(group["lr"]) for group in optimizer.param_groups})


def _split(group: dict[str, Any], rates: dict[int, float]) -> Iterator[dict[str, Any]]:
    """A group for each rate."""
    places: dict[float | None, list[int]] = {}
    for place, parameter in enumerate(group["params"]):
        places.setdefault(rates.get(id(parameter)), []).append(place)
    for rate, part in places.items():
        lists = {key: [group[key][i] for i in part] for key in ("params", "param_names") if key in group}
        old = group["lr"]  # a number, or a tensor that a captured graph reads
        lr = old if rate is None else torch.full_like(old, rate) if isinstance(old, Tensor) else rate
        yield group | lists | {"lr": lr}
