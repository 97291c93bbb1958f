"""What to say when a training's numbers are not finite: the step, the layer and the remedy."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.diagnosis.diagnose import diagnose

_REMEDY = "use a smaller lr, clip the gradient, or prepare the model before training"


def of_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor], step: int
) -> str:
    """The sentence for a batch whose loss is not finite.

    Args:
        model: as it is.
        inputs: of the batch.
        targets: of the batch.
        loss_fn: of the training.
        step: its number, from 1.
    """
    return in_words(step, _place(model, inputs, targets, loss_fn))


def in_words(step: int, place: str = "") -> str:
    """The sentence for a loss that is not finite at a step; `place` says where it began."""
    return f"the loss is not finite at step {step}: {place}{_REMEDY}"


def of_weights(model: nn.Module, step: int) -> str | None:
    """The sentence for a model of which a weight is not finite after so many steps; None if all are."""
    return of_state(model.state_dict(), step)


def of_state(weights: Mapping[str, Any], step: int) -> str | None:
    """The sentence for a state dict in which a weight is not finite after so many steps; None if all are."""
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            return f"{name} is not finite after step {step}: {_REMEDY}"
    return None


def _place(model: nn.Module, inputs: Tensor, targets: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> str:
    """The first place with such numbers, in the words of rule SC401; nothing where the model cannot be diagnosed."""
    try:
        findings = diagnose(model, inputs, targets, loss_fn).findings
    except (RuntimeError, ValueError, TypeError, ArithmeticError):
        return ""
    message = next((finding.message for finding in findings if finding.rule == "SC401"), "")
    return f"{message[0].lower()}{message[1:].rstrip(chr(46))} (SC401); " if message else ""
