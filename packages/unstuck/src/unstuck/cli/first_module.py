"""The moment at which a process begins to use PyTorch, which it need not have imported yet."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class FirstModule(MetaPathFinder):
    """Calls a function once: before the first module of PyTorch gets a parameter or runs, or an optimizer steps.

    By then the process has imported what it needs, in its own order. Nothing happens in other threads and in forked
    processes, nor before PyTorch is imported: until then this finder is on `sys.meta_path`, and waits.
    """

    def __init__(self, begin: Callable[[], object]) -> None:
        self._begin = begin
        self._owner = os.getpid(), threading.get_ident()
        self._handles: list[Any] = []
        self._begun = False
        self.elsewhere = False  # it happened in another thread
        if "torch" in sys.modules:
            self._listen()
        else:
            sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The others' spec of PyTorch, whose loader calls `_listen` once afterwards; None for any other module."""
        if name != "torch":
            return None
        later = sys.meta_path[sys.meta_path.index(self) + 1 :]  # the others were asked before
        others = (finder.find_spec(name, path, target) for finder in later)
        spec = next((found for found in others if found is not None), None)
        if spec is None or spec.loader is None:
            return spec
        loader = spec.loader
        execute = loader.exec_module

        def execute_and_listen(module: ModuleType) -> None:
            if vars(loader).get("exec_module") is execute_and_listen:  # nobody has put another in its place
                del loader.exec_module  # that of its class is there again
            execute(module)
            self._listen()

        loader.exec_module = execute_and_listen  # type: ignore[method-assign]
        return spec

    def remove(self) -> None:
        """Do not wait any longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for handle in self._handles:
            handle.remove()

    def _listen(self) -> None:
        """Register hooks in PyTorch, which is imported."""
        self.remove()
        try:
            from torch.nn.modules import module
            from torch.optim import optimizer
        except ImportError:  # it is not PyTorch
            return
        self._handles = [
            module.register_module_forward_pre_hook(self._reached),  # first: it is the one that costs time
            module.register_module_parameter_registration_hook(self._reached),
            optimizer.register_optimizer_step_pre_hook(self._reached),
        ]

    def _reached(self, *_: object) -> None:
        import torch  # which is imported

        if self._begun or torch.compiler.is_compiling():
            return
        if (os.getpid(), threading.get_ident()) != self._owner:
            self.elsewhere |= os.getpid() == self._owner[0]
            return
        self._begun = True
        self._handles[0].remove()  # PyTorch iterates over the others
        self._begin()
