"""Trainings with images and sound, as people build them today: twelve with a mistake, three that only look like it."""

import copy
import math
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training


def smooth_patterns(count: int, size: int, channels: int = 1) -> Tensor:
    """Random smooth images with mean 0 and standard deviation 1: (count, channels, size, size)."""
    images = F.interpolate(torch.randn(count, channels, 4, 4), size=(size, size), mode="bicubic")
    return (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)


def mixtures(patterns: Tensor, count: int) -> Tensor:
    """Random sums of the patterns, as images with values around 1."""
    weights = torch.randn(count, len(patterns)) / math.sqrt(len(patterns))
    return torch.einsum("np,pchw->nchw", weights, patterns)


def noisy_classes(patterns: Tensor, count: int, noise: float = 0.7) -> tuple[Tensor, Tensor]:
    """Images of the patterns with noise, and which pattern each is."""
    labels = torch.randint(len(patterns), (count,))
    images = patterns[labels]
    return images + noise * torch.randn_like(images), labels


def reconstruction(patterns: Tensor) -> tuple[Callable[[int], tuple[Tensor, Tensor]], Callable[[nn.Module], float]]:
    """Batches of images for an autoencoder, and its score: the negative error on new images."""
    test = mixtures(patterns, 256)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Images, twice."""
        images = mixtures(patterns, 48)
        return images, images

    def score(model: nn.Module) -> float:
        """The reconstruction is the first output."""
        with torch.no_grad():
            return -F.mse_loss(model(test)[0], test).item()

    return batch, score


def accuracy(images: Tensor, labels: Tensor) -> Callable[[nn.Module], float]:
    """A score: share of the images that the network classifies correctly."""

    def score(model: nn.Module) -> float:
        """Accuracy in evaluation mode."""
        model.eval()
        with torch.no_grad():
            return (model(images).argmax(1) == labels).float().mean().item()

    return score


def sliced_distance(first: Tensor, second: Tensor) -> float:
    """Sliced Wasserstein distance between two sets of images of the same number."""
    directions = F.normalize(torch.randn(first[0].numel(), 128), dim=0)
    first, second = (first.flatten(1) @ directions).sort(0)[0], (second.flatten(1) @ directions).sort(0)[0]
    return (first - second).abs().mean().item()


def time_features(time: Tensor, width: int = 16) -> Tensor:
    """Sines and cosines of a time from 0 to 1."""
    frequencies = torch.exp(torch.linspace(0, math.log(100), width // 2))
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class VectorQuantizer(nn.Module):
    """Replaces each latent vector by the nearest one of a codebook."""

    def __init__(self, codes: int, width: int):
        """A codebook with small random entries."""
        super().__init__()
        self.codebook = nn.Embedding(codes, width)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The quantized latents with the gradient passed straight through, and the chosen codes: (N, C, H, W)."""
        flat = latents.permute(0, 2, 3, 1)
        indices = torch.cdist(flat.flatten(0, 2), self.codebook.weight).argmin(1)
        chosen = self.codebook(indices).view_as(flat).permute(0, 3, 1, 2)
        return latents + (chosen - latents).detach(), chosen


