"""PyTorch's global module hooks, and what they leave behind."""

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules import module as _module


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
