"""Images and generation: diffusion, autoencoders, adversarial nets, self-supervision, detection, fields of radiance."""

import copy
import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTMAEConfig, ViTMAEModel, ViTModel

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training

# ------------------------------------------------------------------------------------------------ data and scores


def ring_points(number: int, modes: int = 8, width: float = 0.08) -> tuple[Tensor, Tensor]:
    """Points around `modes` places on a circle, and the places' numbers."""
    label = torch.randint(0, modes, (number,))
    angle = label * (2 * math.pi / modes)
    return 1.5 * torch.stack([angle.cos(), angle.sin()], 1) + width * torch.randn(number, 2), label


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Zero if two samples come from the same distribution."""
    a, b = a.flatten(1), b.flatten(1)
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def blobs(number: int, size: int = 16) -> Tensor:
    """Images with one soft round spot of random place and radius, values from 0 to 1."""
    grid = torch.arange(size) + 0.5
    x, y = (torch.rand(2, number, 1, 1) * 0.6 + 0.2) * size
    radius = (torch.rand(number, 1, 1) * 0.15 + 0.12) * size
    distance = ((grid[None, None, :] - x) ** 2 + (grid[None, :, None] - y) ** 2).sqrt()
    return torch.sigmoid((radius - distance) * 2).unsqueeze(1)


def textures(label: Tensor, size: int = 20) -> Tensor:
    """Stripes whose direction and frequency are the class; phase, contrast, brightness and noise are not."""
    number = len(label)
    grid = torch.arange(size, dtype=torch.float)
    angle = (label % 3) * (math.pi / 3)
    frequency = 0.9 + 0.8 * (label // 3)
    wave = angle.cos()[:, None, None] * grid[None, None, :] + angle.sin()[:, None, None] * grid[None, :, None]
    image = torch.sin(frequency[:, None, None] * wave + 6.3 * torch.rand(number, 1, 1))
    return image.unsqueeze(1) * (0.6 + 0.8 * torch.rand(number, 1, 1, 1))


def augment(image: Tensor, size: int = 12) -> Tensor:
    """A view: a crop of random place, with another brightness and contrast, and noise."""
    number, room = len(image), image.shape[-1] - size + 1
    row, column = torch.randint(0, room, (2, number))
    inside = torch.arange(size)
    rows, columns = (row[:, None] + inside)[:, :, None], (column[:, None] + inside)[:, None, :]
    image = image[torch.arange(number)[:, None, None], 0, rows, columns].unsqueeze(1)
    contrast, brightness = 0.5 + torch.rand(number, 1, 1, 1), 1.5 * torch.randn(number, 1, 1, 1)
    return image * contrast + brightness + 0.3 * torch.randn_like(image)


@torch.no_grad()
def neighbour_accuracy(encode, classes: int = 6) -> float:
    """Accuracy of the five nearest neighbours in the features, by cosine."""
    label, test_label = torch.arange(240) % classes, torch.arange(180) % classes
    bank = F.normalize(encode(augment(textures(label))), dim=1)
    test = F.normalize(encode(augment(textures(test_label))), dim=1)
    nearest = (test @ bank.T).topk(5, dim=1).indices
    return float((label[nearest].mode(dim=1).values == test_label).float().mean())


class ConvBackbone(nn.Module):
    """Three convolutions and an average over the image."""

    def __init__(self, width: int = 24, out: int = 48) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 5, padding=2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, out, 3, stride=2, padding=1),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, stride=2, padding=1),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


# ----------------------------------------------------------------------------------------------- diffusion and flow


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sines and cosines of the timestep, as in GLIDE and DiT: made for 0 to 1000."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half) / half)
    arguments = t[:, None].float() * frequencies[None]
    return torch.cat([arguments.cos(), arguments.sin()], dim=-1)


class VelocityNet(nn.Module):
    """A small network with adaptive normalisation by the time, and by the class if there are classes."""

    def __init__(self, dim: int = 2, hidden: int = 96, classes: int = 0, time_scale: float = 1000.0) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.hidden = hidden
        self.time_mlp = nn.Sequential(nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.label_embedding = nn.Embedding(classes + 1, hidden) if classes else None
        self.inp = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.modulations = nn.ModuleList(nn.Linear(hidden, 2 * hidden) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, elementwise_affine=False) for _ in range(2))
        self.out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        condition = self.time_mlp(timestep_embedding(t * self.time_scale, self.hidden))
        if self.label_embedding is not None:
            condition = condition + self.label_embedding(y)
        condition = F.silu(condition)
        h = self.inp(x)
        for block, modulation, norm in zip(self.blocks, self.modulations, self.norms, strict=True):
            shift, scale = modulation(condition).chunk(2, dim=-1)
            h = h + F.silu(block(norm(h) * (1 + scale) + shift))
        return self.out(h)


@torch.no_grad()
def euler(field, number: int, dim: int = 2, steps: int = 40) -> Tensor:
    """Follow a velocity field from noise at time 0 to data at time 1."""
    x = torch.randn(number, dim)
    for i in range(steps):
        x = x + field(x, torch.full((number,), i / steps)) / steps
    return x


def flow_step(training: Training, x1: Tensor, _: object) -> None:
    """Rectified flow: a straight line from noise to data."""
    x0 = torch.randn_like(x1)
    t = torch.rand(len(x1))
    xt = (1 - t[:, None]) * x0 + t[:, None] * x1
    training.optimizer.zero_grad()
    loss = training.loss(training.model(xt, t), x1 - x0)
    loss.backward()
    training.optimizer.step()


class Diffusion(nn.Module):
    """Noise prediction on small images with the linear schedule."""

    def __init__(self, timesteps: int, beta_start: float, beta_end: float, pixels: int = 64) -> None:
        super().__init__()
        self.timesteps = timesteps
        self.net = VelocityNet(pixels, hidden=128, time_scale=1000 / timesteps)
        betas = torch.linspace(beta_start, beta_end, timesteps)
        self.register_buffer("betas", betas)
        self.register_buffer("alphas_cumprod", (1 - betas).cumprod(0))

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        return self.net(noisy, t)

    @torch.no_grad()
    def sample(self, number: int, pixels: int = 64) -> Tensor:
        """Ancestral sampling."""
        x = torch.randn(number, pixels)
        for t in reversed(range(self.timesteps)):
            beta, bar = self.betas[t], self.alphas_cumprod[t]
            eps = self(x, torch.full((number,), t))
            x = (x - beta / (1 - bar).sqrt() * eps) / (1 - beta).sqrt()
            if t:
                x = x + beta.sqrt() * torch.randn_like(x)
        return x


def schedule_ends_before_the_noise(repaired: bool) -> Training:
    timesteps = 100
    scale = 1000 / timesteps if repaired else 1.0
    model = Diffusion(timesteps, scale * 1e-4, scale * 0.02)

    def images(number: int) -> Tensor:
        return 2 * blobs(number, 8).flatten(1) - 1

    def step(training: Training, x0: Tensor, _: object) -> None:
        noise = torch.randn_like(x0)
        t = torch.randint(0, timesteps, (len(x0),))
        bar = model.alphas_cumprod[t][:, None]
        noisy = bar.sqrt() * x0 + (1 - bar).sqrt() * noise
        training.optimizer.zero_grad()
        training.loss(training.model(noisy, t), noise).backward()
        training.optimizer.step()

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        return -energy_distance(model.sample(400), images(400))

    return Training(
        model, lambda _: (images(128), None), F.mse_loss, torch.optim.AdamW(model.parameters(), 2e-3), score, step
    )


class Guided(nn.Module):
    """Classifier-free guidance over a trained velocity network."""

    def __init__(self, model: nn.Module, y: Tensor, null: int, scale: float) -> None:
        super().__init__()
        self.model, self.y, self.null, self.scale = model, y, null, scale

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        conditional = self.model(x, t, self.y)
        unconditional = self.model(x, t, torch.full_like(self.y, self.null))
        return unconditional + self.scale * (conditional - unconditional)


def guidance_without_dropout(repaired: bool) -> Training:
    classes = 8
    model = VelocityNet(classes=classes)
    label_dropout = 0.15 if repaired else 0.0

    def step(training: Training, x1: Tensor, y: Tensor) -> None:
        x0 = torch.randn_like(x1)
        t = torch.rand(len(x1))
        xt = (1 - t[:, None]) * x0 + t[:, None] * x1
        y = torch.where(torch.rand(len(y)) < label_dropout, classes, y)
        training.optimizer.zero_grad()
        loss = training.loss(training.model(xt, t, y), x1 - x0)
        loss.backward()
        training.optimizer.step()

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        y = torch.arange(800) % classes
        samples = euler(Guided(model, y, classes, 2.0), len(y))
        angle = y * (2 * math.pi / classes)
        place = 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
        return float(((samples - place).norm(dim=1) < 0.4).float().mean())

    return Training(
        model, lambda _: ring_points(256), F.mse_loss, torch.optim.Adam(model.parameters(), 3e-3), score, step
    )


class FrozenAutoencoder(nn.Module):
    """Stands for a trained autoencoder: its latents are small, as nothing held their scale."""

    def __init__(self, pixels: int, latent: int, std: float) -> None:
        super().__init__()
        basis = torch.linalg.qr(torch.randn(pixels, latent))[0]
        self.register_buffer("basis", basis)
        self.std = std

    def encode(self, image: Tensor) -> Tensor:
        return image.flatten(1) @ self.basis * self.std

    def decode(self, latent: Tensor) -> Tensor:
        return latent / self.std @ self.basis.T


class LatentDiffusion(nn.Module):
    """A frozen autoencoder and a denoiser of its latents."""

    def __init__(self, scale_factor: float | None, timesteps: int = 1000) -> None:
        super().__init__()
        self.autoencoder = FrozenAutoencoder(64, 4, 0.02).requires_grad_(False)
        self.denoiser = VelocityNet(4, time_scale=1.0)
        self.scale_factor = scale_factor
        self.timesteps = timesteps
        betas = torch.linspace(1e-4, 0.02, timesteps)
        self.register_buffer("alphas_cumprod", (1 - betas).cumprod(0))

    def encode(self, image: Tensor) -> Tensor:
        latent = self.autoencoder.encode(image)
        if self.scale_factor is None:
            self.scale_factor = 1 / float(latent.std())
        return latent * self.scale_factor

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        return self.denoiser(noisy, t)

    @torch.no_grad()
    def sample(self, number: int, steps: int = 50) -> Tensor:
        """Deterministic sampling (DDIM)."""
        x = torch.randn(number, 4)
        times = torch.linspace(self.timesteps - 1, 0, steps + 1).long()
        for now, then in itertools.pairwise(times):
            a, b = self.alphas_cumprod[now], self.alphas_cumprod[then]
            eps = self.denoiser(x, now.repeat(number))
            x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
            x = b.sqrt() * x0 + (1 - b).sqrt() * eps
        return self.autoencoder.decode(x / self.scale_factor)


def latents_not_scaled(repaired: bool) -> Training:
    model = LatentDiffusion(scale_factor=None if repaired else 1.0)

    def images(number: int) -> Tensor:
        points = torch.cat([ring_points(number)[0], ring_points(number, 3)[0]], 1)
        return points @ model.autoencoder.basis.T

    def step(training: Training, image: Tensor, _: object) -> None:
        with torch.no_grad():
            latent = model.encode(image)
        noise = torch.randn_like(latent)
        t = torch.randint(0, model.timesteps, (len(latent),))
        alpha = model.alphas_cumprod[t][:, None]
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        training.optimizer.zero_grad()
        loss = training.loss(training.model(noisy, t), noise)
        loss.backward()
        training.optimizer.step()

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        model.encode(images(256))
        return -energy_distance(model.sample(800), images(800))

    optimizer = torch.optim.AdamW(model.denoiser.parameters(), 2e-3)
    return Training(model, lambda _: (images(256), None), F.mse_loss, optimizer, score, step)


class WithAverage(nn.Module):
    """A network and the exponential average of its weights, which is what samples."""

    def __init__(self, net: nn.Module, decay: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = net
        self.ema = copy.deepcopy(net).requires_grad_(False).to(dtype)
        self.decay = decay

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x, t).float()

    @torch.no_grad()
    def update(self) -> None:
        for average, value in zip(self.ema.parameters(), self.net.parameters(), strict=True):
            average.mul_(self.decay).add_(value.to(average.dtype), alpha=1 - self.decay)


def average_in_bfloat16(repaired: bool) -> Training:
    weight_dtype = torch.float32 if repaired else torch.bfloat16
    model = WithAverage(VelocityNet(hidden=48), decay=0.998, dtype=weight_dtype)

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        net = copy.deepcopy(model.ema).float()
        return -energy_distance(euler(net, 800), ring_points(800)[0])

    optimizer = torch.optim.Adam(model.net.parameters(), 2e-3)
    return Training(
        model, lambda _: (ring_points(128)[0], None), F.mse_loss, optimizer, score, flow_step, after=model.update
    )


# ------------------------------------------------------------------------------------------------------ autoencoders


class VectorQuantizer(nn.Module):
    """Nearest entry of a codebook, with the gradient passed straight through."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, dim)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def forward(self, z_e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.cdist(z_e, self.codebook.weight).argmin(dim=-1)
        z = self.codebook(index)
        z_q = z_e + (z - z_e).detach()
        return z_q, z, index