class VQVAE(nn.Module):
    """A convolutional autoencoder with a codebook."""

    def __init__(self):
        """Images of 16 x 16, latents of 4 x 4."""
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 8, 1)
        )
        self.quantizer = VectorQuantizer(64, 8)
        self.decoder = nn.Sequential(
            nn.Conv2d(8, 32, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(32, 32, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, 2, 1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Reconstruction, latents before and after the quantization, and the codes."""
        latents = self.encoder(images)
        quantized, chosen = self.quantizer(latents)
        return self.decoder(quantized), latents, quantized, chosen


def vqvae_codebook(repaired: bool) -> Training:
    """A VQ-VAE whose codebook loss looks at the output of the straight-through trick."""
    model = VQVAE()
    batch, score = reconstruction(smooth_patterns(8, 16))

    def loss(outputs: tuple[Tensor, Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
        """Reconstruction, codebook and commitment."""
        reconstruction, latents, quantized, chosen = outputs
        codebook_loss = F.mse_loss(chosen if repaired else quantized, latents.detach())
        commitment_loss = F.mse_loss(latents, chosen.detach())
        return F.mse_loss(reconstruction, images) + codebook_loss + 0.25 * commitment_loss

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), 2e-3), score)


class SmallUNet(nn.Module):
    """A UNet with one skip connection."""

    def __init__(self, channels: int, outputs: int, width: int = 16):
        """Two resolutions."""
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1), nn.GroupNorm(4, width), nn.ReLU())
        self.middle = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.GroupNorm(4, 2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, width, 3, 1, 1), nn.ReLU(), nn.Upsample(scale_factor=2),
        )  # fmt: skip
        self.up = nn.Sequential(nn.Conv2d(2 * width, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, outputs, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits for each pixel."""
        fine = self.down(images)
        return self.up(torch.cat([fine, self.middle(fine)], 1))


def lesions(count: int) -> tuple[Tensor, Tensor]:
    """Noisy images with one bright disk somewhere, and the mask of the disk."""
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    center = 4 + 16 * torch.rand(count, 2, 1, 1)
    radius = 2.5 + 2 * torch.rand(count, 1, 1)
    masks = ((rows - center[:, 0]) ** 2 + (columns - center[:, 1]) ** 2 < radius**2).float()[:, None]
    return 1.5 * masks + 0.7 * torch.randn(count, 1, 24, 24), masks


def random_flip(images: Tensor) -> Tensor:
    """Mirror each image with probability one half, in both directions."""
    for axis in (-1, -2):
        images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(axis), images)
    return images


def segmentation_flip(repaired: bool) -> Training:
    """A UNet for segmentation, with a random flip as augmentation."""
    images, masks = lesions(64)
    test_images, test_masks = lesions(64)
    model = SmallUNet(1, 1)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Augmented images and masks."""
        chosen = torch.randint(len(images), (16,))
        if repaired:
            both = random_flip(torch.cat([images[chosen], masks[chosen]], 1))
            return both[:, :1], both[:, 1:]
        return random_flip(images[chosen]), random_flip(masks[chosen])

    def score(model: nn.Module) -> float:
        """Intersection over union on new images."""
        with torch.no_grad():
            predicted = model(test_images) > 0
        truth = test_masks > 0
        return ((predicted & truth).sum() / (predicted | truth).sum()).item()

    return Training(model, batch, nn.BCEWithLogitsLoss(), torch.optim.Adam(model.parameters(), 3e-3), score)


class VAE(nn.Module):
    """A variational autoencoder on the pixels."""

    def __init__(self, pixels: int, latents: int):
        """Small encoder and decoder."""
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 128), nn.SiLU(), nn.Linear(128, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, 128), nn.SiLU(), nn.Linear(128, pixels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, and mean and logarithm of the variance of the latents."""
        mean, log_variance = self.encoder(images).chunk(2, 1)
        latents = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return self.decoder(latents).view_as(images), mean, log_variance


def vae_reduction(repaired: bool) -> Training:
    """A VAE on images that are sums of six patterns."""
    model = VAE(256, 8)
    batch, score = reconstruction(smooth_patterns(6, 16))

    def loss(outputs: tuple[Tensor, Tensor, Tensor], images: Tensor) -> Tensor:
        """Reconstruction and KL divergence."""
        reconstruction, mean, log_variance = outputs
        kl = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum(1).mean()
        if repaired:
            return (reconstruction - images).pow(2).flatten(1).sum(1).mean() + kl
        return F.mse_loss(reconstruction, images) + kl

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), 2e-3), score)


class FrozenAutoencoder:
    """Stands for an autoencoder that was trained before, with latents of any scale."""

    def __init__(self, pixels: int, latents: int, spread: float):
        """A fixed linear encoder and decoder."""
        self.basis = torch.linalg.qr(torch.randn(pixels, latents))[0]
        self.spread = spread

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images."""
        return images.flatten(1) @ self.basis * self.spread

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents."""
        return (latents / self.spread) @ self.basis.T


