"""Fresh weights for depth: orthogonal matrices and kernels, and the scales of the first and the last layer."""

import torch
from torch import Tensor, nn

from sigmoidcore.nn.networks import RNN
from sigmoidcore.nn.recurrent import RecurrentCores

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)
"""The layers that `prepare` gives fresh weights."""
BAND = 2.0
"""Features whose deviations are within this factor of the typical one keep their relative size: it is the user's."""


@torch.no_grad()
def make_orthogonal(layer: nn.Module, generator: torch.Generator, *, reads_inputs: bool = False) -> None:
    """Orthogonal weights and a zero bias, in place, for one layer of `WEIGHTED`.

    A convolution gets a delta-orthogonal kernel, per group: an orthogonal matrix at its centre and 0 elsewhere, which
    does not blur. With a stride it would lose pixels, and on inputs of few channels it would see points instead of
    patches: then the kernel is orthogonal as a whole.

    Source:
        Saxe, McClelland, Ganguli (2014), arXiv 1312.6120; Xiao et al. (2018), arXiv 1806.05393.
    """
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    if isinstance(layer, nn.Linear):
        orthogonal_(weight, generator)
    elif isinstance(layer, CONVOLUTIONS + TRANSPOSED):
        centre = weight
        if max(layer.stride) == 1 and not reads_inputs:
            weight.zero_()
            for size in reversed(weight.shape[2:]):
                centre = centre[..., size // 2]
        for group in centre.chunk(layer.groups):
            orthogonal_(group, generator)
    if isinstance(bias, Tensor):
        bias.zero_()


@torch.no_grad()
def make_recurrent_orthogonal(layer: nn.Module, generator: torch.Generator) -> None:
    """Orthogonal weights for every gate, and zero biases, in place, for a recurrent layer of cores."""
    if isinstance(layer, RNN):
        orthogonal_(layer.weight_hh, generator)
        orthogonal_(layer.weight_ih, generator)
        layer.bias.zero_()
    elif isinstance(layer, RecurrentCores):
        for weights in map(layer.weights, layer.suffixes):
            for weight in (weights.ih, weights.hh):
                for gate in weight.chunk(len(layer.cell.slopes)):
                    orthogonal_(gate, generator)
            if weights.hr is not None:
                orthogonal_(weights.hr, generator)
            weights.bias_ih.zero_()
            weights.bias_hh.zero_()


@torch.no_grad()
def orthogonal_(weight: Tensor, generator: torch.Generator) -> None:
    """Orthonormal rows or columns, drawn evenly, in float32 or better on the CPU."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape, dtype=dtype), generator=generator))


@torch.no_grad()
def scale_to_features(layer: nn.Module, inputs: Tensor) -> None:
    """Bring features whose deviations are out of the band around the typical one to its edge.

    Features in one unit keep their sizes; one that is a million times larger than the rest does not drown them.
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    flat = (inputs if isinstance(layer, nn.Linear) else inputs.movedim(1, -1)).flatten(0, -2).to(torch.float64)
    if flat.shape[0] < 2:
        return
    largest = flat.abs().amax(0)
    deviation = flat.std(0)
    size = torch.where(deviation > 1e-6 * largest, deviation, largest)
    if not bool((size > 0).any()):
        return
    typical = size[size > 0].log().median().exp()
    excess = torch.where(size > 0, size / size.clamp(typical / BAND, typical * BAND), 1.0).to(weight.dtype)
    if isinstance(layer, TRANSPOSED):
        weight.div_(excess.reshape(-1, *[1] * (weight.dim() - 1)))
    elif isinstance(layer, CONVOLUTIONS):  # a group reads its own channels
        groups = excess.reshape(layer.groups, 1, weight.shape[1], *[1] * (weight.dim() - 2))
        weight.div_(groups.expand(-1, weight.shape[0] // layer.groups, *groups.shape[2:]).flatten(0, 1))
    else:
        weight.div_(excess)


@torch.no_grad()
def scale_to_unit_outputs(layer: nn.Module, output: Tensor, *, centre: bool = False) -> None:
    """Scale a last layer so that its outputs have standard deviation 1 over the batch; if `centre`, and mean 0."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    if output.shape[0] < 2:
        return
    size = float(torch.linalg.vector_norm(output - output.mean(0), dtype=torch.float64)) / output.numel() ** 0.5
    if size > 1e-5 * float(output.abs().amax()):
        weight.div_(size)
        if centre and isinstance(layer, nn.Linear) and isinstance(bias, Tensor):
            bias.sub_(output.flatten(0, -2).mean(0) / size)
