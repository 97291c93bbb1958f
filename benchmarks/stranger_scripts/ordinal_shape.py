"""Ordinal grading of images (severity 0..5) treated as a regression that is rounded."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(12)
rng = np.random.default_rng(12)
S, GRADES = 16, 6


def scans(n):
    y = rng.integers(0, GRADES, n)
    yy, xx = np.mgrid[:S, :S]
    x = rng.normal(0, 0.2, (n, 1, S, S))
    for i in range(n):
        for _ in range(2 * y[i]):
            cx, cy = rng.uniform(1, S - 1, 2)
            x[i, 0] += np.exp(-((xx - cx) ** 2 + (yy - cy) ** 2) / 2.0)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


class Grader(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                                  nn.Conv2d(12, 24, 3, padding=1), nn.ReLU())
        self.fc = nn.Linear(24, 1)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def smooth_mae(pred, target, eps=0.1):
    diff = pred - target
    return (diff.pow(2) + eps ** 2).sqrt().mean()


x_train, y_train = scans(1200)
x_val, y_val = scans(300)
loader = DataLoader(TensorDataset(x_train, y_train), batch_size=32, shuffle=True)
model = Grader()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

for epoch in range(12):
    model.train()
    total = 0
    for x, y in loader:
        loss = smooth_mae(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch:2d} loss {total / len(loader):.4f}")

model.eval()
with torch.no_grad():
    grade = model(x_val).flatten().round().clamp(0, GRADES - 1)
print(f"val exact {(grade == y_val).float().mean().item():.3f}")
print(f"val MAE {(grade - y_val).abs().mean().item():.3f}")
