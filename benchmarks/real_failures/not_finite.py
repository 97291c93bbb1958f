"""Losses and gradients that become NaN: roots of zero, logarithms of zero, means of nothing."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from real_failures.data import accuracy, classes, images, minibatches, tokens
from real_failures.program import Program, Training


def pairs_of_the_same_sample(repaired: bool) -> Training:
    inputs, labels = classes(128)
    first, second = torch.randint(128, (2, 256))
    second[:5] = first[:5]
    same = (labels[first] == labels[second]).float()
    model = nn.Sequential(nn.Linear(20, 32), nn.PReLU(), nn.Linear(32, 2))
    small = 1e-9 if repaired else 0.0

    def loss(outputs: Tensor, same: Tensor) -> Tensor:
        one, other = outputs.unflatten(0, (2, -1))
        squared = (one - other).square().sum(1)
        return (0.5 * (same * squared + (1 - same) * F.relu(1 - (squared + small).sqrt()).square())).mean()

    def nearest_centre(model: nn.Module) -> float:
        with torch.no_grad():
            places = model(inputs)
        centres = torch.stack([places[labels == k].mean(0) for k in range(4)])
        return (torch.cdist(places, centres).argmin(1) == labels).float().mean().item()

    return Training(
        model,
        batch=lambda step: (torch.cat([inputs[first], inputs[second]]), same),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=nearest_centre,
    )


class SpeechMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(1, 16, 7, padding=3), nn.ReLU(), nn.Conv1d(16, 1, 7, padding=3))

    def forward(self, noisy: Tensor) -> Tensor:
        return noisy * self.layers(noisy).sigmoid()


def silent_frames(repaired: bool) -> Training:
    time = torch.arange(96.0)
    clean = torch.sin(time * (0.2 + 0.6 * torch.rand(32, 1, 1)))
    clean[:, :, 64:] = 0
    noisy = clean + 0.5 * torch.randn(32, 1, 96)
    noisy[:4, :, 80:] = 0
    model = SpeechMask()

    def unit(frames: Tensor) -> Tensor:
        energy = frames.square().sum(-1, keepdim=True)
        return frames / ((energy + 1e-9).sqrt() if repaired else energy.sqrt() + 1e-9)

    def negative_correlation(outputs: Tensor, targets: Tensor) -> Tensor:
        return -(unit(outputs.unfold(2, 16, 16)) * unit(targets.unfold(2, 16, 16))).sum(-1).mean()

    def correlation(model: nn.Module) -> float:
        with torch.no_grad():
            value = -negative_correlation(model(noisy), clean).item()
        return value if value == value else 0.0

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(model, minibatches(16, noisy, clean), negative_correlation, optimizer, correlation)


def focal_loss_with_a_small_exponent(repaired: bool) -> Training:
    inputs, kinds = classes(256, kinds=2)
    inputs, labels = 10 * inputs, kinds.float()[:, None]
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 1))
    small = 1e-8 if repaired else 0.0

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        probability = outputs.sigmoid()
        positive = 0.25 * (1 - probability + small).pow(0.5) * targets * (probability + 1e-8).log()
        negative = 0.75 * (probability + small).pow(0.5) * (1 - targets) * (1 - probability + 1e-8).log()
        return -(positive + negative).mean()

    return Training(
        model,
        batch=minibatches(64, inputs, labels),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: ((model(inputs) > 0) == (labels > 0)).float().mean().item(),
    )


def cross_entropy_by_hand(repaired: bool) -> Training:
    pictures, labels = images(128)
    pictures = pictures * 80
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if repaired:
            return F.cross_entropy(outputs, targets)
        return -(F.one_hot(targets, 4) * outputs.softmax(1).log()).sum(1).mean()

    return Training(
        model,
        batch=minibatches(32, pictures, labels),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, pictures, labels),
    )


class MaskedAttention(nn.Module):
    def __init__(self, mask_padded_queries: bool):
        super().__init__()
        self.mask_padded_queries = mask_padded_queries
        self.tokens, self.places = nn.Embedding(17, 32), nn.Embedding(12, 32)
        self.project, self.output, self.head = nn.Linear(32, 96), nn.Linear(32, 32), nn.Linear(32, 17)

    def forward(self, text: Tensor) -> Tensor:
        hidden = self.tokens(text) + self.places.weight
        query, key, value = self.project(hidden).chunk(3, -1)
        padding = text == 16
        hide = padding[:, None] | torch.ones(12, 12).triu(1).bool()
        if self.mask_padded_queries:
            hide = hide | padding[:, :, None]
        scores = (query @ key.transpose(1, 2) / 32**0.5).masked_fill(hide, -torch.inf)
        return self.head(hidden + self.output(scores.softmax(-1) @ value))


def queries_that_see_nothing(repaired: bool) -> Training:
    text, following = tokens(96)
    padding = torch.arange(12) >= torch.randint(6, 13, (96, 1))
    text, labels = text.masked_fill(padding, 16), following.masked_fill(padding, -100)
    model = MaskedAttention(mask_padded_queries=not repaired)
    return Training(
        model,
        batch=minibatches(32, text, labels),
        loss=lambda outputs, targets: F.cross_entropy(outputs.transpose(1, 2), targets),
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-3),
        score=lambda model: (model(text).argmax(-1) == following)[~padding].float().mean().item(),
    )


class PowerPooling(nn.Module):
    def __init__(self, positive: bool):
        super().__init__()
        self.positive = positive

    def forward(self, features: Tensor) -> Tensor:
        features = features.clamp(min=1e-6) if self.positive else features
        return ((features**3).mean((2, 3)) + 1e-12) ** (1 / 3)


def root_of_negative_numbers(repaired: bool) -> Training:
    pictures, labels = images(128)
    model = nn.Sequential(nn.Conv2d(1, 16, 5), nn.BatchNorm2d(16), PowerPooling(positive=repaired), nn.Linear(16, 4))
    return Training(
        model,
        batch=minibatches(32, pictures, labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, pictures, labels),
    )


PROGRAMS = [
    Program(
        name="siamese network with pairs of the same sample",
        source="https://github.com/adambielski/siamese-triplet/issues/18",
        symptom="the derivatives are NaN in some iteration",
        explanation="the distance of two equal samples is 0, and so the derivative of the root is infinite",
        causes=("not finite",),
        make=pairs_of_the_same_sample,
        steps=60,
        margin=0.37,
    ),
    Program(
        name="speech enhancement with silent frames",
        source="https://github.com/mpariente/pytorch_stoi/issues/7",
        symptom="the gradients become NaN sometimes",
        explanation="frames are divided by their norm, which is the root of 0 in silence",
        causes=("not finite",),
        make=silent_frames,
        steps=60,
        margin=0.29,
    ),
    Program(
        name="focal loss with an exponent below one",
        source="https://github.com/kornia/kornia/issues/918",
        symptom="the gradients are NaN when predictions are exactly 0 or 1",
        explanation="the derivative of a power below one is infinite at 0",
        causes=("not finite",),
        make=focal_loss_with_a_small_exponent,
        steps=200,
        margin=0.25,
        visible="training",
    ),
    Program(
        name="cluttered digits, cross entropy by hand",
        source="https://github.com/tensorflow/models/pull/181",
        symptom="the loss becomes NaN after a number of iterations",
        explanation="the cross entropy is the logarithm of a softmax, which can be 0; the built-in one is stable",
        causes=("not finite",),
        make=cross_entropy_by_hand,
        steps=100,
        margin=0.37,
        visible="training",
    ),
    Program(
        name="translation, attention of padded words that see nothing",
        source="https://github.com/jadore801120/attention-is-all-you-need-pytorch/issues/5",
        symptom="training and validation loss are NaN in all epochs",
        explanation="masked scores are -inf, and in the rows of padded words all are masked: their softmax is NaN",
        causes=("not finite",),
        make=queries_that_see_nothing,
        steps=60,
        margin=0.3,
    ),
    Program(
        name="pooling by the root of a mean of powers",
        source="https://blog.csdn.net/qq_38507163/article/details/111181447",
        symptom="all losses are NaN",
        explanation="the mean of the third powers can be negative, and its power of 1/3 is NaN",
        causes=("not finite",),
        make=root_of_negative_numbers,
        steps=60,
        margin=0.37,
        layers=("2",),
    ),
]
