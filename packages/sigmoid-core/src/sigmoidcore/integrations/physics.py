"""A network for differential equations, in DeepXDE, PINA, PhysicsNeMo or a plain loop, that needs no settings."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.calibrate import prepare
from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.networks import MLP

FEWEST = 10  # points that tell the domain
RATIO = 10.0
"""The rate of `depth_scaled_lr` over Adam's: 0.01 when Adam has the 0.001 of every tutorial."""
# PyTorch 2.6 cannot tell one from the other.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class PhysicsMLP(nn.Module):
    """An `sc.MLP` that prepares itself at its first batch, and that one rate of Adam suits at every depth.

    Frameworks such as DeepXDE and PINA give all parameters one rate. Here the sizes of the weights, which the slopes
    undo, make up for what `depth_scaled_lr` would give each layer: `torch.optim.Adam(network.parameters(), lr=0.001)`
    changes the function as the groups of `depth_scaled_lr(network, 0.01)` do. So leave out `depth_scaled_lr`.

    Points all over the domain set the box that is mapped to -1 to 1 for each input, the weights (`sc.prepare`) and
    their sizes: those given to `network.prepare`, or else the first batch in training mode. Call `prepare` if that is
    a boundary. A state dict that is loaded has all of this.

    Args:
        in_features: number of inputs, the dimensions of space and time.
        width: neurons of each hidden layer.
        depth: number of hidden layers.
        out_features: number of outputs.
        fourier: number of random waves that the first layer reads, see `sc.MLP`; None: half of the width, so that
            it reads as many sines and cosines as it has neurons. 0: it reads the inputs.

    Shape:
        Input [points, in_features], also PINA's labelled tensors; output [points, out_features], a plain tensor.

    Raises:
        ValueError: a size is smaller than 1; points have another number of inputs; those that prepare it are fewer than
            ten, not finite, or the same in one input.
        RuntimeError: the first batch in training mode comes from `torch.func.vmap` or `torch.compile`.
        TypeError: points are not a tensor.

    Example:
        >>> network = PhysicsMLP(2, 32, 8, 1)
        >>> points = torch.rand(500, 2, requires_grad=True)
        >>> u = network(points)
        >>> f"{float(u.detach().std()):.2f}"
        '1.00'
        >>> optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    """

    centre: Tensor
    radius: Tensor
    factor: Tensor

    def __init__(
        self, in_features: int, width: int, depth: int, out_features: int, *, fourier: int | None = None
    ) -> None:
        super().__init__()
        waves = (width + 1) // 2 if fourier is None else fourier
        self.network = MLP(in_features, width, depth, out_features, fourier=waves)
        self.is_prepared = False
        self.register_buffer("centre", torch.zeros(in_features))
        self.register_buffer("radius", torch.ones(in_features))
        self.register_buffer("factor", torch.tensor(0.0))  # until it is prepared
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        """Prepare, if this is the first batch; then apply the network."""
        points = self._checked(input)
        if not self.is_prepared and self.training:
            try:
                self.prepare(points)
            except RuntimeError as error:
                raise RuntimeError(f"{error}; call network.prepare(points) before torch.func and compile") from error
        elif not self.is_prepared:
            warnings.warn("this PhysicsMLP has random weights: call network.prepare(points) first", stacklevel=2)
        outputs: Tensor = self.network((points - self.centre) / self.radius)
        return outputs * self.factor if self.is_prepared else outputs

    def _checked(self, points: Tensor) -> Tensor:
        if not isinstance(points, Tensor):
            raise TypeError(
                f"points must be a tensor, got {type(points).__name__}: torch.tensor(points).float() is one"
            )
        if points.shape[-1:] != self.centre.shape:
            raise ValueError(
                f"this PhysicsMLP has {len(self.centre)} inputs, but the points have shape {tuple(points.shape)}: give "
                "a column for each input, torch.cat([x, t], 1), or x[:, None] for a single one"
            )
        return points if type(points) is Tensor or _is_exporting() else points.as_subclass(Tensor)

    @torch.no_grad()
    def prepare(self, points: Tensor) -> None:
        """Draw new weights for the domain of these points [points, in_features]."""
        points = self._checked(points).detach().reshape(-1, len(self.centre))
        low, high = points.amin(0), points.amax(0)
        if not bool(torch.isfinite(high - low).all()):
            raise ValueError(f"points from {low.tolist()} to {high.tolist()}: leave out those that are not finite")
        if len(points) < FEWEST or not bool((high > low).all()):
            raise ValueError(
                f"{len(points)} points from {low.tolist()} to {high.tolist()} do not fill the domain: call "
                "network.prepare with a few hundred points from all over it before the training"
            )
        self.centre.copy_((low + high) / 2)
        self.radius.copy_((high - low) / 2)
        required = [(p, p.requires_grad) for p in self.network.parameters()]
        self.network.requires_grad_()  # DeepXDE freezes the network while it evaluates, which comes first
        prepare(self.network, (points - self.centre) / self.radius, saturation="auto")
        self.factor.fill_(self._even_rates())
        for parameter, trains in required:
            parameter.requires_grad_(trains)
        self.is_prepared = True

    def _even_rates(self) -> float:
        """Divide each layer's parameters by the rate that it should have; slopes and the result undo this."""
        rates = {p: group["lr"] for group in depth_scaled_lr(self.network, RATIO) for p in group["params"]}
        rate, waiting = 1.0, [module for module in self.network if isinstance(module, (nn.Linear, SigmoidCore))]
        for module in waiting:
            if isinstance(module, nn.Linear):
                rate = rates[module.weight]
                module.weight.div_(rate)
                module.bias.div_(rate)
            else:
                module.set_slope(module.slope * rate)
                module.set_shift(module.shift / rate)
        return rate


def _after_loading(network: PhysicsMLP, _: Any) -> None:
    network.is_prepared = bool(network.factor)
