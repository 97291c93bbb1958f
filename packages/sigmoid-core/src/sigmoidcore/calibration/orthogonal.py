"""Fresh orthogonal weights, drawn as a batch reaches the layers: the first and the last ones depend on the batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.recurrent import RecurrentCores
from sigmoidcore.observation.graph import Segments
from sigmoidcore.observation.layer_observer import LayerObserver
from unstuck.observation import bare

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)  # `prepare` gives them fresh weights
BAND = 2.0  # features whose deviations are within this factor of the typical one keep their relative size, the user's


@torch.no_grad()
def make_orthogonal(layer: nn.Module, generator: torch.Generator, *, reads_inputs: bool = False) -> None:
    """Orthogonal weights and a zero bias, in place, for one layer of `WEIGHTED`.

    A convolution gets a delta-orthogonal kernel, per group: an orthogonal matrix at its centre and 0 elsewhere, which
    does not blur. With a stride it would lose pixels, and on inputs of few channels it would see points instead of
    patches: then the kernel is orthogonal as a whole.

    Source:
        Saxe, McClelland, Ganguli (2014), arXiv 1312.6120; Xiao et al. (2018), arXiv 1806.05393.
    """
    centre: Tensor = layer.get_parameter("weight")
    groups = 1
    if isinstance(layer, CONVOLUTIONS + TRANSPOSED):
        groups = layer.groups
        if max(layer.stride) == 1 and not reads_inputs:
            centre.zero_()
            for size in reversed(centre.shape[2:]):
                centre = centre[..., size // 2]
    for group in centre.chunk(groups):
        orthogonal_(group, generator)
    if isinstance(layer.bias, Tensor):
        layer.bias.zero_()


@torch.no_grad()
def make_recurrent_orthogonal(layer: RecurrentCores, generator: torch.Generator) -> None:
    """Orthogonal weights for every gate, and zero biases, in place, for a recurrent layer of cores."""
    for name, parameter in layer.named_parameters(recurse=False):
        if parameter.dim() == 1:
            parameter.zero_()
            continue
        for gate in parameter.chunk(1 if name.startswith("weight_hr") else len(layer.cell.slopes)):
            orthogonal_(gate, generator)


@torch.no_grad()
def orthogonal_(weight: Tensor, generator: torch.Generator) -> None:
    """Orthonormal rows or columns, drawn evenly, in float32 or better on the CPU."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape, dtype=dtype), generator=generator))


@torch.no_grad()
def scale_to_features(layer: nn.Module, inputs: Tensor) -> None:
    """Bring features whose deviations are out of the band to its edge, so that a huge one does not drown the rest."""
    weight = layer.get_parameter("weight")
    flat = (inputs if isinstance(layer, nn.Linear) else inputs.movedim(1, -1)).flatten(0, -2).to(torch.float64)
    largest, deviation = flat.abs().amax(0), flat.std(0, correction=min(1, len(flat) - 1))
    size = torch.where(deviation > 1e-6 * largest, deviation, largest)
    if len(flat) < 2 or not bool((size > 0).any()):
        return
    typical = size[size > 0].log().median().exp()
    excess = torch.where(size > 0, size / size.clamp(typical / BAND, typical * BAND), 1.0).to(weight.dtype)
    taps, groups = [1] * (weight.dim() - 2), getattr(layer, "groups", 1)
    if isinstance(layer, TRANSPOSED):
        weight.div_(excess.reshape(-1, 1, *taps))
    else:  # a group reads its own channels
        weight.unflatten(0, (groups, -1)).div_(excess.reshape(groups, 1, -1, *taps))  # type: ignore[no-untyped-call]


@torch.no_grad()
def scale_to_unit_outputs(layer: nn.Module, output: Tensor, *, centre: bool = False) -> None:
    """Scale a last layer so that its outputs have standard deviation 1 over the batch; if `centre`, and mean 0."""
    size = float(torch.linalg.vector_norm(output - output.mean(0), dtype=torch.float64)) / output.numel() ** 0.5
    if output.shape[0] > 1 and size > 1e-5 * float(output.abs().amax()):
        layer.get_parameter("weight").div_(size)
        if centre and isinstance(layer, nn.Linear) and layer.bias is not None:
            layer.bias.sub_(output.flatten(0, -2).mean(0) / size)


