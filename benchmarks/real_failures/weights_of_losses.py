"""Losses whose terms or samples have wrong weights, losses of pairs of networks and of triplets of samples."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from real_failures.data import accuracy, classes, images, minibatches, shuffled
from real_failures.program import Program, Training, usual_step


class Variational(nn.Module):
    def __init__(self, features: int, hidden: int, latent: int, output: nn.Module):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, features), output)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(inputs).chunk(2, 1)
        return self.decoder(mean + (log_variance / 2).exp() * torch.randn_like(mean)), mean, log_variance

    @torch.no_grad()
    def reconstructed(self, inputs: Tensor) -> float:
        outputs = self.decoder(self.encoder(inputs).chunk(2, 1)[0])
        return 1 - ((outputs - inputs).square().mean() / (inputs - inputs.mean(0)).square().mean()).item()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp())


def vae_of_genes(repaired: bool) -> Training:
    inputs = classes(256)[0]
    model = Variational(20, 32, 4, nn.Identity())

    def loss(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        errors, divergences = (outputs[0] - targets).square(), divergence(*outputs[1:])
        return errors.sum(1).mean() + divergences.mean() if repaired else errors.mean() + divergences.sum()

    return Training(
        model,
        batch=minibatches(64, inputs, inputs),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3),
        score=lambda model: model.reconstructed(inputs),
    )


def vae_of_digits(repaired: bool) -> Training:
    pictures = (images(256)[0].flatten(1) > 0.2).float()
    model = Variational(144, 32, 2, nn.Sigmoid())

    def loss(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        error = F.binary_cross_entropy(outputs[0], targets)
        return (144 * error if repaired else error) + divergence(*outputs[1:]).sum(1).mean()

    return Training(
        model,
        batch=minibatches(64, pictures, pictures),
        loss=loss,
        optimizer=torch.optim.RMSprop(model.parameters(), lr=3e-3),
        score=lambda model: model.reconstructed(pictures),
    )


class EmotionClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 16, batch_first=True)
        self.classifier = nn.Linear(16, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.classifier(self.gru(inputs)[1][0])


def class_weights_swapped(repaired: bool) -> Training:
    kinds = (torch.arange(384) % 12 == 0).long()
    inputs = torch.randn(384, 8, 4)
    inputs[kinds == 1, :, 0] += 0.8
    weights = torch.tensor([1 / 0.9184, 1 / 0.0816]) if repaired else torch.tensor([1 / 0.0816, 1 / 0.9184])
    model = EmotionClassifier()
    return Training(
        model,
        batch=minibatches(96, inputs, kinds),
        loss=nn.CrossEntropyLoss(weights),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: sum(accuracy(model, inputs[kinds == k], kinds[kinds == k]) for k in (0, 1)) / 2,
    )


def summed_loss(repaired: bool) -> Training:
    inputs, labels = classes(1024)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.CrossEntropyLoss(reduction="mean" if repaired else "sum"),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1 if repaired else 0.01),
        score=lambda model: accuracy(model, inputs, labels),
    )


def generated_samples_called_real(repaired: bool) -> Training:
    data = torch.tensor([2.0, -1.0]) + torch.randn(256, 2) @ torch.tensor([[0.6, 0.3], [0.0, 0.4]])
    generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    first = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    second = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    targets = torch.cat([torch.ones(64, 1), torch.zeros(64, 1) if repaired else torch.ones(64, 1)])

    def batch(step: int) -> tuple[Tensor, Tensor]:
        real = data[64 * (step % 4) : 64 * (step % 4) + 64]
        return torch.cat([real, generator(torch.randn(64, 4)).detach()]), targets

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        usual_step(training, inputs, targets)
        first.zero_grad()
        judged = discriminator(generator(torch.randn(64, 4)))
        F.binary_cross_entropy_with_logits(judged, torch.ones(64, 1)).backward()
        first.step()

    def distance(model: nn.Module) -> float:
        with torch.no_grad():
            generated = generator(torch.randn(500, 4))
        return -(generated.mean(0) - data.mean(0)).norm().item()

    return Training(discriminator, batch, F.binary_cross_entropy_with_logits, second, distance, step)


def hardest_triplets(repaired: bool) -> Training:
    labels = torch.arange(192) % 6
    inputs = 0.4 * torch.randn(6, 20)[labels] + torch.randn(192, 20)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))

    def loss(embedded: Tensor, labels: Tensor) -> Tensor:
        distances = ((embedded[:, None] - embedded).square().sum(2) + 1e-12).sqrt()
        same = labels[:, None] == labels
        farthest, nearest = (distances * same).amax(1), (distances + 1e6 * same).amin(1)
        return (farthest - nearest + 0.5).relu().mean()

    def neighbour(model: nn.Module) -> float:
        with torch.no_grad():
            embedded = model(inputs)
        nearest = torch.cdist(embedded, embedded).fill_diagonal_(torch.inf).argmin(1)
        return (labels[nearest] == labels).float().mean().item()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3 if repaired else 1e-2)
    return Training(model, shuffled(48, inputs, labels), loss, optimizer, neighbour)


PROGRAMS = [
    Program(
        name="variational autoencoder of genes, one term summed and one averaged",
        source="https://github.com/zdebruine/MMVAE/pull/19",
        symptom="the KL loss drops to zero in a few epochs, and the reconstruction stops improving",
        explanation="the squared error is averaged over all elements and the KL term is summed",
        causes=("loss weights wrong",),
        make=vae_of_genes,
        steps=200,
        margin=0.3,
        visible="training",
    ),
    Program(
        name="variational autoencoder of digits, error averaged over the pixels",
        source="https://github.com/keras-team/keras/pull/3383",
        symptom="the example does not work; the reconstruction loss is extremely small",
        explanation="the cross entropy is averaged over the pixels and has to be multiplied with their number",
        causes=("loss weights wrong",),
        make=vae_of_digits,
        steps=200,
        margin=0.16,
        visible="training",
    ),
    Program(
        name="emotion classifier with class weights in the wrong order",
        source="https://github.com/amanshenoy/multilogue-net/issues/21",
        symptom="the frequent class gets the large weight",
        explanation="the weights of the two classes are swapped",
        causes=("loss weights wrong",),
        make=class_weights_swapped,
        steps=60,
        margin=0.22,
    ),
    Program(
        name="loss summed over a large batch",
        source="https://github.com/jax-ml/jax/pull/3113",
        symptom="gradients explode with larger batches",
        explanation="the loss is a sum over the samples, so the step grows with the batch",
        causes=("learning rate too high", "exploding gradient"),
        make=summed_loss,
        steps=60,
        margin=0.37,
        visible="training",
    ),
    Program(
        name="discriminator that learns that everything is real",
        source="https://github.com/SerezD/vqvae-vqgan-pytorch-lightning/issues/3",
        symptom="the non-saturating discriminator loss is wrong",
        explanation="the targets of generated samples are ones as well",
        causes=("data wrong", "loss input wrong"),
        make=generated_samples_called_real,
        steps=300,
        margin=0.7,
    ),
    Program(
        name="triplets whose loss stays at the margin",
        source="https://github.com/omoindrot/tensorflow-triplet-loss/issues/6",
        symptom="the loss becomes exactly the margin after several steps, and all embeddings are the same",
        explanation="the embeddings collapse to a point; the learning rate has to be reduced until they do not",
        causes=("collapsed units", "learning rate too high"),
        make=hardest_triplets,
        steps=100,
        margin=0.36,
        visible="training",
    ),
]
