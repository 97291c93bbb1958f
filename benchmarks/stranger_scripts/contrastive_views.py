"""SimCLR-style pretraining on made images, then a kNN probe on the frozen encoder."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(3)
SEED, S, CLASSES = 3, 12, 6

proto = np.random.default_rng(SEED).normal(0, 1, (CLASSES, 3, S, S)).astype(np.float32)


def make_images(n, seed):
    r = np.random.default_rng(seed)
    y = r.integers(0, CLASSES, n)
    x = 0.35 * proto[y] + r.normal(0, 0.35, (n, 3, S, S))
    x = x * r.uniform(0.5, 1.5, (n, 3, 1, 1)) + r.normal(0, 2.0, (n, 3, 1, 1))
    return x.astype(np.float32), y


class TwoViews(Dataset):
    def __init__(self, images, seed=0):
        self.images = images
        self.seed = seed

    def augment(self, img, idx):
        rng = np.random.default_rng(self.seed + idx)
        out = img * rng.uniform(0.5, 1.5, (3, 1, 1)) + rng.normal(0, 2.0, (3, 1, 1))
        out = out + rng.normal(0, 0.35, img.shape)
        return out.astype(np.float32)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, idx):
        img = self.images[idx]
        return self.augment(img, idx), self.augment(img, idx)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * S * S, 128), nn.ReLU(), nn.Linear(128, 32))
        self.proj = nn.Sequential(nn.ReLU(), nn.Linear(32, 32))

    def forward(self, x):
        h = self.body(x)
        return h, F.normalize(self.proj(h), dim=1)


def nt_xent(z1, z2, tau=0.2):
    z = torch.cat([z1, z2])
    sim = z @ z.t() / tau
    sim.fill_diagonal_(-1e9)
    n = len(z1)
    target = torch.cat([torch.arange(n) + n, torch.arange(n)])
    return F.cross_entropy(sim, target)


x_train, y_train = make_images(1200, 10)
x_test, y_test = make_images(400, 11)
loader = DataLoader(TwoViews(x_train), batch_size=128, shuffle=True, drop_last=True)
enc = Encoder()
opt = torch.optim.Adam(enc.parameters(), lr=1e-3)

for epoch in range(12):
    total = 0
    for a, b in loader:
        loss = nt_xent(enc(a)[1], enc(b)[1])
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item()
    print(f"epoch {epoch:2d} nt-xent {total / len(loader):.4f}")

enc.eval()
with torch.no_grad():
    h_tr = F.normalize(enc(torch.from_numpy(x_train))[0], dim=1)
    h_te = F.normalize(enc(torch.from_numpy(x_test))[0], dim=1)
nearest = (h_te @ h_tr.t()).topk(5, dim=1).indices.numpy()
votes = np.array([np.bincount(y_train[row], minlength=CLASSES).argmax() for row in nearest])
print(f"kNN accuracy {np.mean(votes == y_test):.3f}")
