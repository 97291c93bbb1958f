"""Networks of other fields and habits, written small: fields, flows, graphs, adapters, experts, agents, scalars."""

import itertools
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from catalogue.case import Problem, classes
from zoo.network import KINDS, Network, cross_entropy, images, walks

mse = nn.functional.mse_loss


class Sine(nn.Module):
    """A layer of SIREN, with its initialisation."""

    def __init__(self, fan_in: int, width: int, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, width)
        bound = 1 / fan_in if first else math.sqrt(6 / fan_in) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


def grid(side: int = 24) -> Tensor:
    axis = torch.linspace(-1, 1, side)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def siren() -> Problem:
    model = nn.Sequential(Sine(2, 64, True), Sine(64, 64, False), Sine(64, 64, False), nn.Linear(64, 1))
    x = grid()
    return model, x, torch.sin(9 * x[:, :1]) * torch.cos(7 * x[:, 1:]), mse


class Nerf(nn.Module):
    """Density and colour of points on rays, composed to pixels."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(39 if i == 0 else 64 + 39 * (i == 3), 64) for i in range(6)]
        self.layers = nn.ModuleList(layers)
        self.density, self.colour = nn.Linear(64, 1), nn.Sequential(nn.Linear(67, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, points: Tensor, directions: Tensor) -> Tensor:
        waves = [f(2**k * points) for k in range(6) for f in (torch.sin, torch.cos)]
        h = encoded = torch.cat([points, *waves], -1)
        for i, layer in enumerate(self.layers):
            h = layer(torch.cat([h, encoded], -1) if i == 3 else h).relu()
        opacity = 1 - torch.exp(-nn.functional.softplus(self.density(h)) / 4)
        seen = torch.cat([torch.ones_like(opacity[:, :1]), (1 - opacity + 1e-10).cumprod(1)[:, :-1]], 1)
        along = directions[:, None].expand(-1, points.shape[1], -1)
        return (opacity * seen * self.colour(torch.cat([h, along], -1)).sigmoid()).sum(1)


def nerf() -> Problem:
    directions = nn.functional.normalize(torch.randn(128, 3), dim=-1)
    points = directions[:, None] * torch.linspace(0.2, 1.5, 12)[:, None]
    return Nerf(), (points, directions), (directions + 1) / 2, mse


class Coupling(nn.Module):
    """An affine coupling of RealNVP; its last layer starts at 0."""

    def __init__(self, width: int, flip: bool) -> None:
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(
            nn.Linear(width // 2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, width)
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, 1)[:: -1 if self.flip else 1]
        scale, shift = self.net(a).chunk(2, 1)
        scale = scale.tanh()
        b = b * scale.exp() + shift
        return torch.cat([b, a] if self.flip else [a, b], 1), scale.sum(1)


class Flow(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(width, bool(i % 2)) for i in range(6))

    def forward(self, x: Tensor) -> Tensor:
        volume = torch.zeros(len(x))
        for coupling in self.couplings:
            x, more = coupling(x)
            volume = volume + more
        return x.square().sum(1) / 2 - volume


def flow() -> Problem:
    x = torch.randn(256, 8)
    x[:, 4:] = x[:, :4].square() + 0.3 * x[:, 4:]
    return Flow(), x, None, lambda out, _: out.mean()


class UNet(nn.Module):
    """The noise in an image, by its time; the last convolutions of blocks and of the network start at 0."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.start = nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.ModuleList([Residual(width, width), Residual(2 * width, 2 * width)])
        self.shrink = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.attention = nn.MultiheadAttention(2 * width, 2, batch_first=True)
        self.up = Residual(3 * width, width)
        self.end = nn.Sequential(nn.GroupNorm(4, width), nn.SiLU(), zeroed(nn.Conv2d(width, 1, 3, padding=1)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.exp(-math.log(1e4) * torch.arange(16) / 16)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        high = self.down[0](self.start(x), time)
        low = self.down[1](self.shrink(high), time)
        flat = low.flatten(2).mT
        low = low + self.attention(flat, flat, flat, need_weights=False)[0].mT.view_as(low)
        wide = nn.functional.interpolate(low, scale_factor=2)
        return self.end(self.up(torch.cat([high, wide], 1), time))


class Residual(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(4, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.time = nn.Linear(64, out)
        self.second = nn.Sequential(nn.GroupNorm(4, out), nn.SiLU(), zeroed(nn.Conv2d(out, out, 3, padding=1)))
        self.skip = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.skip(x) + self.second(self.first(x) + self.time(time)[:, :, None, None])


def zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def diffusion() -> Problem:
    x, _ = images(16, 16, 1)
    t, noise = torch.randint(0, 1000, (16,)), torch.randn_like(x)
    kept = torch.cos(t / 1000 * math.pi / 2)[:, None, None, None]
    return UNet(), (kept * x + (1 - kept**2).sqrt() * noise, t.float()), noise, mse


class Convolution(nn.Module):
    """Of graphs: neighbours are averaged."""

    def __init__(self, fan_in: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, out)

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        return neighbours @ self.linear(x)


class Attention(nn.Module):
    """Of graphs: two learned vectors score an edge."""

    def __init__(self, fan_in: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(fan_in, out, bias=False)
        self.source, self.target = nn.Parameter(0.3 * torch.randn(out)), nn.Parameter(0.3 * torch.randn(out))

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        h = self.linear(x)
        scores = nn.functional.leaky_relu((h @ self.source)[:, None] + (h @ self.target)[None], 0.2)
        return scores.masked_fill(neighbours == 0, -torch.inf).softmax(-1) @ h


class Graph(nn.Module):
    def __init__(self, layer: type[nn.Module], depth: int = 3) -> None:
        super().__init__()
        widths = [16, *[32] * (depth - 1), KINDS]
        self.layers = nn.ModuleList(layer(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor, neighbours: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x, neighbours).relu()
        return self.layers[-1](x, neighbours)


def graph(layer: type[nn.Module]) -> Problem:
    x, targets = classes(128, 16, KINDS)
    edges = (torch.rand(128, 128) < torch.where(targets[:, None] == targets, 0.2, 0.01)).float()
    edges = ((edges + edges.T + torch.eye(128)) > 0).float()
    return Graph(layer), (x, edges / edges.sum(1, keepdim=True)), targets, cross_entropy


class LowRank(nn.Module):
    """LoRA: a frozen layer beside two trained factors; the second starts at 0."""

    def __init__(self, frozen: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down, self.up = (
            nn.Linear(frozen.in_features, rank, bias=False),
            nn.Linear(rank, frozen.out_features, False),
        )
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + 2 * self.up(self.down(x))


def lora() -> Problem:
    """A base that has learned other classes, frozen but for a new head."""
    x, y = classes(128, 32, KINDS)
    base = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, KINDS))
    optimizer = torch.optim.Adam(base.parameters())
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(base(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    for i in (0, 2):
        base[i] = LowRank(base[i])
    base[4] = nn.Linear(64, KINDS)
    return base, x, (y + 1) % KINDS, cross_entropy


class Experts(nn.Module):
    """A mixture: each token is sent to two of eight experts."""

    def __init__(self, width: int = 32, count: int = 8) -> None:
        super().__init__()
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)
        shares, chosen = self.router(flat).softmax(-1).topk(2)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, rank = torch.where(chosen == i)
            if len(rows):
                out = out.index_add(0, rows, expert(flat[rows]) * shares[rows, rank, None])
        return out.view_as(x)


class Language(nn.Module):
    """The next token; blocks of causal attention and of any other part, beside skip connections."""

    def __init__(self, parts: list[nn.Module], scales: float | None = None, norm: bool = True, width: int = 32) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(96, width), nn.Parameter(0.02 * torch.randn(24, width))
        self.attentions = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in parts)
        self.parts = nn.ModuleList(parts)
        self.norms = nn.ModuleList(nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2 * len(parts)))
        self.gains = None if scales is None else nn.Parameter(torch.full((2 * len(parts), width), scales))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 96)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions
        mask = nn.Transformer.generate_square_subsequent_mask(24)
        for i, (attention, part) in enumerate(zip(self.attentions, self.parts, strict=True)):
            a, b = (1.0, 1.0) if self.gains is None else self.gains[2 * i : 2 * i + 2]
            n = self.norms[2 * i](h)
            h = h + a * attention(n, n, n, attn_mask=mask, need_weights=False)[0]
            h = h + b * part(self.norms[2 * i + 1](h))
        return self.head(self.norm(h))


def feed_forward(width: int = 32) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))


def language(experts: bool = False, scales: float | None = None, norm: bool = True, blocks: int = 4) -> Problem:
    model = Language([Experts() if experts else feed_forward() for _ in range(blocks)], scales, norm)
    tokens = walks(32, 25)
    return model, tokens[:, :-1], tokens[:, 1:], cross_entropy


class Agent(nn.Module):
    """Policy and value, orthogonal, with the gains of PPO: 0.01 for the policy."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.policy, self.value = nn.Linear(64, 4), nn.Linear(64, 1)
        for layer, gain in ((self.body[0], 2**0.5), (self.body[2], 2**0.5), (self.policy, 0.01), (self.value, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.policy(h), self.value(h).squeeze(-1)


def agent() -> Problem:
    states, actions, returns = torch.randn(256, 8), torch.randint(4, (256,)), torch.randn(256)

    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        choices = torch.distributions.Categorical(logits=outputs[0])
        ratio = (choices.log_prob(actions) + math.log(4)).exp()
        gained = torch.min(ratio * targets, ratio.clamp(0.8, 1.2) * targets)
        return -gained.mean() + 0.5 * mse(outputs[1], targets) - 0.01 * choices.entropy().mean()

    return Agent(), states, returns, loss


class Dueling(nn.Module):
    """Action values: of the state, and of each action beside their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.state, self.actions = nn.Linear(64, 1), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        actions = self.actions(h)
        return self.state(h) + actions - actions.mean(1, keepdim=True)


def dueling() -> Problem:
    actions = torch.randint(4, (128, 1))
    states = torch.randn(128, 8)
    return Dueling(), states, states[:, :1], lambda q, y: nn.functional.smooth_l1_loss(q.gather(1, actions), y)


class ReZero(nn.Module):
    """A deep residual network whose branches have a scalar that starts at 0."""

    def __init__(self, depth: int = 20) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(32, 32), nn.Linear(32, KINDS)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.scales = nn.Parameter(torch.zeros(depth))

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(x)
        for layer, scale in zip(self.layers, self.scales, strict=True):
            h = h + scale * layer(h).relu()
        return self.end(h)


def rezero() -> Problem:
    return ReZero(), *classes(64, 32, KINDS), cross_entropy


def networks() -> Iterator[Network]:
    yield Network("SIREN", siren, rate=1e-4)
    yield Network("NeRF", nerf)
    yield Network("RealNVP", flow)
    yield Network("diffusion U-Net", diffusion)
    yield Network("graph convolution", partial(graph, Convolution), rate=1e-2)
    yield Network("graph attention", partial(graph, Attention), rate=1e-2)
    yield Network("LoRA on a frozen base", lora)
    yield Network("mixture of experts", partial(language, True))
    yield Network("transformer", language)
    yield Network("LayerScale 1e-5", partial(language, False, 1e-5))
    yield Network("LayerScale 1e-6, 12 blocks", partial(language, False, 1e-6, True, 12))
    yield Network("transformer of scalars, no norm", partial(language, False, 0.0, False))
    yield Network("PPO", agent, rate=3e-4)
    yield Network("dueling DQN", dueling)
    yield Network("ReZero", rezero)
