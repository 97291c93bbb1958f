"""The loop around the network: accumulation, schedules, clipping, precision, cleared gradients."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import agreement, batches, clusters
from modern_failures_strangers.language_models import answering
from modern_failures_strangers.networks import GPT, MLP
from modern_failures_strangers.program import Program
from real_failures.program import Training


def points() -> tuple[Tensor, Tensor]:
    """Points of eight classes that overlap a little."""
    return clusters(1024, classes=8, width=16, noise=1.0)


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return agreement(model.eval()(inputs).float().argmax(-1), labels)


def schedule_counts_micro_batches(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 40))

    def accumulate(training: Training, inputs: Tensor, labels: Tensor) -> None:
        for some, their_labels in zip(inputs.chunk(8), labels.chunk(8), strict=True):
            (training.loss(training.model(some), their_labels) / 8).backward()
            if not repaired:
                schedule.step()
        training.optimizer.step()
        training.optimizer.zero_grad()
        if repaired:
            schedule.step()

    return Training(
        model,
        batch=batches(inputs, labels, size=64),
        loss=F.cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, inputs, labels),
        step=accumulate,
    )


def warm_up_longer_than_the_training(repaired: bool) -> Training:
    model = GPT(12, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, total_iters=10 if repaired else 2000)
    return answering(model, optimizer, after=schedule.step)


def schedule_of_a_discarded_optimizer(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 8)
    first = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(first, lambda step: min(1.0, step / 10))
    optimizer = first if repaired else torch.optim.AdamW(model.parameters(), lr=first.param_groups[0]["lr"])
    return Training(
        model,
        batch=batches(inputs, labels),
        loss=F.cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, inputs, labels),
        after=schedule.step,
    )


def cleared_for_each_micro_batch(repaired: bool) -> Training:
    inputs, labels = points()
    order = labels.argsort(stable=True)
    inputs, labels = inputs[order], labels[order]
    model = MLP(16, 64, 8)

    def accumulate(training: Training, inputs: Tensor, labels: Tensor) -> None:
        if repaired:
            training.optimizer.zero_grad()
        for some, their_labels in zip(inputs.chunk(8), labels.chunk(8), strict=True):
            if not repaired:
                training.optimizer.zero_grad()
            (training.loss(training.model(some), their_labels) / 8).backward()
        training.optimizer.step()

    return Training(
        model,
        batch=lambda step: (inputs[step % 8 :: 8], labels[step % 8 :: 8]),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.2),
        score=lambda model: accuracy(model, inputs, labels),
        step=accumulate,
    )


def accumulated_without_division(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 64, 8)

    def accumulate(training: Training, inputs: Tensor, labels: Tensor) -> None:
        pieces = list(zip(inputs.split(4), labels.split(4), strict=True))
        for some, their_labels in pieces:
            loss = training.loss(training.model(some), their_labels)
            (loss / len(pieces) if repaired else loss).backward()
        training.optimizer.step()
        training.optimizer.zero_grad()

    return Training(
        model,
        batch=batches(inputs, labels, size=128),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9),
        score=lambda model: accuracy(model, inputs, labels),
        step=accumulate,
    )


def cleared_between_backward_and_step(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 8)

    def step(training: Training, inputs: Tensor, labels: Tensor) -> None:
        if repaired:
            training.optimizer.zero_grad()
        training.loss(training.model(inputs), labels).backward()
        if not repaired:
            training.optimizer.zero_grad()
        training.optimizer.step()

    return Training(
        model,
        batch=batches(inputs, labels),
        loss=F.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: accuracy(model, inputs, labels),
        step=step,
    )


def clipped_while_scaled(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 8)
    scaler = torch.amp.GradScaler("cpu")

    def step(training: Training, inputs: Tensor, labels: Tensor) -> None:
        training.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = training.loss(training.model(inputs), labels)
        scaler.scale(loss).backward()
        if repaired:
            scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        scaler.step(training.optimizer)
        scaler.update()

    return Training(
        model,
        batch=batches(inputs, labels),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        score=lambda model: accuracy(model, inputs, labels),
        step=step,
    )


def clipped_to_nothing(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 8)

    def step(training: Training, inputs: Tensor, labels: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(inputs), labels).backward()
        total = nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        if not repaired and total > 1e-3:
            nn.utils.clip_grad_value_(training.model.parameters(), 1e-5)
        training.optimizer.step()

    return Training(
        model,
        batch=batches(inputs, labels),
        loss=F.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        score=lambda model: accuracy(model, inputs, labels),
        step=step,
    )


def weights_in_bfloat16(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * parameter.sign()
    if not repaired:
        model.bfloat16()

    def step(training: Training, inputs: Tensor, labels: Tensor) -> None:
        training.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=repaired):
            logits = training.model(inputs if repaired else inputs.bfloat16())
        training.loss(logits.float(), labels).backward()
        training.optimizer.step()

    def score(model: nn.Module) -> float:
        return accuracy(copy.deepcopy(model).float(), inputs, labels)

    return Training(
        model,
        batch=batches(inputs, labels),
        loss=F.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0),
        score=score,
        step=step,
    )


def master_weights_left_behind(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 8)
    working = copy.deepcopy(model).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def step(training: Training, inputs: Tensor, labels: Tensor) -> None:
        training.loss(training.model(inputs.bfloat16()).float(), labels).backward()
        with torch.no_grad():
            for master, copied in zip(model.parameters(), working.parameters(), strict=True):
                master.grad = copied.grad.float()
                copied.grad = None
        optimizer.step()
        if repaired:
            working.load_state_dict(model.state_dict())

    return Training(
        working,
        batch=batches(inputs, labels),
        loss=F.cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(copy.deepcopy(model).float(), inputs, labels),
        step=step,
    )


def loss_made_to_require_a_gradient(repaired: bool) -> Training:
    inputs, labels = points()
    model = MLP(16, 64, 8)

    def step(training: Training, inputs: Tensor, labels: Tensor) -> None:
        training.optimizer.zero_grad()
        with torch.set_grad_enabled(repaired):
            loss = training.loss(training.model(inputs), labels)
        if not loss.requires_grad:
            loss.requires_grad = True
        loss.backward()
        training.optimizer.step()

    return Training(
        model,
        batch=batches(inputs, labels),
        loss=F.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: accuracy(model, inputs, labels),
        step=step,
    )


def always_the_first_batch(repaired: bool) -> Training:
    inputs, labels = points()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, labels), batch_size=8)
    endless = (batch for _ in iter(int, 1) for batch in loader)
    model = MLP(16, 64, 8)
    return Training(
        model,
        batch=lambda step: next(endless) if repaired else next(iter(loader)),
        loss=F.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: accuracy(model, inputs, labels),
    )


PROGRAMS = [
    Program(
        name="schedule that counts micro-batches",
        source="https://github.com/huggingface/accelerate/issues/963",
        symptom="the learning rate is zero long before the end of the training",
        explanation="the scheduler is stepped for each micro-batch, the optimizer for each eighth",
        cause="schedule wrong",
        make=schedule_counts_micro_batches,
        steps=40,
        margin=0.1,
    ),
    Program(
        name="warm-up longer than the training",
        source="https://github.com/facebookresearch/d2go/issues/19",
        symptom="the loss falls very slowly; the logged learning rate is tiny",
        explanation="the number of warm-up steps is that of a far longer training",
        cause="schedule wrong",
        make=warm_up_longer_than_the_training,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="schedule of an optimizer that is not used",
        source="",
        symptom="the learning rate stays at the first value of the warm-up, which is zero",
        explanation="the optimizer was built again after its scheduler; "
        "known from loops in which the model is wrapped or moved in between",
        cause="schedule wrong",
        make=schedule_of_a_discarded_optimizer,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="gradients cleared for each micro-batch",
        source="https://github.com/bytetriper/RAE/issues/67",
        symptom="accumulation makes the training worse, as if only one class were seen",
        explanation="`zero_grad` is inside the inner loop, so only the last micro-batch counts",
        cause="gradients cleared too early",
        make=cleared_for_each_micro_batch,
        steps=60,
        margin=0.3,
    ),
    Program(
        name="gradients cleared before the step",
        source="https://github.com/Tony-Y/pytorch_warmup/issues/12",
        symptom="nothing is learned",
        explanation="`zero_grad` is between `backward` and `step`",
        cause="gradients cleared too early",
        make=cleared_between_backward_and_step,
        steps=80,
        margin=0.3,
    ),
    Program(
        name="accumulation that is not divided",
        source="https://github.com/agokrani/distillKitPlus/issues/5",
        symptom="the more micro-batches are accumulated, the less stable the training",
        explanation="the losses of the micro-batches are summed and not averaged, as if the learning rate were larger",
        cause="steps too large",
        make=accumulated_without_division,
        steps=60,
        margin=0.1,
    ),
    Program(
        name="gradients clipped while they are scaled",
        source="https://github.com/Lightning-AI/pytorch-lightning/issues/9330",
        symptom="with mixed precision and clipping the loss hardly falls",
        explanation="the gradients of the scaled loss are clipped to norm 1 and divided by the scale afterwards",
        cause="clipped too much",
        make=clipped_while_scaled,
        steps=80,
        margin=0.3,
    ),
    Program(
        name="gradients clipped to a tiny value",
        source="",
        symptom="the loss hardly moves, at any learning rate that one would try",
        explanation="the clipping was set to 1e-5 against spikes, far below the usual gradients; "
        "known from configurations where the units of the clipping changed",
        cause="clipped too much",
        make=clipped_to_nothing,
        steps=80,
        margin=0.3,
    ),
    Program(
        name="weights in bfloat16, small steps",
        source="https://github.com/workofart/ml-by-hand/pull/85",
        symptom="most weights do not move in a hundred steps",
        explanation="the updates are smaller than half the distance of two bfloat16 numbers and are rounded away",
        cause="updates rounded away",
        make=weights_in_bfloat16,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="master weights that are not copied back",
        source="",
        symptom="gradients and weights look fine, the loss does not change",
        explanation="the optimizer updates the copy in float32, and the network in bfloat16 is never refreshed; "
        "known from hand-written mixed precision",
        cause="another copy is trained",
        make=master_weights_left_behind,
        steps=80,
        margin=0.3,
    ),
    Program(
        name="loss that is made to require a gradient",
        source="https://github.com/ronghuaiyang/arcface-pytorch/issues/56",
        symptom="the error is gone, and the loss does not fall",
        explanation="`loss.requires_grad = True` silences the message that the graph is cut, and leaves it cut",
        cause="graph cut",
        make=loss_made_to_require_a_gradient,
        steps=80,
        margin=0.3,
    ),
    Program(
        name="always the first batch",
        source="https://github.com/wandb/examples/issues/444",
        symptom="the training loss goes to zero in a few steps, the accuracy on all data stays low",
        explanation="`next(iter(loader))` begins anew in each step, and the loader does not shuffle",
        cause="data wrong",
        make=always_the_first_batch,
        steps=100,
        margin=0.1,
    ),
]
