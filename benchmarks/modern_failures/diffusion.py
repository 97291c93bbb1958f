"""Diffusion and flow matching: what the network predicts, from which condition, and which average is sampled."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from modern_failures.blocks import Denoiser, Diffusion, average
from modern_failures.data import clusters, near_clusters
from modern_failures.program import Program, Training

DIFFUSION = Diffusion()


def drawn(points: Tensor, kinds: Tensor | None, size: int = 128) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs of a denoiser at random times, and the noise in them."""
    rows = torch.randint(len(points), (size,))
    step, noise = torch.randint(DIFFUSION.steps, (size,)), torch.randn(size, points.shape[1])
    inputs = {"noisy": DIFFUSION.noisy(points[rows], noise, step), "time": step / DIFFUSION.steps}
    return inputs | ({} if kinds is None else {"kind": kinds[rows]}), noise


def sampled(model: nn.Module, labels: Tensor | None = None) -> float:
    """Fraction of 256 samples that are near the data, or near that of their class."""
    kinds = {} if labels is None else {"kind": labels}
    points = DIFFUSION.sample(lambda noisy, time: model(noisy, time, **kinds), torch.randn(256, 2))
    return near_clusters(points, labels)


def diffusion(model: nn.Module, batch, score=sampled, loss=mse_loss, rate: float = 3e-3, after=None) -> Training:
    """Training of a denoiser."""
    return Training(
        model,
        batch=batch,
        loss=loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=rate),
        score=score,
        after=after,
    )


def target_is_the_input(repaired: bool) -> Training:
    points, _ = clusters()

    def batch(step: int):
        inputs, noise = drawn(points, None)
        return inputs, noise if repaired else inputs["noisy"]

    return diffusion(Denoiser(), batch)


def of_their_class(model: nn.Module) -> float:
    return sampled(model, torch.arange(256) % 8)


def class_is_ignored(repaired: bool) -> Training:
    points, labels = clusters()
    model = Denoiser(kinds=8 if repaired else 0)  # without an embedding it takes classes and leaves them
    return diffusion(model, lambda step: drawn(points, labels), of_their_class)


def always_the_first_condition(repaired: bool) -> Training:
    points, labels = clusters()

    def batch(step: int):
        rows = torch.arange(step * 64, step * 64 + 64) % 250
        first = torch.arange(64)  # `next(iter(loader))`
        times, noise = torch.randint(DIFFUSION.steps, (64,)), torch.randn(64, 2)
        inputs = {"noisy": DIFFUSION.noisy(points[rows], noise, times), "time": times / DIFFUSION.steps}
        return inputs | {"kind": labels[rows if repaired else first]}, noise

    return diffusion(Denoiser(kinds=8), batch, of_their_class)


def average_of_nothing(repaired: bool) -> Training:
    points, _ = clusters()
    model = Denoiser()
    shadow = copy.deepcopy(model)
    return diffusion(
        model,
        lambda step: drawn(points, None),
        score=lambda _: sampled(shadow),
        after=(lambda: average(shadow, model, 0.98)) if repaired else None,
    )


def average_too_slow(repaired: bool) -> Training:
    points, _ = clusters()
    model = Denoiser()
    shadow = copy.deepcopy(model)
    return diffusion(
        model,
        lambda step: drawn(points, None),
        score=lambda _: sampled(shadow),
        after=lambda: average(shadow, model, 0.98 if repaired else 0.9999),
    )


class Flow(Denoiser):
    """A velocity for a point, by time and source."""

    def __init__(self):
        super().__init__(features=4)
        self.layers[-1] = nn.Linear(64, 2)

    def forward(self, noisy: Tensor, time: Tensor, source: Tensor | None = None) -> Tensor:
        return super().forward(noisy if source is None else torch.cat([noisy, source], 1), time)

    @torch.no_grad()
    def sample(self, start: Tensor, source: Tensor, steps: int = 20) -> Tensor:
        for step in range(steps):
            start = start + self(start, torch.full((len(start),), step / steps), source) / steps
        return start