class VQAutoencoder(nn.Module):
    """Patches to codes and back."""

    def __init__(self, codebook_loss_on_lookup: bool, codes: int = 64, dim: int = 8) -> None:
        super().__init__()
        self.codebook_loss_on_lookup = codebook_loss_on_lookup
        self.encoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, dim))
        self.quantizer = VectorQuantizer(codes, dim)
        self.decoder = nn.Sequential(nn.Linear(dim, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        patches = F.unfold(image, 4, stride=4).transpose(1, 2)
        z_e = self.encoder(patches)
        z_q, z, index = self.quantizer(z_e)
        looked_up = z if self.codebook_loss_on_lookup else z_q
        return {
            "reconstruction": self.decoder(z_q),
            "patches": patches,
            "codebook_loss": F.mse_loss(looked_up, z_e.detach()),
            "commitment_loss": F.mse_loss(z_e, z.detach()),
            "index": index,
        }


def codebook_without_gradient(repaired: bool) -> Training:
    model = VQAutoencoder(repaired)

    def loss(out: dict[str, Tensor], _: object) -> Tensor:
        reconstruction = F.mse_loss(out["reconstruction"], out["patches"])
        return reconstruction + out["codebook_loss"] + 2.0 * out["commitment_loss"]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        out = model(blobs(300))
        return 1 - float(F.mse_loss(out["reconstruction"], out["patches"]) / out["patches"].var())

    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return Training(model, lambda _: (blobs(32), None), loss, optimizer, score)


class VAE(nn.Module):
    """Convolutions, a Gaussian code, and back."""

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 2 * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, 512),
            nn.ReLU(),
            nn.Unflatten(1, (32, 4, 4)),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar) if self.training else mu
        return self.decoder(z), mu, logvar


