"""Contrastive learning: CLIP and SimCLR with the wrong pairs, the wrong temperature or the wrong axis."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import agreement, batches, clusters, retrieval, views
from modern_failures_strangers.networks import MLP
from modern_failures_strangers.program import Program
from real_failures.program import Training


class TwoTowers(nn.Module):
    """CLIP: an encoder for each kind of view, and a learned scale."""

    def __init__(self, scale: float = math.log(1 / 0.07)):
        super().__init__()
        self.pictures, self.texts = MLP(24, 64, 16), MLP(24, 64, 16)
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        pictures, texts = self.pictures(pair[0]), self.texts(pair[1])
        return F.normalize(pictures, dim=-1), F.normalize(texts, dim=-1)


@torch.no_grad()
def retrieves(model: TwoTowers, pictures: Tensor, texts: Tensor) -> float:
    """How often the right text of all is the nearest."""
    return retrieval(model.pictures(pictures), model.texts(texts))


def clip(model: TwoTowers, labels=None, logits=None, shuffled: bool = False, sgd: bool = False) -> Training:
    """The training of CLIP; labels, logits and optimizer can be replaced."""
    pictures, texts, _ = views(1024)

    def loss(embeddings: tuple[Tensor, Tensor], _: object) -> Tensor:
        one, other = embeddings
        similarity = model.scale.exp() * one @ other.mT if logits is None else logits(one, other)
        right = torch.arange(len(one)) if labels is None else labels(len(one))
        return (F.cross_entropy(similarity, right) + F.cross_entropy(similarity.mT, right)) / 2

    def batch(step: int) -> tuple[tuple[Tensor, Tensor], None]:
        one, other = batches(pictures, texts, size=64)(step)
        return (one, other[torch.randperm(64)] if shuffled else other), None

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    if sgd:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Training(model, batch, loss, optimizer, lambda model: retrieves(model, pictures, texts))


def temperature_multiplied(repaired: bool) -> Training:
    factor = 1 / 0.07 if repaired else 0.07
    return clip(TwoTowers(), logits=lambda one, other: factor * one @ other.mT, sgd=True)


def labels_of_moco(repaired: bool) -> Training:
    return clip(TwoTowers(), labels=torch.arange if repaired else lambda rows: torch.zeros(rows, dtype=torch.long))


def texts_shuffled(repaired: bool) -> Training:
    return clip(TwoTowers(), shuffled=not repaired)


def scale_without_bound(repaired: bool) -> Training:
    return clip(TwoTowers(scale=math.log(1 / 0.07) if repaired else 9.0))


def half_of_the_positives(views_of_things: Tensor) -> Tensor:
    """The nearest other view, for each row of two views one after the other."""
    return (torch.arange(len(views_of_things)) + len(views_of_things) // 2) % len(views_of_things)


def augmented(points: Tensor) -> Tensor:
    """A point with some of its features hidden and a little noise."""
    return points * (torch.rand_like(points) > 0.25) + 0.3 * torch.randn_like(points)


def simclr(hide_self: bool = True, positives=half_of_the_positives, augment=augmented, scale: float = 5.0) -> Training:
    """SimCLR on clusters; the score is what a linear classifier of few labelled examples gets right."""
    points, labels = clusters(1024, classes=8, width=24, noise=1.5)
    points = torch.cat([points, 6 * torch.randn(1024, 8)], 1)
    model = MLP(32, 64, 16)

    def loss(embeddings: Tensor, _: object) -> Tensor:
        embeddings = F.normalize(embeddings, dim=-1)
        similarity = scale * embeddings @ embeddings.mT
        if hide_self:
            similarity = similarity.masked_fill(torch.eye(len(similarity), dtype=torch.bool), -1e9)
        return F.cross_entropy(similarity, positives(embeddings))

    def batch(step: int) -> tuple[Tensor, None]:
        (some,) = batches(points, size=64)(step)
        return torch.cat([augment(some), augment(some)]), None

    @torch.no_grad()
    def linear_probe(model: nn.Module) -> float:
        features = F.normalize(model(points), dim=-1)
        means = torch.stack([features[:256][labels[:256] == kind].mean(0) for kind in range(8)])
        return agreement((features[256:] @ F.normalize(means, dim=-1).mT).argmax(1), labels[256:])

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), lr=3e-3), linear_probe)


def similar_to_itself(repaired: bool) -> Training:
    return simclr(hide_self=repaired, scale=30.0)


def positives_of_another_order(repaired: bool) -> Training:
    return simclr(positives=half_of_the_positives if repaired else lambda rows: torch.arange(len(rows)) // 2 * 2)


def both_views_alike(repaired: bool) -> Training:
    return simclr(augment=augmented if repaired else lambda points: points)


class Student(nn.Module):
    """Encoder and predictor of BYOL."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.predictor = MLP(24, 64, 16), MLP(16, 32, 16)

    def forward(self, points: Tensor) -> Tensor:
        return self.predictor(self.encoder(points))


