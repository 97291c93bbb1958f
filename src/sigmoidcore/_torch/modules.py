"""Hooks of modules: PyTorch has no public way to ask for them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as _module

GLOBAL_HOOKS = (
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_global = [getattr(_module, name, {0: None}) for name in GLOBAL_HOOKS]


def global_hooks() -> list[Callable[..., Any] | None]:
    """The hooks that are called for every module; [None], somebody unknown, if this PyTorch hides some of them."""
    return [hook for hooks in _global if hooks for hook in hooks.values()]


def register_global_hooks(
    enter: Callable[[nn.Module, tuple[Any, ...]], Any], leave: Callable[..., Any]
) -> Callable[[], None]:
    """Call `enter(module, args)` before and `leave(module, args, kwargs, output)` after every module, also on errors.

    Returns:
        Takes them back, with what PyTorch leaves behind: the number of a hook that takes keywords, which
        `torch.compile` then takes for a hook.
    """
    handles = [
        _module.register_module_forward_pre_hook(enter),
        _module.register_module_forward_hook(leave, with_kwargs=True, always_call=True),
    ]

    def remove() -> None:
        for handle in handles:
            handle.remove()
            getattr(_module, "_global_forward_hooks_with_kwargs", {}).pop(handle.id, None)

    return remove


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks or a forward method of its own; True if this PyTorch hides them."""
    return "forward" in module.__dict__ or any(getattr(module, name, True) for name in HOOKS)


def parameter(module: nn.Module, name: str) -> Tensor | None:
    """A registered parameter, faster than `getattr`; None if it is computed from others."""
    return module._parameters.get(name)


def buffer(module: nn.Module, name: str) -> Tensor:
    """A registered buffer, faster than `getattr`: a step of a deep network reads thousands."""
    found = module._buffers[name]
    assert found is not None
    return found