def divergence_outweighs_reconstruction(repaired: bool) -> Training:
    model = VAE()

    def loss(outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        reconstruction, mu, logvar = outputs
        kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1).mean()
        bce = F.binary_cross_entropy(reconstruction, x, reduction="none")
        return (bce.sum((1, 2, 3)).mean() if repaired else bce.mean()) + kl

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        x = blobs(300)
        model.eval()
        return 1 - float(F.mse_loss(model(x)[0], x) / (x - x.mean(0)).pow(2).mean())

    def batch(_: int) -> tuple[Tensor, Tensor]:
        x = blobs(64)
        return x, x

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), 2e-3), score)


# --------------------------------------------------------------------------------------------------- adversarial nets


class PointGAN(nn.Module):
    """A generator of points and a critic."""

    def __init__(self, noise: int = 8, hidden: int = 64) -> None:
        super().__init__()
        self.noise = noise
        self.generator = nn.Sequential(
            nn.Linear(noise, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 2)
        )
        self.critic = nn.Sequential(
            nn.Linear(2, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1)
        )

    def forward(self, number: int) -> Tensor:
        return self.generator(torch.randn(number, self.noise))


def gradient_penalty_without_graph(repaired: bool) -> Training:
    gan = PointGAN()
    g_optimizer = torch.optim.Adam(gan.generator.parameters(), 1e-3, betas=(0.0, 0.9))
    d_optimizer = torch.optim.Adam(gan.critic.parameters(), 1e-3, betas=(0.0, 0.9))

    def gradient_penalty(real: Tensor, fake: Tensor) -> Tensor:
        alpha = torch.rand(len(real), 1)
        mixed = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
        scores = gan.critic(mixed)
        (gradients,) = torch.autograd.grad(
            scores, mixed, grad_outputs=torch.ones_like(scores), create_graph=repaired, retain_graph=True
        )
        return ((gradients.norm(2, dim=1) - 1) ** 2).mean()

    def step(training: Training, real: Tensor, _: object) -> None:
        for part in real.chunk(4):
            fake = training.model(len(part)).detach()
            d_optimizer.zero_grad()
            d_loss = gan.critic(fake).mean() - gan.critic(part).mean() + 1.0 * gradient_penalty(part, fake)
            d_loss.backward()
            d_optimizer.step()
        g_optimizer.zero_grad()
        g_loss = training.loss(gan.critic(training.model(len(part))), None)
        g_loss.backward()
        g_optimizer.step()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        return -energy_distance(model(1000), ring_points(1000)[0])

    return Training(
        gan, lambda _: (ring_points(256)[0], None), lambda scores, _: -scores.mean(), g_optimizer, score, step
    )


