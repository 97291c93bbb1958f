"""PyTorch's global hooks of modules and optimizers, and what they leave behind."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules import module as _module
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

Stepping = TypeVar("Stepping")


def stepping(kind: type[Stepping]) -> Stepping | None:
    """The optimizer or gradient scaler whose `step` runs and has called the caller; None without any."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        one = frame.f_locals.get("self") if frame.f_code.co_name == "step" else None
        if issubclass(type(one), kind):  # `isinstance` asks a proxy
            return one
        frame = frame.f_back
    return None


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


@contextmanager
def without_optimizer_hooks() -> Iterator[None]:
    """Without the global hooks of `register_optimizer_step_pre_hook` and its kind, which nothing public suspends."""
    every: tuple[dict[int, Any], ...] = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
    kept = [dict(hooks) for hooks in every]
    for hooks in every:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, before in zip(every, kept, strict=True):
            hooks.update(before)
