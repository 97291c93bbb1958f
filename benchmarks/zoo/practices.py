"""Networks by their practice: queries, mask tokens, codebooks, two views, frozen parts, other optimizers and losses."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from catalogue.case import Problem, classes, sequences
from zoo.network import KINDS, Network, cross_entropy, images, walks

functional = nn.functional
mse = functional.mse_loss


class Queries(nn.Module):
    """DETR's decoder: its first input is 0 for all samples, and learned queries are added to it."""

    def __init__(self, queries: int = 6, width: int = 32) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 8, 8), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.places, self.queries = nn.Parameter(torch.rand(64, width)), nn.Embedding(queries, width)
        self.layers = nn.ModuleList(nn.TransformerDecoderLayer(width, 4, 64, batch_first=True) for _ in range(3))
        self.head = nn.Linear(width, KINDS)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.body(x).flatten(2).mT + self.places
        queries = self.queries.weight.expand(len(x), -1, -1)
        h = torch.zeros_like(queries)
        for layer in self.layers:
            h = layer(h + queries, memory)
        return self.head(h).mean(1)


class Masked(nn.Module):
    """A transformer with a class token, a mask token, and places; 0.02 as in ViT."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.mask, self.cls = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.places = nn.Parameter(torch.zeros(1, 65, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, nn.LayerNorm(width), enable_nested_tensor=False)
        self.pixels, self.head = nn.Linear(width, 3 * 64), nn.Linear(width, KINDS)
        nn.init.trunc_normal_(self.mask, std=0.02)
        nn.init.trunc_normal_(self.cls, std=0.02)
        nn.init.trunc_normal_(self.places, std=0.02)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.where(hidden[..., None], self.mask, self.patches(x).flatten(2).mT)
        h = self.encoder(torch.cat([self.cls.expand(len(x), -1, -1), h], 1) + self.places)
        return self.pixels(h[:, 1:]), self.head(h[:, 0])


def masked() -> Problem:
    x, y = images()
    patches = functional.unfold(x, 8, stride=8).mT
    hidden = torch.rand(len(x), 64) < 0.5

    def loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        return mse(outputs[0][hidden], patches[hidden]) + cross_entropy(outputs[1], targets)

    return Masked(), (x, hidden), y, loss


class Codes(nn.Module):
    """VQ-VAE: the nearest code replaces the encoder's output, and the gradient passes straight through."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.codes = nn.Embedding(64, width)
        nn.init.uniform_(self.codes.weight, -0.5, 0.5)
        self.decoder = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(width, 3, 4, 4)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        flat = z.permute(0, 2, 3, 1)
        code = (
            self.codes(torch.cdist(flat.flatten(0, 2), self.codes.weight).argmin(1)).view_as(flat).permute(0, 3, 1, 2)
        )
        commitment = mse(code, z.detach()) + 0.25 * mse(z, code.detach())
        return self.decoder(z + (code - z).detach()), commitment


class Variational(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU())
        self.mean, self.logvar = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(x)
        mean, logvar = self.mean(h), self.logvar(h)
        return self.decoder(mean + (logvar / 2).exp() * torch.randn_like(mean)), mean, logvar


def variational() -> Problem:
    x, _ = images(64, 16, 1)

    def loss(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        out, mean, logvar = outputs
        divergence = (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean() / 2
        return (out - targets.flatten(1)).square().sum(1).mean() + divergence

    return Variational(), x, x, loss


class Views(nn.Module):
    """BYOL: a predictor follows a slow copy, which gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.slow = (
            nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16)) for _ in range(2)
        )
        self.slow.load_state_dict(self.online.state_dict())
        self.slow.requires_grad_(False)
        self.predictor = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return 2 - 2 * functional.cosine_similarity(self.predictor(self.online(a)), self.slow(b), dim=-1)


def views() -> Problem:
    x, _ = classes(64, 32, KINDS)
    inputs = x + 0.2 * torch.randn_like(x), x + 0.2 * torch.randn_like(x)
    return Views(), inputs, None, lambda out, _: out.mean()


def contrastive() -> Problem:
    """SimCLR: the two views of a sample are rows i and i + 32."""
    x, _ = images(32, 32)
    body = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 16)
    )

    def loss(outputs: Tensor, _: None) -> Tensor:
        z = functional.normalize(outputs, dim=1)
        alike = (z @ z.T / 0.2).masked_fill(torch.eye(64, dtype=torch.bool), -torch.inf)
        return cross_entropy(alike, (torch.arange(64) + 32) % 64)

    return body, torch.cat([x, x]) + 0.1 * torch.randn(64, 3, 32, 32), None, loss


class Mixture(nn.Module):
    """A mixture density network: weights, means and log-sizes of five normal distributions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 15))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, means, sizes = self.body(x).chunk(3, 1)
        return weights.log_softmax(1), means, sizes


