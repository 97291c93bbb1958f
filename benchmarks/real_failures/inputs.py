"""Inputs that are not scaled, scaled twice, or without information."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from real_failures.data import accuracy, explained, images, minibatches
from real_failures.program import Program, Training


def pixels(channels: int = 1, size: int = 12, kinds: int = 4) -> tuple[Tensor, Tensor]:
    """Pictures with values of 0 to 254, and labels."""
    pictures, labels = images(128, channels, size, kinds)
    low, high = pictures.min(), pictures.max()
    return ((pictures - low) / (high - low) * 254).round(), labels


def integers_divided_by_255(repaired: bool) -> Training:
    pictures, labels = pixels(channels=3, kinds=2)
    inputs = pictures / 255 if repaired else (pictures.int() // 255).float()
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten()),
        *(nn.Linear(200, 32), nn.ReLU(), nn.Linear(32, 2)),
    )
    return Training(
        model,
        batch=minibatches(32, inputs, labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True),
        score=lambda model: accuracy(model, inputs, labels),
    )


def raw_pixels(repaired: bool) -> Training:
    pictures, labels = pixels(size=28)
    inputs = pictures / 255 if repaired else pictures
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 4)),
        nn.Softmax(1),
    )
    for layer in (model[1], model[3], model[5]):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return Training(
        model,
        batch=minibatches(32, inputs, labels),
        loss=lambda outputs, targets: F.nll_loss(outputs.clamp(1e-7, 1 - 1e-7).log(), targets),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0005),
        score=lambda model: accuracy(model, inputs, labels),
    )


def autoencoder_of_raw_pixels(repaired: bool) -> Training:
    pictures = pixels()[0].flatten(1)
    pictures = pictures / 255 if repaired else pictures
    model = nn.Sequential(nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 144), nn.Sigmoid())

    def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
        outputs = outputs.clamp(1e-7, 1 - 1e-7)
        return -(targets * outputs.log() + (1 - targets) * (1 - outputs).log()).mean()

    return Training(
        model,
        batch=minibatches(32, pictures, pictures),
        loss=cross_entropy,
        optimizer=torch.optim.Adadelta(model.parameters(), lr=1.0),
        score=lambda model: explained(model, pictures / pictures.max(), pictures / pictures.max()),
    )


def survival_with_raw_features(repaired: bool) -> Training:
    features = torch.stack([torch.randint(20, 90, (128,)), torch.randint(1980, 1992, (128,)), torch.rand(128) * 5e3], 1)
    hazard = (features[:, 0] - 55) / 15
    times, order = (torch.rand(128).log().neg() * (-hazard).exp()).sort()
    features, hazard = features[order], hazard[order]
    low, high = features.amin(0), features.amax(0)
    inputs = (features - low) / (high - low) if repaired else features
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1, bias=False))

    def partial_likelihood(risk: Tensor, times: Tensor) -> Tensor:
        risk = risk.squeeze(1)
        return -(risk - risk.exp().flip(0).cumsum(0).flip(0).log()).mean()

    def concordance(model: nn.Module) -> float:
        with torch.no_grad():
            risk = model(inputs).squeeze(1)
        earlier, later = torch.triu_indices(128, 128, 1)
        return (risk[earlier] > risk[later]).float().mean().item()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    return Training(model, lambda step: (inputs, times), partial_likelihood, optimizer, concordance)


def heart_rates_around_92(repaired: bool) -> Training:
    points = 92 + 8 * torch.randn(200, 2)
    labels = ((points - 92).norm(dim=1) < 9).float()[:, None]
    inputs = (points - points.mean()) / points.std() if repaired else points
    model = nn.Sequential(nn.Linear(2, 16), nn.Sigmoid(), nn.Linear(16, 1), nn.Sigmoid())
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.BCELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: ((model(inputs) > 0.5) == (labels > 0.5)).float().mean().item(),
    )


class Draw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTMCell(288, 48), nn.LSTMCell(8, 48)
        self.code, self.write = nn.Linear(48, 8), nn.Linear(48, 144)

    def forward(self, pictures: Tensor) -> Tensor:
        canvas = pictures.new_zeros(len(pictures), 144)
        encoder = decoder = (pictures.new_zeros(len(pictures), 48),) * 2
        for _ in range(3):
            encoder = self.encoder(torch.cat([pictures, pictures - canvas.sigmoid()], 1), encoder)
            decoder = self.decoder(self.code(encoder[0]), decoder)
            canvas = canvas + self.write(decoder[0])
        return canvas.sigmoid()


def divided_by_255_twice(repaired: bool) -> Training:
    pictures = pixels()[0].flatten(1) / 255
    pictures = pictures if repaired else pictures / 255
    model = Draw()
    return Training(
        model,
        batch=minibatches(32, pictures, pictures),
        loss=nn.BCELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: explained(model, pictures, pictures),
    )


class GraphForecast(nn.Module):
    def __init__(self, adjacency: Tensor):
        super().__init__()
        self.register_buffer("adjacency", adjacency)
        self.embed, self.message, self.head = nn.Linear(3, 16), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, state: Tensor) -> Tensor:
        nodes = self.embed(state).relu()
        nodes = nodes + self.message(torch.cat([nodes, self.adjacency @ nodes], -1)).relu()
        return state + self.head(nodes)


def field_without_rain(repaired: bool) -> Training:
    ring = torch.eye(10)
    adjacency = ring.roll(1, 0)
    states = torch.randn(64, 10, 3)
    states[:, :, 2] = 0
    following = states + 0.5 * (adjacency @ states - states)
    mean, std = states.mean((0, 1)), states.std((0, 1))
    if repaired:
        std = torch.where(std > 0, std, 1.0)
    inputs, targets = (states - mean) / std, (following - mean) / std
    model = GraphForecast(adjacency)
    return Training(
        model,
        batch=minibatches(16, inputs, targets),
        loss=nn.MSELoss(),
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=lambda model: explained(model, inputs.nan_to_num(), targets.nan_to_num()),
    )


def missing_values_in_a_constant_column(repaired: bool) -> Training:
    columns = torch.rand(200, 3)
    labels = ((columns[:, 0] > 0.5) ^ (columns[:, 2] > 0.5)).long()
    columns[:, 1] = 0.5
    columns[0, 1] = torch.nan
    columns = torch.where(columns.isnan(), columns.nanmean(0), columns)
    std = columns.std(0)
    if repaired:
        std[std == 0] = 1e-10
    inputs = (columns - columns.mean(0)) / std
    model = nn.Sequential(
        *(nn.BatchNorm1d(3), nn.Linear(3, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Linear(32, 16), nn.ReLU()),
        nn.Linear(16, 2),
    )
    return Training(
        model,
        batch=minibatches(50, inputs, labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, inputs, labels),
    )


PROGRAMS = [
    Program(
        name="screenshots of a game, integers divided by 255",
        source="https://github.com/keras-team/keras/issues/255",
        symptom="the loss is the same in every batch, and the accuracy is 0.5",
        explanation="the pixels were integers when they were divided, so each of them became 0",
        causes=("inputs constant",),
        make=integers_divided_by_255,
        steps=60,
        margin=0.25,
    ),
    Program(
        name="digits of 0 to 255 in a dense network",
        source="https://github.com/tensorflow/tensorflow/issues/32899",
        symptom="the model remains at 11 % accuracy",
        explanation="the pixels have to be divided by 255",
        causes=("inputs not scaled",),
        make=raw_pixels,
        steps=300,
        margin=0.2,
    ),
    Program(
        name="autoencoder of pixels of 0 to 255",
        source="https://github.com/keras-team/keras/issues/3642",
        symptom="the reconstructions are much worse than in the tutorial",
        explanation="integers of 0 to 255 are inputs and targets of a network that ends in a sigmoid",
        causes=("inputs not scaled", "targets out of reach"),
        make=autoencoder_of_raw_pixels,
        steps=100,
        margin=0.12,
    ),
    Program(
        name="survival times from raw features",
        source="https://github.com/jaredleekatzman/DeepSurv/issues/14",
        symptom="the first loss is 3e10 and all others are NaN",
        explanation="the features are not normalised",
        causes=("inputs not scaled", "not finite"),
        make=survival_with_raw_features,
        steps=100,
        margin=0.35,
    ),
    Program(
        name="heart rates around 92 in a network of sigmoids",
        source="https://openillumi.com/en/en-pytorch-performance-fix-standardization",
        symptom="a network that solves the circles does not learn heart rates; its loss does not fall",
        explanation="the inputs are centred at 92, far from the scale that the initial weights are made for",
        causes=("inputs not scaled", "saturated units"),
        make=heart_rates_around_92,
        steps=400,
        margin=0.1,
    ),
    Program(
        name="recurrent autoencoder, pixels divided by 255 twice",
        source="https://github.com/pkmital/pycadl/pull/5",
        symptom="the training pipeline normalises the images twice",
        explanation="the batches are divided by 255 in the pipeline and again before the network",
        causes=("inputs not scaled", "inputs constant"),
        make=divided_by_255_twice,
        steps=100,
        margin=0.7,
    ),
    Program(
        name="weather on a graph, a field without rain",
        source="https://github.com/mllam/neural-lam/issues/136",
        symptom="all predictions are NaN",
        explanation="a field is constant, and the standardisation divides by its standard deviation of 0",
        causes=("not finite", "inputs constant"),
        make=field_without_rain,
        steps=60,
        margin=0.9,
    ),
    Program(
        name="table with a constant column that has missing values",
        source="https://github.com/autogluon/autogluon/issues/4508",
        symptom="the loss is NaN in the first epoch",
        explanation="a continuous column has variance 0, and the standardisation divides by it",
        causes=("not finite", "inputs constant"),
        make=missing_values_in_a_constant_column,
        steps=80,
        margin=0.24,
    ),
]
