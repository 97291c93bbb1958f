"""The model and the batch of a diagnosis."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class Subject:
    """The diagnosed model, its batch and its mode, as for `diagnose`; unknown parts are None."""

    model: nn.Module
    inputs: Any = None
    targets: Any = None
    loss_fn: Callable[[Any, Any], Any] | None = None
    training: bool = False
