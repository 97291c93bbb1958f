"""Targets: shapes that broadcast, values that the outputs cannot reach, values that are too large."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from real_failures.data import explained, line, minibatches, negative_error, overlap, rectangles
from real_failures.program import Program, Training


def regression_with_flat_targets(repaired: bool) -> Training:
    inputs, targets = line()
    model = nn.Linear(4, 1)
    return Training(
        model,
        batch=lambda step: (inputs, targets[:, None] if repaired else targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        score=lambda model: negative_error(model, inputs, targets),
    )


def sum_of_three_inputs(repaired: bool) -> Training:
    inputs = torch.rand(1024, 3)
    targets = inputs.sum(1)
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    nn.init.zeros_(model[0].weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor=0.5, patience=20)

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        loss = training.loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        schedule.step(loss)

    return Training(
        model,
        batch=lambda number: (inputs, targets[:, None] if repaired else targets),
        loss=nn.MSELoss(),
        optimizer=optimizer,
        score=lambda model: negative_error(model, inputs, targets),
        step=step,
    )


class TextRegression(nn.Module):
    def __init__(self, squeeze: bool):
        super().__init__()
        self.squeeze = squeeze
        self.embedding = nn.Embedding(17, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, text: Tensor) -> Tensor:
        logits = self.head(self.encoder(self.embedding(text)).mean(1))
        return logits.squeeze(1) if self.squeeze else logits


def squeezed_logits(repaired: bool) -> Training:
    text = torch.randint(17, (128, 8))
    labels = (text % 5).float().mean(1, keepdim=True)
    model = TextRegression(squeeze=not repaired)
    return Training(
        model,
        batch=minibatches(32, text, labels),
        loss=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: explained(model, text, labels),
    )


def initial_condition_of_a_wave(repaired: bool) -> Training:
    model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))
    inside, start = torch.rand(64, 2) * 2 - 1, torch.cat([torch.linspace(-1, 1, 32)[:, None], torch.zeros(32, 1)], 1)
    inside[:, 1] = inside[:, 1].abs()
    height = torch.sin(torch.pi * start[:, 0])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        points = inside.clone().requires_grad_()
        slope = torch.autograd.grad(model(points).sum(), points, create_graph=True)[0]
        return (slope[:, 1] + slope[:, 0]).square().mean() + F.mse_loss(outputs, targets)

    def solution_error(model: nn.Module) -> float:
        return negative_error(model, inside, torch.sin(torch.pi * (inside[:, 0] - inside[:, 1])))

    batch = (start, height[:, None] if repaired else height)
    return Training(model, lambda step: batch, loss, torch.optim.Adam(model.parameters(), lr=1e-2), solution_error)


def segmentation(last: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1), last)
    )


def masks_of_bytes_and_a_sigmoid(repaired: bool) -> Training:
    pictures, masks = rectangles()
    model = segmentation(nn.Sigmoid())
    return Training(
        model,
        batch=minibatches(16, pictures, masks if repaired else 255 * masks),
        loss=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: overlap(model, pictures, masks, 0.5),
    )


def masks_of_bytes_in_cross_entropy(repaired: bool) -> Training:
    pictures, masks = rectangles()
    model = segmentation(nn.Identity())
    return Training(
        model,
        batch=minibatches(4, pictures, masks if repaired else 255 * masks),
        loss=nn.BCEWithLogitsLoss(),
        optimizer=torch.optim.RMSprop(model.parameters(), lr=1e-3, momentum=0.9),
        score=lambda model: overlap(model, pictures, masks),
    )


def masks_normalised_like_pictures(repaired: bool) -> Training:
    pictures, masks = rectangles()
    model = segmentation(nn.Identity())
    return Training(
        model,
        batch=minibatches(16, pictures, masks if repaired else (masks - 0.5) / 0.5),
        loss=nn.BCEWithLogitsLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: overlap(model, pictures, masks),
    )


def regression_that_ends_in_a_sigmoid(repaired: bool) -> Training:
    inputs, targets = line()
    last = nn.Identity() if repaired else nn.Sigmoid()
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1), last)
    return Training(
        model,
        batch=minibatches(64, inputs, targets[:, None]),
        loss=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: explained(model, inputs, targets),
    )


def standardised_pictures_from_a_relu(repaired: bool) -> Training:
    pictures = rectangles()[0]
    pictures = (pictures - pictures.mean()) / pictures.std() if not repaired else pictures - pictures.min()
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.ReLU()),
    )
    return Training(
        model,
        batch=minibatches(16, pictures, pictures),
        loss=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: explained(model, pictures, pictures),
    )


def cubes_of_large_numbers(repaired: bool) -> Training:
    numbers = torch.arange(1.0, 4000.0, 20.0)[:, None]
    inputs, targets = numbers, numbers**3
    if repaired:
        inputs, targets = ((x - x.mean()) / x.std() for x in (inputs, targets))
    model = nn.Sequential(nn.Linear(1, 50), nn.ReLU(), nn.Linear(50, 1))
    return Training(
        model,
        batch=lambda step: (inputs, targets),
        loss=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        score=lambda model: explained(model, inputs, targets),
    )


PROGRAMS = [
    Program(
        name="linear regression, targets without the last dimension",
        source="https://github.com/pytorch/pytorch/issues/16045",
        symptom="a linear regression does not find the coefficients; the loss stops far from its minimum",
        explanation="outputs [n, 1] and targets [n] broadcast to [n, n] in the loss",
        causes=("targets broadcast",),
        make=regression_with_flat_targets,
        steps=60,
        margin=1.0,
    ),
    Program(
        name="sum of three inputs with a schedule on plateaus",
        source="https://discuss.pytorch.org/t/output-of-the-model-depends-on-the-shape-of-the-weights-tensor/148155",
        symptom="a linear model cannot learn to sum its inputs",
        explanation="outputs [1024, 1] and targets [1024] broadcast in the loss, whose warning was ignored",
        causes=("targets broadcast",),
        make=sum_of_three_inputs,
        steps=60,
        margin=0.01,
    ),
    Program(
        name="text regression with squeezed logits",
        source="https://github.com/deepset-ai/FARM/issues/229",
        symptom="the loss stays large, with a warning about sizes [32] and [32, 1]",
        explanation="the logits were squeezed, so they do not match the labels",
        causes=("targets broadcast",),
        make=squeezed_logits,
        steps=60,
        margin=0.4,
    ),
    Program(
        name="physics-informed network, initial condition without the last dimension",
        source="https://github.com/Photon-AI-Research/NeuralSolvers/issues/20",
        symptom="the loss of the initial condition warns about sizes [n] and [n, 1]",
        explanation="predictions [n, 1] and values [n] broadcast; reshape(-1) solves it",
        causes=("targets broadcast",),
        make=initial_condition_of_a_wave,
        steps=150,
        margin=0.22,
    ),
    Program(
        name="few-shot segmentation, masks of 0 and 255 for a sigmoid",
        source="https://github.com/HKUSTCV/FSS-1000/issues/20",
        symptom="the model never converges",
        explanation="the images are normalised and the masks are not; the outputs of a sigmoid cannot reach 255",
        causes=("targets out of reach", "targets not scaled"),
        make=masks_of_bytes_and_a_sigmoid,
        steps=100,
        margin=0.19,
    ),
    Program(
        name="U-Net with a negative loss, masks of 0 and 255",
        source="https://github.com/milesial/Pytorch-UNet/issues/78",
        symptom="the loss is -2000 and falls further, and the dice coefficient is above 1",
        explanation="binary cross entropy needs masks in [0, 1], and these are 0 and 255",
        causes=("targets out of reach", "targets not scaled"),
        make=masks_of_bytes_in_cross_entropy,
        steps=60,
        margin=0.25,
    ),
    Program(
        name="nested U-Net with a negative loss, normalised masks",
        source="https://github.com/bigmb/Unet-Segmentation-Pytorch-Nest-of-Unets/issues/18",
        symptom="the loss becomes negative after a few epochs",
        explanation="the transforms of the images were applied to the masks, whose values are -1 and 1 then",
        causes=("targets out of reach",),
        make=masks_normalised_like_pictures,
        steps=60,
        margin=0.22,
    ),
    Program(
        name="regression that ends in a sigmoid",
        source="https://github.com/UC-IIC2613/Syllabus/issues/208",
        symptom="with tanh or sigmoid the network does not train unless the last activation is removed",
        explanation="the range of the last activation does not contain the targets",
        causes=("targets out of reach",),
        make=regression_that_ends_in_a_sigmoid,
        steps=200,
        margin=0.37,
        layers=("3",),
    ),
    Program(
        name="autoencoder of standardised pictures without negative outputs",
        source="https://github.com/mikesj-public/convolutional_autoencoder/pull/9",
        symptom="the lower half of the values is cut off in the reconstructions",
        explanation="the data have mean zero, and the output layer cannot produce negative values",
        causes=("targets out of reach",),
        make=standardised_pictures_from_a_relu,
        steps=250,
        margin=0.16,
        layers=("3",),
    ),
    Program(
        name="cubes of the numbers to 4000",
        source="https://discuss.pytorch.org/t/neural-network-could-not-learn-on-this-type-of-data-why/96648",
        symptom="the network does not learn a cubic function; the loss is of the order of 1e20",
        explanation="neither inputs nor targets are normalised",
        causes=("targets not scaled", "inputs not scaled"),
        make=cubes_of_large_numbers,
        steps=400,
        margin=0.85,
    ),
]