# --------------------------------------------------------------------------------------------------- self-supervision


class UnitLength(nn.Module):
    """Features of length one."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1)


class Prototypes(nn.Module):
    """Cosines with the prototypes."""

    def __init__(self, dim: int, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(number, dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=-1))


class DINO(nn.Module):
    """A student and a teacher, each a backbone and a head; the teacher follows the student."""

    def __init__(self, teacher_is_a_copy: bool, prototypes: int = 32) -> None:
        super().__init__()
        backbone = ConvBackbone()
        self.student_backbone = backbone
        self.student_head = self.head(48, prototypes)
        self.teacher_backbone = copy.deepcopy(backbone) if teacher_is_a_copy else backbone
        self.teacher_head = copy.deepcopy(self.student_head)
        self.teacher_backbone.requires_grad_(False)
        self.teacher_head.requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, prototypes))

    @staticmethod
    def head(dim: int, prototypes: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(dim, 64),
            nn.BatchNorm1d(64),
            nn.GELU(),
            nn.Linear(64, 32),
            UnitLength(),
            Prototypes(32, prototypes),
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        views = (first, second)
        student = [self.student_head(self.student_backbone(view)) for view in views]
        with torch.no_grad():
            teacher = [self.teacher_head(self.teacher_backbone(view)) for view in views]
        return student, teacher

    @torch.no_grad()
    def update_teacher(self, momentum: float = 0.95) -> None:
        for student, teacher in (
            (self.student_backbone, self.teacher_backbone),
            (self.student_head, self.teacher_head),
        ):
            for s, t in zip(student.parameters(), teacher.parameters(), strict=True):
                t.mul_(momentum).add_(s, alpha=1 - momentum)


def teacher_is_the_student(repaired: bool) -> Training:
    model = DINO(teacher_is_a_copy=repaired)

    def loss(outputs: tuple[list[Tensor], list[Tensor]], _: object) -> Tensor:
        student, teacher = outputs
        targets = [F.softmax((t - model.center) / 0.05, dim=-1) for t in teacher]
        with torch.no_grad():
            model.center.mul_(0.9).add_(torch.cat(teacher).mean(0, keepdim=True), alpha=0.1)
        first = -(targets[1] * F.log_softmax(student[0] / 0.1, dim=-1)).sum(-1).mean()
        second = -(targets[0] * F.log_softmax(student[1] / 0.1, dim=-1)).sum(-1).mean()
        return (first + second) / 2

    def step(training: Training, views: tuple[Tensor, Tensor], targets: object) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(*views), targets).backward()
        training.optimizer.step()
        model.update_teacher()

    def batch(_: int) -> tuple[tuple[Tensor, Tensor], None]:
        image = textures(torch.randint(0, 6, (48,)))
        return (augment(image), augment(image)), None

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        model.eval()
        return neighbour_accuracy(model.student_backbone)

    parameters = [*model.student_backbone.parameters(), *model.student_head.parameters()]
    return Training(model, batch, loss, torch.optim.AdamW(parameters, 2e-3), score, step)


class SimCLR(nn.Module):
    """A backbone and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ConvBackbone()
        self.projector = nn.Sequential(nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 24))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.projector(self.backbone(x)), dim=1)


def nt_xent(z: Tensor, _: object, temperature: float = 0.2) -> Tensor:
    """The first half of the rows are the first views, the second half the second views, in the same order."""
    number = len(z) // 2
    similarity = z @ z.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    positive = torch.cat([torch.arange(number) + number, torch.arange(number)])
    return F.cross_entropy(similarity, positive)


def positives_are_other_images(repaired: bool) -> Training:
    model = SimCLR()

    def batch(_: int) -> tuple[Tensor, None]:
        image = textures(torch.randint(0, 6, (48,)))
        views = torch.stack([augment(image), augment(image)], dim=0 if repaired else 1)
        return views.flatten(0, 1), None

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        model.eval()
        return neighbour_accuracy(model.backbone)

    return Training(model, batch, nt_xent, torch.optim.Adam(model.parameters(), 2e-3), score)


# -------------------------------------------------------------------------------------------------- transformers


