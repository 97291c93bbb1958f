"""Latent variables, embeddings and generators that collapse."""

import torch
from torch import Tensor, nn

from real_failures.data import images, negative_error
from real_failures.program import Program, Training


class Variational(nn.Module):
    """A variational autoencoder; in evaluation it decodes the means."""

    def __init__(self, inputs: int, latent: int = 8, given: int = 0):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent + given, 64), nn.ReLU(), nn.Linear(64, inputs))

    def encode(self, inputs: Tensor) -> Tensor:
        self.mean, self.logvar = self.encoder(inputs).chunk(2, 1)
        noise = torch.randn_like(self.mean) * (self.logvar / 2).exp() if self.training else 0
        return self.mean + noise

    def forward(self, inputs: Tensor) -> Tensor:
        return self.decoder(self.encode(inputs))

    def divergence(self) -> Tensor:
        return -0.5 * (1 + self.logvar - self.mean.square() - self.logvar.exp())


def mean_of_pixels(repaired: bool) -> Training:
    inputs = images(samples=256, size=10, kinds=16)[0].flatten(1).mul(2).sigmoid()
    model = Variational(100)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs - targets).square()
        if repaired:
            return (errors.sum(1) + model.divergence().sum(1)).mean()
        return 10 * errors.mean() + model.divergence().mean()

    return Training(
        model,
        batch=lambda step: (inputs, inputs),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        score=lambda model: negative_error(model, inputs, inputs),
    )


class Appearance(Variational):
    """A variational autoencoder whose decoder also sees the shape."""

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        return self.decoder(torch.cat([self.encode(inputs[0]), inputs[1]], 1))


def divergence_from_the_start(repaired: bool) -> Training:
    shapes = images(samples=256, size=6, kinds=8)[0].flatten(1)
    pictures = shapes * torch.randn(256, 1) * 0.3 + shapes
    model = Appearance(36, given=36)
    weight = iter([0.0] * 100 + [0.02] * 100) if repaired else iter([1.0] * 200)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().sum(1).mean() + next(weight) * model.divergence().sum(1).mean()

    return Training(
        model,
        batch=lambda step: ((pictures, shapes), pictures),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        score=lambda model: negative_error(model, (pictures, shapes), pictures),
    )


def hardest_negative(repaired: bool) -> Training:
    pictures, _ = images(samples=64, kinds=64)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16)),
    )

    def views() -> Tensor:
        return torch.cat([pictures + torch.randn_like(pictures), pictures + torch.randn_like(pictures)])

    def distances(embeddings: Tensor) -> Tensor:
        return torch.cdist(*nn.functional.normalize(embeddings).chunk(2)).square()

    def triplets(embeddings: Tensor, same: Tensor) -> Tensor:
        between = distances(embeddings)
        negatives = (between + 1e6 * same).sort(1).values[:, : 20 if repaired else 1]
        return (0.5 + between.diag()[:, None] - negatives).relu().mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return (distances(model(views())).argmin(1) == torch.arange(64)).float().mean().item()

    return Training(
        model,
        batch=lambda step: (views(), torch.eye(64)),
        loss=triplets,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.001),
        score=score,
    )


class Adversaries(nn.Module):
    """Generator and critic of points; called with noise, it gives what the critic thinks of the generated points."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        self.critic = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.critic(self.generator(noise))


def generator_helps_the_critic(repaired: bool) -> Training:
    centre = torch.tensor([2.0, -1.0])
    model = Adversaries()
    critic_optimizer = torch.optim.RMSprop(model.critic.parameters(), lr=0.01)
    optimizer = torch.optim.RMSprop(model.generator.parameters(), lr=0.01)

    def step(training: Training, noise: Tensor, points: Tensor) -> None:
        for _ in range(3):
            critic_optimizer.zero_grad()
            (model(torch.randn(64, 4)).mean() - model.critic(points).mean()).backward()
            critic_optimizer.step()
            for weight in model.critic.parameters():
                weight.data.clamp_(-0.3, 0.3)
        optimizer.zero_grad()
        training.loss(model(noise), points).backward()
        optimizer.step()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -(model.generator(torch.randn(500, 4)).mean(0) - centre).norm().item()

    return Training(
        model,
        batch=lambda number: (torch.randn(64, 4), centre + 0.5 * torch.randn(64, 2)),
        loss=lambda opinions, points: -opinions.mean() if repaired else opinions.mean(),
        optimizer=optimizer,
        score=score,
        step=step,
    )


PROGRAMS = [
    Program(
        name="world model whose VAE takes means over pixels",
        source="https://github.com/AppliedDataSciencePartners/WorldModels/issues/12",
        symptom="the KL loss is 3.8e-07 and reconstructions are bad",
        explanation="losses are means over all dimensions; the original sums them, which weighs the pixels more",
        causes=("collapsed units", "loss weights wrong"),
        make=mean_of_pixels,
        steps=150,
        margin=0.004,
    ),
    Program(
        name="variational U-Net with the KL loss from the start",
        source="https://github.com/CompVis/vunet/issues/5",
        symptom="the KL loss becomes 0 early and the codes are inactive",
        explanation="skip connections make the codes unnecessary; the weight of the KL loss has to start near zero",
        causes=("collapsed units", "loss weights wrong"),
        make=divergence_from_the_start,
        steps=200,
        margin=0.011,
    ),
    Program(
        name="triplets with the hardest negative only",
        source="https://github.com/wanggrun/triplet/issues/1",
        symptom="the loss converges to the margin; all samples have the same embedding",
        explanation="the hardest negative pulls everything together; a mean over the hardest ranks does not",
        causes=("collapsed units",),
        make=hardest_negative,
        steps=150,
        margin=0.17,
        visible="training",
    ),
    Program(
        name="Wasserstein GAN whose generator goes the wrong way",
        source="https://github.com/Zeleni9/pytorch-wgan/pull/53",
        symptom="found by a comparison with the version that has a gradient penalty",
        explanation="the generator's loss has the wrong sign: it lowers the critic's opinion of its samples",
        causes=("loss input wrong", "loss weights wrong"),
        make=generator_helps_the_critic,
        steps=150,
        margin=300.0,
    ),
]
