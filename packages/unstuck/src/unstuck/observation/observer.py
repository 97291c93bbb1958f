"""The one way to watch a model: an observer is told what arrives at its layers and what leaves them.

What comes back to a layer is a hook on a tensor that arrives or leaves. A package that computes several layers as one
function runs them one by one if an observer needs it (`Observer.needs`).
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn

from unstuck._torch import eager
from unstuck._torch.hooks import register_global_hooks


class Observer:
    """Watches some layers of a model while it is attached. Subclasses say what happens then.

    It uses PyTorch's global module hooks and recognises its layers by identity. The model is not changed: its copies
    (deepcopy, pickle) are not observed. While an observer is attached, compiled code runs uncompiled.

    Args:
        layers: the layers to watch, by name.

    Example:
        >>> class Shapes(Observer):
        ...     def leaves(self, name, layer, args, kwargs, output):
        ...         print(name, tuple(output.shape))
        >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        >>> with Shapes({"tanh": model[1]}):
        ...     _ = model(torch.zeros(2, 3))
        tanh (2, 4)
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        self.watch(layers)
        self._detach: weakref.finalize[..., Observer] | None = None

    def watch(self, layers: Mapping[str, nn.Module]) -> None:
        """Watch these layers instead."""
        self.layers = dict(layers)
        self._names = {id(layer): name for name, layer in self.layers.items()}

    @property
    def awaits(self) -> bool:
        """Whether it wants to see the layers that run now."""
        return True

    def arrives(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Called before a layer runs, with its positional arguments; may return others in their place."""
        return None

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Call `arrives` for a layer that is about to run: a hook that attaches the observer comes too late for it."""
        name = self._names.get(id(module))
        if name is not None:
            self.arrives(name, module, args)

    def passes_by(self, module: nn.Module) -> None:
        """Called before a module runs that it does not watch, or does not await now."""

    def leaves(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Called after a layer has run; may return something to be used in place of its output.

        Also called, with output None, if the layer has raised an error.
        """
        return None

    def needs(self, modules: Sequence[nn.Module]) -> bool:
        """Whether these modules have to run one by one."""
        return any(id(module) in self._names for module in modules)

    @property
    def attached(self) -> bool:
        """Whether it watches."""
        return self._detach is not None and self._detach.alive

    def attach(self) -> None:
        """Watch from the next forward pass on."""
        if not self.attached:
            hooks = _Hooks(self)
            remove = register_global_hooks(hooks.enter, hooks.leave)
            eager.hold()
            self._detach = weakref.finalize(self, _release, remove)  # also when it is dropped while it is attached
            self._detach.atexit = False

    def detach(self) -> None:
        """Stop watching."""
        if self._detach is not None:
            self._detach()

    def __enter__(self) -> Self:
        self.attach()
        return self

    def __exit__(self, *error: object) -> None:
        self.detach()


class _Hooks:
    """The hooks of an observer; they do not keep it alive."""

    def __init__(self, observer: Observer) -> None:
        self._observer = weakref.ref(observer)

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        observer, name = self._find(module)
        if observer is not None and name is None:
            observer.passes_by(module)
        return None if observer is None or name is None else observer.arrives(name, module, args)

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> Any:
        observer, name = self._find(module)
        if observer is None or name is None:
            return None
        return observer.leaves(name, module, args, kwargs or {}, output)  # without any after an error

    def needs(self, modules: Sequence[nn.Module]) -> bool:
        observer = self._observer()
        return observer is not None and observer.needs(modules)

    def _find(self, module: nn.Module) -> tuple[Observer | None, str | None]:
        """The observer, and the name that it has for a module if it watches it."""
        observer = self._observer()
        if observer is None or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return None, None
        name = observer._names.get(id(module)) if observer.awaits else None
        return observer, name


def _release(remove: Callable[[], None]) -> None:
    remove()
    eager.release()