def marked_patches(number: int) -> tuple[Tensor, Tensor]:
    """Noise with one striped patch; the direction of the stripes, or the check, is the class."""
    patches = 0.4 * torch.randn(number, 16, 4, 4)
    place, label = torch.randint(0, 16, (number,)), torch.randint(0, 4, (number,))
    wave = torch.tensor([1.0, -1.0, 1.0, -1.0])
    kinds = torch.stack([wave.expand(4, 4), wave[:, None].expand(4, 4), wave * wave[:, None], torch.ones(4, 4)])
    patches[torch.arange(number), place] += 1.2 * kinds[label]
    return F.fold(patches.flatten(2).transpose(1, 2), 16, 4, stride=4), label


class MAEClassifier(nn.Module):
    """The encoder of a masked autoencoder with a linear head."""

    def __init__(self, mask_ratio: float, classes: int = 4) -> None:
        super().__init__()
        config = ViTMAEConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            image_size=16,
            patch_size=4,
            num_channels=1,
            mask_ratio=mask_ratio,
            initializer_range=0.1,
        )
        self.encoder = ViTMAEModel(config)
        self.head = nn.Linear(48, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.encoder(pixel_values=pixel_values).last_hidden_state[:, 1:].mean(1))


def masking_left_on(repaired: bool) -> Training:
    model = MAEClassifier(mask_ratio=0.0 if repaired else 0.75)

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        image, label = marked_patches(40)
        return {"pixel_values": image}, label

    def step(training: Training, inputs: dict[str, Tensor], labels: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(**inputs), labels).backward()
        training.optimizer.step()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        model.eval()
        image, label = marked_patches(500)
        return float((model(image).argmax(1) == label).float().mean())

    return Training(model, batch, F.cross_entropy, torch.optim.AdamW(model.parameters(), 3e-3), score, step)


class LoRALinear(nn.Module):
    """A frozen linear layer and a product of two thin matrices, the second one zero at first."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_b.weight)
        self.scaling = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * self.lora_b(self.lora_a(x))


def inject_lora(model: nn.Module, targets: tuple[str, ...], rank: int = 8, alpha: float = 16) -> None:
    """Replace the linear layers whose name is one of the targets."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and name in targets:
                setattr(module, name, LoRALinear(child, rank, alpha))


class ViTClassifier(nn.Module):
    """A vision transformer, frozen, and a head."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            image_size=16,
            patch_size=4,
            num_channels=1,
            initializer_range=0.15,
        )
        self.vit = ViTModel(config, add_pooling_layer=False).requires_grad_(False)
        self.head = nn.Linear(48, classes)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.head(self.vit(pixel_values=pixel_values).last_hidden_state[:, 0])


def adapters_after_the_optimizer(repaired: bool) -> Training:
    model = ViTClassifier()
    targets = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
    if repaired:
        inject_lora(model.vit, targets)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    if not repaired:
        inject_lora(model.vit, targets)

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        image, label = marked_patches(40)
        return {"pixel_values": image}, label

    def step(training: Training, inputs: dict[str, Tensor], labels: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(**inputs), labels).backward()
        training.optimizer.step()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        model.eval()
        image, label = marked_patches(500)
        return float((model(image).argmax(1) == label).float().mean())

    return Training(model, batch, F.cross_entropy, optimizer, score, step)


# ------------------------------------------------------------------------------------- detection and segmentation


def boxed(number: int, size: int = 24) -> tuple[Tensor, Tensor]:
    """Noise with one bright rectangle, not at the border, and its corners from 0 to 1."""
    image = 0.2 * torch.randn(number, 1, size, size)
    extent = torch.randint(3, 7, (number, 2))
    corner = 3 + (torch.rand(number, 2) * (size - extent - 5)).long()
    for i in range(number):
        (x, y), (w, h) = corner[i].tolist(), extent[i].tolist()
        image[i, 0, y : y + h, x : x + w] += 1.5
    return image, torch.cat([corner, corner + extent], 1) / size


class BoxHead(nn.Module):
    """Convolutions and a box: centre and size, given back as corners."""

    def __init__(self, size: int = 24) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (size // 4) ** 2, 64),
            nn.ReLU(),
        )
        self.box = nn.Linear(64, 4)
        nn.init.normal_(self.box.weight, std=0.01)
        nn.init.zeros_(self.box.bias)

    def forward(self, x: Tensor) -> Tensor:
        centre, log_extent = self.box(self.backbone(x)).chunk(2, dim=1)
        extent = 0.1 * log_extent.exp()
        return torch.cat([centre - extent / 2, centre + extent / 2], 1)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, box by box."""
    intersection = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - intersection
    return intersection / union.clamp(min=1e-7)


def overlap_loss_without_overlap(repaired: bool) -> Training:
    model = BoxHead()

    def loss(predicted: Tensor, target: Tensor) -> Tensor:
        iou = box_iou(predicted, target)
        if not repaired:
            return (1 - iou).mean()
        enclosing = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
        between = (predicted[:, :2] + predicted[:, 2:] - target[:, :2] - target[:, 2:]) / 2
        return (1 - iou + between.pow(2).sum(1) / enclosing.pow(2).sum(1)).mean()

    pool = boxed(1024)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        start = number * 64 % 1024
        return pool[0][start : start + 64], pool[1][start : start + 64]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        image, target = boxed(300)
        return float(box_iou(model(image), target).mean())

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), 2e-3), score)


class RandomFlips:
    """Flips each image of a batch across, or upside down, or both, at random."""

    def __call__(self, x: Tensor) -> Tensor:
        across, upside = torch.rand(2, len(x), 1, 1, 1) < 0.5
        x = torch.where(across, x.flip(3), x)
        return torch.where(upside, x.flip(2), x)


