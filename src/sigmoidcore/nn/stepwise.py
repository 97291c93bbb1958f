"""The base class of recurrent layers of cores."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sigmoidcore.core import CoreModule


class Stepwise(CoreModule):
    """A recurrent layer of cores that can also run step by step."""

    def run_stepwise(self, input: Any, state: Any = None, *, on_step: Callable[[str, Tensor], None]) -> tuple[Any, Any]:
        """`forward` in a Python loop; `on_step` gets every step's name, and the tensor that carries the gradient."""
        raise NotImplementedError
