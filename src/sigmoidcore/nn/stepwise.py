"""Recurrent layers of cores: what they have in common."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class Stepwise(nn.Module):
    """A recurrent layer of cores, which can also run step by step."""

    def run_stepwise(self, input: Any, state: Any = None, *, on_step: Callable[[str, Tensor], None]) -> tuple[Any, Any]:
        """The same as `forward` in a Python loop.

        Args:
            input: as for `forward`.
            state: as for `forward`.
            on_step: called with the name of every step, and with the tensor that carries the gradient through time.
        """
        raise NotImplementedError
