"""Batch-hard triplet loss embedding of noisy pattern images."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(4)
rng = np.random.default_rng(4)
IDS, S = 20, 10
base = rng.normal(0, 1, (IDS, S, S))


class Patterns(Dataset):
    def __init__(self, per_id):
        self.y = np.repeat(np.arange(IDS), per_id)
        x = 0.5 * base[self.y] + rng.normal(0, 0.7, (len(self.y), S, S))
        x = x + rng.normal(0, 1.5, (len(self.y), 1, S))
        self.x = x.astype(np.float32)[:, None]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


class Embedder(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(S * S, 128), nn.BatchNorm1d(128), nn.ReLU(),
                                 nn.Linear(128, dim))

    def forward(self, x):
        return self.net(x)


class BatchHardTriplet(nn.Module):
    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin

    def forward(self, emb, labels):
        sq = (emb[:, None] - emb[None]).pow(2).sum(-1)
        dist = (sq + 1e-8).sqrt()
        same = labels[:, None] == labels[None]
        hardest_pos = (dist * same).max(dim=1).values
        hardest_neg = (dist * ~same).min(dim=1).values
        return torch.relu(hardest_pos - hardest_neg + self.margin).mean()


train, gallery, query = Patterns(60), Patterns(10), Patterns(10)
loader = DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
model = Embedder()
criterion = BatchHardTriplet()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

for epoch in range(20):
    model.train()
    total = 0.0
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    if epoch % 2 == 1:
        print(f"epoch {epoch + 1} triplet loss {total / len(loader):.4f}")

model.eval()
with torch.no_grad():
    eg = model(torch.from_numpy(gallery.x))
    eq = model(torch.from_numpy(query.x))
nearest = torch.cdist(eq, eg).argmin(1).numpy()
print(f"recall@1 {np.mean(gallery.y[nearest] == query.y):.3f}")