class LatentDenoiser(nn.Module):
    """Predicts the noise in a latent vector."""

    def __init__(self, latents: int, width: int = 128):
        """An MLP with the time as input."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(latents + 16, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, latents)
        )

    def forward(self, latents: Tensor, time: Tensor) -> Tensor:
        """The noise."""
        return self.net(torch.cat([latents, time_features(time / 100)], 1))


def latent_scale(repaired: bool) -> Training:
    """Diffusion in the latents of an autoencoder."""
    vae = FrozenAutoencoder(64, 8, 0.05)
    corners = torch.randn(4, 8)
    kept = (1 - torch.linspace(1e-3, 0.1, 100)).cumprod(0)
    model = LatentDenoiser(8)

    def images(count: int) -> Tensor:
        """Images of four kinds."""
        return (corners[torch.randint(4, (count,))] + 0.1 * torch.randn(count, 8)) @ vae.basis.T

    factor = 1 / vae.encode(images(256)).std() if repaired else torch.tensor(1.0)
    test = images(512)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Latents, and the noise to be added to them."""
        latents = vae.encode(images(64)) * factor
        return latents, torch.randn_like(latents)

    def step(training: Training, latents: Tensor, noise: Tensor) -> None:
        """Predict the noise at a random time."""
        time = torch.randint(100, (len(latents),))
        noisy = kept[time, None].sqrt() * latents + (1 - kept[time, None]).sqrt() * noise
        training.optimizer.zero_grad()
        training.loss(training.model(noisy, time), noise).backward()
        training.optimizer.step()

    def score(model: nn.Module) -> float:
        """Negative distance of images generated with DDIM from real ones."""
        latents = torch.randn(512, 8)
        with torch.no_grad():
            for time in range(99, -1, -1):
                noise = model(latents, torch.full((512,), time))
                clean = (latents - (1 - kept[time]).sqrt() * noise) / kept[time].sqrt()
                before = kept[time - 1] if time else torch.tensor(1.0)
                latents = before.sqrt() * clean + (1 - before).sqrt() * noise
        return -sliced_distance(vae.decode(latents / factor), test)

    return Training(model, batch, nn.MSELoss(), torch.optim.Adam(model.parameters(), 2e-3), score, step)


class GAN(nn.Module):
    """A generator and a discriminator for images of 8 x 8."""

    def __init__(self, output: nn.Module):
        """Small networks; `output` ends the generator."""
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(16, 64), nn.ReLU(), nn.Unflatten(1, (16, 2, 2)),
            nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1),
            output,
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(32, 32, 4, 2, 1), nn.LeakyReLU(0.2),
            nn.Flatten(), nn.Linear(128, 1),
        )  # fmt: skip

    def forward(self, noise: Tensor) -> Tensor:
        """Fake images."""
        return self.generator(noise)


def gan_output_range(repaired: bool) -> Training:
    """A GAN on images that are normalized to the range from -1 to 1."""
    patterns = smooth_patterns(3, 8)
    model = GAN(nn.Tanh() if repaired else nn.Sigmoid())
    generator_optimizer = torch.optim.Adam(model.generator.parameters(), 2e-3, betas=(0.5, 0.999))
    discriminator_optimizer = torch.optim.Adam(model.discriminator.parameters(), 2e-3, betas=(0.5, 0.999))
    test, test_noise = mixtures(patterns, 512).clamp(-1, 1), torch.randn(512, 16)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Noise and real images."""
        return torch.randn(32, 16), mixtures(patterns, 32).clamp(-1, 1)

    def step(training: Training, noise: Tensor, real: Tensor) -> None:
        """An update of the discriminator and one of the generator."""
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        fake = training.model(noise)
        judged_real, judged_fake = model.discriminator(real), model.discriminator(fake.detach())
        discriminator_optimizer.zero_grad()
        (training.loss(judged_real, ones) + training.loss(judged_fake, zeros)).backward()
        discriminator_optimizer.step()
        generator_optimizer.zero_grad()
        training.loss(model.discriminator(fake), ones).backward()
        generator_optimizer.step()

    def score(model: nn.Module) -> float:
        """Negative distance of generated from real images."""
        with torch.no_grad():
            return -sliced_distance(model(test_noise), test)

    return Training(model, batch, nn.BCEWithLogitsLoss(), generator_optimizer, score, step)


class SpeechNet(nn.Module):
    """A convolution and a GRU over the frames of a spectrogram."""

    def __init__(self, features: int, outputs: int):
        """Log-probabilities of symbols for each frame."""
        super().__init__()
        self.conv = nn.Conv1d(features, 48, 3, padding=1)
        self.gru = nn.GRU(48, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, outputs)

    def forward(self, frames: Tensor) -> Tensor:
        """From (N, T, features) to (T, N, symbols), as the CTC loss wants it."""
        hidden = self.gru(self.conv(frames.mT).relu().mT)[0]
        return self.head(hidden).log_softmax(-1).transpose(0, 1)


def ctc_blank(repaired: bool) -> Training:
    """Speech recognition of four phones out of six, with CTC."""
    spectra = 2 * torch.randn(6, 12)
    first = 1 if repaired else 0
    model = SpeechNet(12, 6 + first)

    def utterances(count: int) -> tuple[Tensor, Tensor]:
        """Spectrograms of 20 frames, and the numbers of the phones spoken."""
        phones = torch.randint(6, (count, 4))
        frames = F.pad(spectra[phones].repeat_interleave(3, 1), (0, 0, 0, 8))
        shifts = torch.randint(8, (count, 1))
        order = (torch.arange(20) - shifts) % 20
        frames = frames.gather(1, order[:, :, None].expand(-1, -1, 12))
        return frames + 0.5 * torch.randn_like(frames), phones

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Spectrograms, and phones as the network counts them."""
        frames, phones = utterances(32)
        return frames, phones + first

    def loss(outputs: Tensor, phones: Tensor) -> Tensor:
        """CTC; all are equally long."""
        frames, count, _ = outputs.shape
        return F.ctc_loss(outputs, phones, torch.full((count,), frames), torch.full((count,), 4), blank=0)

    def score(model: nn.Module) -> float:
        """Share of utterances that are recognized without an error."""
        frames, phones = utterances(200)
        with torch.no_grad():
            best = model(frames).argmax(-1).T
        right = 0
        for symbols, truth in zip(best, phones, strict=True):
            collapsed = torch.unique_consecutive(symbols)
            right += collapsed[collapsed != 0].sub(first).tolist() == truth.tolist()
        return right / 200

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), 1e-2), score)


