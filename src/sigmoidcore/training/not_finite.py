"""The sentence about a training whose numbers are not finite: the step, the layer and the remedy."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.diagnosis.diagnose import diagnose

_REMEDY = "use a smaller lr, clip the gradient, or prepare the model before training"


def describe_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor], step: int
) -> str:
    """The sentence for a batch whose loss is not finite at a step, from 1; rule SC401 names the layer, if it can."""
    try:
        findings = diagnose(model, inputs, targets, loss_fn).findings
    except (RuntimeError, ValueError, TypeError, ArithmeticError):
        findings = ()
    message = next((finding.message for finding in findings if finding.rule == "SC401"), "")
    place = f"{message[0].lower()}{message[1:].rstrip('.')} (SC401); " if message else ""
    return f"the loss is not finite at step {step}: {place}{_REMEDY}"


def describe_weights(weights: Mapping[str, Any], step: int) -> str | None:
    """The sentence for a state dict with a weight that is not finite after this many steps, or None."""
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return f"{name} is not finite after step {step}: {_REMEDY}"
    return None
