"""The import of PyTorch by a script: before it, there is nothing to watch."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class TorchImport(MetaPathFinder):
    """Calls a function once: directly after PyTorch was imported, or at once if it is already.

    Until then this finder is on `sys.meta_path`, and takes what the finders behind it find.
    """

    def __init__(self, then: Callable[[], object]) -> None:
        self._then = then
        if "torch" in sys.modules:
            then()
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The others' spec of PyTorch, whose loader calls the function afterwards; None for any other module."""
        if name != "torch":
            return None
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]
        others = (finder.find_spec(name, path, target) for finder in later)
        spec = next((found for found in others if found is not None), None)
        if spec is None or spec.loader is None:
            return spec
        loader = spec.loader
        execute = loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            del loader.exec_module  # that of its class is there again
            execute(module)
            if self in sys.meta_path:
                self.remove()
                self._then()

        loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec

    def remove(self) -> None:
        """Do not wait any longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
