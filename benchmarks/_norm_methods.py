"""Bounded norms of others, and the methods that are compared: what stands in the place of norms."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from _residual_block import Place, Places

LAMBDA, KAPPA = 2.0, 10.0


class DynamicTanh(nn.Module):
    """tanh(alpha x) weight + bias, or erf(alpha x + shift) weight + bias; everything is trained."""

    def __init__(self, features: int, alpha: float, erf: bool = False) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.shift = nn.Parameter(torch.zeros(1)) if erf else None
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        z = self.alpha * x
        y = torch.tanh(z) if self.shift is None else torch.erf(z + self.shift)
        return y * self.weight + self.bias


class BoundedHyperbolicTanh(nn.Module):
    """tanh(lambda x / (kappa rms(x))) weight, with the rms of each token: alpha comes from every forward pass.

    The formula is that of the authors' code (`BHyT_Star`, with exact statistics), with their defaults.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.level, self.weight = nn.Parameter(torch.full((1,), LAMBDA)), nn.Parameter(torch.ones(features))

    def alpha(self, x: Tensor) -> Tensor:
        return self.level / KAPPA * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha(x) * x) * self.weight


def dyt(alpha: float, erf: bool = False) -> Place:
    return lambda features: DynamicTanh(features, alpha, erf)


@dataclass(frozen=True)
class Method:
    """The places of a model; and whether they become ours: convert(norms=True), calibrate, Equalizer."""

    places: Places
    ours: bool = False


bare = partial(nn.RMSNorm, elementwise_affine=False)
LAYER, RMS, NORM_FREE = Places(nn.LayerNorm), Places(nn.RMSNorm), Places(query_norm=nn.RMSNorm, end=bare)
METHODS = {
    "layer norm": Method(Places(nn.LayerNorm, branches="whole")),
    "layer norm scaled": Method(LAYER),
    "layer norm scaled q/k norm": Method(Places(nn.LayerNorm, nn.RMSNorm)),
    "rms norm": Method(Places(nn.RMSNorm, branches="whole")),
    "rms norm scaled": Method(RMS),
    "rms norm scaled q/k norm": Method(Places(nn.RMSNorm, nn.RMSNorm)),
    "dyt 0.5 scaled": Method(Places(dyt(0.5))),
    "dyt 1 scaled": Method(Places(dyt(1.0))),
    "dyt 2 scaled": Method(Places(dyt(2.0))),
    "derf 0.5 scaled": Method(Places(dyt(0.5, erf=True))),
    "bhyt scaled": Method(Places(BoundedHyperbolicTanh)),
    "none scaled": Method(Places()),
    "none scaled q/k norm": Method(Places(query_norm=nn.RMSNorm)),
    "none scaled q/k ours": Method(Places(query_norm=nn.RMSNorm), ours=True),
    "none fixup": Method(Places(branches="fixup")),
    "none rezero": Method(Places(branches="rezero")),
    "end norm scaled q/k norm": Method(NORM_FREE),
    "end ours scaled q/k ours": Method(NORM_FREE, ours=True),
    "ours": Method(Places(nn.LayerNorm, branches="whole"), ours=True),
    "ours scaled": Method(LAYER, ours=True),
    "ours scaled q/k ours": Method(Places(nn.LayerNorm, nn.RMSNorm), ours=True),
}
"""By name; "q/k" is a place on queries and keys, "end" one at the end of a branch, before the sum."""
