"""Networks that are not chains: gates, side branches, skips, several heads. For the 8 x 8 digits, with plain sigmoids.

A side branch often has a smaller gradient than the trunk for good reasons: a gate that hardly decides anything yet, an
expert that the router does not choose, a residual branch that starts small.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH = 64


def layer(inputs: int = WIDTH, outputs: int = WIDTH) -> nn.Sequential:
    """Linear and sigmoid."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.Sigmoid())


def layers(depth: int, inputs: int = WIDTH, width: int = WIDTH) -> nn.Sequential:
    """Several of them."""
    return nn.Sequential(*(layer(inputs if i == 0 else width, width) for i in range(depth)))


class SqueezeExcite(nn.Module):
    """Multiplies features by what a small network of two layers makes of them."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.body = layer(width, width)
        self.gate = nn.Sequential(layer(width, width // 4), layer(width // 4, width))

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return h * self.gate(h)


class GLU(nn.Module):
    """Gated linear unit, Dauphin et al. (2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(WIDTH, WIDTH), layer()

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(x)


class Highway(nn.Module):
    """Srivastava et al. (2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate = layer(), layer()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x)
        return gate * self.value(x) + (1 - gate) * x


class GatedResidual(nn.Module):
    """x plus a gated branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.out, self.gate = layer(), nn.Linear(WIDTH, WIDTH), layer()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(x) * self.out(self.branch(x))


class PreActivation(nn.Module):
    """x plus a branch that begins with the activation; He et al. (2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Sigmoid(), nn.Linear(WIDTH, WIDTH), nn.Sigmoid(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class NormedGate(nn.Module):
    """A residual block of a transformer's kind: LayerNorm, gated hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.value, self.gate = nn.LayerNorm(WIDTH), layer(), layer()
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.out(self.value(h) * self.gate(h))


class GatedConvolutions(nn.Module):
    """Convolutions, one with a gate, and squeeze-excite over the channels."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.Sigmoid())
        self.value = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Sigmoid())
        self.third = nn.Sequential(nn.Conv2d(channels, channels, 3, stride=2, padding=1), nn.Sigmoid())
        self.excite = nn.Sequential(layer(channels, channels // 4), layer(channels // 4, channels))
        self.last = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Sigmoid())
        self.head = nn.Linear(channels * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x.view(-1, 1, 8, 8))
        h = self.third(self.value(h) * self.gate(h))
        h = h * self.excite(h.mean((2, 3)))[:, :, None, None]
        out: Tensor = self.head(self.last(h).flatten(1))
        return out


class AttentionPooling(nn.Module):
    """Rows of the picture, weighed by gated attention; Ilse et al. (2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Sequential(layer(8, WIDTH), layer(), layer())
        self.score, self.gate, self.weigh = (
            nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh()),
            layer(WIDTH, 16),
            layer(16, 4),
        )
        self.head = nn.Sequential(layer(4 * WIDTH, WIDTH), layer(), nn.Linear(WIDTH, 10))

    def forward(self, x: Tensor) -> Tensor:
        h = self.rows(x.view(-1, 8, 8))
        weights = self.weigh(self.score(h) * self.gate(h))
        out: Tensor = self.head(torch.einsum("brw,bra->baw", h, weights).flatten(1))
        return out


class Mixture(nn.Module):
    """Experts of three layers, summed by a router with softmax or sigmoid."""

    def __init__(self, router: nn.Module, experts: int = 4) -> None:
        super().__init__()
        self.first = layer()
        self.router = nn.Sequential(layer(WIDTH, 16), nn.Linear(16, experts), router)
        self.experts = nn.ModuleList(layers(3) for _ in range(experts))
        self.head = nn.Sequential(layer(), nn.Linear(WIDTH, 10))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        weights = self.router(h)
        h = torch.stack([weights[:, i, None] * expert(h) for i, expert in enumerate(self.experts)]).sum(0)
        out: Tensor = self.head(h)
        return out


class FiLM(nn.Module):
    """The upper half of the picture scales and shifts the features of the lower half; Perez et al. (2018)."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.condition, self.first = layers(2, WIDTH // 2), layer(WIDTH // 2)
        self.scales = nn.ModuleList(layer() for _ in range(depth))
        self.offsets = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.bodies = nn.ModuleList(layer() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        c, h = self.condition(x[:, :32]), self.first(x[:, 32:])
        for scale, offset, body in zip(self.scales, self.offsets, self.bodies, strict=True):
            h = body(h * scale(c) + offset(c))
        out: Tensor = self.head(h)
        return out


class TwoTowers(nn.Module):
    """Two networks whose outputs are multiplied."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.left, self.right = layers(depth), layers(depth)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.left(x) * self.right(x))
        return out


class UNet(nn.Module):
    """Down, up, and a skip on every level."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([layer(64, 64), layer(64, 32), layer(32, 16)])
        self.middle = layers(2, 16, 16)
        self.up = nn.ModuleList([layer(32, 32), layer(64, 64), layer(128, 64)])
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = self.middle(x)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(torch.cat([x, skip], 1))
        out: Tensor = self.head(x)
        return out


class Auxiliary(nn.Module):
    """A second head reads the middle of the network; the logits are summed."""

    def __init__(self, depth: int = 12) -> None:
        super().__init__()
        self.lower, self.upper = layers(depth // 2), layers(depth // 2)
        self.early, self.late = nn.Linear(WIDTH, 10), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lower(x)
        logits: Tensor = self.late(self.upper(x)) + 0.3 * self.early(x)
        return logits


class Inception(nn.Module):
    """Branches of different depth side by side; Szegedy et al. (2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(layers(depth, WIDTH, 16) for depth in (1, 2, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Dense(nn.Module):
    """Every layer reads all before it; Huang et al. (2017)."""

    def __init__(self, depth: int = 6, growth: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(WIDTH + i * growth, growth) for i in range(depth))
        self.head = nn.Linear(WIDTH + depth * growth, 10)

    def forward(self, x: Tensor) -> Tensor:
        for one in self.layers:
            x = torch.cat([x, one(x)], 1)
        out: Tensor = self.head(x)
        return out


def stack(block: Callable[[], nn.Module], count: int) -> nn.Sequential:
    """A first layer, blocks, and a head."""
    return nn.Sequential(layer(), *(block() for _ in range(count)), nn.Linear(WIDTH, 10))


def alternating_glu() -> nn.Sequential:
    """Gated linear units and sigmoid layers in turns."""
    return nn.Sequential(layer(), *(one for _ in range(5) for one in (GLU(), layer())), nn.Linear(WIDTH, 10))


BRANCHED: dict[str, Callable[[], nn.Module]] = {
    "squeeze-excite": lambda: nn.Sequential(*(SqueezeExcite() for _ in range(5)), nn.Linear(WIDTH, 10)),
    "gated convolutions": GatedConvolutions,
    "alternating GLU": alternating_glu,
    "highway": lambda: stack(Highway, 8),
    "gated residual": lambda: stack(GatedResidual, 6),
    "pre-activation residual": lambda: stack(PreActivation, 8),
    "normed gate": lambda: stack(NormedGate, 4),
    "attention pooling": AttentionPooling,
    "mixture, softmax": lambda: Mixture(nn.Softmax(1)),
    "mixture, sigmoid": lambda: Mixture(nn.Sigmoid()),
    "FiLM": FiLM,
    "two towers": TwoTowers,
    "U-Net": UNet,
    "auxiliary head": Auxiliary,
    "inception": lambda: stack(Inception, 3),
    "dense": Dense,
}
