"""Whether code runs as it is written."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from unstuck.observation import transforms_active


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
