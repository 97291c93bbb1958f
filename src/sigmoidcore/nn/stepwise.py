"""Recurrent layers of cores that can show every step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Stepwise(nn.Module):
    """A recurrent layer of cores that can run step by step, and hand what it computes to who asks for it."""

    _on_step: Callable[[Any, Tensor], None] | None = None

    @contextmanager
    def steps_of(self, on_step: Callable[[Any, Tensor], None]) -> Iterator[None]:
        """Within, forward runs step by step and hands every step's name and a tensor of its to `on_step`."""
        self._on_step = on_step
        try:
            yield
        finally:
            self._on_step = None
