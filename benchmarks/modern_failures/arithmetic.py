"""Arithmetic of steps: rounded, clipped, accumulated, scheduled and scaled wrongly."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modern_failures.blocks import GPT, ViT, next_token_loss
from modern_failures.data import VOCABULARY, chains, continues, foresees, walks
from modern_failures.program import Program, Training, called, usual_step
from real_failures.data import accuracy, images


def language(
    model: GPT, optimizer: torch.optim.Optimizer, step=usual_step, after=None, size: int = 64, text=chains
) -> Training:
    """A language model on a text; scored by the next words."""
    rows = text(64)

    def batch(step: int):
        part = slice(step * size % 64, step * size % 64 + size)
        return rows[part], rows[part]

    return Training(
        model,
        batch=batch,
        loss=lambda logits, rows: next_token_loss(logits.float(), rows),
        optimizer=optimizer,
        score=lambda model: foresees(model, rows),
        step=step,
        after=after,
    )


def weights_in_bfloat16(repaired: bool) -> Training:
    model = GPT(VOCABULARY, layers=1)
    if not repaired:
        model = model.bfloat16()
    return language(model, torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0))


def accumulated_without_division(repaired: bool) -> Training:
    model = GPT(VOCABULARY)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)

    def accumulate(training: Training, rows: Tensor, _: Tensor) -> None:
        optimizer.zero_grad()
        for part in rows.chunk(8):
            loss = training.loss(called(training.model, part), part)
            (loss / 8 if repaired else loss).backward()
        optimizer.step()

    return language(model, optimizer, accumulate)


def divided_twice(repaired: bool) -> Training:
    model = GPT(VOCABULARY)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def accumulate(training: Training, rows: Tensor, _: Tensor) -> None:
        optimizer.zero_grad()
        for part in rows.chunk(8):
            loss = training.loss(called(training.model, part), part) / 8
            (loss if repaired else loss / 8).backward()  # as `accelerator.backward` does
        optimizer.step()

    return language(model, optimizer, accumulate, text=walks)


def cleared_in_each_part(repaired: bool) -> Training:
    inputs, labels = images(256, kinds=8)
    by_class = labels.argsort()
    inputs, labels = inputs[by_class], labels[by_class]
    model = ViT(kinds=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def accumulate(training: Training, inputs: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        for part, part_labels in zip(inputs.chunk(8), labels.chunk(8), strict=True):
            if not repaired:
                optimizer.zero_grad()
            (training.loss(called(training.model, part), part_labels) / 8).backward()
        optimizer.step()

    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, inputs, labels),
        step=accumulate,
    )


def clipped_before_unscaling(repaired: bool) -> Training:
    model = GPT(VOCABULARY)
    optimizer, scale = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 2.0**16

    def scaled_step(training: Training, rows: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        (scale * training.loss(called(training.model, rows), targets)).backward()
        if not repaired:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for parameter in model.parameters():
            parameter.grad /= scale
        if repaired:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return language(model, optimizer, scaled_step)


def warm_up_beyond_the_end(repaired: bool) -> Training:
    model = GPT(VOCABULARY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    warm_up = 5 if repaired else 500
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / warm_up))
    return language(model, optimizer, after=schedule.step)


def epochs_counted_in_batches(repaired: bool) -> Training:
    model = GPT(VOCABULARY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 6, 9])  # in epochs of 16 batches
    steps = iter(range(10**6))

    def after() -> None:
        if not repaired or next(steps) % 16 == 15:
            schedule.step()

    return language(model, optimizer, after=after, size=16)


def pictures(model: ViT, optimizer: torch.optim.Optimizer, step) -> Training:
    """A vision transformer on textures."""
    inputs, labels = images(256, kinds=8)
    return Training(
        model,
        batch=lambda step: (inputs[step % 4 * 64 :][:64], labels[step % 4 * 64 :][:64]),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, inputs, labels),
        step=step,
    )


def rate_of_a_small_network(repaired: bool) -> Training:
    model = GPT(VOCABULARY, layers=4)
    return language(model, torch.optim.Adam(model.parameters(), lr=2e-3 if repaired else 5e-2), text=walks)


def tied_head_of_unit_variance(repaired: bool) -> Training:
    model = GPT(VOCABULARY, width=64)
    nn.init.normal_(model.tokens.weight, std=0.1 if repaired else 3.0)
    model.head.weight = model.tokens.weight
    return language(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


class NormOverPlaces(nn.LayerNorm):
    """Means and deviations over the places of a text and not over its features."""

    def forward(self, hidden: Tensor) -> Tensor:
        centred = hidden - hidden.mean(1, keepdim=True)
        return centred / (hidden.std(1, keepdim=True) + 1e-3) * self.weight + self.bias


def normalised_over_places(repaired: bool) -> Training:
    model = GPT(VOCABULARY)
    if not repaired:
        for block in model.blocks:
            block.norm1, block.norm2 = NormOverPlaces(32), NormOverPlaces(32)
        model.norm = NormOverPlaces(32)
    training = language(model, torch.optim.AdamW(model.parameters(), lr=2e-3), text=walks)
    rows, _ = training.batch(0)
    training.score = lambda model: continues(model, rows, 3, 6)
    return training


def nothing_is_returned(repaired: bool) -> Training:
    model = ViT(kinds=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)

    def training_step(training: Training, inputs: Tensor, labels: Tensor) -> Tensor | None:
        loss = training.loss(called(training.model, inputs), labels)
        return loss if repaired else None

    def fit(training: Training, inputs: Tensor, labels: Tensor) -> None:
        loss = training_step(training, inputs, labels)
        if loss is None:  # the trainer skips the batch
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return pictures(model, optimizer, fit)


PROGRAMS = [
    Program(
        name="weights in bfloat16",
        source="https://github.com/workofart/ml-by-hand/pull/85",
        symptom="none of 768 numbers of a weight moved in 100 steps",
        explanation="weights are kept in bfloat16, and the optimizer's steps are rounded away",
        causes=("updates rounded away",),
        make=weights_in_bfloat16,
        steps=200,
        margin=0.25,
        visible="training",
    ),
    Program(
        name="accumulated gradients that are not divided",
        source="https://github.com/fastai/fastai/issues/3023",
        symptom="with accumulation, only lower rates work",
        explanation="losses of accumulated batches are added and not averaged, so the step is eight times too large",
        causes=("accumulated and not divided",),
        make=accumulated_without_division,
        steps=60,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="accumulated losses that are divided twice",
        source="https://github.com/huggingface/accelerate/issues/3533",
        symptom="a question whether losses are divided by the number of accumulated batches twice",
        explanation="both the loop and `accelerator.backward` divide, so gradients are eight times too small",
        causes=("gradients unscaled twice",),
        make=divided_twice,
        steps=100,
        margin=0.25,
        visible="training",
    ),
    Program(
        name="gradients that are cleared in each part of a batch",
        source="https://github.com/bytetriper/RAE/issues/67",
        symptom="gradients are cleared in the inner loop and not accumulated",
        explanation="`zero_grad` is called for each part of a batch, so only the last part counts",
        causes=("gradients cleared too early",),
        make=cleared_in_each_part,
        steps=30,
        margin=0.3,
        visible="training",
    ),
    Program(
        name="scaled gradients that are clipped",
        source="https://github.com/victorchall/EveryDream2trainer/pull/175",
        symptom="a usual limit for the gradient norm stops the training",
        explanation="gradients are clipped to 1 while they are scaled by 65536, and then unscaled",
        causes=("clipped to nothing",),
        make=clipped_before_unscaling,
        steps=60,
        margin=0.3,
        visible="training",
    ),
    Program(
        name="warm-up that is longer than the training",
        source="https://github.com/d8ahazard/sd_dreambooth_extension/pull/557",
        symptom="all schedulers seem to do nothing for a long time",
        explanation="500 steps of warm-up are the default, and the training is shorter",
        causes=("schedule zero or all warm-up",),
        make=warm_up_beyond_the_end,
        steps=40,
        margin=0.3,
        visible="training",
    ),
    Program(
        name="epochs that are counted in batches",
        source="https://github.com/ivadomed/ivadomed/pull/55",
        symptom="the learning rate is updated after each batch",
        explanation="the scheduler has milestones in epochs and is stepped in the loop over the batches",
        causes=("schedule zero or all warm-up",),
        make=epochs_counted_in_batches,
        steps=60,
        margin=0.3,
        visible="training",
    ),
    Program(
        name="BERT with the rate of a small network",
        source="https://github.com/graykode/nlp-tutorial/issues/77",
        symptom="the loss is almost never less than 2",
        explanation="the rate is ten times what a deep transformer bears",
        causes=("rate of another kind of network",),
        make=rate_of_a_small_network,
        steps=60,
        margin=0.25,
        visible="training",
    ),
    Program(
        name="tied head with the variance of an embedding",
        source="https://github.com/NX-AI/xlstm/issues/83",
        symptom="the loss starts at 400 and not at 10",
        explanation="the head takes the embedding's weights, whose variance is far too large for a head",
        causes=("initialisation too large",),
        make=tied_head_of_unit_variance,
        steps=20,
        margin=0.4,
        layers=("tokens", "head"),
    ),
    Program(
        name="layer normalisation over the places",
        source="https://github.com/jadore801120/attention-is-all-you-need-pytorch/pull/17",
        symptom="a reader is sure that the normalisation is wrong",
        explanation="mean and deviation are taken along the sequence and not along the features",
        causes=("normalisation wrong", "axes mixed"),
        make=normalised_over_places,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="training step that returns nothing",
        source="https://github.com/graviraja/MLOps-Basics/issues/14",
        symptom="is the model even training?",
        explanation="`training_step` logs its loss and does not return it, so Lightning skips every batch",
        causes=("no step",),
        make=nothing_is_returned,
        steps=40,
        margin=0.3,
        visible="training",
    ),
]
