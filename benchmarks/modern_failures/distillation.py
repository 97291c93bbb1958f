"""Distillation and masked images: teachers in training mode, samples in another order, patches without places."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from modern_failures.blocks import Block, mlp
from modern_failures.program import Program, Training, called
from real_failures.data import classes, images

TEMPERATURE = 4.0


def taught(dropout: float = 0.0) -> tuple[nn.Module, Tensor, Tensor]:
    """A trained teacher with dropout, its inputs and their labels."""
    inputs, labels = classes(samples=256, kinds=8, spread=2.0)
    teacher = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, 8))
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        cross_entropy(teacher(inputs), labels).backward()
        optimizer.step()
    return teacher, inputs, labels


def distillation(teacher, inputs: Tensor, loss, judge: nn.Module, size: int = 64) -> Training:
    """A student that learns from the teacher's outputs; scored by its distance to what the judge says."""
    student = mlp(20, 32, 8)

    def batch(step: int):
        rows = torch.randperm(256)[:size]
        with torch.no_grad():
            return inputs[rows], teacher(rows)

    @torch.no_grad()
    def score(student: nn.Module) -> float:
        return -divergence(student(inputs), called(judge.eval(), inputs)).item()

    return Training(
        student,
        batch=batch,
        loss=loss,
        optimizer=torch.optim.AdamW(student.parameters(), lr=1e-2),
        score=score,
    )


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Of the student's odds from the teacher's, at a temperature."""
    odds = (student / TEMPERATURE).log_softmax(-1), (teacher / TEMPERATURE).softmax(-1)
    return TEMPERATURE**2 * kl_div(*odds, reduction="batchmean")


def teacher_with_dropout(repaired: bool) -> Training:
    model, inputs, _ = taught(dropout=0.7)
    judge = copy.deepcopy(model)
    if repaired:
        model.eval()
    return distillation(lambda rows: model(inputs[rows]), inputs, divergence, judge)


def outputs_of_other_samples(repaired: bool) -> Training:
    model, inputs, _ = taught()
    order = torch.arange(256) if repaired else torch.randperm(256)  # the loader shuffled when they were stored
    stored = model(inputs[order]).detach()
    return distillation(lambda rows: stored[rows], inputs, divergence, model)


def student_without_logarithm(repaired: bool) -> Training:
    model, inputs, _ = taught()

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        odds = (student / TEMPERATURE).softmax(-1), (teacher / TEMPERATURE).softmax(-1)
        return TEMPERATURE**2 * kl_div(*odds, reduction="batchmean")

    return distillation(lambda rows: model(inputs[rows]), inputs, divergence if repaired else loss, model)


def teacher_compared_with_itself(repaired: bool) -> Training:
    model, inputs, labels = taught()
    labels = labels.where(torch.rand(256) < 0.6, torch.randint(8, (256,)))  # the student's are worse

    def loss(student: Tensor, rows: Tensor) -> Tensor:
        wanted = model(inputs[rows]).detach()
        return 0.1 * cross_entropy(student, labels[rows]) + divergence(student if repaired else wanted, wanted)

    return distillation(lambda rows: rows, inputs, loss, model)


class MaskedAutoencoder(nn.Module):
    """Sees 4 of 9 patches of an image and draws all of them."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.inputs, self.outputs = nn.Linear(16, width), nn.Linear(width, 16)
        self.places, self.decoder_places = (nn.Parameter(0.3 * torch.randn(9, width)) for _ in range(2))
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.encoder, self.decoder = Block(width), Block(width)

    def forward(self, patches: Tensor, order: Tensor) -> Tensor:
        index = order[..., None]
        tokens = (self.inputs(patches) + self.places).gather(1, index[:, :4].expand(-1, -1, 32))
        tokens = torch.cat([self.encoder(tokens), self.mask_token.expand(len(patches), 5, -1)], 1)
        tokens = tokens.gather(1, order.argsort(1)[..., None].expand(-1, -1, 32))
        return self.outputs(self.decoder(tokens + self.decoder_places))


def patches(samples: int = 256) -> Tensor:
    """Images of 12 x 12 as 9 patches of 4 x 4."""
    pictures, _ = images(samples, kinds=8)
    return pictures.reshape(samples, 3, 4, 3, 4).permute(0, 1, 3, 2, 4).reshape(samples, 9, 16)


