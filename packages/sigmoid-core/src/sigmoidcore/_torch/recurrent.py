"""PyTorch's recurrent layers with other weights: their fused kernels are only called with the layer's own."""

from copy import copy
from typing import TypeVar

from torch import Tensor, nn

_Layer = TypeVar("_Layer", bound=nn.RNNBase)


def with_flat_weights(layer: nn.RNNBase, kind: type[_Layer], flat: list[Tensor]) -> _Layer:
    """A view of a layer as one of another class whose kernel gets these weights, biases included; for one call.

    `torch.func.functional_call` would need a second layer, and takes several times as long.
    """
    view = object.__new__(kind)
    view.__dict__.update(layer.__dict__)
    # No reference to a parameter: PyTorch would compare it and take the parameters themselves.
    view.__dict__.update(_flat_weights=flat, _flat_weight_refs=[None] * len(layer._flat_weights_names), bias=True)
    return view


def with_same_parameters(layer: nn.RNNBase, kind: type[_Layer]) -> _Layer:
    """A layer of another class with the same parameters (not copies), hooks and mode."""
    made = object.__new__(kind)
    made.__dict__.update(layer.__dict__)
    made.__dict__.pop("_compiled_call_impl", None)  # of layer.compile(): it would run the other layer
    for name in ("_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs"):
        made.__dict__[name] = copy(made.__dict__[name])
    return made
