"""The hooks that PyTorch calls for every module."""

from torch.nn.modules import module


def global_hooks():
    kinds = ("backward_pre", "backward", "forward_pre", "forward")
    return [hook for kind in kinds for hook in getattr(module, f"_global_{kind}_hooks").values()]
