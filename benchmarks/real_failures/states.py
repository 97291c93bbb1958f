"""States that a loop leaves behind: modes, states of optimizers and schedules, half precision."""

import itertools

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, classes, images, negative_error
from real_failures.program import Program, Training, usual_step

cross_entropy = nn.functional.cross_entropy
mse_loss = nn.functional.mse_loss


class Reasoner(nn.Module):
    """Convolutions with normalisation on images, joined with a question, classified."""

    def __init__(self, questions: int, answers: int):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((3, 16), (16, 16), (16, 16), (16, 16)):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.stem = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.embedding = nn.Embedding(questions, 16)
        self.classifier = nn.Sequential(nn.Linear(80, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, answers))

    def forward(self, pairs):
        return self.classifier(torch.cat((self.stem(pairs[0]), self.embedding(pairs[1])), 1))


def answers_after_a_check(repaired: bool) -> Training:
    pictures, kinds = images(samples=72, channels=3, size=8, kinds=4)
    questions = torch.randint(2, (72,))
    answers = torch.where(questions == 0, kinds % 2, kinds // 2)
    model = Reasoner(2, 2)
    numbers = itertools.count()

    def check_accuracy() -> None:
        if next(numbers) % 10 == 0:
            model.eval()
            with torch.no_grad():
                model((pictures, questions))
            if repaired:
                model.train()

    return Training(
        model,
        batch=lambda number: ((pictures[number % 2 :: 2], questions[number % 2 :: 2]), answers[number % 2 :: 2]),
        loss=cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=5e-4),
        score=lambda model: -cross_entropy(model.eval()((pictures, questions)), answers).item(),
        after=check_accuracy,
    )


class Denoiser(nn.Module):
    """Noise in a picture, from the noisy picture and the time."""

    def __init__(self, features: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features + 1, 48), nn.SiLU(), nn.Linear(48, features))

    def forward(self, noisy):
        return self.layers(noisy)


def half_precision_denoiser(repaired: bool) -> Training:
    pictures, _ = classes(samples=128, features=12, kinds=4, spread=0.1)
    times, noise = torch.rand(128, 1), torch.randn(128, 12)
    inputs = torch.cat(((1 - times).sqrt() * pictures + times.sqrt() * noise, times), 1).half()
    model = Denoiser(12).half()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, eps=1e-4 if repaired else 1e-8, weight_decay=0.0)
    return Training(
        model,
        batch=lambda number: (inputs, noise.half()),
        loss=mse_loss,
        optimizer=optimizer,
        score=lambda model: negative_error(model.float(), inputs.float(), noise),
    )


class Retriever(nn.Module):
    """Questions and passages in one space, scored by their dot products."""

    def __init__(self, features: int, hidden: int):
        super().__init__()
        self.question = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, hidden))
        self.passage = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, hidden))

    def forward(self, pairs):
        return self.question(pairs[0]) @ self.passage(pairs[1]).T


def retriever_from_a_checkpoint(repaired: bool) -> Training:
    topics = torch.randn(2, 48, 6)
    mixing = torch.randn(2, 2, 6, 10)
    pairs = [[(topic @ side).tanh() for side in sides] for topic, sides in zip(topics, mixing, strict=True)]
    model = Retriever(10, 8)

    def schedule_of(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / 40))

    first = torch.optim.AdamW(model.parameters(), lr=1e-2)
    finished = schedule_of(first)
    before = Training(model, lambda _: (pairs[0], torch.arange(48)), cross_entropy, first, lambda _: 0.0)
    before.after = finished.step
    before.run(40)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = schedule_of(optimizer)
    if not repaired:
        optimizer.load_state_dict(first.state_dict())
        schedule.load_state_dict(finished.state_dict())
    return Training(
        model,
        batch=lambda number: (pairs[1], torch.arange(48)),
        loss=cross_entropy,
        optimizer=optimizer,
        score=lambda model: accuracy(model, pairs[1], torch.arange(48)),
        after=schedule.step,
    )


