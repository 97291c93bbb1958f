"""Semantic segmentation of synthetic cells: background / body / nucleus."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(1)
rng = np.random.default_rng(1)
S, NUM_CLASSES = 32, 3


def make(n):
    yy, xx = np.mgrid[:S, :S]
    imgs, masks = [], []
    for _ in range(n):
        mask = np.zeros((S, S), np.int64)
        for _ in range(rng.integers(1, 4)):
            cx, cy = rng.uniform(6, S - 6, 2)
            r = rng.uniform(4, 8)
            d = np.hypot(xx - cx, yy - cy)
            mask[d < r] = 1
            mask[d < r * 0.5] = 2
        img = np.array([0.1, 0.5, 0.9])[mask] + rng.normal(0, 0.12, (S, S))
        imgs.append(img[None])
        masks.append(mask)
    return torch.tensor(np.array(imgs), dtype=torch.float32), torch.tensor(np.array(masks))


class MiniUNet(nn.Module):
    def __init__(self, c=12):
        super().__init__()
        self.d1 = self.block(1, c)
        self.d2 = self.block(c, 2 * c)
        self.u1 = self.block(3 * c, c)
        self.out = nn.Conv2d(c, NUM_CLASSES, 1)

    @staticmethod
    def block(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU())

    def forward(self, x):
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        b = F.interpolate(b, scale_factor=2, mode="nearest")
        return self.out(self.u1(torch.cat([a, b], 1)))


x_train, m_train = make(400)
x_val, m_val = make(100)
loader = DataLoader(TensorDataset(x_train, m_train), batch_size=16, shuffle=True)

net = MiniUNet()
opt = torch.optim.AdamW(net.parameters(), lr=3e-3)

for epoch in range(6):
    net.train()
    running = 0
    for img, mask in loader:
        logits = net(img)
        logits = logits.view(-1, NUM_CLASSES)
        loss = F.cross_entropy(logits, mask.view(-1))
        opt.zero_grad()
        loss.backward()
        opt.step()
        running += loss.item()
    print(f"epoch {epoch + 1}: train loss {running / len(loader):.4f}")

net.eval()
with torch.no_grad():
    pred = net(x_val).argmax(1)
ious = []
for k in range(NUM_CLASSES):
    inter = ((pred == k) & (m_val == k)).sum().item()
    union = ((pred == k) | (m_val == k)).sum().item()
    ious.append(inter / max(union, 1))
print("IoU per class", [round(v, 3) for v in ious])
print(f"val mIoU {np.mean(ious):.3f}")