def velocity_from_the_source(repaired: bool) -> Training:
    model = Flow()

    def turned(source: Tensor) -> Tensor:
        return source @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) + 2

    def batch(step: int):
        source, latent, time = torch.randn(128, 2), torch.randn(128, 2), torch.rand(128)
        target = turned(source)
        noisy = latent + time[:, None] * (target - latent)
        return {"noisy": noisy, "time": time, "source": source}, target - (latent if repaired else source)

    def score(model: Flow) -> float:
        source = torch.randn(256, 2)
        return -(model.sample(torch.randn(256, 2), source) - turned(source)).square().mean().item()

    return diffusion(model, batch, score)


class Planner(Denoiser):
    """A flow whose forward pass runs the whole way from noise, as it does when it is used."""

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        if self.training and self.rolls_out:
            for step in range(5):
                noisy = noisy + super().forward(noisy, torch.full_like(time, step / 5)) / 5
            return noisy
        return super().forward(noisy, time)


def flow_is_trained_by_its_samples(repaired: bool) -> Training:
    points, _ = clusters()
    model = Planner()
    model.rolls_out = not repaired

    def batch(step: int):
        clean, noise, time = points[torch.randint(256, (128,))], torch.randn(128, 2), torch.rand(128)
        if not repaired:
            return {"noisy": noise, "time": time}, clean
        return {"noisy": noise + time[:, None] * (clean - noise), "time": time}, clean - noise

    @torch.no_grad()
    def score(model: Planner) -> float:
        points = torch.randn(256, 2)
        for step in range(20):
            points = points + model.eval()(points, torch.full((256,), step / 20)) / 20
        return near_clusters(points)

    return diffusion(model, batch, score)


PROGRAMS = [
    Program(
        name="denoiser that is asked for its own input",
        source="https://github.com/EDAPINENUT/GNTPP/issues/5",
        symptom="the loss compares the noisy input with the predicted noise",
        explanation="the target is the noisy input, which the network only has to copy",
        causes=("targets trivial", "targets wrong"),
        make=target_is_the_input,
        steps=400,
        margin=0.2,
    ),
    Program(
        name="UNet that ignores class labels",
        source="https://github.com/huggingface/diffusers/issues/5330",
        symptom="class labels change nothing, and there is no error",
        explanation="without `class_embed_type` or `num_class_embeds` the model has nothing to use them with",
        causes=("condition ignored",),
        make=class_is_ignored,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="diffusion whose condition is always that of the first batch",
        source="https://github.com/KanishJebaMathewM/Truxify/issues/4067",
        symptom="conditional training is wasted",
        explanation="`next(iter(loader))` starts the loader of the conditions again in each step",
        causes=("pairs shuffled apart", "condition ignored"),
        make=always_the_first_condition,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="average that is sampled and never updated",
        source="https://github.com/tue-bmd/zea/pull/172",
        symptom="samples of a trained model are noise",
        explanation="the training step does not update the moving average that is used to sample",
        causes=("average stays behind",),
        make=average_of_nothing,
        steps=400,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="average that is too slow for a short training",
        source="https://github.com/openai/improved-diffusion/issues/59",
        symptom="the loss is small, and the average samples only noise",
        explanation="with a decay of 0.9999 the average still has most of its first weights",
        causes=("average stays behind",),
        make=average_too_slow,
        steps=400,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="flow towards the target from the wrong start",
        source="https://github.com/theislab/CellFlow/pull/305",
        symptom="every prediction is off, without an error",
        explanation="the path starts at the latent noise, the velocity in the loss is that from the source",
        causes=("targets wrong", "targets impossible"),
        make=velocity_from_the_source,
        steps=200,
        margin=0.5,
    ),
    Program(
        name="flow that is trained by its samples",
        source="https://github.com/autowarefoundation/auto_e2e/issues/115",
        symptom="no training objective is wired to the planner",
        explanation="the loss compares a whole run from noise with the target, which teaches the mean of all targets",
        causes=("targets impossible", "loss input wrong"),
        make=flow_is_trained_by_its_samples,
        steps=250,
        margin=0.2,
    ),
]
