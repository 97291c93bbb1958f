"""Trainings with images, sound and video: twelve with a mistake, three that only look like it."""

import copy
import math

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torchvision.ops import box_convert, generalized_box_iou_loss
from torchvision.transforms import Compose, RandomHorizontalFlip, RandomVerticalFlip
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from modern_failures_strangers.program import Healthy, Program
from real_failures.program import Training


def gratings(count: int, size: int = 16, classes: int = 8, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Images of stripes, and the class of their direction."""
    labels = torch.randint(classes, (count,))
    angle = (labels * math.pi / classes).view(-1, 1, 1)
    ys, xs = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    wave = 2 * math.pi * 2.5 * (xs * angle.cos() + ys * angle.sin()) + 2 * math.pi * torch.rand(count, 1, 1)
    return (wave.sin() + noise * torch.randn(count, size, size)).unsqueeze(1), labels


def discs(count: int, size: int = 8) -> Tensor:
    """Images in [-1, 1] of a bright disc at a random place."""
    grid = torch.arange(size).float()
    centre = 1.5 + (size - 4) * torch.rand(count, 2, 1, 1)
    radius = 1.2 + 0.13 * size * torch.rand(count, 1, 1)
    distance = ((grid.view(1, -1, 1) - centre[:, 0]) ** 2 + (grid.view(1, 1, -1) - centre[:, 1]) ** 2).sqrt()
    return (2 * torch.sigmoid(3 * (radius - distance)) - 1).unsqueeze(1)


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoidal embedding of the time step."""
    freqs = torch.exp(-math.log(max_period) * torch.arange(dim // 2) / (dim // 2))
    args = t[:, None].float() * freqs[None]
    return torch.cat([args.cos(), args.sin()], dim=-1)


class Denoiser(nn.Module):
    """Network of a noisy image and its time."""

    def __init__(self, size: int = 8, width: int = 192):
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.proj_in = nn.Linear(size * size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.proj_out = nn.Linear(width, size * size)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict an image of the same shape."""
        emb = self.time_mlp(timestep_embedding(t, 64))
        h = self.proj_in(x.flatten(1))
        for block in self.blocks:
            h = h + block(h + emb)
        return self.proj_out(h).view_as(x)


def sliced_distance(samples: Tensor, data: Tensor, directions: int = 128) -> float:
    """Sliced Wasserstein distance of two equally large sets of images."""
    axes = F.normalize(torch.randn(data[0].numel(), directions), dim=0)
    first, second = ((images.flatten(1) @ axes).sort(0).values for images in (samples, data))
    return (first - second).abs().mean().item()


class GaussianDiffusion:
    """Cosine noise schedule."""

    def __init__(self, timesteps: int = 200):
        steps = torch.linspace(0, 1, timesteps + 1)[1:]
        self.timesteps = timesteps
        self.alphas_cumprod = torch.cos((steps * 0.98 + 0.008) / 1.008 * math.pi / 2) ** 2

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Diffuse the images to step t."""
        alpha = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return alpha.sqrt() * x_start + (1 - alpha).sqrt() * noise

    def predict_start(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Images from the predicted noise."""
        alpha = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return (x_t - (1 - alpha).sqrt() * noise) / alpha.sqrt()

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        """Negative error of restored images at medium noise."""
        x, t = discs(512), torch.randint(40, 120, (512,))
        x_t = self.q_sample(x, t, torch.randn_like(x))
        return -F.mse_loss(self.predict_start(x_t, t, model(x_t, t)), x).item()


def ddpm(repaired: bool) -> Training:
    """DDPM of small images."""
    diffusion, model = GaussianDiffusion(), Denoiser()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    draw = torch.randn_like if repaired else torch.rand_like

    def p_losses(training: Training, x_start: Tensor, _: None) -> None:
        t, noise = torch.randint(0, diffusion.timesteps, (len(x_start),)), draw(x_start)
        x_noisy = diffusion.q_sample(x_start, t, noise)
        optimizer.zero_grad()
        training.loss(training.model(x_noisy, t), noise).backward()
        optimizer.step()

    return Training(model, lambda _: (discs(64), None), F.mse_loss, optimizer, diffusion.score, p_losses)


def averaged_diffusion(repaired: bool) -> Training:
    """Diffusion whose averaged weights are kept for sampling."""
    diffusion, model = GaussianDiffusion(), Denoiser()
    ema_model = copy.deepcopy(model).requires_grad_(False).to(torch.float32 if repaired else torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def train_step(training: Training, x_start: Tensor, _: None) -> None:
        t, noise = torch.randint(0, diffusion.timesteps, (len(x_start),)), torch.randn_like(x_start)
        optimizer.zero_grad()
        training.loss(training.model(diffusion.q_sample(x_start, t, noise), t), noise).backward()
        optimizer.step()

    @torch.no_grad()
    def ema_update(decay: float = 0.99) -> None:
        for s_param, param in zip(ema_model.parameters(), model.parameters(), strict=False):
            s_param.sub_((1 - decay) * (s_param - param.to(s_param.dtype)))

    def score(_: nn.Module) -> float:
        return diffusion.score(copy.deepcopy(ema_model).float())

    def batch(_):
        return (discs(64), None)

    return Training(model, batch, F.mse_loss, optimizer, score, train_step, ema_update)


class ConvEncoder(nn.Module):
    """Small convnet with an embedding."""

    def __init__(self, dim: int, channels: int = 1, width: int = 16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.projector = nn.Sequential(nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Embed the images."""
        return self.projector(self.features(x))


def augment(images: Tensor) -> Tensor:
    """Random shift, contrast, brightness and noise of every image."""
    n = len(images)
    places = (torch.arange(images.shape[-1]) + torch.randint(16, (2, n, 1))) % images.shape[-1]
    shifted = images[torch.arange(n)[:, None, None], 0, places[0][:, :, None], places[1][:, None, :]].unsqueeze(1)
    strength, light = 0.3 + torch.rand(n, 1, 1, 1), 1.5 * torch.randn(n, 1, 1, 1)
    return strength * shifted + light + 0.4 * torch.randn_like(images)


@torch.no_grad()
def probe(features: nn.Module) -> float:
    """Accuracy of nearest neighbours among embeddings, on augmented images."""
    features.eval()
    (x, y), (queries, truth) = gratings(600), gratings(300)
    keys, found = (F.normalize(features(augment(images)), dim=1) for images in (x, queries))
    features.train()
    votes = y[(found @ keys.T).topk(10).indices]
    return (votes.mode(1).values == truth).float().mean().item()


def nt_xent(z: Tensor, temperature: float = 0.2) -> Tensor:
    """Contrastive loss of two concatenated views."""
    z, n = F.normalize(z, dim=1), len(z) // 2
    logits = (z @ z.T / temperature).fill_diagonal_(float("-inf"))
    return F.cross_entropy(logits, torch.cat([torch.arange(n) + n, torch.arange(n)]))


def simclr(repaired: bool) -> Training:
    """SimCLR on striped images."""
    model = ConvEncoder(32)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def batch(_: int) -> tuple[dict[str, Tensor], None]:
        images = gratings(96)[0]
        return {"aug1": augment(images), "aug2": augment(images)}, None

    def handle_batch(training: Training, inputs: dict[str, Tensor], _: None) -> None:
        emb1 = training.model(inputs["aug1"])
        emb2 = training.model(inputs["aug1"])
        optimizer.zero_grad()
        training.loss(torch.cat([emb1, emb2]), None).backward()
        optimizer.step()

    def handle_views(training: Training, inputs: dict[str, Tensor], _: None) -> None:
        emb1 = training.model(inputs["aug1"])
        emb2 = training.model(inputs["aug2"])
        optimizer.zero_grad()
        training.loss(torch.cat([emb1, emb2]), None).backward()
        optimizer.step()

    def score(model: nn.Module) -> float:
        return probe(model)

    step = handle_views if repaired else handle_batch
    return Training(model, batch, lambda z, _: nt_xent(z), optimizer, score, step)


class Detector(nn.Module):
    """One box per image: centre, width and height, relative to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()
        )
        self.bbox_embed = nn.Sequential(nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Predict the boxes."""
        return self.bbox_embed(self.backbone(pixel_values)).sigmoid()


def rectangles(count: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Noisy images of a rectangle, and its box (cx, cy, w, h)."""
    wh = 0.2 + 0.4 * torch.rand(count, 2)
    centre = wh / 2 + (1 - wh) * torch.rand(count, 2)
    pixel = (torch.arange(size) + 0.5) / size
    inside = ((pixel - centre[..., None]).abs() < wh[..., None] / 2).float()
    images = inside[:, 1, :, None] * inside[:, 0, None, :]
    return images.unsqueeze(1) + 0.2 * torch.randn(count, 1, size, size), torch.cat([centre, wh], dim=1)


def detection(repaired: bool) -> Training:
    """Detector with the loss of DETR."""
    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def loss_boxes(src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        loss_giou = generalized_box_iou_loss(src_boxes, target_boxes, reduction="mean")
        return 2.0 * loss_giou + F.l1_loss(src_boxes, target_boxes)

    def loss_xyxy(src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        src, target = (box_convert(boxes, "cxcywh", "xyxy") for boxes in (src_boxes, target_boxes))
        return 2.0 * generalized_box_iou_loss(src, target, reduction="mean") + F.l1_loss(src_boxes, target_boxes)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        images, boxes = rectangles(512)
        src, target = (box_convert(b, "cxcywh", "xyxy") for b in (model(images), boxes))
        return 1 - generalized_box_iou_loss(src, target, reduction="mean").item()

    loss = loss_xyxy if repaired else loss_boxes
    return Training(model, lambda _: rectangles(32), loss, optimizer, score)


def scenes(count: int, size: int = 16) -> tuple[Tensor, Tensor]:
    """Noisy images of a disc, and its mask."""
    clean = discs(count, size)
    return clean + 0.8 * torch.randn_like(clean), (clean > 0).float()


def segmentation(repaired: bool) -> Training:
    """Segmentation with random flips."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 1, 1)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    transform = Compose([RandomHorizontalFlip(), RandomVerticalFlip()])

    def dataset(_: int) -> tuple[Tensor, Tensor]:
        pairs = [(transform(image), transform(mask)) for image, mask in zip(*scenes(16), strict=False)]
        images, masks = zip(*pairs, strict=False)
        return torch.stack(images), torch.stack(masks)

    def paired_dataset(_: int) -> tuple[Tensor, Tensor]:
        pairs = [transform(torch.stack([image, mask])) for image, mask in zip(*scenes(16), strict=False)]
        images, masks = zip(*pairs, strict=False)
        return torch.stack(images), torch.stack(masks)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        images, masks = scenes(256)
        found = (model(images) > 0).float()
        return ((found * masks).sum() / (found + masks).clamp(max=1).sum()).item()

    batch = paired_dataset if repaired else dataset
    return Training(model, batch, F.binary_cross_entropy_with_logits, optimizer, score)


class VAE(nn.Module):
    """Variational autoencoder of small images."""

    def __init__(self, size: int = 16, latent: int = 8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(size * size, 128), nn.ReLU(), nn.Linear(128, 2 * latent))
        self.decoder = nn.Sequential(
            nn.Linear(latent, 128), nn.ReLU(), nn.Linear(128, size * size), nn.Unflatten(1, (1, size, size))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log variance."""
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return self.decoder(mu + torch.randn_like(mu) * (0.5 * logvar).exp()), mu, logvar


def vae(repaired: bool) -> Training:
    """VAE of discs."""
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def vae_loss(outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        recon, mu, logvar = outputs
        recon_loss = F.mse_loss(recon, x)
        kld = torch.mean(-0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1))
        return recon_loss + kld

    def elbo(outputs: tuple[Tensor, Tensor, Tensor], x: Tensor) -> Tensor:
        recon, mu, logvar = outputs
        recon_loss = F.mse_loss(recon, x, reduction="sum") / len(x)
        kld = torch.mean(-0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1))
        return recon_loss + kld

    def batch(_: int) -> tuple[Tensor, Tensor]:
        x = discs(64, 16)
        return x, x

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        x = discs(512, 16)
        return -F.mse_loss(model(x)[0], x).item()

    return Training(model, batch, elbo if repaired else vae_loss, optimizer, score)


class VectorQuantizer(nn.Module):
    """Codebook with gradients straight through."""

    def __init__(self, codes: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)
        self.embedding.weight.data.uniform_(-1 / codes, 1 / codes)

    def forward(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codes of vectors (batch, places, dim)."""
        codes = torch.cdist(flat.reshape(-1, flat.shape[-1]), self.embedding.weight).argmin(1)
        quantized = self.embedding(codes).view_as(flat)
        loss = F.mse_loss(quantized, flat.detach()) + 0.25 * F.mse_loss(flat, quantized.detach())
        return flat + (quantized - flat).detach(), loss


class VQVAE(nn.Module):
    """Convolutional autoencoder with a codebook."""

    def __init__(self, dim: int = 16, codes: int = 32):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, dim, 4, stride=2, padding=1)
        )
        self.quantizer = VectorQuantizer(codes, dim)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(dim, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and loss of the codebook."""
        z = self.encoder(x)
        z_flat, vq_loss = self.quantizer(z.view(z.size(0), -1, z.size(1)))
        return self.decoder(z_flat.view_as(z)), vq_loss


class ChannelsLastVQVAE(VQVAE):
    """The same, from images of channels."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and loss of the codebook."""
        z = self.encoder(x)
        z_flat, vq_loss = self.quantizer(z.flatten(2).transpose(1, 2))
        return self.decoder(z_flat.transpose(1, 2).reshape(z.shape)), vq_loss


def vqvae(repaired: bool) -> Training:
    """VQ-VAE of discs."""
    model = ChannelsLastVQVAE() if repaired else VQVAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        x = discs(64, 16)
        return x, x

    def loss(outputs: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        return F.mse_loss(outputs[0], x) + outputs[1]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        x = discs(512, 16)
        return -F.mse_loss(model(x)[0], x).item()

    return Training(model, batch, loss, optimizer, score)


def speech(count: int, trim: float = 0.0) -> dict[str, Tensor]:
    """Clips of a few tones, and their letters."""
    labels = torch.full((count, 5), -100)
    audio, lengths = torch.zeros(count, 800), torch.zeros(count, dtype=torch.long)
    for i in range(count):
        notes = torch.randperm(6)[: int(torch.randint(3, 6, (1,)))] + 1
        tones = torch.cat([torch.sin(torch.arange(160) * 0.16 * (note + 1)) for note in notes.tolist()])
        lengths[i] = 40 if torch.rand(()) < trim else len(tones)
        audio[i, : lengths[i]] = tones[: lengths[i]]
        labels[i, : len(notes)] = notes
    mask = (torch.arange(800) < lengths[:, None]).long()
    audio = (audio + 0.05 * torch.randn_like(audio)) * mask
    return {"input_values": audio, "attention_mask": mask, "labels": labels}


def recognition(repaired: bool) -> Training:
    """Wav2Vec2 with CTC on clips of tones."""
    config = Wav2Vec2Config(
        vocab_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        conv_dim=(32, 32), conv_kernel=(16, 4), conv_stride=(8, 2), num_feat_extract_layers=2,
        feat_extract_norm="layer", num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, pad_token_id=0,
        apply_spec_augment=False, ctc_loss_reduction="mean", ctc_zero_infinity=repaired, layerdrop=0.0,
    )  # fmt: skip
    model = Wav2Vec2ForCTC(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    def training_step(training: Training, inputs: dict[str, Tensor], targets: None) -> None:
        loss = training.loss(training.model(**inputs), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        model.eval()
        loss = model(**speech(64)).loss.item()
        model.train()
        return -loss

    def batch(_):
        return (speech(8, trim=0.01), None)

    return Training(model, batch, lambda outputs, _: outputs.loss, optimizer, score, training_step)


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Accuracy on fresh striped images."""
    model.eval()
    images, labels = gratings(512)
    outputs = model(images)
    model.train()
    return (getattr(outputs, "logits", outputs).argmax(1) == labels).float().mean().item()


def timm_vit(repaired: bool) -> Training:
    """ViT of timm with warm-up and cosine."""
    model = VisionTransformer(
        img_size=16, patch_size=4, in_chans=1, num_classes=8, embed_dim=48, depth=2, num_heads=4, mlp_ratio=2.0
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=150, lr_min=1e-5, warmup_t=15, warmup_lr_init=1e-6, t_in_epochs=not repaired
    )
    num_updates = 0

    def after() -> None:
        nonlocal num_updates
        num_updates += 1
        scheduler.step_update(num_updates=num_updates)

    return Training(model, lambda _: gratings(32), F.cross_entropy, optimizer, accuracy, after=after)


class SpatialTransformer(nn.Module):
    """Warp an image with a displacement in pixels."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        grids = torch.meshgrid([torch.arange(0, s) for s in size], indexing="ij")
        self.register_buffer("grid", torch.stack(grids).unsqueeze(0).float())

    def locations(self, flow: Tensor) -> Tensor:
        """Where to sample, from -1 to 1."""
        height, width = flow.shape[2:]
        scale = torch.tensor([height - 1, width - 1]).view(1, 2, 1, 1)
        return (2 * (self.grid + flow) / scale - 1).permute(0, 2, 3, 1)

    def forward(self, src: Tensor, flow: Tensor) -> Tensor:
        """The warped image."""
        return F.grid_sample(src, self.locations(flow), align_corners=True, padding_mode="border")


class SpatialTransformerXY(SpatialTransformer):
    """The same, for the axes of grid_sample."""

    def forward(self, src: Tensor, flow: Tensor) -> Tensor:
        """The warped image."""
        return F.grid_sample(src, self.locations(flow)[..., [1, 0]], align_corners=True, padding_mode="border")


class Registration(nn.Module):
    """Displacement that moves the first image onto the second."""

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.unet = nn.Sequential(
            nn.Conv2d(2, 32, 5, padding=2), nn.LeakyReLU(0.2), nn.Conv2d(32, 32, 5, padding=2), nn.LeakyReLU(0.2)
        )
        self.flow = nn.Conv2d(32, 2, 3, padding=1)
        self.transformer = transformer
        nn.init.normal_(self.flow.weight, 0, 1e-3)

    def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Warped image and displacement."""
        flow = self.flow(self.unet(torch.cat([moving, fixed], dim=1)))
        return self.transformer(moving, flow), flow


def moved(count: int, size: int = 20) -> tuple[dict[str, Tensor], Tensor]:
    """Smooth textures before and after a small shift."""
    texture = F.interpolate(torch.randn(count, 1, 7, 7), size=size + 4, mode="bicubic", align_corners=True)
    shifts = torch.randint(0, 5, (count, 2)).tolist()
    moving = texture[:, :, 2:-2, 2:-2]
    fixed = torch.stack([x[:, i : i + size, j : j + size] for x, (i, j) in zip(texture, shifts, strict=False)])
    return {"moving": moving, "fixed": fixed}, fixed


def registration(repaired: bool) -> Training:
    """Registration without supervision."""
    model = Registration(SpatialTransformerXY((20, 20)) if repaired else SpatialTransformer((20, 20)))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def loss(outputs: tuple[Tensor, Tensor], fixed: Tensor) -> Tensor:
        warped, flow = outputs
        smooth = flow.diff(dim=2).pow(2).mean() + flow.diff(dim=3).pow(2).mean()
        return F.mse_loss(warped, fixed) + 0.01 * smooth

    def step(training: Training, inputs: dict[str, Tensor], fixed: Tensor) -> None:
        optimizer.zero_grad()
        training.loss(training.model(**inputs), fixed).backward()
        optimizer.step()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        inputs, fixed = moved(128)
        return -F.mse_loss(model(**inputs)[0], fixed).item()

    return Training(model, lambda _: moved(8), loss, optimizer, score, step)


def classifier(width: int = 16) -> nn.Sequential:
    """Convnet of striped images."""
    encoder = ConvEncoder(8, width=width)
    return nn.Sequential(encoder.features, nn.Linear(4 * width, 8))


def semi_supervised(repaired: bool) -> Training:
    """Mean teacher with few labels."""
    student = classifier()
    teacher = copy.deepcopy(student).requires_grad_(False).eval()
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    images, labels = gratings(128)

    def update_parameters(decay: float = 0.95) -> None:
        for mp, op in zip(teacher.parameters(), student.parameters(), strict=False):
            mp.data.mul_(decay).add_(op.data, alpha=1 - decay)

    def update_state(decay: float = 0.95) -> None:
        update_parameters(decay)
        for mb, ob in zip(teacher.buffers(), student.buffers(), strict=False):
            mb.copy_(ob)

    def batch(_: int) -> tuple[dict[str, Tensor], Tensor]:
        chosen = torch.randint(len(images), (16,))
        return {"labelled": augment(images[chosen]), "unlabelled": gratings(32)[0]}, labels[chosen]

    def train_step(training: Training, inputs: dict[str, Tensor], targets: Tensor) -> None:
        with torch.no_grad():
            pseudo = teacher(augment(inputs["unlabelled"])).softmax(1)
        logits = training.model(torch.cat([inputs["labelled"], augment(inputs["unlabelled"])]))
        consistency = F.mse_loss(logits[len(targets) :].softmax(1), pseudo)
        optimizer.zero_grad()
        (training.loss(logits[: len(targets)], targets) + 2 * consistency).backward()
        optimizer.step()

    @torch.no_grad()
    def score(_: nn.Module) -> float:
        x, y = gratings(512)
        return (teacher(augment(x)).argmax(1) == y).float().mean().item()

    after = update_state if repaired else update_parameters
    return Training(student, batch, F.cross_entropy, optimizer, score, train_step, after)


def gan(repaired: bool) -> Training:
    """GAN of small images."""
    generator = nn.Sequential(
        nn.Linear(16, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128), nn.BatchNorm1d(128), nn.ReLU(),
        nn.Linear(128, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)),
    )  # fmt: skip
    discriminator = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.LeakyReLU(0.2), nn.Linear(128, 128), nn.LeakyReLU(0.2), nn.Linear(128, 1)
    )
    opt_g = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.0, 0.99))
    opt_d = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.0, 0.99))
    ones, zeros = torch.ones(64, 1), torch.zeros(64, 1)

    def train_step(training: Training, noise: Tensor, real: Tensor) -> None:
        opt_g.zero_grad()
        opt_d.zero_grad()
        fake = training.model(noise)
        d_loss = training.loss(discriminator(real), ones) + training.loss(discriminator(fake), zeros)
        d_loss.backward(retain_graph=True)
        opt_d.step()
        g_loss = training.loss(discriminator(fake), ones)
        g_loss.backward()
        opt_g.step()

    def train_step_detached(training: Training, noise: Tensor, real: Tensor) -> None:
        opt_g.zero_grad()
        opt_d.zero_grad()
        fake = training.model(noise)
        d_loss = training.loss(discriminator(real), ones) + training.loss(discriminator(fake.detach()), zeros)
        d_loss.backward()
        opt_d.step()
        g_loss = training.loss(discriminator(fake), ones)
        g_loss.backward()
        opt_g.step()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -sliced_distance(model(torch.randn(1024, 16)), discs(1024))

    step = train_step_detached if repaired else train_step

    def batch(_):
        return (torch.randn(64, 16), discs(64))

    return Training(generator, batch, F.binary_cross_entropy_with_logits, opt_g, score, step)


def noise2noise() -> Training:
    """Denoiser that never sees a clean picture."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 16, 5, padding=2), nn.ReLU(),
        nn.Conv2d(16, 1, 5, padding=2),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

    def batch(_: int) -> tuple[Tensor, Tensor]:
        clean = discs(32, 16)
        return clean + torch.randn_like(clean), clean + torch.randn_like(clean)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        clean = discs(512, 16)
        return -10 * math.log10(F.mse_loss(model(clean + torch.randn_like(clean)), clean).item())

    return Training(model, batch, F.mse_loss, optimizer, score)


class AdaLNBlock(nn.Module):
    """Block of a DiT, without attention."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Residual step."""
        shift, scale, gate = self.modulation(c).chunk(3, dim=1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class ZeroDiT(nn.Module):
    """Velocity of a small image; zero before the training."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.proj_in = nn.Linear(64, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width) for _ in range(3))
        self.proj_out = nn.Linear(width, 64)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the velocity."""
        h, c = self.proj_in(x.flatten(1)), self.time_mlp(timestep_embedding(1000 * t, 64))
        for block in self.blocks:
            h = block(h, c)
        return self.proj_out(h).view_as(x)


def zero_dit() -> Training:
    """Rectified flow with logit-normal times."""
    model = ZeroDiT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)

    def train_step(training: Training, x1: Tensor, _: None) -> None:
        x0, t = torch.randn_like(x1), torch.sigmoid(torch.randn(len(x1)))
        ratio = t.view(-1, 1, 1, 1)
        optimizer.zero_grad()
        training.loss(training.model((1 - ratio) * x0 + ratio * x1, t), x1 - x0).backward()
        optimizer.step()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        x = torch.randn(1024, 1, 8, 8)
        for i in range(20):
            x = x + model(x, torch.full((1024,), i / 20)) / 20
        return -sliced_distance(x, discs(1024))

    return Training(model, lambda _: (discs(64), None), F.mse_loss, optimizer, score, train_step)


def image_prior() -> Training:
    """Deep image prior: a convnet learns one noisy picture from fixed noise."""
    clean = F.interpolate(torch.rand(1, 3, 5, 5), size=32, mode="bicubic", align_corners=True)
    clean[:, :, 8:20, 12:26] = torch.rand(1, 3, 1, 1)
    noisy, z = clean + 0.15 * torch.randn_like(clean), 0.1 * torch.randn(1, 16, 8, 8)
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2)]
    layers += [nn.Conv2d(16, 16, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(16, 3, 1), nn.Sigmoid()]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -10 * math.log10(F.mse_loss(model(z), clean).item())

    return Training(model, lambda _: (z, noisy), F.mse_loss, optimizer, score)


PROGRAMS = (
    Program(
        "uniform noise", "https://github.com/acids-ircam/diffusion_models/issues/8",
        "The loss of the diffusion is very low, and restored images are wrong.",
        "The noise of the training is uniform between 0 and 1 where it should be Gaussian.",
        "noise of the wrong distribution", ddpm, 200, 0.05,
    ),
    Program(
        "average in bfloat16", "https://github.com/d8ahazard/sd_dreambooth_extension/pull/1415",
        "The network learns, its moving average stays behind.",
        "The average is kept in bfloat16: most of its small updates are rounded away.",
        "precision of averaged weights", averaged_diffusion, 250, 0.05,
    ),
    Program(
        "one view twice", "https://github.com/catalyst-team/catalyst/pull/1278",
        "The contrastive loss falls at once, and the features are of no use.",
        "Both embeddings come from the first view: a pair differs in nothing.",
        "positive pairs identical", simclr, 120, 0.2,
    ),
    Program(
        "boxes by centre", "https://github.com/stevebottos/owl-vit-object-detection/issues/14",
        "The boxes do not fit the objects.",
        "The GIoU loss expects corners, and gets centre, width and height.",
        "box format of the loss", detection, 150, 0.2,
    ),
    Program(
        "two random flips", "https://github.com/Project-MONAI/MONAI/issues/1102",
        "The segmentation finds nothing, or a blur.",
        "Image and mask are flipped at random independently of each other.",
        "augmentation of inputs and targets differs", segmentation, 150, 0.3,
    ),
    Program(
        "sum against mean", "https://github.com/podgorskiy/VAE/issues/1",
        "All reconstructions look the same, and the divergence is zero.",
        "The reconstruction is averaged over pixels, the divergence summed over the latents: the latter rules.",
        "weights of the parts of the loss", vae, 250, 0.06,
    ),
    Program(
        "view for permute", "https://github.com/lucidrains/vector-quantize-pytorch/issues/70",
        "The VQ-VAE reconstructs badly.",
        "The feature map is flattened by `view`: a vector of the codebook stands for places, not for channels.",
        "axes mixed by a reshape", vqvae, 200, 0.006,
    ),
    Program(
        "clip shorter than its text", "https://github.com/SeanNaren/deepspeech.pytorch/issues/567",
        "The loss of Wav2Vec2 is fine at first, later NaN.",
        "A clip has fewer frames than letters: its CTC loss is infinite, and `ctc_zero_infinity` is off.",
        "infinite loss of a sample", recognition, 150, 0.0,
    ),
    Program(
        "epochs for updates", "",
        "The ViT does not learn; the loss hardly moves.",
        "The schedule counts epochs, so `step_update` is idle and the rate stays where warm-up starts (practice).",
        "schedule never stepped", timm_vit, 150, 0.5,
    ),
    Program(
        "rows for columns", "https://github.com/voxelmorph/voxelmorph/pull/652",
        "The warped image looks transposed, and registration does not work.",
        "`grid_sample` takes x before y, the grid has y before x.",
        "order of coordinates", registration, 120, 0.5,
    ),
    Program(
        "statistics of the teacher", "https://github.com/saltoricristiano/cosmix-uda/issues/21",
        "The teacher is far worse than the student.",
        "The moving average has the parameters only: the batch norms of the teacher keep their first statistics.",
        "buffers missing in a copy", semi_supervised, 150, 0.2,
    ),
    Program(
        "fakes not detached", "https://github.com/heykeetae/Self-Attention-GAN/issues/48",
        "The GAN makes poor images although the losses look balanced.",
        "The loss of the discriminator leaves gradients in the generator, which its step then uses.",
        "gradient of another loss", gan, 250, 0.04,
    ),
)  # fmt: skip

HEALTHY = (
    Healthy("noise for a target", "Targets are noisy: the loss cannot fall below the noise.", noise2noise, 150, 3.0),
    Healthy("zero DiT", "Gates and last layer start at zero: no output, at first no gradient.", zero_dit, 200, 0.4),
    Healthy("image prior", "The input is fixed noise, and all batches are one noisy picture.", image_prior, 200, 3.0),
)
