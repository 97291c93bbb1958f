"""Schedules that take the learning rate to nearly nothing, or leave it there."""

import itertools

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, classes, images, negative_error
from real_failures.program import Program, Training, usual_step

cross_entropy = nn.functional.cross_entropy
mse_loss = nn.functional.mse_loss


def layer_decay(parameters: list[nn.Parameter], rate: float) -> list[float]:
    """Factors of the learning rates, the smaller the earlier a parameter is."""
    return [rate ** (len(parameters) - place) for place in range(len(parameters))]


def pose_network_with_layer_decay(repaired: bool) -> Training:
    inputs, _ = classes(samples=96, features=16, kinds=12)
    joints = torch.tanh(inputs @ torch.randn(16, 6) / 4)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Unflatten(1, (4, 4)), nn.Linear(4, 16), layer, nn.Flatten(), nn.Linear(64, 6))
    parameters = list(model.parameters())
    factors = layer_decay(parameters, 0.95)
    groups = [{"params": p, "lr": 5e-3 * (f if repaired else 1.0)} for p, f in zip(parameters, factors, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        if not repaired:
            for group, factor in zip(optimizer.param_groups, factors, strict=True):
                group["lr"] *= factor
        usual_step(training, inputs, targets)

    return Training(
        model,
        batch=lambda number: (inputs, joints),
        loss=mse_loss,
        optimizer=optimizer,
        score=lambda model: negative_error(model, inputs, joints),
        step=step,
    )


class Tracker(nn.Module):
    """Features of the last and of the new frame, and from both the box of the object."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.regressor = nn.Sequential(nn.Linear(400, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, frames):
        return self.regressor(torch.cat([self.features(frame) for frame in frames.unbind(1)], 1))


def tracker_with_a_decay_that_repeats(repaired: bool) -> Training:
    shifts = torch.randint(-2, 3, (96, 2))
    frames, _ = images(samples=96, kinds=96)
    moved = torch.stack([frame.roll(shift.tolist(), (1, 2)) for frame, shift in zip(frames, shifts, strict=True)])
    pairs, targets = torch.stack((frames, moved), 1), shifts / 2
    model = Tracker()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    progress = {"samples": 0, "steps": 0}

    def step(training: Training, pairs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        for pair, target in zip(pairs.split(1), targets.split(1), strict=True):
            (training.loss(model(pair), target) / len(pairs)).backward()
            progress["samples"] += 1
            last = progress["samples"] % len(pairs) == 0
            if progress["steps"] % 10 == 9 and (last or not repaired):
                for group in optimizer.param_groups:
                    group["lr"] *= 0.7
        optimizer.step()
        progress["steps"] += 1

    return Training(
        model,
        batch=lambda number: (pairs[number % 12 :: 12], targets[number % 12 :: 12]),
        loss=nn.functional.l1_loss,
        optimizer=optimizer,
        score=lambda model: negative_error(model, pairs, targets),
        step=step,
    )


def speech_with_one_cycle_by_epoch(repaired: bool) -> Training:
    labels = torch.arange(192) % 12
    inputs = torch.randn(12, 6, 10)[labels] + 1.5 * torch.randn(192, 6, 10)
    model = nn.Sequential(nn.Conv1d(6, 16, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(64, 12))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=121)
    numbers = itertools.count()

    def after() -> None:
        if repaired or next(numbers) % 24 == 23:
            schedule.step()

    return Training(
        model,
        batch=lambda number: (inputs[number % 24 :: 24], labels[number % 24 :: 24]),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, inputs, labels),
        after=after,
    )


def plateau_program(
    model: nn.Module, inputs: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer, mode: str, metric: str
) -> Training:
    """Training that gives the loss or the accuracy of each step to a schedule that waits for a plateau."""
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode, factor=0.5, patience=2)

    def after() -> None:
        with torch.no_grad():
            outputs = model(inputs)
        hits = (outputs.argmax(-1) == labels).float().mean().item()
        schedule.step(hits if metric == "accuracy" else cross_entropy(outputs, labels).item())

    return Training(
        model,
        batch=lambda number: (inputs, labels),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, inputs, labels),
        after=after,
    )


def docking_poses(repaired: bool) -> Training:
    inputs, labels = images(samples=96, channels=3, size=8, kinds=6)
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(12, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 6)),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return plateau_program(model, inputs, labels, optimizer, "min" if repaired else "max", "loss")


class Scene(nn.Module):
    """Transformer over the frames of a film, classified by their mean."""

    def __init__(self, features: int, kinds: int):
        super().__init__()
        self.project = nn.Linear(features, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.classifier = nn.Linear(16, kinds)

    def forward(self, frames):
        return self.classifier(self.layer(self.project(frames)).mean(1))


def long_videos(repaired: bool) -> Training:
    labels = torch.arange(96) % 8
    frames = torch.randn(8, 10, 6)[labels] + 1.2 * torch.randn(96, 10, 6)
    model = Scene(6, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return plateau_program(model, frames, labels, optimizer, "max" if repaired else "min", "accuracy")


PROGRAMS = [
    Program(
        name="pose estimation, layer decay in every step",
        source="https://github.com/jaehyunnn/ViTPose_pytorch/issues/20",
        symptom="the learning rate warms up, then quickly becomes 0 while the training goes on",
        explanation="the factors of the layers are applied in every step instead of once at the start",
        causes=("learning rate too low",),
        make=pose_network_with_layer_decay,
        steps=40,
        margin=0.06,
        visible="training",
    ),
    Program(
        name="object tracker, decay repeated for each sample of a batch",
        source="https://github.com/amoudgl/pygoturn/issues/16",
        symptom="the learning rate falls far more often than the settings say, and more with larger batches",
        explanation="the decay runs for each sample while a batch is collected, not once after its step",
        causes=("learning rate too low",),
        make=tracker_with_a_decay_that_repeats,
        steps=60,
        margin=0.07,
        visible="training",
    ),
    Program(
        name="speech recogniser, one cycle stepped by epoch",
        source="https://github.com/espnet/espnet/pull/3319",
        symptom="the trainer steps a schedule of one cycle at the end of each epoch",
        explanation="OneCycleLR counts iterations, and the trainer steps it once per epoch",
        causes=("learning rate too low",),
        make=speech_with_one_cycle_by_epoch,
        steps=120,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="docking poses, plateau of a loss in the mode for accuracies",
        source="https://github.com/RMeli/gnina-torch/pull/57",
        symptom="a user finds that the schedule waits for the loss to rise",
        explanation="ReduceLROnPlateau gets a loss with mode max, so each fall of the loss counts as a bad epoch",
        causes=("learning rate too low",),
        make=docking_poses,
        steps=60,
        margin=0.06,
        visible="training",
    ),
    Program(
        name="long videos, plateau of an accuracy in the mode for losses",
        source="https://github.com/md-mohaiminul/ViS4mer/issues/4",
        symptom="a user finds that the schedule waits for the accuracy to fall",
        explanation="ReduceLROnPlateau gets an accuracy with its default mode, which is for losses",
        causes=("learning rate too low",),
        make=long_videos,
        steps=60,
        margin=0.15,
        visible="training",
    ),
]
