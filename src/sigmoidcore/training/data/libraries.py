"""The optional packages of this package: imported at their first use, with a hint how to install them."""

from typing import Any

from sigmoidcore.training.data.errors import needed


class Library:
    """A module of an optional package."""

    def __init__(self, module: str, package: str) -> None:
        self._module = module
        self._package = package

    def __getattr__(self, name: str) -> Any:
        return getattr(needed(self._module, self._package), name)


pandas = Library("pandas", "pandas")
pa = Library("pyarrow", "pyarrow")
pc = Library("pyarrow.compute", "pyarrow")
