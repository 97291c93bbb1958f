"""Whether PyTorch runs plainly: nobody traces, transforms, casts or watches what a model computes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

_DEVICES = ("cpu", "cuda")
_FORWARD = "forward"


def runs_plainly(x: Tensor) -> bool:
    """Whether operations on `x` do what they say and no more, so that others with the same result may take their place.

    Not so while compiling, exporting or tracing, under a `TorchFunctionMode` or `TorchDispatchMode`, in a transform of
    `torch.func`, in forward-mode differentiation, under autocast, with global hooks on modules, nor for tensors of
    another class or without values.
    """
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and x.device.type in _DEVICES
        and not torch._C._len_torch_function_stack()
        and not torch._C._len_torch_dispatch_stack()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.is_autocast_enabled(x.device.type)
        and not _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def unwatched(modules: Iterable[nn.Module]) -> bool:
    """Whether no module has hooks of its own, or a forward of its own."""
    return not any(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or "forward" in m.__dict__
        for m in modules
    )
