"""A transformer block whose norms, queries, keys, ends of branches and sizes of branches are chosen by the caller."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS = 4
Place = Callable[[int], nn.Module]
"""Makes what stands in the place of a norm of so many features."""


def nothing(features: int) -> nn.Module:
    return nn.Identity()


@dataclass(frozen=True)
class Places:
    """What stands in front of a branch and before the head, on queries and keys, and at the end of a branch.

    branches: "scaled" multiplies branches by 1 / sqrt(branches), "whole" by 1. "rezero" (Bachlechner et al., arXiv
    2003.04887) multiplies each by a parameter that starts at 0. "fixup" (Zhang et al., arXiv 1901.09321) starts the
    first matrix of a branch at 1 / sqrt(branches) of its size, the last one and the head at 0, and has a parameter that
    starts at 1 for each branch; the biases that it asks for are those of the layers.
    """

    norm: Place = nothing
    query_norm: Place = nothing
    end: Place = nothing
    branches: Literal["whole", "scaled", "rezero", "fixup"] = "scaled"


class Block(nn.Module):
    """Attention and a perceptron, each as a branch of a residual stream; one of so many blocks."""

    def __init__(self, width: int, blocks: int, places: Places, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.norm1, self.norm2 = places.norm(width), places.norm(width)
        self.query_norm, self.key_norm = places.query_norm(width // HEADS), places.query_norm(width // HEADS)
        self.end1, self.end2 = places.end(width), places.end(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        if places.branches in ("rezero", "fixup"):
            start = torch.zeros(2) if places.branches == "rezero" else torch.ones(2)
            self.scales = nn.Parameter(start)
        else:
            value = (2 * blocks) ** -0.5 if places.branches == "scaled" else 1.0
            self.register_buffer("scales", torch.full((2,), value))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, width // HEADS)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.query_norm(q), self.key_norm(k), v, is_causal=self.causal)
        x = x + self.scales[0] * self.end1(self.out(y.transpose(1, 2).reshape(batch, length, width)))
        return x + self.scales[1] * self.end2(self.down(F.gelu(self.up(self.norm2(x)))))


@torch.no_grad()
def start(model: nn.Module, places: Places) -> None:
    """Weights of size 1 / sqrt(inputs), biases 0, embeddings of size 1 / sqrt(2); and those that Fixup asks for."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=2**-0.5)
    if places.branches != "fixup":
        return
    nn.init.zeros_(model.get_submodule("head").weight)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for block in blocks:
        for first, last in ((block.qkv, block.out), (block.up, block.down)):
            first.weight.mul_((2 * len(blocks)) ** -0.5)
            nn.init.zeros_(last.weight)
