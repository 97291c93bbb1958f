"""Tiny DDPM (noise prediction) on 8x8 stripe images; sampling uses the EMA weights."""
import copy

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(7)
rng = np.random.default_rng(7)
S, T = 8, 100


def stripes(n):
    xx = np.arange(S)
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    row = np.sin(2 * np.pi * xx[None, None] / 4 + phase)
    img = np.repeat(row, S, axis=1)
    flip = rng.random(n) < 0.5
    img[flip] = img[flip].transpose(0, 2, 1)
    return torch.tensor(img.reshape(n, -1), dtype=torch.float32)


betas = torch.linspace(1e-3, 0.1, T)
alphas = 1 - betas
abar = torch.cumprod(alphas, 0)


class Denoiser(nn.Module):
    def __init__(self, width=192):
        super().__init__()
        self.temb = nn.Embedding(T, 32)
        self.net = nn.Sequential(nn.Linear(S * S + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
                                 nn.Linear(width, S * S))

    def forward(self, x, t):
        return self.net(torch.cat([x, self.temb(t)], 1))


class EMA:
    def __init__(self, model, decay=0.9999):
        self.decay = decay
        self.model = copy.deepcopy(model).eval()
        for p in self.model.parameters():
            p.requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        for e, p in zip(self.model.parameters(), model.parameters()):
            e.mul_(self.decay).add_(p, alpha=1 - self.decay)


def q_sample(x0, t, noise):
    a = abar[t][:, None]
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


data, val = stripes(2000), stripes(500)
loader = DataLoader(TensorDataset(data), batch_size=64, shuffle=True)
model = Denoiser()
ema = EMA(model)
opt = torch.optim.Adam(model.parameters(), lr=2e-3)

for epoch in range(30):
    total = 0
    for (x0,) in loader:
        t = torch.randint(0, T, (len(x0),))
        noise = torch.randn_like(x0)
        loss = F.mse_loss(model(q_sample(x0, t, noise), t), noise)
        opt.zero_grad()
        loss.backward()
        opt.step()
        ema.update(model)
        total += loss.item()
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1} loss {total / len(loader):.4f}")


@torch.no_grad()
def sample(net, n):
    x = torch.randn(n, S * S)
    for i in reversed(range(T)):
        t = torch.full((n,), i)
        eps = net(x, t)
        x0 = ((x - (1 - abar[i]).sqrt() * eps) / abar[i].sqrt()).clamp(-1, 1)
        prev = abar[i - 1] if i > 0 else torch.tensor(1.0)
        x = (prev.sqrt() * betas[i] * x0 + alphas[i].sqrt() * (1 - prev) * x) / (1 - abar[i])
        if i > 0:
            x = x + betas[i].sqrt() * torch.randn_like(x)
    return x


with torch.no_grad():
    t = torch.randint(0, T, (len(val),))
    noise = torch.randn_like(val)
    val_loss = F.mse_loss(ema.model(q_sample(val, t, noise), t), noise).item()
gen = sample(ema.model, 200)
print(f"sample std {gen.std().item():.3f} (data {data.std().item():.3f}), "
      f"distance to nearest image {torch.cdist(gen, data).min(1).values.mean().item():.3f}")
print(f"val noise loss (EMA) {val_loss:.4f}")
