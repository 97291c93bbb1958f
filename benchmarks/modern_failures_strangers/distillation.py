"""Distillation: students that learn from the wrong tensor, the wrong scale or a moving teacher."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import agreement, batches
from modern_failures_strangers.networks import MLP
from modern_failures_strangers.program import Program
from real_failures.program import Training


def teacher_of(inputs: Tensor, dropout: float = 0.0) -> nn.Module:
    """A fixed network with sharp opinions on six classes."""
    body, head = MLP(10, 32), nn.Linear(32, 6)
    teacher = nn.Sequential(body, nn.Tanh(), nn.Dropout(dropout), head)
    with torch.no_grad():
        head.weight *= 12
        head.bias -= teacher.eval()(inputs).mean(0)
    return teacher.requires_grad_(False)


def distil(
    soft: Callable[[Tensor, Tensor], Tensor],
    soft_weight: float = 1.0,
    hard_weight: float = 0.0,
    teacher_trains: bool = False,
    dropout: float = 0.0,
) -> Training:
    """A student of a fixed teacher; the labels of the data are wrong in half of the cases."""
    inputs = torch.randn(2048, 10)
    teacher = teacher_of(inputs, dropout)
    opinion = teacher.eval()(inputs).argmax(1)
    labels = torch.where(torch.rand(2048) < 0.5, torch.randint(6, (2048,)), opinion)
    student = MLP(10, 64, 64, 6)
    teacher.train(teacher_trains)

    def loss(logits: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        with torch.no_grad():
            wise = teacher(targets[0])
        return soft_weight * soft(logits, wise) + hard_weight * F.cross_entropy(logits, targets[1])

    def batch(step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        some, some_labels = batches(inputs[:1536], labels[:1536], size=64)(step)
        return some, (some, some_labels)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(inputs[1536:]).argmax(1), opinion[1536:])

    return Training(student, batch, loss, torch.optim.AdamW(student.parameters(), lr=3e-3), score)


def divergence(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    return temperature**2 * F.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="batchmean"
    )


def teacher_against_itself(repaired: bool) -> Training:
    def soft(student: Tensor, teacher: Tensor) -> Tensor:
        return divergence(student if repaired else teacher, teacher)

    return distil(soft, hard_weight=0.1)


def student_without_logarithm(repaired: bool) -> Training:
    def soft(student: Tensor, teacher: Tensor) -> Tensor:
        guess = student.log_softmax(-1) if repaired else student.softmax(-1)
        return F.kl_div(guess, teacher.softmax(-1), reduction="batchmean")

    return distil(soft)


def arguments_swapped(repaired: bool) -> Training:
    def soft(student: Tensor, teacher: Tensor) -> Tensor:
        if repaired:
            return F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
        return F.kl_div(teacher.softmax(-1), student.log_softmax(-1), reduction="batchmean")

    return distil(soft)


def mean_over_the_classes(repaired: bool) -> Training:
    def soft(student: Tensor, teacher: Tensor) -> Tensor:
        if repaired:
            return divergence(student, teacher, temperature=4.0)
        return F.kl_div((student / 4).log_softmax(-1), (teacher / 4).softmax(-1), reduction="mean")

    return distil(soft, hard_weight=0.3)


def teacher_with_dropout(repaired: bool) -> Training:
    return distil(divergence, teacher_trains=not repaired, dropout=0.9)


def teacher_learns_too(repaired: bool) -> Training:
    inputs = torch.randn(2048, 10)
    teacher, student = teacher_of(inputs), MLP(10, 64, 64, 6)
    opinion = teacher(inputs).argmax(1)
    both = nn.ModuleList([student, teacher])
    if not repaired:
        both.requires_grad_(True)

    def step(training: Training, some: Tensor, _: None) -> None:
        training.optimizer.zero_grad()
        training.loss(student(some), teacher(some)).backward()
        training.optimizer.step()

    @torch.no_grad()
    def score(both: nn.ModuleList) -> float:
        return agreement(both[0](inputs).argmax(1), opinion)

    optimizer = torch.optim.AdamW([p for p in both.parameters() if p.requires_grad], lr=3e-3)
    return Training(both, lambda number: (*batches(inputs, size=64)(number), None), divergence, optimizer, score, step)


PROGRAMS = [
    Program(
        name="teacher compared with itself",
        source="https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/66",
        symptom="the soft loss is zero, and the student is as good as without a teacher",
        explanation="the logits of the large model are used on both sides of the divergence",
        cause="one network under two names",
        make=teacher_against_itself,
        steps=200,
        margin=0.05,
    ),
    Program(
        name="divergence without the student's logarithm",
        source="https://github.com/microsoft/ProDA/issues/43",
        symptom="the loss is negative and hardly falls",
        explanation="`kl_div` is given the student's probabilities and not their logarithms",
        cause="logarithm missing",
        make=student_without_logarithm,
        steps=30,
        margin=0.05,
    ),
    Program(
        name="divergence with its arguments swapped",
        source="",
        symptom="the loss goes to minus infinity or NaN",
        explanation="`kl_div(target, input)`: torch takes the prediction first, and its logarithm; "
        "known from formulas that write the target first",
        cause="logarithm missing",
        make=arguments_swapped,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="soft loss that is a hundred times too small",
        source="https://github.com/haitongli/knowledge-distillation-pytorch/issues/48",
        symptom="the student learns the noise of the labels, as without a teacher",
        explanation="`kl_div` is averaged over the classes, and the square of the temperature is missing",
        cause="one loss drowns the other",
        make=mean_over_the_classes,
        steps=200,
        margin=0.05,
    ),
    Program(
        name="teacher with its dropout on",
        source="https://github.com/Sharpiless/yolov5-distillation-5.0/issues/5",
        symptom="the distilled student is far worse than one that is trained alone",
        explanation="the teacher is in training mode, so its dropout hides most of what it knows",
        cause="teacher in training mode",
        make=teacher_with_dropout,
        steps=200,
        margin=0.05,
    ),
    Program(
        name="teacher that learns with its student",
        source="",
        symptom="the loss is soon zero, and the student knows nothing",
        explanation="the teacher is neither frozen nor detached, and comes to meet the student; "
        "known from optimizers that are given all parameters of a module with both networks",
        cause="gradient not stopped",
        make=teacher_learns_too,
        steps=200,
        margin=0.1,
    ),
]
