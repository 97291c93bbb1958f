"""Single-object localisation: regress (x1, y1, x2, y2) of a bright rectangle with an IoU loss."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(2)
np.random.seed(2)
S = 32


class Rectangles(Dataset):
    def __init__(self, n):
        self.items = []
        for _ in range(n):
            w, h = np.random.randint(8, 16, 2)
            x, y = np.random.randint(2, S - w), np.random.randint(2, S - h)
            img = np.random.normal(0, 0.15, (1, S, S)).astype(np.float32)
            img[0, y:y + h, x:x + w] += 1.0
            box = np.array([x, y, x + w, y + h], np.float32) / S
            self.items.append((img, box))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


class Localizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


def pair_terms(p, t):
    lt = torch.maximum(p[:, :2], t[:, :2])
    rb = torch.minimum(p[:, 2:], t[:, 2:])
    wh = (rb - lt).clamp(min=0)
    inter = wh[:, 0] * wh[:, 1]
    area_p = (p[:, 2] - p[:, 0]).clamp(min=0) * (p[:, 3] - p[:, 1]).clamp(min=0)
    area_t = (t[:, 2] - t[:, 0]) * (t[:, 3] - t[:, 1])
    return inter, area_p + area_t - inter


def iou(p, t):
    inter, union = pair_terms(p, t)
    return inter / (union + 1e-7)


def box_loss(p, t):
    return (1 - iou(p, t)).mean()


train, val = Rectangles(1000), Rectangles(200)
train_loader = DataLoader(train, batch_size=32, shuffle=True)
val_loader = DataLoader(val, batch_size=200)
model = Localizer()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

for epoch in range(12):
    losses = []
    for img, box in train_loader:
        optimizer.zero_grad()
        loss = box_loss(model(img), box)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch:2d} loss {np.mean(losses):.4f}")

model.eval()
with torch.no_grad():
    img, box = next(iter(val_loader))
    print(f"val mean IoU {iou(model(img), box).mean().item():.3f}")