class TinyUNet(nn.Module):
    """Down once, up once, with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(12, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 12, 2, 2)
        self.leave = nn.Sequential(nn.Conv2d(24, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.enter(x)
        return self.leave(torch.cat([skip, self.up(self.down(skip))], 1))


def mask_flipped_apart(repaired: bool) -> Training:
    model = TinyUNet()
    transform = RandomFlips()

    def raw(number: int) -> tuple[Tensor, Tensor]:
        spot = blobs(number)
        return spot + 0.4 * torch.randn_like(spot), (spot > 0.5).float()

    pool = raw(512)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        start = number * 32 % 512
        image, mask = pool[0][start : start + 32], pool[1][start : start + 32]
        if repaired:
            image, mask = transform(torch.cat([image, mask], 1)).chunk(2, dim=1)
        else:
            image, mask = transform(image), transform(mask)
        return image, mask

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        model.eval()
        image, mask = raw(200)
        predicted = model(image) > 0
        intersection = (predicted & (mask > 0)).sum((1, 2, 3))
        return float((intersection / (predicted | (mask > 0)).sum((1, 2, 3)).clamp(min=1)).mean())

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Training(model, batch, F.binary_cross_entropy_with_logits, optimizer, score)


# ------------------------------------------------------------------------------------------------ fields of radiance


def frequencies(x: Tensor, octaves: int = 4) -> Tensor:
    """The positional encoding of NeRF."""
    scaled = x[..., None] * (2.0 ** torch.arange(octaves)) * math.pi / 2
    return torch.cat([x, scaled.sin().flatten(-2), scaled.cos().flatten(-2)], -1)


def composite(sigma: Tensor, colour: Tensor, delta: float) -> Tensor:
    """Colour of each ray before a white background."""
    alpha = 1 - torch.exp(-sigma * delta)
    passed = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], 1), 1)[:, :-1]
    weights = alpha * passed
    return (weights[..., None] * colour).sum(1) + 1 - weights.sum(1, keepdim=True)


def along(origins: Tensor, directions: Tensor, samples: int = 24) -> tuple[Tensor, float]:
    """Points on the rays between the near and the far plane."""
    depth = torch.linspace(0.2, 3.8, samples)
    return origins[:, None] + depth[None, :, None] * directions[:, None], 3.6 / samples


class RadianceField(nn.Module):
    """Density and colour of points, rendered along rays."""

    def __init__(self, density_activation) -> None:
        super().__init__()
        self.density_activation = density_activation
        self.trunk = nn.Sequential(nn.Linear(27, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.sigma = nn.Linear(64, 1)
        self.colour = nn.Linear(64, 3)

    def forward(self, rays: tuple[Tensor, Tensor]) -> Tensor:
        points, delta = along(*rays)
        h = self.trunk(frequencies(points))
        sigma = self.density_activation(self.sigma(h).squeeze(-1) - 1)
        return composite(sigma, torch.sigmoid(self.colour(h)), delta)


def random_rays(number: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Rays from a sphere around a coloured ball, and what they see."""
    origins = 2 * F.normalize(torch.randn(number, 3), dim=1)
    aims = 0.8 * (torch.rand(number, 3) * 2 - 1)
    rays = origins, F.normalize(aims - origins, dim=1)
    points, delta = along(*rays)
    sigma = 20 * torch.sigmoid(20 * (0.7 - points.norm(dim=-1)))
    return rays, composite(sigma, (points / 1.4 + 0.5).clamp(0, 1), delta)


def density_never_positive(repaired: bool) -> Training:
    model = RadianceField(F.softplus if repaired else F.relu)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        rays, colour = random_rays(500)
        return -10 * math.log10(float(F.mse_loss(model(rays), colour)))

    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    return Training(model, lambda _: random_rays(96), F.mse_loss, optimizer, score)


# ------------------------------------------------------------------------------------------------- healthy trainings


class Sine(nn.Module):
    """A layer of a SIREN."""

    def __init__(self, inputs: int, outputs: int, first: bool = False, omega: float = 30.0) -> None:
        super().__init__()
        self.omega = omega
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * self.linear(x))


def siren_of_one_image() -> Training:
    model = nn.Sequential(Sine(2, 64, first=True), Sine(64, 64), Sine(64, 64), nn.Linear(64, 1))
    side = torch.linspace(-1, 1, 24)
    place = torch.cartesian_prod(side, side)
    pixels = (blobs(1, 24) - blobs(1, 24) + 0.3 * torch.rand(1, 1, 24, 24)).reshape(-1, 1)

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return -10 * math.log10(float(F.mse_loss(model(place), pixels)))

    optimizer = torch.optim.Adam(model.parameters(), 5e-4)
    return Training(model, lambda _: (place, pixels), F.mse_loss, optimizer, score)