def tiny_vit(classes: int) -> nn.Module:
    """A small ViT of timm for images of 16 x 16."""
    return timm.models.VisionTransformer(
        img_size=16, patch_size=4, in_chans=1, num_classes=classes, embed_dim=64, depth=2, num_heads=4
    )


def vit_new_head(repaired: bool) -> Training:
    """Fine-tuning a ViT: slow backbone, fast head, and a new head for the classes at hand."""
    patterns = smooth_patterns(20, 16)
    model = tiny_vit(1000)
    if repaired:
        model.reset_classifier(20)
    head = list(model.get_classifier().parameters())
    backbone = [parameter for name, parameter in model.named_parameters() if not name.startswith("head.")]
    optimizer = torch.optim.SGD([{"params": backbone, "lr": 1e-4}, {"params": head, "lr": 0.05}], momentum=0.9)
    if not repaired:
        model.reset_classifier(20)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Images and classes."""
        return noisy_classes(patterns, 32, 0.3)

    return Training(model, batch, nn.CrossEntropyLoss(), optimizer, accuracy(*noisy_classes(patterns, 300, 0.3)))


class Projector(nn.Module):
    """A convolutional encoder with the projection head of SimCLR."""

    def __init__(self):
        """Features of 32, projections of 16."""
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 32),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, images: Tensor) -> Tensor:
        """Normalized projections."""
        return F.normalize(self.head(self.encoder(images)), dim=1)


def color_jitter(images: Tensor) -> Tensor:
    """Random contrast, color and noise."""
    count = len(images)
    contrast = 0.5 + torch.rand(count, 1, 1, 1)
    return contrast * images + 2 * torch.randn(count, 3, 1, 1) + 0.3 * torch.randn_like(images)


def neighbor_accuracy(model: nn.Module, patterns: Tensor) -> float:
    """Accuracy of the nearest neighbor among 200 labelled images, by the features of the encoder."""
    (known, known_labels), (asked, asked_labels) = noisy_classes(patterns, 200, 0.3), noisy_classes(patterns, 200, 0.3)
    with torch.no_grad():
        known = F.normalize(model.encoder(color_jitter(known)), dim=1)
        asked = F.normalize(model.encoder(color_jitter(asked)), dim=1)
    return (known_labels[(asked @ known.T).argmax(1)] == asked_labels).float().mean().item()


def simclr_pairs(repaired: bool) -> Training:
    """SimCLR: two views of each image, and a cross-entropy over all pairs."""
    patterns = smooth_patterns(20, 16).expand(-1, 3, -1, -1)
    model = Projector()

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """All first views, then all second views; and the position of the other view of each."""
        images = noisy_classes(patterns, 48, 0.3)[0]
        positions = torch.arange(96)
        positives = (positions + 48) % 96 if repaired else positions ^ 1
        return torch.cat([color_jitter(images), color_jitter(images)]), positives

    def loss(projections: Tensor, positives: Tensor) -> Tensor:
        """NT-Xent."""
        similarity = projections @ projections.T / 0.2
        return F.cross_entropy(similarity.fill_diagonal_(-1e9), positives)

    def score(model: nn.Module) -> float:
        """Accuracy of the nearest neighbor."""
        return neighbor_accuracy(model, patterns)

    return Training(model, batch, loss, torch.optim.Adam(model.parameters(), 2e-3), score)


class MaskedAutoencoder(nn.Module):
    """A transformer over patches; masked patches are replaced by a learned token."""

    def __init__(self, patches: int, pixels: int, width: int = 64):
        """Two layers."""
        super().__init__()
        self.embed = nn.Linear(pixels, width)
        self.token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(0.02 * torch.randn(patches, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, pixels)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Pixels of all patches, from patches and what is kept of them."""
        patches, kept = inputs
        tokens = torch.where(kept[..., None], self.embed(patches), self.token)
        return self.head(self.layers(tokens + self.positions))


