"""Training steps: gradients that are never cleared or cleared too early, backward and step that are missing."""

import itertools

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, classes, images, line, negative_error
from real_failures.program import Program, Training

cross_entropy = nn.functional.cross_entropy
mse_loss = nn.functional.mse_loss


def without_zero_grad(training: Training, inputs: Tensor, targets: Tensor) -> None:
    assert training.optimizer is not None
    training.loss(training.model(inputs), targets).backward()
    training.optimizer.step()


def cleared_before_the_step(repaired: bool) -> Training:
    inputs, labels = images(samples=96, kinds=4)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.25), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 4)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)

    def step(training: Training, images: Tensor, labels: Tensor) -> None:
        if repaired:
            optimizer.zero_grad()
        training.loss(model(images), labels).backward()
        if not repaired:
            optimizer.zero_grad()
        optimizer.step()

    return Training(
        model,
        batch=lambda number: (inputs[number % 3 :: 3], labels[number % 3 :: 3]),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, inputs, labels),
        step=step,
        after=schedule.step,
    )


class Detector(nn.Module):
    """Class and box of the one object in an image."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.kind = nn.Linear(300, 3)
        self.box = nn.Linear(300, 2)

    def forward(self, images):
        features = self.features(images)
        return self.kind(features), self.box(features)


def detector_without_backward(repaired: bool) -> Training:
    kinds, places = torch.arange(120) % 3, torch.randint(1, 9, (120, 2))
    shapes = torch.randn(3, 3, 3)
    inputs = 0.1 * torch.randn(120, 1, 12, 12)
    for image, kind, (row, column) in zip(inputs, kinds, places, strict=True):
        image[0, row : row + 3, column : column + 3] += shapes[kind]
    model = Detector()

    def multibox_loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(outputs[0], targets[0]) + nn.functional.smooth_l1_loss(outputs[1], targets[1])

    def step(training: Training, images: Tensor, targets: tuple[Tensor, Tensor]) -> None:
        optimizer.zero_grad()
        loss = training.loss(model(images), targets)
        if repaired:
            loss.backward()
        optimizer.step()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    return Training(
        model,
        batch=lambda number: (inputs, (kinds, places / 9)),
        loss=multibox_loss,
        optimizer=optimizer,
        score=lambda model: accuracy(nn.Sequential(model.features, model.kind), inputs, kinds),
        step=step,
    )


class Keywords(nn.Module):
    """Recurrent layer over frames of sound, classified by its last state."""

    def __init__(self, features: int, keywords: int):
        super().__init__()
        self.gru = nn.GRU(features, 32, batch_first=True)
        self.classifier = nn.Linear(32, keywords)

    def forward(self, frames):
        return self.classifier(self.gru(frames)[0][:, -1])


def keyword_spotting(repaired: bool) -> Training:
    labels = torch.arange(160) % 10
    frames = torch.randn(10, 10, 6)[labels] + 1.5 * torch.randn(160, 10, 6)
    model = Keywords(6, 10)

    def step(training: Training, frames: Tensor, labels: Tensor) -> None:
        if repaired:
            optimizer.zero_grad()
        training.loss(model(frames), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    return Training(
        model,
        batch=lambda number: (frames[number % 4 :: 4], labels[number % 4 :: 4]),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, frames, labels),
        step=step,
    )


def court_keypoints(repaired: bool) -> Training:
    places = torch.randint(2, 10, (64, 2))
    grid = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij"), -1)
    heat = torch.exp(-(grid - places[:, None, None]).square().sum(-1) / 4.0)[:, None]
    inputs = heat.roll((1, 1), (2, 3)) - heat.roll((-1, -1), (2, 3)) + 0.2 * torch.randn(64, 1, 12, 12)
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(16)),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(16)),
        *(nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid()),
    )
    return Training(
        model,
        batch=lambda number: (inputs[number % 2 :: 2], heat[number % 2 :: 2]),
        loss=mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2, betas=(0.9, 0.999)),
        score=lambda model: 100 * negative_error(model, inputs, heat),
        step=None if repaired else without_zero_grad,
    )


def private_student(repaired: bool) -> Training:
    inputs, labels = classes(samples=200, features=10, kinds=2, spread=1.5)
    votes = torch.where(torch.rand(200) < 0.1, 1 - labels, labels).float()[:, None]
    model = nn.Sequential(nn.Linear(10, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1), nn.Sigmoid())
    return Training(
        model,
        batch=lambda number: (inputs[number % 4 :: 4], votes[number % 4 :: 4]),
        loss=nn.functional.binary_cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        score=lambda model: negative_error(model, inputs, labels),
        step=None if repaired else without_zero_grad,
    )


def accumulation_as_in_the_manual(repaired: bool) -> Training:
    inputs, targets = line(samples=128, features=8, noise=0.5)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    iterations = itertools.count(1)

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        last = next(iterations) % 4 == 0
        if last and not repaired:
            optimizer.zero_grad()
        (training.loss(model(inputs), targets) / 4).backward()
        if last:
            optimizer.step()
        if last and repaired:
            optimizer.zero_grad()

    return Training(
        model,
        batch=lambda number: (inputs[number % 16 :: 16], targets[number % 16 :: 16, None]),
        loss=mse_loss,
        optimizer=optimizer,
        score=lambda model: negative_error(model, inputs, targets),
        step=step,
    )


def distillation_clears_in_each_iteration(repaired: bool) -> Training:
    inputs, _ = classes(samples=128, features=12)
    teacher = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 6)).requires_grad_(False)
    targets = teacher(inputs)
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 6))
    optimizer = torch.optim.SGD([{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.3)
    iterations = itertools.count()

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        if not repaired:
            optimizer.zero_grad()
        (training.loss(model(inputs), targets) / 8).backward()
        if next(iterations) % 8 == 7:
            optimizer.step()
            if repaired:
                optimizer.zero_grad()

    return Training(
        model,
        batch=lambda number: (inputs[number % 32 :: 32], targets[number % 32 :: 32]),
        loss=mse_loss,
        optimizer=optimizer,
        score=lambda model: negative_error(model, inputs, targets),
        step=step,
    )


class KernelAdam(torch.optim.Adam):
    """Adam of a device whose kernels write to a copy if the memory of a parameter is not contiguous."""

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"] if not p.is_contiguous()]
        values = [parameter.clone() for parameter in parameters]
        super().step()
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def sparse_autoencoder_on_a_laptop(repaired: bool) -> Training:
    parts = nn.functional.normalize(torch.randn(16, 12), dim=1)
    inputs = (torch.rand(256, 16) * (torch.rand(256, 16) < 0.15)) @ parts
    encoder, decoder = nn.Linear(12, 16), nn.Linear(16, 12)
    encoder.weight.data = decoder.weight.data.clone().t()
    if repaired:
        encoder.weight.data = encoder.weight.data.contiguous()
    model = nn.Sequential(encoder, nn.ReLU(), decoder)
    return Training(
        model,
        batch=lambda number: (inputs, inputs),
        loss=mse_loss,
        optimizer=KernelAdam(model.parameters(), lr=1e-2),
        score=lambda model: 100 * negative_error(model, inputs, inputs),
    )


PROGRAMS = [
    Program(
        name="EMNIST classifier, gradients cleared between backward and step",
        source="https://github.com/Tony-Y/pytorch_warmup/issues/12",
        symptom="the learning rate drops from its first value, without a warmup that the asker expects",
        explanation="zero_grad is called after backward, so the optimizer steps with gradients of zero",
        causes=("no step", "gradients cleared too early"),
        make=cleared_before_the_step,
        steps=40,
        margin=0.3,
        visible="training",
    ),
    Program(
        name="face detector without backward",
        source="https://github.com/Goingqs/PyramidBox/issues/7",
        symptom="a reader finds no call of loss.backward() in the training script",
        explanation="the loop computes the loss and steps, but never calls loss.backward()",
        causes=("no step",),
        make=detector_without_backward,
        steps=40,
        margin=0.25,
        visible="training",
    ),
    Program(
        name="keyword spotting, gradients of all batches pile up",
        source="https://github.com/wenet-e2e/wekws/issues/72",
        symptom="the loop of a keyword spotter lacks zero_grad, which other projects call",
        explanation="gradients are never cleared, so every step follows the sum of all earlier batches",
        causes=("gradients not cleared",),
        make=keyword_spotting,
        steps=50,
        margin=0.06,
        visible="training",
    ),
    Program(
        name="key points of a tennis court, gradients not cleared",
        source="https://github.com/yastrebksv/TennisCourtDetector/issues/7",
        symptom="a reader finds no zero_grad in the trainer and suspects an error",
        explanation="zero_grad is missing in the training loop",
        causes=("gradients not cleared",),
        make=court_keypoints,
        steps=50,
        margin=0.5,
        visible="training",
    ),
    Program(
        name="student of private teachers, gradients not cleared",
        source="https://github.com/opendp/smartnoise-sdk/issues/280",
        symptom="two sibling classes clear the gradients in this place, the class for students does not",
        explanation="the optimizer of the student never clears its gradients",
        causes=("gradients not cleared",),
        make=private_student,
        steps=100,
        margin=0.015,
        visible="training",
    ),
    Program(
        name="accumulation that keeps one batch of four",
        source="https://github.com/pytorch/ignite/issues/583",
        symptom="the example of the manual clears the gradients in the same iteration in which it steps",
        explanation="zero_grad runs just before the last backward, which erases the gradients of the other batches",
        causes=("gradients cleared too early",),
        make=accumulation_as_in_the_manual,
        steps=160,
        margin=0.5,
        visible="training",
    ),
    Program(
        name="distillation with accumulation, cleared in each iteration",
        source="https://github.com/tientrandinh/Revisiting-Reverse-Distillation/issues/12",
        symptom="steps are taken every few iterations, but gradients do not add up in between",
        explanation="the gradients are cleared in each iteration, so a step sees one scaled batch",
        causes=("gradients cleared too early",),
        make=distillation_clears_in_each_iteration,
        steps=320,
        margin=0.06,
        visible="training",
    ),
    Program(
        name="sparse autoencoder, kernels that lose the step of transposed weights",
        source="https://elanapearl.github.io/blog/2025/the-bug-that-taught-me-pytorch",
        symptom="the training loss reaches a plateau, and no change of hyperparameters moves it",
        explanation="on one device Adam loses its update of weights that are not contiguous: the encoder is frozen",
        causes=("no step", "frozen parameters"),
        make=sparse_autoencoder_on_a_laptop,
        steps=120,
        margin=0.15,
        layers=("0",),
        visible="training",
    ),
]
