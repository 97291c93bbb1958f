"""nn.MultiheadAttention as one layer: it computes with the weights of its parts, which never run as modules."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.orthogonal import orthogonal_
from unstuck.observation import bare, root_mean_square

_INPUTS = ("query", "key", "value")


def last_part(layer: nn.Module) -> nn.Module:
    """What makes the outputs of a layer: of attention, the projection of its heads."""
    return layer.out_proj if isinstance(layer, nn.MultiheadAttention) else layer


def output_in(layer: nn.Module, result: Any) -> Any:
    """The outputs in what a layer returns: attention returns its weights, too."""
    return result[0] if isinstance(layer, nn.MultiheadAttention) else result


def projections(attention: nn.MultiheadAttention) -> Sequence[tuple[Tensor, Tensor | None]]:
    """Weight and bias of queries, keys and values; with one width of inputs, they are views of one parameter each."""
    own = dict(attention.named_parameters(recurse=False))
    if "in_proj_weight" in own:
        weights = list(own["in_proj_weight"].chunk(3))
    else:
        weights = [own[f"{what}_proj_weight"] for what in "qkv"]
    biases = own["in_proj_bias"].chunk(3) if "in_proj_bias" in own else [None] * 3
    return list(zip(weights, biases, strict=True))


@torch.no_grad()
def make_orthogonal_attention(attention: nn.MultiheadAttention, generator: torch.Generator) -> None:
    """Orthogonal weights and zero biases, in place."""
    for weight, bias in [*projections(attention), (attention.out_proj.weight, attention.out_proj.bias)]:
        orthogonal_(weight, generator)
        if bias is not None:
            bias.zero_()


@torch.no_grad()
def size_projections(attention: nn.MultiheadAttention, inputs: tuple[Tensor, ...]) -> None:
    """Give queries, keys and values of these inputs the size 1."""
    for x, (weight, bias) in zip(inputs, projections(attention), strict=True):
        size = root_mean_square(nn.functional.linear(bare(x).to(weight.dtype), weight, bias))
        if 0 < size < math.inf:
            weight.div_(size)


def read_by(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    """Query, key and value of a call."""
    return tuple({**dict(zip(_INPUTS, args, strict=False)), **kwargs}[name] for name in _INPUTS)