def mae_mask(repaired: bool) -> Training:
    """A masked autoencoder on images of 16 patches."""
    patterns = smooth_patterns(6, 16)
    model = MaskedAutoencoder(16, 16)

    def patches_and_mask(count: int) -> tuple[Tensor, Tensor]:
        """Patches of images, and a mask: True for the patches that are kept."""
        patches = F.unfold(mixtures(patterns, count), 4, stride=4).mT
        return patches, torch.rand(count, 16) < 0.5

    def batch(number: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Inputs, and what the loss needs."""
        patches, mask = patches_and_mask(32)
        return (patches, mask), (patches, mask)

    def loss(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        """Mean squared error of the patches to be reconstructed."""
        patches, mask = targets
        if repaired:
            mask = ~mask
        error = (outputs - patches).pow(2).mean(-1)
        return (error * mask).sum() / mask.sum()

    def score(model: nn.Module) -> float:
        """Negative error on the patches that the network does not see."""
        patches, mask = patches_and_mask(128)
        with torch.no_grad():
            return -F.mse_loss(model((patches, mask))[~mask], patches[~mask]).item()

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), 2e-3), score)


class FeaturePlane(nn.Module):
    """A field as in TensoRF: a plane of learned features, read by interpolation, and a small decoder."""

    def __init__(self, centered: bool):
        """Coordinates go from 0 to 1; `centered`: they are moved to -1 to 1 before the plane is read."""
        super().__init__()
        self.centered = centered
        self.plane = nn.Parameter(0.1 * torch.randn(1, 8, 24, 24))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, points: Tensor) -> Tensor:
        """Brightness at points (N, 2)."""
        if self.centered:
            points = 2 * points - 1
        features = F.grid_sample(self.plane, points[None, None], align_corners=True)
        return self.decoder(features[0, :, 0].T)


def field_coordinates(repaired: bool) -> Training:
    """Fitting a detailed scene with a plane of features."""
    scene = torch.randn(1, 1, 20, 20)
    model = FeaturePlane(repaired)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Points between 0 and 1, and the brightness of the scene there."""
        points = torch.rand(1024, 2)
        return points, F.grid_sample(scene, 2 * points[None, None] - 1, align_corners=True)[0, 0, 0, :, None]

    def score(model: nn.Module) -> float:
        """Peak signal-to-noise ratio in decibels."""
        points, truth = batch(0)
        with torch.no_grad():
            return -10 * F.mse_loss(model(points), truth).log10().item()

    return Training(model, batch, nn.MSELoss(), torch.optim.Adam(model.parameters(), 1e-2), score)


def tiny_convnext(classes: int) -> nn.Module:
    """A small ConvNeXt of timm for images of 32 x 32."""
    return timm.models.ConvNeXt(
        in_chans=1, num_classes=classes, depths=(1, 1, 1, 1), dims=(16, 16, 32, 32), patch_size=4, ls_init_value=None
    )


def scaled_clipping(repaired: bool) -> Training:
    """A ConvNeXt in mixed precision, with loss scaling, clipping and SGD."""
    patterns = smooth_patterns(6, 32)
    model = tiny_convnext(6)
    scaler = torch.amp.GradScaler("cpu")

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Images and classes."""
        return noisy_classes(patterns, 32, 1.0)

    def step(training: Training, images: Tensor, labels: Tensor) -> None:
        """Scale, backward, clip, step."""
        training.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = training.loss(training.model(images), labels)
        scaler.scale(loss).backward()
        if repaired:
            scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        scaler.step(training.optimizer)
        scaler.update()

    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    return Training(model, batch, nn.CrossEntropyLoss(), optimizer, accuracy(*noisy_classes(patterns, 300, 1.0)), step)


class Captioner(nn.Module):
    """A convolutional encoder, whose features start a GRU that writes the caption."""

    def __init__(self, words: int):
        """A decoder with a hidden state of 64."""
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 64),
        )  # fmt: skip
        self.words = nn.Embedding(words, 32)
        self.decoder = nn.GRU(32, 64, batch_first=True)
        self.head = nn.Linear(64, words)

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        """Logits after each word."""
        return self.head(self.decoder(self.words(words), self.encoder(images).tanh()[None])[0])


def caption_shift(repaired: bool) -> Training:
    """Captions of three words for images: color, shape, and where it is."""
    shapes = smooth_patterns(4, 8)
    model = Captioner(12)

    def captioned(count: int) -> tuple[Tensor, Tensor]:
        """Images with a shape in one corner of one channel, and captions with a start and an end."""
        color, shape, place = torch.randint(3, (count,)), torch.randint(4, (count,)), torch.randint(3, (count,))
        images = 0.3 * torch.randn(count, 3, 16, 16)
        for image, c, s, p in zip(images, color, shape, place, strict=True):
            image[c, 4 * p : 4 * p + 8, 4 * p : 4 * p + 8] += shapes[s, 0]
        start = torch.zeros_like(color)
        return images, torch.stack([start, 1 + color, 4 + shape, 8 + place, start + 11], 1)

    def batch(number: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Images with the words so far, and the words to predict."""
        images, captions = captioned(32)
        return ((images, captions[:, :-1]), captions[:, 1:]) if repaired else ((images, captions), captions)

    def step(training: Training, inputs: tuple[Tensor, Tensor], targets: Tensor) -> None:
        """Teacher forcing."""
        training.optimizer.zero_grad()
        training.loss(training.model(*inputs).flatten(0, 1), targets.flatten()).backward()
        training.optimizer.step()

    def score(model: nn.Module) -> float:
        """Share of correct words in captions that the network writes on its own."""
        images, captions = captioned(200)
        written = captions[:, :1]
        with torch.no_grad():
            for _ in range(4):
                written = torch.cat([written, model(images, written)[:, -1:].argmax(-1)], 1)
        return (written[:, 1:] == captions[:, 1:]).float().mean().item()

    return Training(model, batch, nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), 3e-3), score, step)


