"""What several frameworks need."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _types_stay() -> Iterator[None]:
    """DeepXDE and PINA set PyTorch's default type for their own ends."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)
