"""A program of today that somebody asked about, rebuilt small: as in `real_failures`, with the causes of today.

A batch that is a dict is the model's keyword arguments, as everywhere around transformers; any other is its only
argument. A model may return its loss: then `loss` is `own_loss`, and the targets are None.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from real_failures import program

Cause = Literal[
    # Who is in the loss.
    "labels shifted twice",
    "labels not shifted",
    "padding in the loss",
    "prompt in the loss",
    "end token not in the loss",
    "all labels ignored",
    "loss of the wrong positions",
    # What an output may depend on.
    "later tokens visible",
    "documents of a packed row visible",
    "padding visible",
    "other samples visible",
    "condition ignored",
    "inputs hidden",
    "positions wrong",
    # What belongs together.
    "pairs shuffled apart",
    "positives wrong",
    "groups mixed",
    "targets wrong",
    "targets trivial",
    "targets impossible",
    # Two copies that are one, or should be.
    "reference is the policy",
    "ratio always one",
    "advantages zero",
    "constant loss",
    "teacher in training mode",
    "target encoder with gradient",
    "average stays behind",
    "buffers not averaged",
    # What trains.
    "parameters not in the optimizer",
    "frozen and random",
    "graph cut",
    "router without gradient",
    "experts unused",
    "codes without gradient",
    "codes unused",
    "no step",
    # Arithmetic of steps.
    "updates rounded away",
    "adapter scaled wrong",
    "gradients unscaled twice",
    "clipped to nothing",
    "accumulated and not divided",
    "gradients cleared too early",
    "schedule zero or all warm-up",
    "rate of another kind of network",
    "initialisation too large",
    "weight decay too strong",
    # Shapes and scales that lie.
    "axes mixed",
    "normalisation wrong",
    "loss input wrong",
    "loss weights wrong",
    "inputs scaled wrong",
    "not finite",
]


def usual_step(training: program.Training, inputs: Any, targets: Any) -> None:
    """The lines of nearly every loop."""
    assert training.optimizer is not None
    training.optimizer.zero_grad()
    training.loss(called(training.model, inputs), targets).backward()
    training.optimizer.step()


def called(model: nn.Module, inputs: Any) -> Any:
    """Outputs of a model for the inputs of a batch."""
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


def own_loss(outputs: Any, targets: None) -> Tensor:
    """The loss that the model itself returned."""
    return outputs.loss


@dataclass
class Training(program.Training):
    """As in `real_failures`, with a step that knows batches of keyword arguments."""

    step: Callable[[program.Training, Any, Any], None] = usual_step


@dataclass(frozen=True)
class Program(program.Program):
    """As in `real_failures`; `causes` has the words above.

    All of this folder is the half that rules may be developed on. The other half is written by strangers.
    """

    causes: tuple[Cause, ...]