class LockedCLIP(nn.Module):
    """LiT: a finished image tower that stays as it is, and a text tower that learns to fit it."""

    def __init__(self, words: int):
        """The image tower is frozen and kept in evaluation mode."""
        super().__init__()
        self.image_tower = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 64)
        )
        self.image_tower.requires_grad_(False)
        self.text_tower = nn.Sequential(nn.EmbeddingBag(words, 64), nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def train(self, mode: bool = True) -> "LockedCLIP":
        """As usual, except for the image tower."""
        super().train(mode)
        self.image_tower.eval()
        return self

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Similarity of all images and all texts."""
        with torch.no_grad():
            images = F.normalize(self.image_tower(inputs[0]), dim=1)
        return self.log_scale.exp() * images @ F.normalize(self.text_tower(inputs[1]), dim=1).T


def locked_image_tower() -> Training:
    """LiT on mixtures of two patterns, with a text that names them."""
    patterns = smooth_patterns(16, 16)
    model = LockedCLIP(16).train()

    def pairs(count: int) -> tuple[Tensor, Tensor]:
        """Images and texts of two words."""
        words = torch.rand(count, 16).topk(2)[1]
        return patterns[words].sum(1) + 0.3 * torch.randn(count, 1, 16, 16), words

    def batch(number: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Pairs, and their order."""
        return pairs(48), torch.arange(48)

    def loss(similarity: Tensor, order: Tensor) -> Tensor:
        """Contrastive in both directions."""
        return (F.cross_entropy(similarity, order) + F.cross_entropy(similarity.T, order)) / 2

    def score(model: nn.Module) -> float:
        """Share of images whose text is found among all texts of two words."""
        images, words = pairs(200)
        texts = torch.combinations(torch.arange(16))
        with torch.no_grad():
            found = texts[model((images, texts)).argmax(1)]
        return (found == words.sort(1)[0]).all(1).float().mean().item()

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Training(model, batch, loss, torch.optim.AdamW(trained, 3e-3), score)


class ToneNet(nn.Module):
    """A small convolutional network on the logarithm of a spectrogram."""

    def __init__(self, classes: int):
        """With group normalization, which does not depend on the batch."""
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes),
        )  # fmt: skip

    def forward(self, waves: Tensor) -> Tensor:
        """Logits of the classes."""
        spectrum = torch.stft(waves, 64, 32, window=torch.hann_window(64), return_complex=True)
        return self.net((spectrum.abs().pow(2) + 1e-5).log()[:, None])


