"""A few steps of training, which are undone: how far the loss falls, and at which rates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.diagnosis.measure.measurement import Subject
from sigmoidcore.diagnosis.measure.one_batch import passes

STEPS, LAST = 25, 5
"""Steps of a trial, and those whose mean loss is its result."""
USUAL = 0.001
"""The rate of Adam that PyTorch has as its default."""
_BETAS, _EPSILON = (0.9, 0.999), 1e-8

Rates = Sequence[tuple[nn.Parameter, float]]


def usual_rates(model: nn.Module) -> Rates:
    """The same rate for all parameters."""
    return [(p, USUAL) for p in model.parameters() if p.requires_grad]


RATES: dict[str, Callable[[nn.Module], Rates]] = {
    "sc.depth_scaled_lr({model})": lambda m: [(p, of["lr"]) for of in depth_scaled_lr(m) for p in of["params"]],
    f"{{model}}.parameters(), lr={USUAL}": usual_rates,
}
"""Rates by the argument of Adam, where `{model}` stands for the name of the model."""


@dataclass(frozen=True)
class Trial:
    """The loss after a trial, and why these rates do not train the model; None if they do."""

    rates: str
    loss: float
    why_not: str | None


def final_loss(subject: Subject, rates: Rates, *, blind: bool = False) -> float:
    """The loss after `STEPS` steps of Adam on the batch; the model is then as before. inf if it is not finite.

    If `blind`, every sample is the first one, so the inputs tell nothing.
    """
    if blind:
        subject = replace(subject, inputs=_first_everywhere(subject.inputs))
    parameters = [p for p, _ in rates]
    before = [p.detach().clone() for p in parameters]
    adam, losses = _Adam(rates), []
    try:
        with passes(subject) as loss_of:
            for _ in range(STEPS):
                loss = loss_of()
                losses.append(float(loss.detach()))
                if not math.isfinite(losses[-1]):
                    return math.inf
                adam.step(torch.autograd.grad(loss, parameters, allow_unused=True))
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
    return fmean(losses[-LAST:])


class _Adam:
    """Adam (Kingma and Ba, 2015, arXiv 1412.6980). Hooks of optimizers, such as a `Monitor`'s, do not see it."""

    def __init__(self, rates: Rates) -> None:
        self._rates, self._count = rates, 0
        self._means = [(torch.zeros_like(p), torch.zeros_like(p)) for p, _ in rates]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        self._count += 1
        corrections = [1 - beta**self._count for beta in _BETAS]
        for (parameter, rate), (first, second), gradient in zip(self._rates, self._means, gradients, strict=True):
            if gradient is not None:
                first.lerp_(gradient, 1 - _BETAS[0])
                second.lerp_(gradient.square(), 1 - _BETAS[1])
                size = (second / corrections[1]).sqrt_().add_(_EPSILON)
                parameter.addcdiv_(first, size, value=-rate / corrections[0])


def _first_everywhere(values: Any) -> Any:
    """The batch with every sample replaced by the first."""
    if isinstance(values, Tensor):
        return values[:1].expand_as(values) if values.dim() else values
    if isinstance(values, dict):
        return {name: _first_everywhere(value) for name, value in values.items()}
    return type(values)(map(_first_everywhere, values)) if type(values) in (list, tuple) else values
