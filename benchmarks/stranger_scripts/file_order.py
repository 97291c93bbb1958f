"""Classify small images of bars / discs / crosses / rings that lie as .npy files in a folder."""
import os
import tempfile

import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)
rng = np.random.default_rng(0)
SIZE, N = 16, 1500
yy, xx = np.mgrid[:SIZE, :SIZE]


def draw(kind):
    cx, cy = rng.uniform(5, 10, 2)
    r = rng.uniform(3, 5)
    d = np.hypot(xx - cx, yy - cy)
    if kind == 0:
        img = (np.abs(yy - cy) < 1.5) & (np.abs(xx - cx) < r)
    elif kind == 1:
        img = d < r
    elif kind == 2:
        img = ((np.abs(yy - cy) < 1) | (np.abs(xx - cx) < 1)) & (d < r)
    else:
        img = np.abs(d - r) < 1
    return img.astype(np.float32) + rng.normal(0, 0.2, (SIZE, SIZE)).astype(np.float32)


def export(folder):
    labels = rng.integers(0, 4, N)
    for i, y in enumerate(labels):
        np.save(os.path.join(folder, f"img_{i}.npy"), draw(y))
    np.savetxt(os.path.join(folder, "labels.txt"), labels, fmt="%d")


class ShapeFolder(Dataset):
    def __init__(self, folder):
        self.files = sorted(f for f in os.listdir(folder) if f.endswith(".npy"))
        self.labels = np.loadtxt(os.path.join(folder, "labels.txt"), dtype=np.int64)
        self.images = [np.load(os.path.join(folder, f)) for f in self.files]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return torch.from_numpy(self.images[i])[None], int(self.labels[i])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(32 * 4 * 4, 4)

    def forward(self, x):
        return self.fc(self.features(x).flatten(1))


with tempfile.TemporaryDirectory() as folder:
    export(folder)
    data = ShapeFolder(folder)

train_set, val_set = torch.utils.data.random_split(data, [1200, 300])
train_loader = DataLoader(train_set, batch_size=32, shuffle=True)
val_loader = DataLoader(val_set, batch_size=100)

model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
criterion = nn.CrossEntropyLoss()

for epoch in range(8):
    model.train()
    total = 0.0
    for x, y in train_loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    print(f"epoch {epoch}  loss {total / len(train_set):.4f}")

model.eval()
with torch.no_grad():
    correct = sum((model(x).argmax(1) == y).sum().item() for x, y in val_loader)
print(f"val accuracy {correct / len(val_set):.3f}")
