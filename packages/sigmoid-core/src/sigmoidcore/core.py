"""SigmoidCore: a sigmoid with an adjustable input slope and shift."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LARGEST_LOG = 80.0  # a trained slope is between exp(-80) and exp(80): positive and finite in float32
HALF, PRECISE = (torch.float16, torch.bfloat16), (torch.float32, torch.float64)


def sigmoid_core(
    x: Tensor, alpha: Tensor | float = 1.0, shift: Tensor | float = 0.0, *, centered: bool = False, scale: float = 1.0
) -> Tensor:
    """y = scale * sigmoid(alpha (x - shift)), with sigmoid less 1/2 if `centered`; plain differentiable PyTorch.

    The article's equation x' = alpha x, with the shift as its second way to adjust the input.

    Args:
        x: preactivations, any shape, floating.
        alpha: slope, a positive number or a tensor that broadcasts against `x`.
        shift: mu, likewise.
        centered: subtract 1/2; computed as tanh(z/2)/2, which loses nothing near z = 0, unless it is compiled.
        scale: constant factor of the output; a centered core of slope 2 and scale 2 is tanh, bit for bit if eager.

    Returns:
        Outputs in [0, scale], or [-scale/2, scale/2] if centered; the broadcast shape.

    Example:
        >>> sigmoid_core(torch.tensor([-1.0, 1.0]), alpha=4.0, shift=1.0)
        tensor([3.3535e-04, 5.0000e-01])
    """
    return _of_shifted(x - shift, alpha, centered, scale)


def _of_shifted(x: Tensor, alpha: Tensor | float, centered: bool, scale: float) -> Tensor:
    if centered and x.dtype in PRECISE and torch.compiler.is_dynamo_compiling():
        y = torch.sigmoid(x * alpha) - 0.5  # compiled, it takes less time than tanh; the absolute error is up to 3e-8
    elif centered:
        y, scale = torch.tanh(x * (alpha * 0.5)), scale * 0.5
    else:
        y = torch.sigmoid(x * alpha)
    return y if scale == 1 else y * scale


class CoreModule(nn.Module):
    """Base of the modules with slopes and shifts, `SigmoidCore` and the recurrent layers: their dtypes and states."""

    def initial_values(self) -> dict[str, Tensor]:
        """Slopes and shifts of the plain activation, by name; on the CPU if the module is on the meta device."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set slopes and shifts to the initial ones, for example after `to_empty` of a model on the meta device."""
        for name, value in self.initial_values().items():
            getattr(self, name).copy_(value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        values = self.initial_values()
        if not any(prefix + name in state_dict for name in values):
            state_dict.update({prefix + name: value for name, value in values.items()})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        before = dict(self.named_buffers(recurse=False))
        module = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, old in before.items():
            new = self.get_buffer(name)
            if new.dtype in HALF:
                setattr(self, name, old.to(new.device))
        return module


class SigmoidCore(CoreModule):
    """A sigmoid whose input slope and shift are set by a controller (`calibrate`, `Equalizer`), not by the loss.

    As constructed, `SigmoidCore()` equals `nn.Sigmoid()` bit for bit. Slope and shift are buffers in the state dict,
    changed in place only. They stay float32 (or float64) when the model is cast to half precision, and are cast to the
    input's dtype at use. A state dict without slope and shift, that of the plain model before `convert`, resets them.

    Args:
        num_features: neurons with a slope and a shift each; None: one slope and one shift for the layer.
        dim: the dimension of the input that counts neurons (-1 after Linear, 1 after a convolution).
        alpha: initial slope, positive.
        centered: the output is sigmoid(z) - 1/2 = tanh(z/2)/2.
        trainable: the slope is a parameter (its logarithm, so that it stays positive), trained with the weights.
        scale: constant factor of the output; a centered core of slope 2 and scale 2 is `nn.Tanh`, bit for bit.

    Attributes:
        slope: buffer, shape [num_features] or []; with `trainable` it is absent and `log_slope` is the parameter.
        shift: buffer, shape [num_features] or [].

    Shape:
        Input and output: any shape, with `num_features` entries in dimension `dim`.

    Raises:
        ValueError: `alpha`, `scale` or `num_features` is not positive, or the input has another number of features.

    Example:
        >>> core = SigmoidCore(3)
        >>> x = torch.randn(2, 3)
        >>> torch.equal(core(x), torch.sigmoid(x))
        True
    """

    slope: Tensor
    shift: Tensor
    log_slope: nn.Parameter
    unstuck_function = "s_shaped"
    """The kind of activation that a diagnosis takes it for, whatever it computes it with."""

    def __init__(
        self,
        num_features: int | None = None,
        *,
        dim: int = -1,
        alpha: float = 1.0,
        centered: bool = False,
        trainable: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if num_features is not None and num_features < 1:
            raise ValueError(f"num_features must be at least 1, or None for one slope a layer, got {num_features}")
        for what, value in (("alpha", alpha), ("scale", scale)):
            if not torch.finfo(torch.float32).tiny <= value <= torch.finfo(torch.float32).max:
                raise ValueError(f"{what} must be a positive finite number, got {value} (float32 holds 1e-38 to 3e38)")
        self.num_features = num_features
        self.dim = dim
        self.centered = centered
        self.trainable = trainable
        self.scale = float(scale)
        self.initial_slope = float(alpha)
        dtype = torch.get_default_dtype()
        shape = () if num_features is None else (num_features,)
        slope = torch.full(shape, self.initial_slope, dtype=torch.float32 if dtype in HALF else dtype)
        if trainable:
            self.log_slope = nn.Parameter(slope.log())
        else:
            self.register_buffer("slope", slope)
        self.register_buffer("shift", torch.zeros_like(slope))

    def initial_values(self) -> dict[str, Tensor]:
        """See `CoreModule`."""
        shift = torch.zeros_like(self.shift, device="cpu" if self.shift.is_meta else None)
        slope = torch.full_like(shift, self.initial_slope)
        return {"log_slope": slope.log(), "shift": shift} if self.trainable else {"slope": slope, "shift": shift}

    @property
    def alpha(self) -> Tensor:
        """The slope, shape [num_features] or []; differentiable if it is trained."""
        if not self.trainable:
            return self.slope
        log_slope = self.log_slope.float() if self.log_slope.dtype in HALF else self.log_slope
        return log_slope.clamp(-LARGEST_LOG, LARGEST_LOG).exp()

    def forward(self, input: Tensor) -> Tensor:
        """Apply the core; see the class. Its argument has the name that it has in `nn.Sigmoid`."""
        alpha, shift = self.align(input)
        return _of_shifted(input - shift, alpha, self.centered, self.scale)

    def in_rows(self, values: Tensor) -> Tensor:
        """Inputs or outputs as [rows, neurons], or [rows, 1] if the layer has one slope."""
        if self.num_features is None:
            return values.reshape(-1, 1)
        if values.dim() == 2 and self.dim % 2 == 1:
            return values
        return values.movedim(self.dim, -1).flatten(0, -2)

    def align(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and shift in the dtype of `x` and in a shape that broadcasts against it."""
        alpha, shift = self.alpha, self.shift
        if self.num_features is not None:
            if not -x.dim() <= self.dim < x.dim() or x.shape[self.dim] != self.num_features:
                raise ValueError(
                    f"SigmoidCore has {self.num_features} features in dimension {self.dim}, but the input has shape "
                    f"{tuple(x.shape)}; set num_features and dim to match it"
                )
            trailing = x.dim() - 1 - self.dim if self.dim >= 0 else -1 - self.dim
            if trailing:
                shape = (self.num_features, *[1] * trailing)
                alpha, shift = alpha.reshape(shape), shift.reshape(shape)
        if x.is_floating_point() and alpha.dtype != x.dtype:
            if x.dtype == torch.float16:  # whose largest number is 65504: an infinite slope would make 0 a nan
                largest = torch.finfo(torch.float16).max
                alpha, shift = alpha.clamp(max=largest), shift.clamp(-largest, largest)
            alpha, shift = alpha.to(x.dtype), shift.to(x.dtype)
        return alpha, shift

    @torch.no_grad()
    def set_slope(self, value: Tensor | float) -> None:
        """Set the slope in place, for all neurons or each (a tensor); a ValueError unless it is positive and finite."""
        slope = torch.as_tensor(value, dtype=self.shift.dtype, device=self.shift.device)
        if not bool((torch.isfinite(slope) & (slope > 0)).all()):
            raise ValueError(f"a slope must be a positive finite number, got {value}")
        if self.trainable:
            self.log_slope.data.copy_(slope.log())  # a penalty on the slopes may be in the graph of this step already
        else:
            self.slope.copy_(slope)

    @torch.no_grad()
    def set_shift(self, value: Tensor | float) -> None:
        """Set the shift in place, for all neurons or each (a tensor); a ValueError unless it is finite."""
        shift = torch.as_tensor(value, dtype=self.shift.dtype, device=self.shift.device)
        if not bool(torch.isfinite(shift).all()):
            raise ValueError(f"a shift must be finite, got {value}")
        self.shift.copy_(shift)

    def extra_repr(self) -> str:
        """The arguments that `print(model)` shows; it does not read the slope, so it does not wait for a GPU."""
        parts = [] if self.num_features is None else [str(self.num_features)]
        if self.dim != -1:
            parts.append(f"dim={self.dim}")
        parts += [f"{name}=True" for name in ("centered", "trainable") if getattr(self, name)]
        if self.scale != 1:
            parts.append(f"scale={self.scale:g}")
        return ", ".join(parts)
