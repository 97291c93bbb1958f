"""Knowledge distillation: a trained teacher labels unlabelled images for a smaller student."""
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(9)
rng = np.random.default_rng(9)
S, CLASSES = 12, 8
MEAN, STD = 0.52, 0.06
glyphs = rng.normal(0, 1, (CLASSES, S, S))


def photos(n):
    y = rng.integers(0, CLASSES, n)
    x = 0.5 + 0.03 * glyphs[y] + rng.normal(0, 0.05, (n, S, S))
    x = np.clip(x + rng.normal(0.02, 0.02, (n, 1, 1)), 0, 1)
    return torch.tensor(x[:, None], dtype=torch.float32), torch.tensor(y)


def normalize(x):
    return (x - MEAN) / STD


def make_net(c):
    return nn.Sequential(
        nn.Conv2d(1, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c, 2 * c, 3, padding=1), nn.BatchNorm2d(2 * c), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * c * 9, CLASSES))


@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    return (net(x).argmax(1) == y).float().mean().item()


x_lab, y_lab = photos(800)
x_unl, _ = photos(1600)
x_test, y_test = photos(500)

teacher = make_net(16)
opt = torch.optim.Adam(teacher.parameters(), lr=3e-3)
for epoch in range(5):
    teacher.train()
    for x, y in DataLoader(TensorDataset(x_lab, y_lab), batch_size=64, shuffle=True):
        loss = F.cross_entropy(teacher(normalize(x)), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
print(f"teacher accuracy {accuracy(teacher, normalize(x_test), y_test):.3f}")

student = make_net(6)
opt = torch.optim.Adam(student.parameters(), lr=3e-3)
loader = DataLoader(TensorDataset(x_unl), batch_size=64, shuffle=True)
TEMP = 3.0
teacher.eval()
for epoch in range(8):
    student.train()
    total = 0
    for (x,) in loader:
        with torch.no_grad():
            t_logits = teacher(x)
        s_logits = student(normalize(x))
        loss = F.kl_div(F.log_softmax(s_logits / TEMP, 1), F.softmax(t_logits / TEMP, 1),
                        reduction="batchmean") * TEMP ** 2
        opt.zero_grad()
        loss.backward()
        opt.step()
        total += loss.item()
    print(f"epoch {epoch} distillation loss {total / len(loader):.4f}")

print(f"student accuracy {accuracy(student, normalize(x_test), y_test):.3f}")
