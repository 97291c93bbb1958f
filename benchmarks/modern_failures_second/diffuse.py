"""Diffusion and flow matching on points around eight corners."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_second.common import update
from modern_failures_strangers.data import agreement, batches, distance, ring
from modern_failures_strangers.program import Program
from real_failures.program import Training

TIMES = 50
BETAS = torch.linspace(1e-3, 0.2, TIMES)
KEPT = (1 - BETAS).cumprod(0)
NOTHING = 8


class Denoiser(nn.Module):
    """From a noisy point, a time from 0 to 1, and a corner (8: none) to the noise or the velocity."""

    def __init__(self, width: int = 96):
        super().__init__()
        self.corner = nn.Embedding(9, 16)
        self.net = nn.Sequential(
            nn.Linear(2 + 16 + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )

    def forward(self, points: Tensor, time: Tensor, corner: Tensor) -> Tensor:
        angles = time[:, None] * math.pi * 2 ** torch.arange(8)[None] / 8
        return self.net(torch.cat([points, angles.sin(), angles.cos(), self.corner(corner)], 1))


@torch.no_grad()
def denoised(model: nn.Module, corner: Tensor) -> Tensor:
    """Samples, without new noise on the way."""
    points = torch.randn(len(corner), 2, generator=torch.Generator().manual_seed(1))
    for step in reversed(range(TIMES)):
        noise = model(points, torch.full((len(points),), step / TIMES), corner)
        clean = (points - (1 - KEPT[step]).sqrt() * noise) / KEPT[step].sqrt()
        before = KEPT[step - 1] if step else torch.tensor(1.0)
        points = before.sqrt() * clean.clamp(-3, 3) + (1 - before).sqrt() * noise
    return points


def nearest(points: Tensor) -> Tensor:
    angle = 2 * math.pi * torch.arange(8) / 8
    return torch.cdist(points, 2 * torch.stack([angle.cos(), angle.sin()], 1)).argmin(1)


def denoising(mix: Tensor = KEPT, draw=torch.randn_like, dropped=None, conditional: bool = False) -> Training:
    """The training of a denoiser; each argument replaces a part of it."""
    data, corners = ring(2048)
    model = Denoiser()

    def step(training: Training, points: Tensor, corner: Tensor) -> None:
        time = torch.randint(TIMES, (len(points),))
        noise = draw(points)
        noisy = mix[time].sqrt()[:, None] * points + (1 - mix[time]).sqrt()[:, None] * noise
        corner = torch.where(dropped(len(points)), NOTHING, corner) if conditional else torch.full_like(corner, NOTHING)
        update(training, training.loss(training.model(noisy, time / TIMES, corner), noise))

    def score(model: nn.Module) -> float:
        wanted = corners[:512]
        if conditional:
            return agreement(nearest(denoised(model, wanted)), wanted)
        samples = denoised(model, torch.full_like(wanted, NOTHING))
        return -distance(samples, data[:512])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(data, corners, size=128), F.mse_loss, optimizer, score, step=step)


def alphas_without_product(repaired: bool) -> Training:
    return denoising(mix=KEPT if repaired else 1 - BETAS)


def uniform_noise(repaired: bool) -> Training:
    return denoising(draw=torch.randn_like if repaired else torch.rand_like)


def condition_nearly_always_dropped(repaired: bool) -> Training:
    def dropped(rows: int) -> Tensor:
        chance = torch.rand(rows)
        return chance < 0.05 if repaired else chance > 0.05

    return denoising(dropped=dropped, conditional=True)


def clean_data_overwritten(repaired: bool) -> Training:
    data, corners = ring(2048)
    original = data[:512].clone()
    model = Denoiser()

    def step(training: Training, points: Tensor, corner: Tensor) -> None:
        time, noise = torch.rand(len(points)), torch.randn_like(points)
        noisy = points.clone() if repaired else points
        noisy.mul_(1 - time[:, None]).add_(time[:, None] * noise)
        corner = torch.full_like(corner, NOTHING)
        update(training, training.loss(training.model(noisy, time, corner), noise - points))

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        points = torch.randn(512, 2, generator=torch.Generator().manual_seed(1))
        for time in torch.linspace(1, 1 / 30, 30):
            points = points - model(points, time.expand(512), torch.full((512,), NOTHING)) / 30
        return -distance(points, original)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(data, corners, size=128), F.mse_loss, optimizer, score, step=step)


PROGRAMS = [
    Program(
        name="alphas without the cumulative product",
        source="https://github.com/LuChengTHU/dpm-solver/issues/13",
        symptom="the loss stays high, since there is hardly any noise to be found, and the samples are wrong",
        explanation="the noise is mixed in with the alpha of one step and not with the product of all up to it, so the "
        "network never sees points that are mostly noise",
        cause="wrong amount of noise",
        make=alphas_without_product,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="uniform noise",
        source="https://github.com/acids-ircam/diffusion_models/issues/8",
        symptom="the loss is lower than usual and the samples drift away",
        explanation="`rand_like` instead of `randn_like`: the noise is between 0 and 1, has no mean of zero, and the "
        "sampler starts from a normal distribution",
        cause="wrong noise",
        make=uniform_noise,
        steps=300,
        margin=0.1,
    ),
    Program(
        name="condition kept with the probability of dropping it",
        source="https://github.com/gligen/GLIGEN/issues/60",
        symptom="the samples look right and do not follow the condition",
        explanation="the comparison for the dropout of the condition is the wrong way round, so it is dropped "
        "in 95% of the rows",
        cause="condition missing",
        make=condition_nearly_always_dropped,
        steps=120,
        margin=0.2,
    ),
    Program(
        name="clean data overwritten by the noisy",
        source="https://github.com/irom-princeton/dppo/issues/14",
        symptom="flow matching: the loss changes with each epoch and the samples become noise",
        explanation="the noise is mixed in with in-place operations on the batch, which is a view of the data set: the "
        "target is computed from noisy points, and the data themselves turn into noise",
        cause="data changed in place",
        make=clean_data_overwritten,
        steps=300,
        margin=0.1,
    ),
]
