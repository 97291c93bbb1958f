"""A small UNet that predicts the noise of images, with an average of its weights: python diffusion.py [STEPS]."""

import sys

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, read: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(4, read), nn.Conv2d(read, channels, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(4, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.time, self.skip = nn.Linear(64, channels), nn.Conv2d(read, channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(nn.functional.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.conv2(nn.functional.silu(self.norm2(y))) + self.skip(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 64))
        self.first, self.down, self.middle = nn.Conv2d(1, 32, 3, padding=1), Block(32, 32), Block(32, 64)
        self.up, self.last = Block(96, 32), nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        time = self.time(time[:, None])
        fine = self.down(self.first(x), time)
        coarse = self.middle(nn.functional.avg_pool2d(fine, 2), time)
        return self.last(self.up(torch.cat([fine, nn.functional.interpolate(coarse, scale_factor=2)], 1), time))


model = UNet()
average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
places = torch.linspace(-1, 1, 16)
for _ in range(STEPS):
    middle, size = torch.rand(16, 2, 1, 1) - 0.5, 0.1 + 0.2 * torch.rand(16, 1, 1)
    images = 2 * torch.exp(-((places - middle[:, 0]) ** 2 + (places[:, None] - middle[:, 1]) ** 2) / size)[:, None] - 1
    noise, time = torch.randn_like(images), torch.rand(16)
    kept = torch.cos(time * torch.pi / 2)[:, None, None, None]
    loss = nn.functional.mse_loss(model(kept * images + (1 - kept**2).sqrt() * noise, time), noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average.update_parameters(model)