class ControlNet(nn.Module):
    """A frozen denoiser, a trainable copy of its encoder that sees the control, and zero convolutions between."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 24, 3, padding=1), nn.SiLU()
        )
        self.decoder = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 1, 3, padding=1))
        self.control = copy.deepcopy(self.encoder)
        self.hint = self.zero(nn.Conv2d(1, 1, 1))
        self.join = self.zero(nn.Conv2d(24, 24, 1))
        self.encoder.requires_grad_(False)
        self.decoder.requires_grad_(False)

    @staticmethod
    def zero(module: nn.Module) -> nn.Module:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
        return module

    def forward(self, noisy: Tensor, hint: Tensor) -> Tensor:
        controlled = self.join(self.control(noisy + self.hint(hint)))
        return self.decoder(self.encoder(noisy) + controlled)


def control_through_zero_convolutions() -> Training:
    model = ControlNet()

    def data(number: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        image = blobs(number)
        edges = F.max_pool2d(image, 3, 1, 1) - image
        noise = torch.randn_like(image)
        return (0.3 * image + 0.95 * noise, 4 * edges), image

    def step(training: Training, inputs: tuple[Tensor, Tensor], target: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(*inputs), target).backward()
        training.optimizer.step()

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        with torch.no_grad():
            inputs, target = data(200)
            return 1 - float(F.mse_loss(model(*inputs), target) / target.var())

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 3e-3)
    return Training(model, lambda _: data(32), F.mse_loss, optimizer, score, step)


class SimSiam(nn.Module):
    """Two views, no negatives, no teacher: only the stopped gradient and the predictor keep it from collapse."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ConvBackbone()
        self.projector = nn.Sequential(
            nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 48), nn.BatchNorm1d(48)
        )
        self.predictor = nn.Sequential(nn.Linear(48, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 48))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        z1, z2 = self.projector(self.backbone(first)), self.projector(self.backbone(second))
        return self.predictor(z1), self.predictor(z2), z1.detach(), z2.detach()


def stopped_gradient_without_negatives() -> Training:
    model = SimSiam()

    def loss(outputs: tuple[Tensor, ...], _: object) -> Tensor:
        p1, p2, z1, z2 = outputs
        return -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean()) / 2

    def step(training: Training, views: tuple[Tensor, Tensor], targets: object) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(*views), targets).backward()
        training.optimizer.step()

    def batch(_: int) -> tuple[tuple[Tensor, Tensor], None]:
        image = textures(torch.randint(0, 6, (48,)))
        return (augment(image), augment(image)), None

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        model.eval()
        return neighbour_accuracy(model.backbone)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    return Training(model, batch, loss, optimizer, score, step)


