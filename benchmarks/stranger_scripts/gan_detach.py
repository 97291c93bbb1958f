"""Small GAN that should learn to draw bright squares on a dark ground."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(6)
rng = np.random.default_rng(6)
S, Z = 8, 16


def squares(n):
    img = np.full((n, S, S), -0.8)
    for i in range(n):
        x, y = rng.integers(1, 4, 2)
        img[i, y:y + 4, x:x + 4] = 0.8
    img += rng.normal(0, 0.05, img.shape)
    return torch.tensor(img.reshape(n, -1), dtype=torch.float32)


G = nn.Sequential(nn.Linear(Z, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, S * S), nn.Tanh())
D = nn.Sequential(nn.Linear(S * S, 64), nn.LeakyReLU(0.2), nn.Linear(64, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
opt_g = torch.optim.Adam(G.parameters(), lr=2e-3, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(D.parameters(), lr=5e-4, betas=(0.5, 0.999))
bce = nn.BCEWithLogitsLoss()

real_data = squares(2000)
loader = DataLoader(TensorDataset(real_data), batch_size=64, shuffle=True, drop_last=True)

for epoch in range(16):
    sum_d = sum_g = 0.0
    for (real,) in loader:
        b = len(real)
        ones, zeros = torch.ones(b, 1), torch.zeros(b, 1)

        fake = G(torch.randn(b, Z)).detach()
        opt_d.zero_grad()
        loss_d = bce(D(real), ones) + bce(D(fake), zeros)
        loss_d.backward()
        opt_d.step()

        opt_g.zero_grad()
        loss_g = bce(D(fake), ones)
        loss_g.backward()
        opt_g.step()
        sum_d += loss_d.item()
        sum_g += loss_g.item()
    if epoch % 2 == 1:
        print(f"epoch {epoch + 1:2d}  D {sum_d / len(loader):.3f}  G {sum_g / len(loader):.3f}")

with torch.no_grad():
    samples = G(torch.randn(500, Z))
    nearest = torch.cdist(samples, real_data).min(1).values
print(f"mean distance of a sample to its nearest real image {nearest.mean().item():.3f}")
