"""A forward that was written from a graph, in place of that of a module's class."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from types import CodeType, ModuleType
from typing import Any

from torch import nn

from sigmoidcore.conversion.contents import contents, difference


class TracedForward:
    """The forward of a module as `convert` has written it anew: its functional sigmoids are calls of cores.

    It stands in the module's `forward` attribute, so the module keeps its class and its methods. It can be copied and
    pickled with the module: the code is plain text.

    Args:
        module: whose forward it is.
        source: the code of a function `forward(self, ...)`.
        names: the global names that the code reads.
        fixed: attributes that the code was written for, as (owner, name, contents): it refuses to run if they change.
        added: the cores that the code calls where the class's forward does something else, by name: the function
            ("tanh()") or the name of the module that the class's forward calls there.

    Raises:
        RuntimeError: when called, if one of the fixed attributes has another value now.
    """

    def __init__(
        self,
        module: nn.Module,
        source: str,
        names: dict[str, Any],
        fixed: list[tuple[Any, str, tuple[tuple[str, Any], ...]]],
        added: dict[str, str],
    ) -> None:
        self.module = module
        self.source = source
        self.names = names
        self.fixed = fixed
        self.added = added
        self.function = _compiled(source, names)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the class's forward would return, with cores at their places."""
        self.check()
        return self.function(self.module, *args, **kwargs)

    def check(self) -> None:
        """Raise a RuntimeError if a fixed attribute has another value now."""
        for owner, name, then in self.fixed:
            found = difference(contents(getattr(owner, name, None)), then)
            if found is not None:
                where, now, was = found
                raise RuntimeError(
                    f"{type(owner).__name__}.{name}{where} is {now!r}, but convert has written the forward of "
                    f"{type(self.module).__name__} for {was!r}: set it before convert"
                )

    def follow(self, replaced: Mapping[nn.Module, nn.Module]) -> None:
        """Ask the modules that stand in the place of others now for the fixed attributes of those."""
        self.fixed = [
            (replaced.get(owner, owner) if isinstance(owner, nn.Module) else owner, name, then)
            for owner, name, then in self.fixed
        ]

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the class's forward, for those who ask which arguments a model takes."""
        signature = inspect.signature(type(self.module).forward)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    @property
    def __code__(self) -> CodeType:
        """The compiled code, which torch.export asks for."""
        code: CodeType = self.function.__code__
        return code

    def __getstate__(self) -> dict[str, Any]:
        names = {k: _Module(v.__name__) if isinstance(v, ModuleType) else v for k, v in self.names.items()}
        return {k: v for k, v in self.__dict__.items() if k != "function"} | {"names": names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = {k: importlib.import_module(v) if isinstance(v, _Module) else v for k, v in state["names"].items()}
        self.__dict__.update(state, names=names, function=_compiled(state["source"], names))


class _Module(str):
    """The name of a Python module, which cannot be pickled itself."""

    __slots__ = ()


def _compiled(source: str, names: dict[str, Any]) -> Callable[..., Any]:
    values = dict(names)
    exec(compile(source, "<the forward that convert wrote>", "exec"), values)
    function: Callable[..., Any] = values["forward"]
    return function