def byol(teacher_of, stop_gradient: bool = True, updated: bool = True) -> Training:
    """BYOL: predict what a slow average of the encoder says of another view."""
    points, labels = clusters(1024, classes=8, width=24, noise=1.0)
    student = Student()
    teacher = teacher_of(student)

    def loss(predicted: Tensor, other: Tensor) -> Tensor:
        with torch.set_grad_enabled(not stop_gradient):
            target = teacher(other)
        return (F.normalize(predicted, dim=-1) - F.normalize(target, dim=-1)).square().sum(1).mean()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        (some,) = batches(points, size=64)(step)
        return augmented(some), augmented(some)

    @torch.no_grad()
    def average() -> None:
        for slow, fast in zip(teacher.parameters(), student.encoder.parameters(), strict=True):
            slow.lerp_(fast, 0.02)

    @torch.no_grad()
    def spread(model: Student) -> float:
        """How well the classes are apart: between their means, relative to the spread within."""
        features = F.normalize(model.encoder(points), dim=-1)
        means = torch.stack([features[labels == kind].mean(0) for kind in range(8)])
        return means.var(0).sum().item()

    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    return Training(student, batch, loss, optimizer, spread, after=average if updated else None)


def teacher_is_the_student(repaired: bool) -> Training:
    if repaired:
        return byol(lambda student: copy.deepcopy(student.encoder))
    return byol(lambda student: student.encoder, stop_gradient=False)


def gradient_into_both(repaired: bool) -> Training:
    points, labels = clusters(1024, classes=8, width=24, noise=1.0)
    model = Student()

    def loss(predicted: Tensor, projected: Tensor) -> Tensor:
        return -F.cosine_similarity(predicted, projected, dim=-1).mean()

    def step(training: Training, one: Tensor, other: Tensor) -> None:
        first, second = training.model.encoder(one), training.model.encoder(other)
        targets = (first.detach(), second.detach()) if repaired else (first, second)
        predict = training.model.predictor
        total = training.loss(predict(first), targets[1]) + training.loss(predict(second), targets[0])
        training.optimizer.zero_grad()
        total.backward()
        training.optimizer.step()

    @torch.no_grad()
    def spread(model: Student) -> float:
        features = F.normalize(model.encoder(points), dim=-1)
        return torch.stack([features[labels == kind].mean(0) for kind in range(8)]).var(0).sum().item()

    def batch(step: int) -> tuple[Tensor, Tensor]:
        (some,) = batches(points, size=64)(step)
        return augmented(some), augmented(some)

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), lr=1e-3), spread, step=step)


PROGRAMS = [
    Program(
        name="CLIP multiplied by its temperature",
        source="",
        symptom="the loss stays near the logarithm of the batch size",
        explanation="the similarities are multiplied by 0.07 and not divided, so the softmax is always flat; "
        "known from losses where `temperature` and `logit_scale` are mixed up",
        cause="temperature wrong",
        make=temperature_multiplied,
        steps=120,
        margin=0.2,
    ),
    Program(
        name="CLIP with a scale of exp(9)",
        source="https://github.com/openai/CLIP/issues/46",
        symptom="the loss is in the hundreds and learning is slow",
        explanation="the scale is not limited to 100, so the softmax is hard and only a few pairs give a gradient",
        cause="temperature wrong",
        make=scale_without_bound,
        steps=120,
        margin=0.1,
    ),
    Program(
        name="CLIP with labels that are all zero",
        source="",
        symptom="the loss falls a little, nothing is retrieved",
        explanation="the labels are from MoCo, where the positive is always in column 0; here it is on the diagonal; "
        "known from losses that are taken from one repository into another",
        cause="wrong positives",
        make=labels_of_moco,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="CLIP with shuffled texts",
        source="",
        symptom="the loss stays at the logarithm of the batch size",
        explanation="pictures and texts are shuffled each for themselves, so no pair belongs together; "
        "known from two data loaders that both shuffle",
        cause="data wrong",
        make=texts_shuffled,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="SimCLR whose views compete with themselves",
        source="https://github.com/Lightning-Universe/lightning-bolts/issues/695",
        symptom="the loss has a floor and the features are worse than those of others",
        explanation="the similarity of each view with itself stays among the negatives, and it is always the largest",
        cause="wrong positives",
        make=similar_to_itself,
        steps=30,
        margin=0.03,
    ),
    Program(
        name="SimCLR with the positives of another order",
        source="https://github.com/open-mmlab/mmselfsup/issues/159",
        symptom="the loss hardly falls",
        explanation="the views are in two halves, the indices of the positives are for views side by side",
        cause="wrong positives",
        make=positives_of_another_order,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="SimCLR whose two views are one",
        source="",
        symptom="the loss falls at once, the features are no better than random ones",
        explanation="both views are the same tensor, so the pairs are found without learning anything; "
        "known from transforms that are applied once, before the copy",
        cause="task too easy",
        make=both_views_alike,
        steps=150,
        margin=0.03,
    ),
    Program(
        name="BYOL whose teacher is the student",
        source="https://github.com/facebookresearch/dinov2/issues/407",
        symptom="the loss goes to zero, and all inputs have the same features",
        explanation="the teacher was assigned and not copied, so both are one network and collapse",
        cause="one network under two names",
        make=teacher_is_the_student,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="SimSiam with the gradient into both branches",
        source="",
        symptom="the loss is soon minus one, and all inputs have the same features",
        explanation="the target is not detached, so the branches agree by being constant; "
        "the ablation of the SimSiam paper, and a `detach` that is forgotten often",
        cause="gradient not stopped",
        make=gradient_into_both,
        steps=200,
        margin=0.1,
    ),
]
