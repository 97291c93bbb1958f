"""Fixtures for several frameworks."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _default_dtype() -> Iterator[None]:
    """DeepXDE and PINA set PyTorch's default dtype."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], list[Any]]:
    """The results of a function that is marked `on_ranks`, by rank."""
    return request.module.on_ranks.results(request.module.__name__, tmp_path_factory.mktemp("ranks"))  # type: ignore[no-any-return]


@pytest.fixture
def example(root: Any) -> Callable[[str], Any]:
    """Imports a script of examples/ by its name."""

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, root / "examples" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