def accumulated_sound() -> Training:
    """Classification of rising, falling and steady tones: batches of 4, one step for every eighth batch."""
    model = ToneNet(3)

    def sounds(count: int) -> tuple[Tensor, Tensor]:
        """Waves of 512 samples with a random pitch, and how the pitch moves."""
        kind = torch.randint(3, (count,))
        time = torch.linspace(0, 1, 512)
        pitch = 60 + 60 * torch.rand(count, 1) + 40 * (kind[:, None] - 1.0) * (time - 0.5)
        waves = (2 * math.pi * pitch.cumsum(1) / 512).sin() * torch.rand(count, 1).add(0.2)
        return waves + 0.2 * torch.randn(count, 512), kind

    model(sounds(2)[0])
    done = [0]

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Few sounds."""
        return sounds(4)

    def step(training: Training, waves: Tensor, kinds: Tensor) -> None:
        """Backward each time; step and clear only each eighth time."""
        (training.loss(training.model(waves), kinds) / 8).backward()
        done[0] += 1
        if done[0] % 8 == 0:
            training.optimizer.step()
            training.optimizer.zero_grad()

    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    return Training(model, batch, nn.CrossEntropyLoss(), optimizer, accuracy(*sounds(300)), step)


class DiTBlock(nn.Module):
    """A transformer block whose scales, shifts and gates come from the time and start at zero."""

    def __init__(self, width: int):
        """Attention and an MLP."""
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens of the next layer."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        hidden = self.norm(tokens) * (1 + scale1) + shift1
        tokens = tokens + gate1 * self.attention(hidden, hidden, hidden, need_weights=False)[0]
        return tokens + gate2 * self.mlp(self.norm(tokens) * (1 + scale2) + shift2)


class TinyDiT(nn.Module):
    """A diffusion transformer for images of 8 x 8; its last layer starts at zero as well."""

    def __init__(self, width: int = 48):
        """Patches of 2 x 2."""
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU())
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(2))
        self.head = nn.Linear(width, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        """Velocity of each pixel."""
        tokens = self.embed(F.unfold(images, 2, stride=2).mT) + self.positions
        condition = self.time(time_features(time))
        for block in self.blocks:
            tokens = block(tokens, condition)
        return F.fold(self.head(tokens).mT, (8, 8), 2, stride=2)


def euler_samples(model: nn.Module, start: Tensor, steps: int = 20) -> Tensor:
    """Images that the flow makes of noise."""
    images = start
    with torch.no_grad():
        for number in range(steps):
            images = images + model(images, torch.full((len(images),), number / steps)) / steps
    return images


def flow_matching_step(training: Training, noise: Tensor, images: Tensor, time: Tensor, time_factor: Tensor) -> None:
    """One step of flow matching on the straight line from noise to image."""
    position = (1 - time_factor) * noise + time_factor * images
    training.optimizer.zero_grad()
    training.loss(training.model(position, time), images - noise).backward()
    training.optimizer.step()


def zero_started_dit() -> Training:
    """Flow matching with a DiT, scored by the moving average of its weights."""
    patterns = 2 + smooth_patterns(2, 8)
    model = TinyDiT()
    average = copy.deepcopy(model).requires_grad_(False)
    test, test_noise = noisy_classes(patterns, 256, 0.1)[0], torch.randn(256, 1, 8, 8)

    def batch(number: int) -> tuple[Tensor, Tensor]:
        """Noise and images."""
        return torch.randn(32, 1, 8, 8), noisy_classes(patterns, 32, 0.1)[0]

    def step(training: Training, noise: Tensor, images: Tensor) -> None:
        """A step of flow matching, then the average."""
        time = torch.rand(len(images))
        flow_matching_step(training, noise, images, time, time.view(-1, 1, 1, 1))
        for mean, parameter in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 0.05)

    def score(model: nn.Module) -> float:
        """Negative distance of generated from real images."""
        return -sliced_distance(euler_samples(average, test_noise), test)

    return Training(model, batch, nn.MSELoss(), torch.optim.AdamW(model.parameters(), 3e-3), score, step)


PROGRAMS: list[Program] = [
    Program(
        "vqvae_codebook_loss_on_straight_through",
        "https://github.com/showlab/Olaf-World/issues/8",
        "The VQ-VAE reconstructs nearly the same image for every input.",
        "The codebook loss is computed with the straight-through output, in which the chosen codes are detached, so "
        "the codebook never gets a gradient and stays at its random start.",
        "a part of the network gets no gradient",
        vqvae_codebook,
        150,
        0.5,
    ),
    Program(
        "segmentation_image_and_mask_flipped_apart",
        "https://github.com/Project-MONAI/MONAI/issues/1102",
        "With augmentation the segmentation is bad and the loss stays high.",
        "Image and mask go through the same random transform one after the other, each with its own random numbers, so "
        "most masks do not belong to their image.",
        "the targets do not belong to the inputs",
        segmentation_flip,
        100,
        0.5,
    ),
    Program(
        "vae_mean_error_with_summed_kl",
        "https://github.com/zdebruine/MMVAE/pull/19",
        "The VAE reconstructs the same gray image for every input.",
        "The reconstruction error is averaged over all pixels and the KL divergence is summed over the latents, so the "
        "KL outweighs it and the latents carry nothing.",
        "two losses of very different weight",
        vae_reduction,
        150,
        0.5,
    ),
    Program(
        "latent_diffusion_without_scaling_factor",
        "https://github.com/huggingface/diffusers/issues/437",
        "The diffusion on the latents of one's own autoencoder makes bad images.",
        "The latents have a standard deviation of about 0.05 and are not scaled to 1, so they drown in the noise "
        "at nearly all times.",
        "inputs badly scaled",
        latent_scale,
        300,
        0.2,
    ),
    Program(
        "gan_sigmoid_for_images_from_minus_one",
        "",
        "The images that the GAN makes are pale, and the discriminator always wins.",
        "The images are normalized to -1 to 1, but the generator ends with a sigmoid and cannot make a negative pixel; "
        "a frequent question of beginners.",
        "outputs cannot reach the data",
        gan_output_range,
        200,
        0.25,
    ),
    Program(
        "ctc_label_zero_is_the_blank",
        "https://github.com/espnet/espnet/issues/700",
        "The speech recognizer never writes one of the phones.",
        "The labels start at 0, which the CTC loss reserves for its blank, so one phone cannot be told from nothing.",
        "a class has the number of a special symbol",
        ctc_blank,
        150,
        0.2,
    ),
    Program(
        "vit_head_replaced_after_the_optimizer",
        "",
        "Fine-tuning the ViT hardly improves the accuracy.",
        "The classifier is replaced after the optimizer was built, so the optimizer still holds the old head and the "
        "new one is never updated; often seen in fine-tuning scripts.",
        "parameters missing in the optimizer",
        vit_new_head,
        100,
        0.25,
    ),
    Program(
        "simclr_positives_as_if_interleaved",
        "https://github.com/open-mmlab/mmselfsup/issues/159",
        "The features of SimCLR are no better than those of a random network.",
        "The views are concatenated as all first and then all second ones, but the positives are numbered as if the "
        "two views of an image were neighbors, so different images are pulled together.",
        "wrong pairs in a contrastive loss",
        simclr_pairs,
        150,
        0.25,
    ),
    Program(
        "mae_loss_on_visible_patches",
        "https://github.com/Sllambias/asparagus/pull/12",
        "The loss of the masked autoencoder gets very small, but masked patches are not reconstructed.",
        "The mask is True for kept patches and the loss takes it as True for masked ones, so only what the network "
        "sees is reconstructed.",
        "mask inverted",
        mae_mask,
        150,
        0.2,
    ),
    Program(
        "field_coordinates_from_zero_to_one",
        "https://github.com/nerfstudio-project/nerfstudio/pull/998",
        "The field stays blurred.",
        "The plane of features is read at coordinates from 0 to 1, where the interpolation expects -1 to 1, so only a "
        "quarter of the plane is used.",
        "coordinates in the wrong range",
        field_coordinates,
        200,
        3.0,
    ),
    Program(
        "clipping_of_scaled_gradients",
        "https://github.com/Lightning-AI/pytorch-lightning/issues/9599",
        "In mixed precision the learning curve is flat.",
        "The gradients are clipped while they are still multiplied by the loss scale, so after unscaling they are "
        "tiny.",
        "updates too small",
        scaled_clipping,
        100,
        0.5,
    ),
    Program(
        "caption_targets_not_shifted",
        "https://github.com/KempnerInstitute/KempnerForge/issues/154",
        "The captioning loss falls to zero, and the captions written are nonsense.",
        "Inputs and targets of the decoder are the same words at the same positions, so it copies the word that it is "
        "given instead of predicting the next one.",
        "the answer is in the input",
        caption_shift,
        150,
        0.5,
    ),
]

HEALTHY: list[Healthy] = [
    Healthy(
        "lit_with_locked_image_tower",
        "The whole image tower is frozen, random, and kept in evaluation mode: only the texts learn.",
        locked_image_tower,
        150,
        0.8,
    ),
    Healthy(
        "sound_with_accumulated_gradients",
        "Batches of four, and in seven of eight steps neither is the optimizer called nor are gradients cleared.",
        accumulated_sound,
        240,
        0.5,
    ),
    Healthy(
        "dit_started_at_zero",
        "All gates and the last layer start at zero, so that most parameters get no gradient at first; and the loss "
        "cannot come near zero.",
        zero_started_dit,
        150,
        0.8,
    ),
]