class AveragedQuantizer(nn.Module):
    """A codebook that no optimizer touches: each entry is the running average of the vectors that chose it."""

    def __init__(self, codes: int, dim: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codebook", torch.randn(codes, dim))
        self.register_buffer("size", torch.ones(codes))
        self.register_buffer("total", self.codebook.clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        flat = z.detach().reshape(-1, z.shape[-1])
        index = torch.cdist(flat, self.codebook).argmin(-1)
        quantized = self.codebook[index].view_as(z)
        if self.training:
            chosen = F.one_hot(index, len(self.codebook)).float()
            self.size.mul_(self.decay).add_(chosen.sum(0), alpha=1 - self.decay)
            self.total.mul_(self.decay).add_(chosen.T @ flat, alpha=1 - self.decay)
            self.codebook = self.total / self.size[:, None].clamp(min=1e-2)
            dead = self.size < 0.1
            if dead.any():
                fresh = flat[torch.randint(0, len(flat), (int(dead.sum()),))]
                self.codebook[dead], self.total[dead], self.size[dead] = fresh, fresh, 1.0
        return z + (quantized - z).detach(), F.mse_loss(z, quantized.detach())


class AveragedVQ(nn.Module):
    """Patches to codes and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
        self.quantizer = AveragedQuantizer(48, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        patches = F.unfold(image, 4, stride=4).transpose(1, 2)
        z, commitment = self.quantizer(self.encoder(patches))
        return self.decoder(z), patches, commitment


def codebook_by_averages() -> Training:
    model = AveragedVQ()

    def loss(outputs: tuple[Tensor, Tensor, Tensor], _: object) -> Tensor:
        reconstruction, patches, commitment = outputs
        return F.mse_loss(reconstruction, patches) + 0.25 * commitment

    def score(model: nn.Module) -> float:
        torch.manual_seed(5)
        model.eval()
        with torch.no_grad():
            reconstruction, patches, _ = model(blobs(300))
        return 1 - float(F.mse_loss(reconstruction, patches) / patches.var())

    return Training(model, lambda _: (blobs(32), None), loss, torch.optim.Adam(model.parameters(), 2e-3), score)


# --------------------------------------------------------------------------------------------------- the collections

PROGRAMS: list[Program] = [
    Program(
        "a hundred diffusion steps with the rates of a thousand",
        "https://github.com/IDEALLab/EngiOpt/issues/65",
        "The loss looks as always, but the samples are washed out and have the wrong brightness.",
        "With a tenth of the steps and the same noise per step, a third of the signal's power is left at the end; "
        "sampling begins from pure noise, which the network has never seen.",
        "noise schedule too short",
        schedule_ends_before_the_noise,
        300,
        0.3,
    ),
    Program(
        "guidance towards a null label that was never trained",
        "https://github.com/NVlabs/Sana/issues/188",
        "The loss is fine and unguided samples are good, but with guidance the samples miss their class.",
        "The label is never dropped in the training, so the null embedding that guidance subtracts is still random.",
        "condition never dropped",
        guidance_without_dropout,
        400,
        0.5,
    ),
    Program(
        "latent diffusion without the scale factor",
        "https://github.com/CompVis/latent-diffusion/issues/187",
        "The loss falls to nearly nothing within a few steps, yet decoded samples are noise.",
        "The latents of the autoencoder have a standard deviation of 0.02 and are not divided by it: under unit noise "
        "they are invisible, and the network learns to give back its input.",
        "latents not scaled to the noise",
        latents_not_scaled,
        400,
        0.2,
    ),
    Program(
        "average of the weights kept in bfloat16",
        "https://github.com/d8ahazard/sd_dreambooth_extension/pull/1415",
        "The loss falls, the network itself samples well, and the averaged network samples noise for ever.",
        "A step of the average changes a weight by a thousandth, less than bfloat16 can hold: it is rounded away, and "
        "the average stays near the first weights.",
        "average lost to rounding",
        average_in_bfloat16,
        1000,
        0.1,
    ),
    Program(
        "codebook loss on the straight-through output",
        "https://github.com/showlab/Olaf-World/issues/8",
        "Reconstructions get somewhat better, while the total loss grows; the codebook is the same as at the start.",
        "The codebook loss takes the straight-through output, in which the lookup is detached: the codebook has no "
        "gradient, and the term moves the encoder instead, away from the codes.",
        "codebook cut from the loss",
        codebook_without_gradient,
        400,
        0.2,
    ),
    Program(
        "autoencoder with the mean over pixels against the sum over latents",
        "https://github.com/keras-team/keras/pull/3383",
        "The divergence goes to zero, and every reconstruction is the same blurred average.",
        "The reconstruction is averaged over pixels while the divergence is summed over latents, which makes the "
        "divergence hundreds of times too heavy: the posterior collapses.",
        "loss terms out of balance",
        divergence_outweighs_reconstruction,
        300,
        0.3,
    ),
    Program(
        "gradient penalty without create_graph",
        "https://github.com/ooples/AiDotNet/issues/1844",
        "The penalty is computed and logged, grows without bound, and the generator jumps about.",
        "The gradients of the critic are taken without a graph, so the penalty is a constant for the optimizer and "
        "nothing keeps the critic smooth.",
        "penalty without a gradient",
        gradient_penalty_without_graph,
        300,
        0.4,
    ),
    Program(
        "teacher backbone is the student's",
        "https://github.com/facebookresearch/dinov2/issues/407",
        "The loss moves a little and the features of the backbone are as good as random ones.",
        "The teacher's backbone is the same object as the student's, not a copy; switching off the teacher's gradients "
        "freezes the student, and only its head is trained.",
        "module shared instead of copied",
        teacher_is_the_student,
        150,
        0.15,
    ),
    Program(
        "contrastive views interleaved for a loss that wants halves",
        "https://github.com/OpenTabular/DeepTab/issues/414",
        "The loss stays close to the logarithm of the batch; nearest neighbours do not share the class.",
        "The batch holds both views of an image next to each other, while the loss takes row i and row i + n for a "
        "pair: positives are different images, and the true pairs are negatives.",
        "positive pairs wrong",
        positives_are_other_images,
        150,
        0.2,
    ),
    Program(
        "fine-tuning a masked autoencoder with the masking left on",
        "https://github.com/IcarusWizard/MAE/issues/23",
        "Training accuracy jumps about and never gets far; the same image has another answer each time.",
        "The encoder still has the mask ratio of its pretraining: three quarters of the patches are dropped at random, "
        "with them what the label depends on, in the evaluation too.",
        "input masked away",
        masking_left_on,
        200,
        0.2,
    ),
    Program(
        "adapters injected after the optimizer was built",
        "https://github.com/adapter-hub/adapters/issues/260",
        "The loss falls while the head learns, then stays; the adapters' second matrices are all zero.",
        "The list of trainable parameters was made before the adapters were in the model, so the optimizer has only "
        "the head.",
        "parameters not in the optimizer",
        adapters_after_the_optimizer,
        220,
        0.2,
    ),
    Program(
        "overlap loss for boxes that do not overlap",
        "https://github.com/lilanxiao/Rotated_IoU/issues/9",
        "The loss is one and stays one; the box does not move from the corner.",
        "Intersection over union is zero, with no gradient, wherever the boxes do not touch. The repair adds the "
        "distance of the centres.",
        "loss flat where the training begins",
        overlap_loss_without_overlap,
        350,
        0.2,
    ),
    Program(
        "image and mask flipped with different dice",
        "https://php.bkmy88.com/faq/2068558.html",
        "The loss stops early and the predicted masks are empty or a blur in the middle.",
        "The random transform is called once for the image and once for the mask and draws anew each time, so most "
        "masks are not of their image.",
        "targets not aligned with inputs",
        mask_flipped_apart,
        150,
        0.2,
    ),
    Program(
        "radiance field whose density is cut to zero everywhere",
        "https://github.com/munshisanowarraihan/nerf-meta/issues/3",
        "All renderings are white, and the error is the same after every step.",
        "The density goes through a ReLU and is negative everywhere at the start, so no point has a weight and nothing "
        "has a gradient. The repair is a softplus.",
        "dead output activation",
        density_never_positive,
        250,
        10.0,
    ),
]

HEALTHY: list[Healthy] = [
    Healthy(
        "one image in a network of sines",
        "Every batch is the same, the activations are sines of thirty times their input, and it is meant to overfit.",
        siren_of_one_image,
        200,
        5.0,
    ),
    Healthy(
        "control through convolutions that begin at zero",
        "Most of the network is frozen; the trained copy has no gradient at all in the first step.",
        control_through_zero_convolutions,
        150,
        0.2,
    ),
    Healthy(
        "two views without negatives",
        "The target is a detached output of the same network, and a constant would be a perfect answer.",
        stopped_gradient_without_negatives,
        150,
        0.1,
    ),
    Healthy(
        "codebook that no optimizer touches",
        "The codebook is a buffer moved by running averages; dead codes are overwritten; gradients skip the choice.",
        codebook_by_averages,
        200,
        0.2,
    ),
]