def mixture() -> Problem:
    y = torch.rand(256, 1) * 2 - 1

    def loss(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        weights, means, sizes = outputs
        return -(weights + torch.distributions.Normal(means, sizes.exp()).log_prob(targets)).logsumexp(1).mean()

    return Mixture(), y + 0.3 * torch.sin(7 * y) + 0.05 * torch.randn(256, 1), y, loss


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embedding, self.recurrent, self.head = (
            nn.Embedding(96, 32),
            kind(32, 64, 2, batch_first=True),
            nn.Linear(64, 96),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(x))[0])


def recurrent(kind: type[nn.Module]) -> Problem:
    tokens = walks(32, 25)
    return Recurrent(kind), tokens[:, :-1], tokens[:, 1:], cross_entropy


class Dilated(nn.Module):
    """WaveNet: gated, dilated, causal; skips are summed."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.start = nn.Conv1d(8, width, 1)
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=2**i) for i in range(4))
        self.residual = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(4))
        self.skip = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(4))
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(width, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, total = self.start(x.mT), 0.0
        for i, layer in enumerate(self.layers):
            value, gate = layer(functional.pad(h, (2**i, 0))).chunk(2, 1)
            part = value.tanh() * gate.sigmoid()
            total = total + self.skip[i](part)
            h = h + self.residual[i](part)
        return self.end(total).mean(2)


class Recommender(nn.Module):
    """Users and items are embeddings; most do not occur in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(1000, 16), nn.Embedding(500, 16)
        self.users_bias, self.items_bias = nn.Embedding(1000, 1), nn.Embedding(500, 1)
        self.body = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
        for embedding in (self.users, self.items):
            nn.init.normal_(embedding.weight, std=0.05)
        for embedding in (self.users_bias, self.items_bias):
            nn.init.zeros_(embedding.weight)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        u, i = self.users(user), self.items(item)
        both = (u * i).sum(1, keepdim=True) + self.users_bias(user) + self.items_bias(item)
        return (both + self.body(torch.cat([u, i], 1))).squeeze(1)


def recommender() -> Problem:
    users, items = torch.randint(1000, (128,)), torch.randint(500, (128,))
    likes = ((users + items) % 2).float()
    return Recommender(), (users, items), likes, functional.binary_cross_entropy_with_logits


