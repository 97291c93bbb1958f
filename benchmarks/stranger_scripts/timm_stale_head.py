"""Train a new head on a frozen timm network for a made 5-class set."""
import numpy as np
import timm
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(10)
rng = np.random.default_rng(10)
S, CLASSES = 32, 5


def images(n):
    y = rng.integers(0, CLASSES, n)
    yy, xx = np.mgrid[:S, :S] / S
    angle = np.pi * y / CLASSES + rng.normal(0, 0.06, n)
    a = angle[:, None, None]
    wave = np.sin(2 * np.pi * 5 * (np.cos(a) * xx + np.sin(a) * yy) + rng.uniform(0, 6.28, (n, 1, 1)))
    x = wave[:, None] * rng.uniform(0.5, 1.0, (n, 3, 1, 1)) + rng.normal(0, 0.3, (n, 3, S, S))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


model = timm.create_model("test_resnet", pretrained=False, num_classes=1000)

for p in model.parameters():
    p.requires_grad = False
for p in model.get_classifier().parameters():
    p.requires_grad = True

params = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(params, lr=1e-2, weight_decay=1e-4)
model.reset_classifier(CLASSES)

x_train, y_train = images(1000)
x_val, y_val = images(300)
loader = DataLoader(TensorDataset(x_train, y_train), batch_size=50, shuffle=True)
criterion = nn.CrossEntropyLoss()

for epoch in range(8):
    model.train()
    total = 0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} loss {total / len(loader):.4f}")

model.eval()
with torch.no_grad():
    acc = (model(x_val).argmax(1) == y_val).float().mean().item()
print(f"val accuracy {acc:.3f}")
