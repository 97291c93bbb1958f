"""Variational autoencoder on blob images."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(5)
rng = np.random.default_rng(5)
S, LATENT = 16, 6


def blobs(n):
    yy, xx = np.mgrid[:S, :S]
    c = rng.uniform(3, 13, (n, 2, 1, 1))
    w = rng.uniform(1.5, 3.5, (n, 1, 1))
    img = np.exp(-((yy - c[:, 0]) ** 2 + (xx - c[:, 1]) ** 2) / (2 * w ** 2))
    return torch.tensor(img.reshape(n, -1), dtype=torch.float32)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Linear(S * S, 128), nn.ReLU())
        self.mu = nn.Linear(128, LATENT)
        self.logvar = nn.Linear(128, LATENT)
        self.dec = nn.Sequential(nn.Linear(LATENT, 128), nn.ReLU(), nn.Linear(128, S * S), nn.Sigmoid())

    def forward(self, x):
        h = self.enc(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.dec(z), mu, logvar


def vae_loss(recon, x, mu, logvar):
    bce = F.binary_cross_entropy(recon, x)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


x_train, x_val = blobs(2000), blobs(300)
loader = DataLoader(TensorDataset(x_train), batch_size=64, shuffle=True)
model = VAE()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

for epoch in range(15):
    model.train()
    total = 0
    for (x,) in loader:
        recon, mu, logvar = model(x)
        loss = vae_loss(recon, x, mu, logvar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    if epoch % 3 == 2:
        print(f"epoch {epoch + 1}: loss {total / len(loader):.4f}")

model.eval()
with torch.no_grad():
    recon, mu, _ = model(x_val)
mse = F.mse_loss(recon, x_val).item()
print(f"val reconstruction R2 {1 - mse / x_val.sub(x_val.mean(0)).pow(2).mean().item():.3f}  mse {mse:.5f}")
