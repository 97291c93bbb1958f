"""Numbers that are not finite: half precision, square roots of zero, standard deviations by exp."""

import math

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, images, negative_error, tokens
from real_failures.program import Program, Training


class HalfAttention(nn.Module):
    """A causal layer of attention in half precision; hidden scores are lowered by a large number."""

    def __init__(self, large: float, width: int = 32):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(16, width), nn.Embedding(12, width)
        self.heads, self.output = nn.Linear(width, 3 * width), nn.Linear(width, 16)
        self.register_buffer("large", torch.tensor(large))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embedding(inputs) + self.positions.weight
        query, key, value = self.heads(hidden).chunk(3, -1)
        visible = torch.ones(12, 12, dtype=hidden.dtype).tril()
        scores = (query @ key.mT / math.sqrt(32)) * visible - self.large * (1 - visible)
        return self.output(hidden + scores.softmax(-1) @ value).flatten(0, 1).float()


def mask_beyond_half_precision(repaired: bool) -> Training:
    inputs, targets = tokens(samples=32)
    model = HalfAttention(1e4 if repaired else 1e10).half()
    return Training(
        model,
        batch=lambda step: (inputs, targets.flatten()),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        score=lambda model: accuracy(model, inputs, targets.flatten()),
    )


class InHalf(nn.Module):
    """A network that computes in half precision."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.half()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs.half()).float()


def adam_in_half_precision(repaired: bool) -> Training:
    inputs, labels = images(samples=64, size=10)
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 4)),
    )
    model = InHalf(net)
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.001, eps=1e-4 if repaired else 1e-8),
        score=lambda model: accuracy(model, inputs, labels),
    )


class Mesh(nn.Module):
    """Heights of a surface over a grid, from a code of an object."""

    def __init__(self, size: int = 8):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, size * size))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)
        self.size = size

    def forward(self, codes: Tensor) -> Tensor:
        return self.net(codes).reshape(-1, self.size, self.size)


def root_of_zero(repaired: bool) -> Training:
    codes = torch.randn(64, 4)
    axis = torch.linspace(-1, 1, 8)
    targets = codes[:, :1, None] * axis[:, None] + codes[:, 1:2, None] * axis

    def loss(heights: Tensor, targets: Tensor) -> Tensor:
        bends = heights[:, 2:] - 2 * heights[:, 1:-1] + heights[:, :-2]
        squares = bends.square().sum(1) + (1e-8 if repaired else 0)
        return nn.functional.mse_loss(heights, targets) + 0.01 * squares.sqrt().mean()

    model = Mesh()
    return Training(
        model,
        batch=lambda step: (codes, targets),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: negative_error(model, codes, targets),
    )


class MixtureDensity(nn.Module):
    """Weights, means and standard deviations of a mixture of normal distributions."""

    def __init__(self, stable: bool, mixtures: int = 5):
        super().__init__()
        self.weights = nn.Sequential(nn.Linear(1, 24), nn.ELU(), nn.Linear(24, mixtures))
        self.normals = nn.Sequential(nn.Linear(1, 24), nn.ELU(), nn.Linear(24, 2 * mixtures))
        self.stable = stable

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        means, spread = self.normals(inputs).chunk(2, -1)
        if self.stable:
            return self.weights(inputs).log_softmax(-1), means, nn.functional.elu(spread) + 1 + 1e-3
        return self.weights(inputs).softmax(-1).log(), means, spread.exp()


def deviation_by_exp(repaired: bool) -> Training:
    inputs = torch.linspace(-10, 10, 128)[:, None]
    targets = torch.where(torch.rand(128, 1) < 0.5, inputs, -inputs).div(5).round() * 5
    model = MixtureDensity(stable=repaired)

    def surprise(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        weights, means, deviations = outputs
        exponents = -0.5 * ((targets - means) / deviations).square() - deviations.log()
        return -(weights + exponents).logsumexp(-1).mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        value = -surprise(model(inputs), targets).item()
        return value if math.isfinite(value) else -float("inf")

    return Training(
        model,
        batch=lambda step: (inputs, targets),
        loss=surprise,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.1),
        score=score,
    )


PROGRAMS = [
    Program(
        name="GPT-2 in half precision with a mask of 1e10",
        source="https://github.com/huggingface/transformers/issues/382",
        symptom="training overflows after the weights are cast to half precision",
        explanation="scores are masked by subtracting 1e10, which half precision cannot hold; 1e4 can be held",
        causes=("not finite", "precision too low", "mask wrong"),
        make=mask_beyond_half_precision,
        steps=40,
        margin=0.45,
    ),
    Program(
        name="Adam in half precision",
        source="https://github.com/pytorch/pytorch/issues/8860",
        symptom="the loss is NaN after a few iterations in half precision",
        explanation="the eps of Adam, 1e-8, is zero in half precision; 1e-4 works",
        causes=("not finite", "precision too low"),
        make=adam_in_half_precision,
        steps=60,
        margin=0.37,
        visible="training",
    ),
    Program(
        name="smoothness loss of a flat mesh",
        source="https://github.com/akanazawa/cmr/issues/11",
        symptom="the smoothness loss is NaN",
        explanation="the gradient of the square root is infinite at zero",
        causes=("not finite",),
        make=root_of_zero,
        steps=60,
        margin=1.0,
    ),
    Program(
        name="mixture density network with deviations by exp",
        source="https://github.com/tonyduan/mixture-density-network/pull/4",
        symptom="gradients become NaN and parameters invalid",
        explanation="deviations by exp reach zero and logs of probabilities underflow; ELU + 1 and logits do not",
        causes=("not finite", "exploding gradient"),
        make=deviation_by_exp,
        steps=300,
        margin=1.0,
        visible="training",
    ),
]