class Physics(nn.Module):
    """The residual of u'' = -sin(x), with its boundaries: a loss of derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(m for i in range(4) for m in (nn.Linear(1 if i == 0 else 32, 32), nn.Tanh())), nn.Linear(32, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        u = self.body(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return (bend + x.sin()).square().mean() + self.body(torch.tensor([[0.0], [math.pi]])).square().mean()


def small_images(model: nn.Module) -> Problem:
    return model, *images(32, 32), cross_entropy


def mlp(*layers: nn.Module) -> Problem:
    return nn.Sequential(*layers), *classes(64, 32, KINDS), cross_entropy


def tuned() -> Problem:
    """A frozen convolutional body, and a new head."""
    body = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten())
    return small_images(nn.Sequential(body.requires_grad_(False), nn.Linear(288, KINDS)))


def normalised() -> Problem:
    weight, spectral = parametrizations.weight_norm, parametrizations.spectral_norm
    body = (weight(nn.Linear(32, 64)), nn.ReLU(), spectral(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, KINDS))
    return mlp(*body)


def curve() -> Problem:
    x = torch.linspace(-1, 1, 128)[:, None]
    return (
        nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)),
        x,
        (4 * x).sin(),
        mse,
    )


def fixup() -> Problem:
    """Branches whose last layer starts at 0, and a head that does."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = (
                nn.Conv2d(16, 16, 3, padding=1, bias=False),
                nn.Conv2d(16, 16, 3, padding=1, bias=False),
            )
            self.biases, self.scale = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.ones(1))
            nn.init.normal_(self.first.weight, std=(2 / 144) ** 0.5 * 6**-0.5)
            nn.init.zeros_(self.last.weight)

        def forward(self, x: Tensor) -> Tensor:
            h = (self.first(x + self.biases[0]) + self.biases[1]).relu()
            return (x + self.last(h + self.biases[2]) * self.scale + self.biases[3]).relu()

    head = nn.Linear(16, KINDS)
    nn.init.zeros_(head.weight)
    stem = nn.Conv2d(3, 16, 3, padding=1)
    return small_images(nn.Sequential(stem, *(Block() for _ in range(6)), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head))


def discriminator() -> Problem:
    """Real images against noise, as DCGAN initialises."""
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1, bias=False), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1, bias=False),
        nn.BatchNorm2d(32), nn.LeakyReLU(0.2), nn.Conv2d(32, 1, 8, bias=False), nn.Flatten(0),
    )  # fmt: skip
    for layer in (layers[0], layers[2], layers[5]):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    real, _ = images(32, 32)
    x, y = torch.cat([real.tanh(), torch.rand_like(real) * 2 - 1]), torch.arange(64).lt(32).float()
    return layers, x, y, functional.binary_cross_entropy_with_logits


class Sets(nn.Module):
    """DeepSets: a sum over the elements of a set."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = (
            nn.Sequential(nn.Linear(8, 32), nn.ReLU()),
            nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.all(self.each(x).mean(1))


class Flowing(nn.Module):
    """A neural differential equation, by ten steps of Euler."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.head = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32)), nn.Linear(32, KINDS)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(10):
            x = x + 0.1 * self.field(x)
        return self.head(x)


def lbfgs(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(model.parameters(), max_iter=4, history_size=10, line_search_fn="strong_wolfe")


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def networks() -> Iterator[Network]:
    yield Network("DETR's queries", lambda: (Queries(), *images(), cross_entropy))
    yield Network("class and mask tokens", masked)
    yield Network("VQ-VAE", lambda: (Codes(), (x := images(16)[0]), x, lambda out, y: mse(out[0], y) + out[1]))
    yield Network("VAE", variational)
    yield Network("BYOL", views)
    yield Network("SimCLR", contrastive)
    yield Network("mixture density", mixture)
    yield Network("LSTM", partial(recurrent, nn.LSTM))
    yield Network("GRU", partial(recurrent, nn.GRU))
    true = {"US501": "nothing reads the last residual convolution"}
    yield Network("WaveNet", lambda: (Dilated(), *sequences(32), cross_entropy), true=true)
    yield Network("recommender", recommender)
    yield Network("physics-informed", lambda: (Physics(), torch.rand(64, 1) * math.pi, None, lambda out, _: out))
    yield Network("frozen body", tuned, true={"US505": "nothing is pretrained here: the body is random"})
    yield Network("weight and spectral normalisation", normalised)
    yield Network("L-BFGS", curve, optimizer=lbfgs)
    yield Network("Fixup", fixup)
    yield Network("discriminator", discriminator)
    yield Network("DeepSets", lambda: (Sets(), *sequences(32), cross_entropy))
    yield Network("neural ODE", lambda: (Flowing(), *classes(64, 32, KINDS), cross_entropy))
    yield Network("SGD with momentum", partial(mlp, nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, KINDS)), optimizer=sgd)