class FreshWeights(LayerObserver):
    """Draws orthogonal weights for each layer when the batch first reaches it, and sizes the first and last layers."""

    def __init__(self, model: nn.Module, segments: Segments, note: Callable[[str], None]) -> None:
        drawn = (*WEIGHTED, RecurrentCores)
        super().__init__({n: m for n, m in model.named_modules() if isinstance(m, drawn)})
        computed = computed_weights(model)
        if computed:
            raise ValueError(
                f"the weight of layer '{computed[0]}' ({len(computed)} in all) is computed from other parameters "
                "(weight_norm, spectral_norm, a parametrization), so prepare cannot give it fresh ones: prepare first "
                "and parametrize then, or use calibrate"
            )
        self._segments, self._note = segments, note
        self._reached: set[nn.Module] = set()
        self._samples: dict[str, Tensor] = {}
        # One draw, which the global generator keeps: the next model gets other weights.
        self._rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))

    def attach(self) -> None:
        """Watch a pass; the tensors of the one before are forgotten."""
        self._outputs = WeakTensorKeyDictionary()
        self._last: tuple[nn.Module, Tensor] | None = None
        self.drawn: set[nn.Module] = set()  # recurrent layers whose weights were drawn in this pass
        self.scales: list[tuple[nn.Module, float]] = []  # of the weights of layers, at the end of the pass
        super().attach()

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Draw the weights of a layer that has not been reached before."""
        if layer not in self._reached and not self._is_frozen(layer):
            if isinstance(layer, RecurrentCores):
                make_recurrent_orthogonal(layer, self._rng)
                self.drawn.add(layer)
            else:
                reads_inputs = not self._segments.behind(x)[0]
                make_orthogonal(layer, self._rng, reads_inputs=reads_inputs)
                if reads_inputs:
                    scale_to_features(layer, bare(x))
        self._reached.add(layer)
        return x

    def makes(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Remember the layer of an output, without keeping the output alive."""
        self._last = None
        if isinstance(layer, WEIGHTED) and not self._is_frozen(layer):
            self._last = layer, output
            self._outputs[output] = layer
        return output

    def take_layer(self, x: Tensor) -> nn.Module | None:
        """The layer that a core reads directly."""
        last, self._last = self._last, None
        return last[0] if last is not None and last[1] is x else None

    def sample_for_each_neuron(self, name: str, signal: Tensor) -> Tensor:
        """For each neuron its preactivation at one sample: in every pass at the same place in the batch."""
        rows = signal.flatten(0, -2)
        if name not in self._samples:
            self._samples[name] = torch.rand(1, rows.shape[1], generator=self._rng, dtype=torch.float64)
        chosen = (self._samples[name] * len(rows)).long()
        return rows.gather(0, chosen.to(rows.device))

    @torch.no_grad()
    def finish(self, outputs: Sequence[Tensor]) -> None:
        """After the pass: the sizes of first layers, and outputs of standard deviation 1."""
        for layer, scale in self.scales:
            for parameter in layer.parameters(recurse=False):
                parameter.mul_(scale)
        heads = [(self._outputs[output], output) for output in outputs if output in self._outputs]
        if not heads and self._last is not None:
            heads = [self._last]
        for layer, output in heads:
            centre = any(name in self._samples for name in self._segments.behind(output)[1])
            scale_to_unit_outputs(layer, output, centre=centre)

    def _is_frozen(self, layer: nn.Module) -> bool:
        """Whether a layer keeps its weights because somebody has trained it."""
        frozen = any(not p.requires_grad for p in layer.parameters(recurse=False) if p.dim() > 1)
        if frozen:
            self._note("weights with requires_grad=False were kept; unfreeze those that should be drawn anew")
        return frozen


def reads_one_feature(core: SigmoidCore, layer: nn.Module | None, x: Tensor) -> bool:
    """Whether a core follows a fresh layer of one feature: all neurons would be nearly the same function."""
    one = isinstance(layer, nn.Linear) and layer.in_features == 1 and len(x) > 1
    return one and core.num_features is not None and core.dim % x.dim() == x.dim() - 1


def computed_weights(model: nn.Module) -> list[str]:
    """The layers, by name, whose weight is computed from other parameters: `prepare` cannot draw it."""
    weighted = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, WEIGHTED))
    return [name for name, layer in weighted if "weight" not in dict(layer.named_parameters(recurse=False))]
