"""A network for differential equations, in DeepXDE, PINA, PhysicsNeMo or a plain loop, that needs no settings."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.nn.networks import check_sizes
from sigmoidcore.nn.residual import RATE, ResidualLayer, TrainedWaves, orthogonal, run

FEWEST = 10  # points that tell the domain
LAST = 0.1  # gain of the last layer at the start: u begins near 0
# PyTorch 2.6 cannot tell one from the other.
_is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


class PhysicsMLP(nn.Module):
    """Residual layers of cores behind waves of the inputs, smooth and bounded, which one rate of Adam suits.

        h_0 = sines and cosines of waves,   h_l = h_(l-1) + core(W_l h_(l-1) + b_l),   u = W h_depth + b

    The W_l begin small: u is nearly a sum of waves, and the gradient has the same size in every layer. Leave out
    `sc.prepare` and `depth_scaled_lr`: weights and slopes are such that `torch.optim.Adam(network.parameters(),
    lr=0.001)` suits at every depth. SGD would act 100 times as strongly, L2 penalties as weakly.

    Points all over the domain set the box that is mapped to -1 to 1 for each input: those given to `network.prepare`,
    or else the first batch in training mode. Call `prepare` if that is a boundary. A state dict has the box.

    Args:
        in_features: number of inputs, the dimensions of space and time.
        width: neurons of each hidden layer, and number of sines and cosines.
        depth: number of hidden layers.
        out_features: number of outputs.

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
        >>> network(points).shape
        torch.Size([500, 1])
        >>> optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    """

    centre: Tensor
    radius: Tensor
    box_is_known: Tensor

    def __init__(self, in_features: int, width: int, depth: int, out_features: int) -> None:
        super().__init__()
        check_sizes(in_features=in_features, width=width, depth=depth, out_features=out_features)
        layers = [ResidualLayer(width, depth) for _ in range(depth)]
        self.network = nn.Sequential(TrainedWaves(in_features, width), *layers, orthogonal(width, out_features, LAST))
        self.is_prepared = False
        self.register_buffer("centre", torch.zeros(in_features))
        self.register_buffer("radius", torch.ones(in_features))
        self.register_buffer("box_is_known", torch.tensor(False))
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    def forward(self, input: Tensor) -> Tensor:
        """Prepare, if this is the first batch; then apply the network."""
        points = self._checked(input)
        if not self.is_prepared and not torch.compiler.is_compiling():  # buffers were copied, as AveragedModel does
            self.is_prepared = bool(self.box_is_known)
        if not self.is_prepared and self.training:
            try:
                self.prepare(points)
            except RuntimeError as error:
                raise RuntimeError(f"{error}; call network.prepare(points) before torch.func and compile") from error
        elif not self.is_prepared:
            warnings.warn("this PhysicsMLP has no domain yet: call network.prepare(points) first", stacklevel=2)
        return RATE * run(self.network, (points - self.centre) / self.radius)

    def _checked(self, points: Tensor) -> Tensor:
        if not isinstance(points, Tensor):
            raise TypeError(f"points must be a tensor, got {type(points).__name__}: give torch.tensor(points).float()")
        if points.shape[-1:] != self.centre.shape:
            raise ValueError(
                f"this PhysicsMLP has {len(self.centre)} inputs, but the points have shape {tuple(points.shape)}: give "
                "a column for each input, torch.cat([x, t], 1), or x[:, None] for a single one"
            )
        return points if type(points) is Tensor or _is_exporting() else points.as_subclass(Tensor)

    @torch.no_grad()
    def prepare(self, points: Tensor) -> None:
        """Take the box of these points [points, in_features] for the domain; weights stay."""
        points = self._checked(points).detach().reshape(-1, len(self.centre))
        low, high = (points.amin(0), points.amax(0)) if len(points) else (self.centre, self.centre)
        if not bool(torch.isfinite(high - low).all()):
            raise ValueError(f"points from {low.tolist()} to {high.tolist()}: leave out those that are not finite")
        if len(points) < FEWEST or not bool((high > low).all()):
            raise ValueError(
                f"{len(points)} points from {low.tolist()} to {high.tolist()} do not fill the domain: call "
                "PhysicsMLP.prepare with a few hundred points from all over it before the training"
            )
        self.centre.copy_((low + high) / 2)
        self.radius.copy_((high - low) / 2)
        self.box_is_known.fill_(True)
        self.is_prepared = True


def _after_loading(network: PhysicsMLP, _: Any) -> None:
    network.is_prepared = bool(network.box_is_known)
