"""BoundedNorm: a core and an affine map in the place of a normalisation layer."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.core import CoreModule, SigmoidCore
from sigmoidcore.gain import tanh_size
from unstuck.observation.sizes import root_mean_square

LEVEL = 0.5  # saturation level of a place whose level nobody has set


class BoundedNorm(CoreModule):
    """y = gain tanh(alpha x) (offset + weight) + bias, which stands where a normalisation stood.

    Dynamic Tanh (Zhu et al., 2025, arXiv 2503.10622), with alpha as a buffer: `calibrate` sets alpha = u / rms(x) from
    one batch, and the `Equalizer` keeps it right during training. It is a centered `SigmoidCore` of scale 2 (a tanh
    whose alpha is half the slope), followed by the parameters of the layer that it replaces. `gain` makes up for the
    size of the tanh, so that the parameters keep the meaning that they had in the normalisation.

    As constructed, the level is 0.5: right for an input of size 1.

    Args:
        weight: a parameter that broadcasts against the input, shape [features] as a rule, or None for 1.
        bias: likewise, or None for 0.
        offset: 1 for layers that multiply by 1 + weight.
        unit: `calibrate` gives the tanh the size 1, as a normalisation has; else it keeps the size that it finds.

    Attributes:
        core: the `SigmoidCore`, with one slope.
        gain: buffer, shape []; 1 / rms(tanh(alpha x)) after `calibrate`, if `unit`.
        level: buffer, shape []; the saturation level u that the `Equalizer` keeps; 0: the one that it finds.

    Shape:
        Input and output: any shape that `weight` and `bias` broadcast against.

    Example:
        >>> norm = BoundedNorm(nn.Parameter(torch.ones(64)), None)
        >>> x = torch.randn(1000, 64)
        >>> torch.testing.assert_close(norm(x).square().mean(), torch.tensor(1.0), rtol=0.02, atol=0)
    """

    gain: Tensor
    level: Tensor
    eps = math.nan
    """nn.TransformerEncoderLayer computes a LayerNorm by itself if the epsilons of both norms are equal."""

    def __init__(
        self, weight: nn.Parameter | None, bias: nn.Parameter | None, *, offset: float = 0.0, unit: bool = True
    ) -> None:
        super().__init__()
        self.core = SigmoidCore(alpha=2 * LEVEL, centered=True, scale=2.0)
        self.weight = weight
        self.bias = bias
        self.offset = offset
        self.unit = unit
        self.register_buffer("gain", torch.ones_like(self.core.shift))
        self.register_buffer("level", torch.zeros_like(self.core.shift))
        self.reset_parameters()

    def initial_values(self) -> dict[str, Tensor]:
        """See `CoreModule`."""
        one = torch.ones_like(self.gain, device="cpu" if self.gain.is_meta else None)
        return {"gain": one / tanh_size(LEVEL), "level": one * LEVEL}

    @classmethod
    def of_tanh(cls, alpha: Tensor, weight: nn.Parameter | None, bias: nn.Parameter | None) -> "BoundedNorm":
        """The module that computes tanh(alpha x) weight + bias, for one positive alpha; it has no level of its own."""
        made = cls(weight, bias, unit=False)
        made.core.set_slope(2 * alpha.detach().reshape(()))
        made.gain.fill_(1.0)
        made.level.fill_(0.0)
        return made

    @torch.no_grad()
    def fit(self, x: Tensor, level: float) -> bool:
        """Set alpha = level / rms(x), and the gain for the size of the output; False if x is 0, without a change."""
        x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        size = root_mean_square(x)
        if size == 0:
            return False
        wanted = 1.0 if self.unit else float(self.gain) * self._size_of_tanh(x)
        self.core.set_slope(2 * level / size)
        self.gain.fill_(wanted / self._size_of_tanh(x))
        self.level.fill_(level)
        return True

    def _size_of_tanh(self, x: Tensor) -> float:
        return root_mean_square(self.core.forward(x))  # past hooks, which see what the model runs

    def forward(self, input: Tensor) -> Tensor:
        """Apply the core, then the affine map; see the class."""
        y: Tensor = self.core(input)
        if self.weight is None:
            factor = self.gain.to(y.dtype)
        else:
            factor = self.gain.to(self.weight.dtype) * (self.weight + self.offset if self.offset else self.weight)
        return y * factor if self.bias is None else torch.addcmul(self.bias, y, factor)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        alpha = state_dict.pop(prefix + "alpha", None)
        if alpha is not None:  # a checkpoint of the Dynamic Tanh that stood here
            slope = 2 * alpha.detach().reshape(()).to(self.gain.dtype)
            state_dict.update({prefix + "core.slope": slope, prefix + "core.shift": torch.zeros_like(slope)})
            state_dict.update({prefix + "gain": torch.ones_like(slope), prefix + "level": torch.zeros_like(slope)})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Shape of the parameters, and what differs from the defaults."""
        shape = next((tuple(p.shape) for p in (self.weight, self.bias) if p is not None), ())
        parts = [str(shape) if len(shape) != 1 else str(shape[0])] if shape else []
        parts += [f"offset={self.offset:g}"] if self.offset else []
        return ", ".join([*parts, *([] if self.unit else ["unit=False"])])


def bounded_norms(model: nn.Module) -> dict[str, BoundedNorm]:
    """The places of a model where a bounded norm stands, by the names of their cores."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, BoundedNorm)}
    return {f"{name}.core" if name else "core": module for name, module in found.items()}
