"""Diffusion and flow matching: the wrong noise, time, target or schedule. The loss often looks fine."""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import agreement, distance, ring
from modern_failures_strangers.networks import Denoiser
from modern_failures_strangers.program import Program
from real_failures.program import Training

STEPS = 40


def kept(largest_beta: float = 0.4) -> Tensor:
    """How much of the data's variance is left at each time, for noise that grows linearly."""
    return (1 - torch.linspace(0.001, largest_beta, STEPS)).cumprod(0)


def noised(points: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    return left.sqrt()[:, None] * points + (1 - left).sqrt()[:, None] * noise


@torch.no_grad()
def sample(model: nn.Module, count: int, labels: Tensor | None = None, guidance: float = 1.0) -> Tensor:
    """DDIM: from noise to points, with the noise that the model predicts."""
    points, left = torch.randn(count, 2), kept()
    for time in reversed(range(STEPS)):
        times = torch.full((count,), time / STEPS)
        noise = model(points, times, labels)
        if guidance != 1.0:
            plain = model(points, times)
            noise = plain + guidance * (noise - plain)
        clean = ((points - (1 - left[time]).sqrt() * noise) / left[time].sqrt()).clamp(-4, 4)
        before = left[time - 1] if time else torch.tensor(1.0)
        points = before.sqrt() * clean + (1 - before).sqrt() * noise
    return points


def quality(model: nn.Module) -> float:
    """Minus the distance of samples from data."""
    return -distance(sample(model, 512), ring(512)[0])


def train(
    loss: Callable[[nn.Module, Tensor], Tensor],
    score: Callable[[nn.Module], float] = quality,
    model: nn.Module | None = None,
    after: Callable[[], object] | None = None,
    lr: float = 3e-3,
) -> Training:
    """Training on fresh points with a loss that calls the network itself, as diffusion code does."""
    model = Denoiser() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def step(training: Training, points: Tensor, _: object) -> None:
        training.optimizer.zero_grad()
        loss(training.model, points).backward()
        training.optimizer.step()

    return Training(model, lambda step: (ring(256)[0], None), F.mse_loss, optimizer, score, step, after)


def other_noise_as_target(repaired: bool) -> Training:
    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(STEPS, (len(points),))
        noise = torch.randn_like(points)
        noisy = noised(points, noise, kept()[time])
        target = noise if repaired else torch.randn_like(points)
        return F.mse_loss(model(noisy, time / STEPS), target)

    return train(loss)


def noise_from_zero_to_one(repaired: bool) -> Training:
    random = torch.randn_like if repaired else torch.rand_like

    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(STEPS, (len(points),))
        noise = random(points)
        return F.mse_loss(model(noised(points, noise, kept()[time]), time / STEPS), noise)

    return train(loss)


def schedule_that_keeps_the_data(repaired: bool) -> Training:
    left = kept() if repaired else kept(largest_beta=0.02)

    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(STEPS, (len(points),))
        noise = torch.randn_like(points)
        return F.mse_loss(model(noised(points, noise, left[time]), time / STEPS), noise)

    return train(loss)


def noisy_input_as_target(repaired: bool) -> Training:
    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(STEPS, (len(points),))
        noise = torch.randn_like(points)
        noisy = noised(points, noise, kept()[time])
        predicted = model(noisy, time / STEPS)
        return F.mse_loss(predicted, noise if repaired else noisy)

    return train(loss)


def root_forgotten(repaired: bool) -> Training:
    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(STEPS, (len(points),))
        noise, left = torch.randn_like(points), kept()[time]
        noisy = noised(points, noise, left) if repaired else left[:, None] * points + (1 - left)[:, None] * noise
        return F.mse_loss(model(noisy, time / STEPS), noise)

    return train(loss)


def noise_where_a_velocity_was_meant(repaired: bool) -> Training:
    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(STEPS, (len(points),))
        noise, left = torch.randn_like(points), kept()[time, None]
        velocity = left.sqrt() * noise - (1 - left).sqrt() * points
        predicted = model(noised(points, noise, left[:, 0]), time / STEPS)
        return F.mse_loss(predicted, velocity if repaired else noise)

    class FromVelocity(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

        def forward(self, points: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
            left = kept()[(times * STEPS).round().long(), None]
            return left.sqrt() * self.model(points, times) + (1 - left).sqrt() * points

    return train(loss, lambda model: quality(FromVelocity(model)))


def time_not_given(repaired: bool) -> Training:
    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(STEPS, (len(points),))
        noise = torch.randn_like(points)
        given = time / STEPS if repaired else time // STEPS
        return F.mse_loss(model(noised(points, noise, kept()[time]), given.float()), noise)

    return train(loss)


@torch.no_grad()
def flow(model: nn.Module, count: int = 512) -> Tensor:
    """Follow the velocity from noise at time 0 to data at time 1."""
    points = torch.randn(count, 2)
    for step in range(20):
        points = points + model(points, torch.full((count,), step / 20)) / 20
    return points


def flow_quality(model: nn.Module) -> float:
    return -distance(flow(model), ring(512)[0])


def velocity_backwards(repaired: bool) -> Training:
    def loss(model: nn.Module, data: Tensor) -> Tensor:
        time, noise = torch.rand(len(data)), torch.randn_like(data)
        between = torch.lerp(noise, data, time[:, None])
        return F.mse_loss(model(between, time), data - noise if repaired else noise - data)

    return train(loss, flow_quality)


def time_backwards(repaired: bool) -> Training:
    def loss(model: nn.Module, data: Tensor) -> Tensor:
        time, noise = torch.rand(len(data)), torch.randn_like(data)
        between = torch.lerp(noise, data, time[:, None]) if repaired else torch.lerp(data, noise, time[:, None])
        return F.mse_loss(model(between, time), data - noise)

    return train(loss, flow_quality)


def average_that_hardly_moves(repaired: bool) -> Training:
    model = Denoiser()
    average = copy.deepcopy(model).requires_grad_(False)
    decay = 0.95 if repaired else 0.9999

    def loss(model: nn.Module, points: Tensor) -> Tensor:
        time = torch.randint(STEPS, (len(points),))
        noise = torch.randn_like(points)
        return F.mse_loss(model(noised(points, noise, kept()[time]), time / STEPS), noise)

    @torch.no_grad()
    def update() -> None:
        for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)

    return train(loss, lambda _: quality(average), model, after=update)


def average_not_in_place(repaired: bool) -> Training:
    model = Denoiser()
    average = copy.deepcopy(model).requires_grad_(False)

    def loss(model: nn.Module, data: Tensor) -> Tensor:
        time, noise = torch.rand(len(data)), torch.randn_like(data)
        return F.mse_loss(model(torch.lerp(noise, data, time[:, None]), time), data - noise)

    def update() -> None:
        new = model.state_dict()
        for name, value in average.state_dict().items():
            mixed = 0.9 * value + 0.1 * new[name]
            if repaired:
                value.copy_(mixed)
            else:
                value = mixed

    return train(loss, lambda _: flow_quality(average), model, after=update)


def condition_dropped_too_often(repaired: bool) -> Training:
    model = Denoiser(classes=4)
    drop = 0.1

    def loss(model: nn.Module, points: Tensor) -> Tensor:
        quarter = ((torch.atan2(points[:, 1], points[:, 0]) / (math.pi / 2)).round().long() % 4) + 1
        random = torch.rand(len(points))
        keep = random >= drop if repaired else random < drop
        time = torch.randint(STEPS, (len(points),))
        noise = torch.randn_like(points)
        return F.mse_loss(model(noised(points, noise, kept()[time]), time / STEPS, quarter * keep), noise)

    def obedience(model: nn.Module) -> float:
        labels = torch.arange(512) % 4 + 1
        points = sample(model, 512, labels)
        return agreement((torch.atan2(points[:, 1], points[:, 0]) / (math.pi / 2)).round().long() % 4 + 1, labels)

    return train(loss, obedience, model)


PROGRAMS = [
    Program(
        name="target noise that was not added",
        source="",
        symptom="the loss stays at 1.0",
        explanation="`randn_like` is called again for the target, so noise is predicted that the input does not hold; "
        "the first bug of most home-made diffusion models",
        cause="wrong pairs",
        make=other_noise_as_target,
        steps=300,
        margin=0.2,
    ),
    Program(
        name="uniform noise in a diffusion model",
        source="https://github.com/acids-ircam/diffusion_models/issues/8",
        symptom="the loss is even lower than usual, the samples are far from the data",
        explanation="`rand` was written for `randn`: the noise is uniform between 0 and 1, and sampling starts normal",
        cause="training unlike use",
        make=noise_from_zero_to_one,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="schedule that never reaches noise",
        source="https://github.com/IDEALLab/EngiOpt/pull/67",
        symptom="the loss converges, and sampling from noise gives nonsense",
        explanation="with so few steps the betas leave much of the data at the last time, unlike at sampling",
        cause="training unlike use",
        make=schedule_that_keeps_the_data,
        steps=300,
        margin=0.07,
    ),
    Program(
        name="noisy input as the target",
        source="https://github.com/irom-princeton/dppo/issues/14",
        symptom="the loss falls to zero and the samples are bad",
        explanation="the prediction is compared with the noisy input in place of the noise or the data",
        cause="target wrong",
        make=noisy_input_as_target,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="square roots forgotten in the forward process",
        source="",
        symptom="the loss looks as usual, the samples are distorted",
        explanation="data and noise are mixed with alpha and 1 - alpha, sampled with their roots; "
        "known from implementations from the paper, where the bar and the root are easily lost",
        cause="training unlike use",
        make=root_forgotten,
        steps=300,
        margin=0.03,
    ),
    Program(
        name="noise predicted by a model of velocities",
        source="https://github.com/huggingface/diffusers/issues/1429",
        symptom="fine-tuning works by its loss and produces weird pictures",
        explanation="the target is the noise, but the sampler takes the output for a velocity",
        cause="target wrong",
        make=noise_where_a_velocity_was_meant,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="time divided by integers",
        source="",
        symptom="the loss stops early, the samples are blurred",
        explanation="the time is divided by the number of steps with `//`, so the network is always given zero; "
        "known from ports of scripts that count time in integers",
        cause="condition not seen",
        make=time_not_given,
        steps=300,
        margin=0.02,
    ),
    Program(
        name="flow matching with its velocity backwards",
        source="https://github.com/primepake/splitmeanflow/issues/2",
        symptom="the loss is normal, the samples run away from the data",
        explanation="the target is noise minus data, and the sampler goes from noise to data",
        cause="direction reversed",
        make=velocity_backwards,
        steps=300,
        margin=0.3,
    ),
    Program(
        name="flow matching with its time backwards",
        source="",
        symptom="the loss is normal, the samples are no data",
        explanation="the two conventions of time are mixed: time 1 is noise in training and data in sampling; "
        "known from code that is put together from two repositories",
        cause="direction reversed",
        make=time_backwards,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="average of the weights that hardly moves",
        source="https://github.com/konpatp/diffae/issues/16",
        symptom="the samples of the average are noise, those of the model are fine",
        explanation="the decay is 0.9999 in a training of some hundred steps, so the average is near its start",
        cause="average stays behind",
        make=average_that_hardly_moves,
        steps=300,
        margin=0.2,
    ),
    Program(
        name="average of the weights that is not written back",
        source="",
        symptom="the validation with the average does not change from epoch to epoch",
        explanation="the mixture is bound to a name and not copied into the average; "
        "known from averages of the weights by hand",
        cause="average stays behind",
        make=average_not_in_place,
        steps=300,
        margin=0.12,
    ),
    Program(
        name="condition dropped nine times of ten",
        source="",
        symptom="the samples are good and do not follow the condition",
        explanation="the comparison of the random numbers with the rate is reversed, so the label is mostly dropped; "
        "known from masks of classifier-free guidance, where some mark what is kept and some what is dropped",
        cause="condition not seen",
        make=condition_dropped_too_often,
        steps=80,
        margin=0.1,
    ),
]
