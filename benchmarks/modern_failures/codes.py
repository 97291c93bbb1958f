"""Bottlenecks and choices: codebooks of a VQ-VAE, divergence of a VAE, routers and experts."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from modern_failures.blocks import mlp
from modern_failures.data import clusters
from modern_failures.program import Program, Training, own_loss


class Reconstruction(tuple):
    """Outputs of a VQ-VAE: its loss, the reconstruction, and the codes."""

    loss, outputs, codes = (property(lambda self, place=place: self[place]) for place in range(3))


class VQVAE(nn.Module):
    """Encoder, nearest of 16 codes, decoder."""

    def __init__(self, before_straight_through: bool = True, code_scale: float = 1.0, features: int = 2):
        super().__init__()
        self.encoder, self.decoder = mlp(features, 32, 4), mlp(4, 32, features)
        self.codebook = nn.Embedding(16, 4)
        nn.init.normal_(self.codebook.weight, std=code_scale)
        self.before_straight_through = before_straight_through

    def forward(self, inputs: Tensor) -> Reconstruction:
        encoded = self.encoder(inputs)
        codes = torch.cdist(encoded, self.codebook.weight).argmin(1)
        chosen = self.codebook(codes)
        passed = encoded + (chosen - encoded).detach()
        moved = chosen if self.before_straight_through else passed
        outputs = self.decoder(passed)
        loss = mse_loss(outputs, inputs) + mse_loss(moved, encoded.detach()) + 0.25 * mse_loss(encoded, chosen.detach())
        return Reconstruction((loss, outputs, codes))


def quantised(model: VQVAE, points: Tensor) -> Training:
    """A VQ-VAE on points; scored by its reconstruction."""
    return Training(
        model,
        batch=lambda step: (points, None),
        loss=own_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=lambda model: -mse_loss(model(points).outputs, points).item(),
    )


def codes_without_gradient(repaired: bool) -> Training:
    points, _ = clusters(spread=0.2)
    return quantised(VQVAE(before_straight_through=repaired, code_scale=0.1), points)


def codes_far_away(repaired: bool) -> Training:
    points, _ = clusters(spread=0.2)
    return quantised(VQVAE(code_scale=0.1 if repaired else 10.0), points)


class VAE(nn.Module):
    """Encoder to means and deviations, a sample of them, decoder."""

    def __init__(self, features: int = 2):
        super().__init__()
        self.encoder, self.decoder = mlp(features, 32, 4), mlp(2, 32, features)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(inputs).chunk(2, -1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (log_variance / 2).exp()), mean, log_variance


def divergence_of_another_scale(repaired: bool) -> Training:
    points, _ = clusters(spread=0.2)
    model = VAE()

    def loss(outputs: tuple[Tensor, ...], wanted: Tensor) -> Tensor:
        reconstruction, mean, log_variance = outputs
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / 2
        return mse_loss(reconstruction, wanted) + divergence / (20 * len(wanted) if repaired else 1)

    return Training(
        model,
        batch=lambda step: (points, points),
        loss=loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=lambda model: -mse_loss(model.eval()(points)[0], points).item(),
    )


class Experts(nn.Module):
    """A layer of four experts, of which a router picks the best; its weight is normalised or not."""

    def __init__(
        self, width: int, outputs: int, hidden: tuple[int, ...] = (16,), normalise: bool = False, std: float = 0.3
    ):
        super().__init__()
        self.router = nn.Linear(width, 4, bias=False)
        nn.init.normal_(self.router.weight, std=std)
        self.experts = nn.ModuleList(mlp(width, *hidden, outputs) for _ in range(4))
        self.normalise = normalise

    def forward(self, hidden: Tensor) -> Tensor:
        logits = self.router(hidden)
        best, chosen = logits.topk(1, -1)
        weights = best.softmax(-1) if self.normalise else logits.softmax(-1).gather(-1, chosen)
        everything = torch.stack([expert(hidden) for expert in self.experts], -2)
        picked = everything.gather(-2, chosen[..., None].expand(*chosen.shape, everything.shape[-1]))
        shares, odds = nn.functional.one_hot(chosen, 4).float(), logits.softmax(-1)
        self.balance = 4 * (shares.flatten(0, -2).mean(0) * odds.flatten(0, -2).mean(0)).sum()
        return (weights[..., None] * picked).sum(-2)


def router_of_one_expert(repaired: bool) -> Training:
    kind = torch.randint(4, (512,))
    inputs = torch.cat([2.0 * nn.functional.one_hot(kind, 4), torch.zeros(512, 12)], 1) + torch.randn(512, 16)
    labels = (inputs[torch.arange(512), kind + 4] > 0).long()
    model = Experts(16, 2, hidden=(), normalise=not repaired)
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        score=lambda model: -cross_entropy(model(inputs), labels).item(),
    )


def balance_is_thrown_away(repaired: bool) -> Training:
    inputs = torch.randn(512, 16) + 1.0
    labels = torch.randint(8, (512,))
    inputs = inputs + torch.randn(8, 16)[labels]
    model = Experts(16, 8, std=1.0)

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(outputs, labels) + (0.1 * model.balance if repaired else 0)

    def used(model: Experts) -> float:
        chosen = model.router(inputs).argmax(-1)
        shares = torch.bincount(chosen, minlength=4) / len(chosen)
        return -(shares * shares.clamp(min=1e-9).log()).sum().item()

    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        score=used,
    )


PROGRAMS = [
    Program(
        name="codebook loss behind the straight-through step",
        source="https://github.com/showlab/Olaf-World/issues/8",
        symptom="the reconstruction improves, and the codebook stays as it was initialised",
        explanation="the codebook loss uses the straight-through output, in which the codes are detached",
        causes=("codes without gradient",),
        make=codes_without_gradient,
        steps=150,
        margin=0.1,
        layers=("codebook",),
    ),
    Program(
        name="codebook that is far from what it quantises",
        source="https://github.com/hiwonjoon/tf-vqvae/issues/2",
        symptom="always a few of the embeddings are selected",
        explanation="codes are drawn far from the encoder's outputs, so one or two are nearest to all of them",
        causes=("codes unused", "initialisation too large"),
        make=codes_far_away,
        steps=150,
        margin=0.2,
        layers=("codebook",),
    ),
    Program(
        name="VAE whose divergence is of another scale",
        source="https://github.com/AppliedDataSciencePartners/WorldModels/issues/12",
        symptom="all reconstructions are alike, and the divergence is 4e-7",
        explanation="the terms of the loss are not averaged alike, so the divergence outweighs the reconstruction",
        causes=("loss weights wrong",),
        make=divergence_of_another_scale,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="softmax over the one expert that was picked",
        source="https://github.com/davidmrau/mixture-of-experts/issues/27",
        symptom="the gradient of the gate is always zero",
        explanation="the softmax comes after the choice of the best: over one expert it is 1 for any gate",
        causes=("router without gradient",),
        make=router_of_one_expert,
        steps=300,
        margin=0.1,
        layers=("router",),
    ),
    Program(
        name="balance of experts that is computed and thrown away",
        source="https://github.com/NVIDIA-NeMo/Automodel/issues/1408",
        symptom="the load of the experts is not balanced",
        explanation="the result of the function that adds the balancing loss to the graph is not used",
        causes=("experts unused", "loss input wrong"),
        make=balance_is_thrown_away,
        steps=100,
        margin=0.2,
        layers=("router",),
    ),
]
