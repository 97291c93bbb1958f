"""What runs with a module, and whether others may take its place: no public function lists hooks or modes."""

from collections.abc import Callable, Iterable
from copy import copy
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as _module

from unstuck.observation import transforms_active

_KINDS = ("backward_pre", "backward", "forward_pre", "forward")
_global = [getattr(_module, f"_global_{kind}_hooks", {0: None}) for kind in _KINDS]
_CALLED = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_hooks: Any = itemgetter(*_CALLED) if {*_CALLED} <= {*vars(nn.Module())} else lambda _: [True]


def has_hooks(*modules: nn.Module) -> bool:
    """Whether forward or backward hooks run with one of these modules."""
    return any(map(any, map(_hooks, map(vars, modules))))


def give_hooks(source: nn.Module, target: nn.Module, *, copies: bool = False) -> None:
    """Give a module the hooks of the one that it replaces, which their handles still remove; or copies of its own."""
    hooks = {name: value for name, value in vars(source).items() if "hook" in name}
    vars(target).update({name: copy(value) for name, value in hooks.items()} if copies else hooks)


def global_hooks() -> list[Callable[..., Any] | None]:
    """The hooks that are called for every module; [None] if this PyTorch hides some of them."""
    return [hook for hooks in _global if hooks for hook in hooks.values()]


def registered(modules: Iterable[nn.Module], name: str) -> list[Any]:
    """Parameter, buffer, module or None of each: fifty times as fast as `getattr`, and a deep step reads thousands."""
    return [m._parameters.get(name, m._buffers.get(name, m._modules.get(name))) for m in modules]


def runs_plainly(x: Tensor) -> bool:
    """Whether operations on `x` do what they say and no more: others with the same result may take their place."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and (x.is_cpu or x.is_cuda)
        and not torch._C._len_torch_function_stack()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
        and not transforms_active()
        and forward_ad._current_level < 0
        and not torch._C._is_any_autocast_enabled()
    )
