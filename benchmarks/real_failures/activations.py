"""Activations: many layers of sigmoids, none between layers, ReLU where outputs need to be negative or to move."""

import itertools

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, classes, images, line, negative_error, sequences
from real_failures.program import Program, Training


def sigmoid_classifier(repaired: bool) -> Training:
    inputs, labels = classes()
    layers: list[nn.Module] = []
    for width in (20, 64, 64, 64):
        layers += [nn.Linear(width, 64), *([nn.BatchNorm1d(64)] if repaired else []), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(64, 4))
    return Training(
        model,
        batch=lambda step: (inputs[step % 4 * 64 :][:64], labels[step % 4 * 64 :][:64]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        score=lambda model: accuracy(model, inputs, labels),
    )


def sigmoid_regression(repaired: bool) -> Training:
    inputs = torch.randint(2, (256, 24)).float()
    targets = torch.tanh((inputs - 0.5) @ torch.randn(24))
    layers: list[nn.Module] = []
    for width in (24, 100, 100, 100):
        layers += [nn.Linear(width, 100), nn.ReLU() if repaired else nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Linear(100, 1))
    return Training(
        model,
        batch=lambda step: (inputs, targets[:, None]),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        score=lambda model: negative_error(model, inputs, targets),
    )


def rectified_logits(repaired: bool) -> Training:
    inputs, labels = classes(kinds=10, samples=500, spread=1.5)
    layers = [nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    model = nn.Sequential(*layers, *([] if repaired else [nn.ReLU()]))
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        score=lambda model: accuracy(model, inputs, labels),
    )


class LastStepRegressor(nn.Module):
    """LSTM, then two linear layers on its last output; ReLU or nothing at the end."""

    def __init__(self, rectified: bool, hidden: int = 22):
        super().__init__()
        self.lstm = nn.LSTM(4, hidden, batch_first=True)
        self.hidden, self.output = nn.Linear(hidden, 16), nn.Linear(16, 1)
        self.rectified = rectified

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.output(self.hidden(self.lstm(inputs)[0][:, -1]).relu())
        return outputs.relu() if self.rectified else outputs


def rectified_retention_time(repaired: bool) -> Training:
    inputs, kinds = sequences(steps=10)
    targets = (1 + kinds.float())[:, None] / 4
    model = LastStepRegressor(rectified=not repaired)
    return Training(
        model,
        batch=lambda step: (inputs, targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.005),
        score=lambda model: negative_error(model, inputs, targets),
    )


class RadianceField(nn.Module):
    """Colours of rays through a field of density and colour, on a white background."""

    def __init__(self, rectified: bool, width: int = 20):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(9, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.density, self.colour = nn.Linear(width, 1), nn.Linear(width, 3)
        self.rectified = rectified

    def forward(self, points: Tensor) -> Tensor:
        features = self.body(torch.cat([points, torch.sin(3 * points), torch.cos(3 * points)], -1))
        density = self.density(features).squeeze(-1)
        density = density.relu() if self.rectified else nn.functional.softplus(density - 1)
        opacity = 1 - torch.exp(-density / 4)
        passed = torch.cumprod(torch.cat([torch.ones_like(opacity[:, :1]), 1 - opacity], 1), 1)
        weights = opacity * passed[:, :-1]
        return (weights[..., None] * self.colour(features).sigmoid()).sum(1) + passed[:, -1:]


def rectified_density(repaired: bool) -> Training:
    pixels = 2 * torch.rand(200, 2) - 1
    depths = torch.linspace(-1, 1, 12).expand(200, 12)
    points = torch.cat([pixels[:, None].expand(-1, 12, -1), depths[..., None]], -1)
    targets = torch.where(pixels.norm(dim=1, keepdim=True) < 0.5, torch.tensor([0.8, 0.2, 0.1]), torch.ones(3))
    model = RadianceField(rectified=not repaired)
    return Training(
        model,
        batch=lambda step: (points, targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.005),
        score=lambda model: negative_error(model, points, targets),
    )


def rectified_pixels(repaired: bool) -> Training:
    inputs = images(size=10, kinds=8)[0].flatten(1).div(2).clamp(0, 1)
    activation = nn.LeakyReLU if repaired else nn.ReLU
    model = nn.Sequential(nn.Linear(100, 32), activation(), nn.Linear(32, 100), activation())
    return Training(
        model,
        batch=lambda step: (inputs, inputs),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: negative_error(model, inputs, inputs),
    )


class Trajectories(nn.Module):
    """Convolutional features of a map and the state of a car; two linear layers choose a trajectory."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(8 * 9 + 3, 64), activation, nn.Linear(64, 4))

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        return self.head(torch.cat([self.backbone(inputs[0]), inputs[1]], 1))


def linear_head(repaired: bool) -> Training:
    maps, kinds = images(kinds=2, samples=256)
    state = torch.randn(256, 3)
    labels = 2 * (state[:, 1] > 0) + (kinds ^ (state[:, 0] > 0))
    model = Trajectories(nn.ReLU() if repaired else nn.Identity())
    return Training(
        model,
        batch=lambda step: ((maps, state), labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: accuracy(model, (maps, state), labels),
    )


def layers_without_activations(repaired: bool) -> Training:
    inputs, clusters = classes(samples=400, kinds=20, features=10, spread=0.7)
    labels = clusters % 5
    activation = nn.ReLU if repaired else nn.Identity
    model = nn.Sequential(nn.Linear(10, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 5))
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        score=lambda model: accuracy(model, inputs, labels),
    )


def hidden_layer_of_one_unit(repaired: bool) -> Training:
    inputs, targets = line(features=8)
    targets = torch.sin(targets / targets.std())[:, None]
    widths = [8, 64, 64] if repaired else [8, 64, 64, 1]
    layers = [layer for i, o in itertools.pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
    return Training(
        model,
        batch=lambda step: (inputs[step % 4 * 64 :][:64], targets[step % 4 * 64 :][:64]),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.003),
        score=lambda model: negative_error(model, inputs, targets),
    )


PROGRAMS = [
    Program(
        name="tabular benchmark's MLP with a hidden layer of one unit",
        source="https://github.com/LeoGrin/tabular-benchmark/issues/14",
        symptom="found in the code: the head always maps the output size to itself",
        explanation="the output size is appended to the hidden sizes: a ReLU layer of one unit comes before the head",
        causes=("targets out of reach", "dead units"),
        make=hidden_layer_of_one_unit,
        steps=150,
        margin=0.2,
        layers=("4", "5"),
    ),
    Program(
        name="classifier of four layers of sigmoids",
        source="https://github.com/phlippe/uvadlc_notebooks/issues/119",
        symptom="with sigmoids the best epoch is the first one; test accuracy is at chance",
        explanation="gradients are too small in the first layers; normalisation, Adam or another initialisation help",
        causes=("vanishing gradient",),
        make=sigmoid_classifier,
        steps=150,
        margin=0.25,
    ),
    Program(
        name="regression with four hidden layers of sigmoids",
        source="https://ai.stackexchange.com/questions/16557",
        symptom="the network does not learn; the loss is high even on the training data",
        explanation="each layer of sigmoids divides the gradient by at least 4; with ReLU it arrives",
        causes=("vanishing gradient",),
        make=sigmoid_regression,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="ReLU after the logits of a tutorial",
        source="https://github.com/pytorch/tutorials/pull/1644",
        symptom="the loss of the introduction's model does not seem to be right",
        explanation="a ReLU between the last layer and cross entropy removes the negative logits",
        causes=("targets out of reach", "dead units", "loss input wrong"),
        make=rectified_logits,
        steps=100,
        margin=0.11,
        layers=("4", "5"),
    ),
    Program(
        name="LSTM that predicts zero for every peptide",
        source="https://github.com/ProteomicsML/ProteomicsML/pull/203",
        symptom="the LSTM returns zero for all peptides of the validation set",
        explanation="the last linear layer has a ReLU; if its outputs start below zero, no gradient passes",
        causes=("dead units",),
        make=rectified_retention_time,
        steps=60,
        margin=0.15,
        layers=("output",),
    ),
    Program(
        name="radiance field with a ReLU on its density",
        source="https://github.com/munshisanowarraihan/nerf-meta/issues/3",
        symptom="the rendered video is only white",
        explanation="ReLU makes the density zero everywhere after an unlucky initialisation; softplus does not",
        causes=("dead units",),
        make=rectified_density,
        steps=50,
        margin=0.04,
        layers=("density",),
    ),
    Program(
        name="autoencoder with ReLU on its pixels",
        source="https://github.com/FluxML/model-zoo/pull/34",
        symptom="some pixels of the reconstructed images are always black",
        explanation="output units with ReLU that start below zero stay there; leaky ReLU repairs them",
        causes=("dead units",),
        make=rectified_pixels,
        steps=150,
        margin=0.002,
    ),
    Program(
        name="CoverNet head of two linear layers",
        source="https://github.com/nutonomy/nuscenes-devkit/pull/758",
        symptom="none is told; a reader asks for a non-linearity in the head",
        explanation="there is no activation between the linear layers of the head",
        causes=("no activation between layers",),
        make=linear_head,
        steps=80,
        margin=0.05,
        layers=("head.0", "head.2"),
    ),
    Program(
        name="course network without activations",
        source="https://github.com/Cambridge-ICCS/practical-ml-with-pytorch/pull/45",
        symptom="found in the code of a course: its networks are linear functions",
        explanation="there are no activation functions between its linear layers; the course added them",
        causes=("no activation between layers",),
        make=layers_without_activations,
        steps=150,
        margin=0.045,
        layers=("0", "2", "4"),
    ),
]