class Inversion(nn.Module):
    """A frozen text-to-image model with one new word."""

    def __init__(self, words: int):
        super().__init__()
        self.embedding = nn.Parameter(0.02 * torch.randn(16))
        self.generator = nn.Sequential(nn.Linear(32, 48), nn.SiLU(), nn.Linear(48, 16)).requires_grad_(False)
        self.register_buffer("prompts", torch.randn(words, 16))

    def forward(self, prompts):
        words = self.embedding.expand(len(prompts), -1)
        return self.generator(torch.cat((self.prompts[prompts], words), 1))


def textual_inversion(repaired: bool) -> Training:
    prompts = torch.arange(12)
    model = Inversion(12)
    with torch.no_grad():
        concept = torch.cat((model.prompts, 1.5 * torch.randn(16).expand(12, -1)), 1)
        pictures = 4 * model.generator(concept)
        model.generator[2].weight.mul_(4)
        model.generator[2].bias.mul_(4)
    devices, accumulated, base_rate = (1 if repaired else 0), 1, 5e-3
    return Training(
        model,
        batch=lambda number: (prompts, pictures),
        loss=mse_loss,
        optimizer=torch.optim.AdamW([model.embedding], lr=accumulated * devices * len(prompts) * base_rate),
        score=lambda model: negative_error(model, prompts, pictures),
    )


def neural_process(repaired: bool) -> Training:
    inputs = 4 * torch.rand(160, 1) - 2
    targets = torch.sin(2 * inputs)
    model = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    numbers = itertools.count()
    state = {"optimizer": torch.optim.Adam(model.parameters(), lr=2e-2)}

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        if not repaired and next(numbers) % 2 == 0:
            state["optimizer"] = torch.optim.Adam(model.parameters(), lr=2e-2)
        training.optimizer = state["optimizer"]
        usual_step(training, inputs, targets)

    return Training(
        model,
        batch=lambda number: (inputs[number % 2 :: 2], targets[number % 2 :: 2]),
        loss=mse_loss,
        optimizer=state["optimizer"],
        score=lambda model: negative_error(model, inputs, targets),
        step=step,
    )


PROGRAMS = [
    Program(
        name="visual reasoning, left in evaluation mode by a check",
        source="https://github.com/facebookresearch/clevr-iep/pull/22",
        symptom="networks with batch normalisation or dropout may learn badly after the first check of accuracy",
        explanation="check_accuracy sets the model to evaluation mode and does not set it back",
        causes=("wrong mode",),
        make=answers_after_a_check,
        steps=40,
        margin=0.1,
        visible="training",
    ),
    Program(
        name="denoiser in half precision, default eps of Adam",
        source="https://github.com/afiaka87/glide-finetune/issues/5",
        symptom="weights are nan after the first step in half precision, with normal inputs and gradients",
        explanation="eps=1e-8 of Adam is zero in float16, so the update divides by zero; 1e-4 works",
        causes=("precision too low", "not finite"),
        make=half_precision_denoiser,
        steps=40,
        margin=0.5,
        visible="training",
    ),
    Program(
        name="passage retriever resumed with a finished schedule",
        source="https://github.com/facebookresearch/DPR/issues/99",
        symptom="the learning rate is zero when a training is resumed on other data",
        explanation="the schedule is loaded from the checkpoint and takes itself for finished",
        causes=("learning rate too low", "no step"),
        make=retriever_from_a_checkpoint,
        steps=40,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="textual inversion on a machine without GPU",
        source="https://github.com/rinongal/textual_inversion/issues/98",
        symptom="the loss stays at about 1 for the whole training on a CPU",
        explanation="the learning rate is multiplied by the number of GPUs, which is 0",
        causes=("learning rate too low", "no step"),
        make=textual_inversion,
        steps=60,
        margin=0.12,
        visible="training",
    ),
    Program(
        name="neural process with a new Adam in each epoch",
        source="https://github.com/alan-turing-institute/deepsensor/issues/47",
        symptom="the training is less stable and ends at a higher loss than it should",
        explanation="each epoch builds a new Adam, which forgets its averages of gradients",
        causes=("optimizer state lost",),
        make=neural_process,
        steps=160,
        margin=0.006,
        visible="training",
    ),
]