def masked_images(model: MaskedAutoencoder, hidden_only: bool = True) -> Training:
    """A masked autoencoder; scored by the hidden patches."""
    pictures = patches()
    orders = torch.rand(256, 9).argsort(1)
    hidden = torch.ones(256, 9, 1).scatter(1, orders[:, :4, None], 0.0)

    def loss(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        wanted, weights = targets
        return ((outputs - wanted).square() * weights).sum() / weights.sum() / 16

    @torch.no_grad()
    def score(model: MaskedAutoencoder) -> float:
        return -loss(model(pictures, orders), (pictures, hidden)).item()

    def batch(step: int):
        part = slice(step % 4 * 64, step % 4 * 64 + 64)
        weights = hidden[part] if hidden_only else 1 - hidden[part]
        return {"patches": pictures[part], "order": orders[part]}, (pictures[part], weights)

    return Training(
        model,
        batch=batch,
        loss=loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=score,
    )


def mask_is_inverted(repaired: bool) -> Training:
    return masked_images(MaskedAutoencoder(), hidden_only=repaired)


class PatchPredictor(nn.Module):
    """Names the brightness of hidden patches, one of 8."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.inputs, self.places = nn.Linear(16, width), nn.Parameter(0.3 * torch.randn(9, width))
        self.mask_token, self.block = nn.Parameter(torch.zeros(width)), Block(width)
        self.output = nn.Linear(width, 8)

    def forward(self, patches: Tensor, hidden: Tensor) -> Tensor:
        tokens = self.inputs(patches).where(~hidden[..., None], self.mask_token)
        return self.output(self.block(tokens + self.places))


def labels_all_alike(repaired: bool) -> Training:
    pictures = patches().sigmoid()
    brightness = pictures.mean(-1)
    steps = torch.linspace(0.35, 0.65, 7)
    levels = torch.bucketize(brightness, steps)
    labels = levels if repaired else torch.bucketize(brightness, 255 * steps)  # pixels are between 0 and 1
    hidden = torch.rand(256, 9) < 0.4
    model = PatchPredictor()

    def loss(logits: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(logits[targets[1]], targets[0][targets[1]])

    @torch.no_grad()
    def score(model: PatchPredictor) -> float:
        return (model(pictures, hidden).argmax(-1) == levels)[hidden].float().mean().item()

    return Training(
        model,
        batch=lambda step: ({"patches": pictures, "hidden": hidden}, (labels, hidden)),
        loss=loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=score,
    )


PROGRAMS = [
    Program(
        name="hidden patches whose labels are all alike",
        source="https://github.com/lucidrains/vit-pytorch/issues/97",
        symptom="the loss converges to 0 after a few steps",
        explanation="brightness is put into bins of another scale, so every patch has the same label",
        causes=("targets trivial", "targets wrong"),
        make=labels_all_alike,
        steps=80,
        margin=0.2,
    ),
    Program(
        name="teacher with dropout",
        source="https://github.com/yxuansu/TaCL/issues/11",
        symptom="the same input gets different results from the teacher",
        explanation="the teacher is never put into evaluation mode, so its targets are noisy",
        causes=("teacher in training mode",),
        make=teacher_with_dropout,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="teacher's outputs in the order of another epoch",
        source="https://github.com/haitongli/knowledge-distillation-pytorch/pull/16",
        symptom="the largest outputs of the teacher are not the labels of the batch",
        explanation="the teacher's outputs were stored with a loader that shuffles, and the student's batches differ",
        causes=("pairs shuffled apart",),
        make=outputs_of_other_samples,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="divergence from odds without a logarithm",
        source="https://github.com/microsoft/ProDA/issues/20",
        symptom="a question why there is no logarithm",
        explanation="`kl_div` wants logarithms of the student's odds and gets the odds",
        causes=("loss input wrong",),
        make=student_without_logarithm,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="teacher that is compared with itself",
        source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/66",
        symptom="it completely stops doing the distillation",
        explanation="both sides of the divergence are the logits of the large network",
        causes=("constant loss", "loss input wrong"),
        make=teacher_compared_with_itself,
        steps=60,
        margin=0.1,
    ),
    Program(
        name="masked autoencoder whose loss is of the visible patches",
        source="https://github.com/Sllambias/asparagus/pull/12",
        symptom="the option for a loss of the masked part only does the opposite",
        explanation="the mask is true for what is visible, and its negation is set to zero: hidden parts never count",
        causes=("loss of the wrong positions", "targets trivial"),
        make=mask_is_inverted,
        steps=150,
        margin=0.1,
    ),
]
