"""The model and the batch of a diagnosis."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class Subject:
    """The diagnosed model and its batch; unknown parts are None.

    Attributes:
        model: the module.
        inputs: one batch, as for `diagnose`.
        targets: second argument of `loss_fn`.
        loss_fn: the loss function.
        training: whether the model ran in training mode.
    """

    model: nn.Module
    inputs: Any = None
    targets: Any = None
    loss_fn: Callable[[Any, Any], Any] | None = None
    training: bool = False
