"""Fourteen trainings on images, video, sound and points with a mistake, and four unusual healthy ones."""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training


def grid(size: int) -> Tensor:
    """Coordinates of pixels, from 0 to 1: (size, size, 2)."""
    line = torch.linspace(0, 1, size)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1)


def blobs(count: int, spots: int = 1, size: int = 16, width: float = 0.12) -> tuple[Tensor, Tensor]:
    """Images with bright spots, and where these are: (count, 1, size, size), (count, spots, 2)."""
    centres = 0.1 + 0.8 * torch.rand(count, spots, 2)
    distance = (grid(size) - centres[:, :, None, None]).square().sum(dim=-1)
    return torch.exp(-distance / width**2).sum(dim=1, keepdim=True), centres


def waves(count: int, size: int = 16) -> Tensor:
    """Images of one plane wave each."""
    direction, phase = 16 * torch.rand(count, 1, 1, 2) - 8, 2 * math.pi * torch.rand(count, 1, 1)
    return torch.sin((grid(size) * direction).sum(dim=-1) + phase)[:, None]


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(4, outputs), nn.SiLU())


def mlp(*sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def sinusoids(time: Tensor, width: int = 32) -> Tensor:
    """Embedding of time steps 0 .. 1000, as in most diffusion models."""
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(width // 2) / (width // 2))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimedConvnet(nn.Module):
    """A small convolutional denoiser that knows its time step."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, channels, 3, padding=1)
        self.time = mlp(32, 64, channels)
        self.middle = nn.Sequential(conv(channels, channels), conv(channels, channels))
        self.leave = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, noisy: Tensor, time: Tensor) -> Tensor:
        return self.leave(self.middle(self.enter(noisy) + self.time(sinusoids(time))[:, :, None, None]))


def train(
    model: nn.Module,
    data: Callable[[], tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor],
    score: Callable[[nn.Module], float],
    rate: float,
    step: Callable[[Training, Any, Any], None] | None = None,
) -> Training:
    """The usual training: AdamW, a fresh batch for each step."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    return Training(model, lambda number: data(), loss, optimizer, score, step)


def rmse(one: Tensor, other: Tensor) -> float:
    return F.mse_loss(one, other).sqrt().item()


def accuracy(inputs: Tensor, labels: Tensor) -> Callable[[nn.Module], float]:
    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return (model.eval()(inputs).argmax(dim=1) == labels).float().mean().item()

    return score


class Radiance(nn.Module):
    """A tiny radiance field in the plane: density and brightness of points, rendered along rays."""

    def __init__(self, density: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.density = density
        self.trunk = nn.Sequential(mlp(18, 64, 64, 64), nn.SiLU())
        self.sigma, self.shade = nn.Linear(64, 1), nn.Linear(64, 1)

    def forward(self, rays: Tensor) -> Tensor:
        depths = torch.linspace(0, 2, 24)
        points = rays[:, None, :2] + depths[:, None] * rays[:, None, 2:]
        waves = torch.cat([points * 2**power for power in range(4)], dim=-1)
        features = self.trunk(torch.cat([points, waves.sin(), waves.cos()], dim=-1))
        alpha = 1 - torch.exp(-self.density(self.sigma(features) - 1).squeeze(-1) * 2 / 24)
        through = torch.cumprod(1 - alpha + 1e-10, dim=1).roll(1, dims=1)
        weights = alpha * torch.cat([torch.ones_like(through[:, :1]), through[:, 1:]], dim=1)
        return (weights * self.shade(features).squeeze(-1).sigmoid()).sum(dim=1)


def radiance_field(repaired: bool) -> Training:
    """Rays of cameras around two discs; the background is black."""
    centres, radii, shades = torch.tensor([[0.3, 0.0], [-0.3, 0.2]]), torch.tensor([0.3, 0.2]), torch.tensor([0.9, 0.5])

    def rays(count: int = 256) -> tuple[Tensor, Tensor]:
        angle = 2 * math.pi * torch.rand(count)
        start = torch.stack([angle.cos(), angle.sin()], dim=1)
        aim = 0.8 * torch.rand(count, 2) - 0.4
        along = F.normalize(aim - start, dim=1)
        reach = ((centres - start[:, None]) * along[:, None]).sum(dim=-1)
        miss = (start[:, None] + reach[..., None] * along[:, None] - centres).norm(dim=-1)
        hit = torch.where(miss < radii, reach, torch.inf)
        brightness = torch.where(hit.isinf().all(dim=1), 0.0, shades[hit.argmin(dim=1)])
        return torch.cat([start, along], dim=1), brightness

    model = Radiance(F.softplus if repaired else F.relu)
    test, truth = rays(1000)
    return train(model, rays, F.mse_loss, lambda m: -rmse(m(test), truth), 3e-3)


class Splats(nn.Module):
    """An image as a sum of round Gaussians."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.rand(count, 2))
        self.sizes = nn.Parameter(torch.full((count,), -1.5))
        self.colours = nn.Parameter(0.3 * torch.randn(count, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        distance = (pixels[:, None] - self.places).square().sum(dim=-1)
        return torch.exp(-distance / (2 * (2 * self.sizes).exp())) @ self.colours


def densified_splats(repaired: bool) -> Training:
    """Six Gaussians fit an image; after 40 steps, each is replaced by eight smaller ones."""
    pixels = grid(20).reshape(-1, 2)
    painter = Splats(40)
    painter.sizes.data.fill_(-2.5)
    picture = F.normalize(painter(pixels).detach(), dim=0) * 20
    model = Splats(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    steps = itertools.count(1)

    def densify() -> None:
        model.places = nn.Parameter(model.places.data.repeat(8, 1) + 0.1 * torch.randn(48, 2))
        model.sizes = nn.Parameter(model.sizes.data.repeat(8) - 0.7)
        model.colours = nn.Parameter(model.colours.data.repeat(8, 1) / 2)
        if repaired:
            optimizer.state.clear()
            optimizer.param_groups[0]["params"] = list(model.parameters())

    def batch(number: int) -> tuple[Tensor, Tensor]:
        return pixels, picture

    def after() -> None:
        if next(steps) == 40:
            densify()

    return Training(model, batch, F.mse_loss, optimizer, lambda m: -rmse(m(pixels), picture), after=after)


def noise_per_column(repaired: bool) -> Training:
    """DDPM on square images; there are as many images in a batch as columns in an image."""
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), dim=0)

    def add_noise(images: Tensor, noise: Tensor, time: Tensor, right: bool) -> Tensor:
        level = kept[time][:, None, None, None] if right else kept[time]
        return level.sqrt() * images + (1 - level).sqrt() * noise

    def step(training: Training, images: Tensor, _: Tensor) -> None:
        noise, time = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        training.optimizer.zero_grad()
        training.loss(training.model(add_noise(images, noise, time, repaired), time), noise).backward()
        training.optimizer.step()

    test = 2 * blobs(256)[0] - 1
    noise, time = torch.randn_like(test), torch.randint(0, 1000, (256,))

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return -F.mse_loss(model(add_noise(test, noise, time, True), time), noise).item()

    return train(TimedConvnet(), lambda: (2 * blobs(16)[0] - 1,) * 2, F.mse_loss, score, 3e-3, step)


class LatentFlow(nn.Module):
    """Velocity of a latent vector at a time step 0 .. 1000."""

    def __init__(self) -> None:
        super().__init__()
        self.time = mlp(32, 64, 64)
        self.enter, self.trunk = nn.Linear(4, 64), nn.Sequential(nn.SiLU(), mlp(64, 128, 64, 4))

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        return self.trunk(self.enter(latents) + self.time(sinusoids(time)))


def flow_without_clock(repaired: bool) -> Training:
    """Flow matching on latents that lie in a few clusters."""
    corners = 4 * torch.cat([torch.eye(4), -torch.eye(4)])

    def latents(count: int = 256) -> Tensor:
        return corners[torch.randint(0, 8, (count,))] + 0.1 * torch.randn(count, 4)

    def velocity(model: nn.Module, mixed: Tensor, time: Tensor) -> Tensor:
        return model(mixed, (time * 1000).long() if repaired else time.long())

    def step(training: Training, data: Tensor, noise: Tensor) -> None:
        time = torch.rand(len(data))
        mixed = torch.lerp(noise, data, time[:, None])
        training.optimizer.zero_grad()
        training.loss(velocity(training.model, mixed, time), data - noise).backward()
        training.optimizer.step()

    test, noise, time = latents(1000), torch.randn(1000, 4), torch.rand(1000)
    mixed = torch.lerp(noise, test, time[:, None])

    def score(model: nn.Module) -> float:
        return -F.mse_loss(velocity(model, mixed, time), test - noise).item()

    return train(LatentFlow(), lambda: (latents(), torch.randn(256, 4)), F.mse_loss, score, 3e-3, step)


class Controlled(nn.Module):
    """A trained denoiser, frozen, with a branch that reads a hint and adds to its features."""

    def __init__(self, base: nn.ModuleDict) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.hint = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 24, 3, padding=1))
        self.join = nn.Conv2d(24, 24, 1)
        nn.init.zeros_(self.join.weight)
        nn.init.zeros_(self.join.bias)

    def forward(self, noisy: Tensor, hint: Tensor) -> Tensor:
        return self.base["leave"](self.base["enter"](noisy) + self.join(F.silu(self.hint(hint))))


def control_branch(repaired: bool) -> Training:
    """The branch is told where the edges are."""

    def data(count: int = 32) -> tuple[Tensor, Tensor]:
        clean = blobs(count, 3)[0]
        return clean, clean + 1.5 * torch.randn_like(clean)

    base = nn.ModuleDict({"enter": conv(1, 24), "leave": nn.Sequential(conv(24, 24), nn.Conv2d(24, 1, 3, padding=1))})
    before = torch.optim.Adam(base.parameters(), lr=5e-3)
    for _ in range(60):
        clean, noisy = data()
        before.zero_grad()
        F.mse_loss(base["leave"](base["enter"](noisy)), clean).backward()
        before.step()
    model = Controlled(base)
    if not repaired:
        nn.init.zeros_(model.hint[-1].weight)
        nn.init.zeros_(model.hint[-1].bias)

    def edges(clean: Tensor) -> Tensor:
        return (F.max_pool2d(clean, 3, 1, 1) - clean > 0.15).float()

    def step(training: Training, clean: Tensor, noisy: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(noisy, edges(clean)), clean).backward()
        training.optimizer.step()

    test, noisy = data(200)
    return train(model, data, F.mse_loss, lambda m: -rmse(m(noisy, edges(test)), test), 3e-3, step)


class Adversaries(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = mlp(8, 64, 64, 64), mlp(64, 64, 64, 1)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def gradient_penalty(repaired: bool) -> Training:
    """WGAN-GP on images of 8 x 8 pixels."""
    model = Adversaries()
    optimizer = torch.optim.Adam(model.generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    critic_optimizer = torch.optim.Adam(model.critic.parameters(), lr=1e-3, betas=(0.5, 0.9))

    def real(count: int = 64) -> Tensor:
        return blobs(count, size=8, width=0.25)[0].flatten(1)

    def penalty(real: Tensor, fake: Tensor) -> Tensor:
        between = torch.lerp(real, fake, torch.rand(len(real), 1)).requires_grad_()
        slope = torch.autograd.grad(model.critic(between).sum(), between, create_graph=repaired, retain_graph=True)[0]
        return (slope.norm(dim=1) - 1).square().mean()

    def step(training: Training, images: Tensor, _: Tensor) -> None:
        for _ in range(3):
            fake = training.model(torch.randn(len(images), 8)).detach()
            critic_optimizer.zero_grad()
            wrong = model.critic(fake).mean() - model.critic(images).mean()
            (wrong + 10 * penalty(images, fake)).backward()
            critic_optimizer.step()
        optimizer.zero_grad()
        training.loss(model.critic(training.model(torch.randn(len(images), 8))), images).backward()
        optimizer.step()

    test, noise, views = real(1000), torch.randn(1000, 8), F.normalize(torch.randn(64, 100), dim=0)

    def score(model: nn.Module) -> float:
        return -((model(noise) @ views).sort(dim=0)[0] - (test @ views).sort(dim=0)[0]).abs().mean().item()

    return Training(model, lambda n: (real(),) * 2, lambda verdict, _: -verdict.mean(), optimizer, score, step)


class MaskedPatches(nn.Module):
    """A small ViT that sees some patches of an image and draws all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.draw = nn.Linear(16, 48), nn.Linear(48, 16)
        self.hidden = nn.Parameter(0.02 * torch.randn(48))
        self.places = nn.Parameter(0.02 * torch.randn(16, 48))
        layer = nn.TransformerEncoderLayer(48, 4, 96, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, patches: Tensor, mask: Tensor) -> Tensor:
        tokens = torch.where(mask[..., None] == 1, self.hidden, self.embed(patches))
        return self.draw(self.blocks(tokens + self.places))


def masked_autoencoder(repaired: bool) -> Training:
    """In the mask, 1 is hidden and 0 is visible; half of the patches are hidden."""

    def data(count: int = 64) -> tuple[Tensor, Tensor]:
        patches = F.unfold(waves(count), 4, stride=4).transpose(1, 2)
        return patches, (torch.rand(count, 16).argsort(dim=1) < 8).float()

    def error(drawn: Tensor, patches: Tensor, counted: Tensor) -> Tensor:
        return ((drawn - patches).square().mean(dim=-1) * counted).sum() / counted.sum()

    def loss(drawn: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        patches, mask = targets
        return error(drawn, patches, mask if repaired else 1 - mask)

    def step(training: Training, patches: Tensor, mask: Tensor) -> None:
        training.optimizer.zero_grad()
        training.loss(training.model(patches, mask), (patches, mask)).backward()
        training.optimizer.step()

    test, hidden = data(200)
    return train(MaskedPatches(), data, loss, lambda m: -error(m(test, hidden), test, hidden).item(), 3e-3, step)


def sparse_depth(repaired: bool) -> Training:
    """Depth from an image; the laser hit one pixel in five, the others are stored as 0."""

    def scene(count: int = 16) -> tuple[Tensor, Tensor]:
        depth = 5 + 3 * waves(count)
        return torch.exp(-depth / 5) + 0.02 * torch.randn_like(depth), depth

    def data() -> tuple[Tensor, Tensor]:
        image, depth = scene()
        return image, depth * (torch.rand_like(depth) < 0.2)

    def loss(predicted: Tensor, measured: Tensor) -> Tensor:
        if repaired:
            return (predicted - measured)[measured > 0].abs().mean()
        return (predicted - measured).abs().mean()

    test, truth = scene(100)
    model = nn.Sequential(conv(1, 16), conv(16, 16), nn.Conv2d(16, 1, 1))
    return train(model, data, loss, lambda m: -((m(test) - truth).abs() / truth).mean().item(), 1e-2)


def flipped_images(repaired: bool) -> Training:
    """Segmentation of bright spots, not of dark ones; the augmentation flips at random."""

    def scene(count: int = 32) -> tuple[Tensor, Tensor]:
        bright, dark = blobs(count, 2)[0], blobs(count, 2)[0]
        return bright - dark + 0.2 * torch.randn_like(bright), (bright - dark.clamp(min=0) > 0.4).float()

    def flip(images: Tensor, chosen: Tensor) -> Tensor:
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)

    def data() -> tuple[Tensor, Tensor]:
        images, masks = scene()
        chosen = torch.rand(len(images)) < 0.5
        return flip(images, chosen), flip(masks, chosen if repaired else torch.rand(len(masks)) < 0.5)

    test, truth = scene(200)

    def overlap(model: nn.Module) -> float:
        found = model(test) > 0
        return ((found & (truth == 1)).sum() / (found | (truth == 1)).sum()).item()

    model = nn.Sequential(conv(1, 16), conv(16, 32), conv(32, 16), nn.Conv2d(16, 1, 1))
    return train(model, data, F.binary_cross_entropy_with_logits, overlap, 5e-3)


class Detector(nn.Module):
    """Three queries look at the features of an image and answer with one place each."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv(1, 24, 2), conv(24, 48))
        self.places = nn.Parameter(torch.randn(64, 48))
        self.queries = nn.Parameter(torch.randn(3, 48))
        self.look = nn.TransformerDecoderLayer(48, 4, 96, 0.0, "gelu", batch_first=True)
        self.point = mlp(48, 48, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images).flatten(2).transpose(1, 2) + self.places
        return self.point(self.look(self.queries.expand(len(images), -1, -1), features)).sigmoid()


def unmatched_queries(repaired: bool) -> Training:
    """A set of three objects per image, annotated in any order."""
    orders = torch.tensor(list(itertools.permutations(range(3))))

    def matched(found: Tensor, places: Tensor) -> Tensor:
        return (found[:, None] - places[:, orders]).abs().mean(dim=(2, 3)).min(dim=1)[0].mean()

    def loss(found: Tensor, places: Tensor) -> Tensor:
        return matched(found, places) if repaired else (found - places).abs().mean()

    test, truth = blobs(200, 3)
    return train(Detector(), lambda: blobs(32, 3), loss, lambda m: -matched(m(test), truth).item(), 1e-3)


class Reader(nn.Module):
    """Convolutions, then one distribution of characters for each column that is left."""

    def __init__(self, strides: tuple[int, int, int]) -> None:
        super().__init__()
        one, two, three = [nn.MaxPool2d((2, stride)) for stride in strides]
        self.look = nn.Sequential(conv(1, 24), one, conv(24, 48), two, conv(48, 48), three)
        self.name = nn.Linear(48, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.name(self.look(images).mean(dim=2).transpose(1, 2)).log_softmax(dim=2)


def short_columns(repaired: bool) -> Training:
    """Words of two to six characters (1 .. 6; 0 is blank), each four pixels wide."""
    glyphs = torch.cat([torch.zeros(1, 8, 4), (torch.rand(6, 8, 4) < 0.5).float()])

    def words(count: int = 32) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        lengths = torch.randint(2, 7, (count,))
        letters = torch.randint(1, 7, (count, 6)) * (torch.arange(6) < lengths[:, None])
        images = glyphs[letters].transpose(1, 2).reshape(count, 1, 8, 24)
        return images + 0.1 * torch.randn_like(images), (letters, lengths)

    def loss(scores: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        letters, lengths = targets
        columns = torch.full((len(scores),), scores.shape[1])
        return F.ctc_loss(scores.transpose(0, 1), letters, columns, lengths, zero_infinity=True)

    test, (truth, lengths) = words(200)

    def read_words(model: nn.Module) -> float:
        best = model(test).argmax(dim=2)
        read = [[letter for letter in word.unique_consecutive().tolist() if letter] for word in best]
        pairs = zip(read, truth.tolist(), lengths.tolist(), strict=True)
        return sum(word == right[:length] for word, right, length in pairs) / len(read)

    model = Reader((2, 1, 1) if repaired else (2, 2, 2))
    return train(model, words, loss, read_words, 5e-3)


def scaled_clipping(repaired: bool) -> Training:
    """Spectrograms of chirps and tones, a ResNet, SGD and a gradient scaler."""

    def sounds(count: int = 24) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 4, (count,))
        time = torch.linspace(0, 1, 1024)
        slope = torch.tensor([0.0, 150.0, -150.0, 0.0])[labels][:, None] * (time - 0.5)
        wobble = torch.where(labels == 3, 20.0, 0.0)[:, None] * torch.sin(25 * time)
        cycles = torch.cumsum(220 + 80 * torch.rand(count, 1) + slope + wobble, dim=1) / 1024
        wave = torch.sin(2 * math.pi * cycles) + 0.3 * torch.randn(count, 1024)
        power = torch.stft(wave, 64, 32, window=torch.hann_window(64), return_complex=True).abs().square()
        return (power + 1e-3).log()[:, None, :32, :32], labels

    model = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=4, in_chans=1, channels=(16, 24, 32, 48), stem_width=16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler("cpu")

    def step(training: Training, inputs: Tensor, labels: Tensor) -> None:
        training.optimizer.zero_grad()
        scaler.scale(training.loss(training.model(inputs), labels)).backward()
        if repaired:
            scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        scaler.step(training.optimizer)
        scaler.update()

    return Training(model, lambda number: sounds(), F.cross_entropy, optimizer, accuracy(*sounds(300)), step)


class PointNet(nn.Module):
    """A network for each point, the maximum over the points, a classifier."""

    def __init__(self, swap: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.swap = swap
        self.each = nn.Sequential(nn.Conv1d(3, 32, 1), nn.ReLU(), nn.Conv1d(32, 64, 1), nn.ReLU(), nn.Conv1d(64, 64, 1))
        self.all = mlp(64, 32, 4)

    def forward(self, points: Tensor) -> Tensor:
        return self.all(self.each(self.swap(points)).max(dim=2)[0])


def viewed_points(repaired: bool) -> Training:
    """Surfaces of spheres, cubes, cylinders and octahedra, turned at random: (batch, points, 3)."""

    def clouds(count: int = 64) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 4, (count,))
        ball = torch.randn(count, 100, 3)
        cube = 2 * torch.rand(count, 100, 3) - 1
        tube = torch.cat([F.normalize(ball[..., :2], dim=-1), cube[..., 2:]], dim=-1)
        forms = [F.normalize(ball, dim=-1), cube / cube.abs().amax(-1, True), tube, ball / ball.abs().sum(-1, True)]
        points = torch.stack(forms)[labels, torch.arange(count)]
        turned = points @ torch.linalg.qr(torch.randn(count, 3, 3))[0]
        return turned / turned.square().mean(dim=(1, 2), keepdim=True).sqrt(), labels

    model = PointNet((lambda p: p.transpose(1, 2)) if repaired else (lambda p: p.view(p.shape[0], 3, -1)))
    return train(model, clouds, F.cross_entropy, accuracy(*clouds(400)), 5e-3)


class ClipReader(nn.Module):
    """Features of each frame, a GRU over the frames: clips are (batch, frames, height, width)."""

    def __init__(self, repaired: bool) -> None:
        super().__init__()
        self.repaired = repaired
        self.frame = nn.Sequential(conv(1, 16, 2), conv(16, 16), nn.Flatten(), nn.Linear(16 * 25, 32))
        self.over_time, self.name = nn.GRU(32, 32), nn.Linear(32, 4)

    def forward(self, clips: Tensor) -> Tensor:
        batch, frames = clips.shape[:2]
        features = self.frame(clips.reshape(batch * frames, 1, *clips.shape[2:]))
        if self.repaired:
            sequence = features.view(batch, frames, -1).transpose(0, 1)
        else:
            sequence = features.view(frames, batch, -1)
        return self.name(self.over_time(sequence)[0][-1])


def mixed_frames(repaired: bool) -> Training:
    """In which of four directions does a spot move?"""

    def clips(count: int = 32) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 4, (count,))
        course = torch.tensor([[0.0, 1.0], [0.0, -1.0], [1.0, 0.0], [-1.0, 0.0]])[labels]
        path = 0.3 + 0.4 * torch.rand(count, 1, 2) + course[:, None] * torch.linspace(-0.3, 0.3, 6)[:, None]
        distance = (grid(10) - path[:, :, None, None]).square().sum(dim=-1)
        return torch.exp(-distance / 0.02) + 0.1 * torch.randn(count, 6, 10, 10), labels

    return train(ClipReader(repaired), clips, F.cross_entropy, accuracy(*clips(300)), 3e-3)


class Bootstrap(nn.Module):
    """BYOL: an online network with a predictor, and a target network that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32)
        )
        self.target = copy.deepcopy(self.online).requires_grad_(False)
        self.predictor = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.predictor(self.online(one)), self.target(other)

    @torch.no_grad()
    def follow(self) -> None:
        for target, online in zip(self.target.parameters(), self.online.parameters(), strict=True):
            target.lerp_(online, 0.02)


def bootstrapped_views() -> Training:
    """Views of six prototypes, with strong noise in some directions."""
    prototypes, disturbances = torch.randn(6, 64), torch.randn(12, 64)

    labels = torch.randint(0, 6, (600,))

    def view(labels: Tensor) -> Tensor:
        return prototypes[labels] + 1.5 * torch.randn(len(labels), 12) @ disturbances

    def views() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(0, 6, (128,))
        return view(chosen), view(chosen)

    def step(training: Training, one: Tensor, other: Tensor) -> None:
        training.optimizer.zero_grad()
        for first, second in ((one, other), (other, one)):
            training.loss(*training.model(first, second)).backward()
        training.optimizer.step()

    def neighbours(model: nn.Module) -> float:
        places = F.normalize(model.online.eval()(images), dim=1)
        nearest = (places @ places.T).fill_diagonal_(-1).argmax(dim=1)
        return (labels[nearest] == labels).float().mean().item()

    model, images = Bootstrap(), view(labels)
    training = train(model, views, lambda one, other: -F.cosine_similarity(one, other).mean(), neighbours, 2e-3, step)
    training.after = model.follow
    return training


class Quantiser(nn.Module):
    """VQ-VAE of patches; the codebook is no parameter, it follows the means of what it is used for."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(16, 64, 8), mlp(8, 64, 16)
        self.register_buffer("codes", torch.randn(32, 8))

    def forward(self, patches: Tensor) -> Tensor:
        latents = self.encoder(patches)
        nearest = torch.cdist(latents, self.codes).argmin(dim=1)
        if self.training:
            with torch.no_grad():
                for code in nearest.unique():
                    self.codes[code].lerp_(latents[nearest == code].mean(dim=0), 0.1)
        codes = self.codes[nearest]
        self.commitment = F.mse_loss(latents, codes)
        return self.decoder(latents + (codes - latents).detach())


def moving_codebook() -> Training:
    def patches(count: int = 32) -> tuple[Tensor, Tensor]:
        return (F.unfold(waves(count), 4, stride=4).transpose(1, 2).reshape(-1, 16),) * 2

    model, test = Quantiser(), patches(125)[0]

    def loss(drawn: Tensor, truth: Tensor) -> Tensor:
        return F.mse_loss(drawn, truth) + 0.25 * model.commitment

    return train(model, patches, loss, lambda m: -F.mse_loss(m.eval()(test), test).item(), 3e-3)


def zero_output() -> Training:
    """A diffusion model whose last layer starts at zero: at first, no other layer gets a gradient."""
    training = noise_per_column(True)
    nn.init.zeros_(training.model.leave.weight)
    nn.init.zeros_(training.model.leave.bias)
    return training


def scribbles() -> Training:
    """Segmentation into three classes where only one pixel in forty has a label; the others have 255."""

    def scene(count: int = 32) -> tuple[Tensor, Tensor]:
        bright, dark = blobs(count, 2)[0], blobs(count, 2)[0]
        images = bright - dark
        return images + 0.2 * torch.randn_like(images), ((images > 0.3).long() + 2 * (images < -0.3).long())[:, 0]

    def data() -> tuple[Tensor, Tensor]:
        images, labels = scene()
        return images, labels.masked_fill(torch.rand(labels.shape) > 0.025, 255)

    model = nn.Sequential(conv(1, 16), conv(16, 16), nn.Conv2d(16, 3, 1))
    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.3, 1.0, 1.0]), ignore_index=255)
    return train(model, data, loss, accuracy(*scene(100)), 5e-3)


# fmt: off
PROGRAMS = [
    Program("radiance field without density", "https://github.com/munshisanowarraihan/nerf-meta/issues/3",
        "All renderings stay black and the loss does not move by a digit.",
        "The shifted density goes through a ReLU that is 0 at every point from the start, so nothing has a gradient.",
        "dead density", radiance_field, 100, 0.4),
    Program("splats that stand still after the densification", "https://github.com/muskie82/MonoGS/issues/69",
        "The image gets worse when the Gaussians are split and never recovers.",
        "Splitting makes new parameters, while the optimizer goes on with the old ones.",
        "parameters replaced after the optimizer was built", densified_splats, 300, 0.2),
    Program("noise level by column", "",
        "The loss falls, but samples stay noisy: noise at the right level is predicted badly.",
        "The levels of a batch have shape (B,) and meet images with B columns, so each column gets the level of another"
        " image; common in own DDPM code with square batches.",
        "wrong broadcasting", noise_per_column, 120, 0.05),
    Program("flow without a clock", "https://github.com/ArchiMickey/Just-a-DiT/pull/9",
        "The loss of the flow stops early and samples land between the clusters.",
        "Times in [0, 1) are cast to integers for an embedding of steps 0 .. 1000: always that of 0 (there: almost).",
        "condition constant", flow_without_clock, 300, 0.25),
    Program("control branch that is zero twice", "https://github.com/lllyasviel/ControlNet/issues/510",
        "The controlled model draws as if there were no hint.",
        "The last layer of the hint encoder and the zero convolution after it both start at zero; each keeps the"
        " gradient of the other at zero.",
        "zero initialised in series", control_branch, 100, 0.05),
    Program("penalty without a graph", "https://github.com/ooples/AiDotNet/issues/1844",
        "The critic's loss runs away, and the penalty grows although it is in the loss.",
        "The slope for the gradient penalty is computed without create_graph, so the penalty trains nothing.",
        "loss term without gradient", gradient_penalty, 200, 0.03),
    Program("autoencoder that draws what it sees", "",
        "The loss is almost zero, hidden patches are drawn as noise.",
        "The mask is 1 where hidden, but the loss counts the visible patches; conventions differ between repositories.",
        "mask inverted", masked_autoencoder, 200, 0.15),
    Program("depth with holes", "https://github.com/nerfstudio-project/nerfstudio/issues/1214",
        "All predicted depths shrink to about zero.",
        "Pixels without a measurement are stored as 0 and count in the loss as if they were measured.",
        "missing values not masked", sparse_depth, 80, 0.5),
    Program("flipped images, other masks", "https://github.com/albumentations-team/albumentations/issues/1056",
        "The segmentation finds faint spots on both sides.",
        "Image and mask are flipped independently, so that half of the pairs do not belong together.",
        "labels do not fit the inputs", flipped_images, 60, 0.2),
    Program("queries without matching", "https://github.com/facebookresearch/detr/issues/73",
        "All queries answer with about the middle of the image.",
        "Objects are annotated in any order, but the loss compares query i with object i.",
        "set compared in a fixed order", unmatched_queries, 200, 0.04),
    Program("words longer than columns", "https://github.com/open-mmlab/mmocr/issues/149",
        "The loss is small, but only short words are read, long ones lose their letters.",
        "Pooling leaves three columns for up to six letters; zero_infinity hides that these words have no alignment.",
        "target longer than the output", short_columns, 150, 0.4),
    Program("clipping of scaled gradients", "https://github.com/milesial/Pytorch-UNet/issues/468",
        "With mixed precision the network hardly learns, without it does.",
        "Gradients are clipped to norm 1 while they are still scaled by 65536; after the division nothing is left.",
        "clipped before unscaling", scaled_clipping, 120, 0.5),
    Program("points viewed as channels", "https://github.com/liuxuexun/RandLA-Net-Pytorch-New/issues/20",
        "The point network stays near chance.",
        "view(B, 3, N) instead of transpose(1, 2) puts coordinates of different points together.",
        "axes mixed", viewed_points, 200, 0.3),
    Program("frames of other clips", "https://github.com/HHTseng/video-classification/issues/42",
        "The network does not get better than chance, each frame alone is encoded well.",
        "Features in the order (batch, frames) are viewed as (frames, batch): a sequence has frames of several clips.",
        "information across the batch", mixed_frames, 80, 0.4),
]

HEALTHY = [
    Healthy("bootstrapped views", "half of the network is not in the optimizer, has no gradient and follows the other",
        bootstrapped_views, 300, 0.4),
    Healthy("moving codebook", "codes are a buffer without gradient, changed in the forward pass",
        moving_codebook, 150, 0.1),
    Healthy("zero output", "the last layer starts at zero, so the first step trains no other layer",
        zero_output, 120, 0.5),
    Healthy("scribbles", "97 % of the labels are 255 and the loss has class weights",
        scribbles, 80, 0.3),
]
