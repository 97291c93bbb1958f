import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import TensorDataset, DataLoader

torch.manual_seed(0)
rng = np.random.default_rng(2)

# four kinds of machine, each with its own linear response to the settings
N, KINDS, P = 4000, 4, 6
kind = rng.integers(0, KINDS, size=N)
signature = rng.normal(size=(KINDS, 8)) * 1.5
sensors = signature[kind] + 0.3 * rng.normal(size=(N, 8))
settings = rng.normal(size=(N, P))
response = rng.normal(size=(KINDS, P))
y = (settings * response[kind]).sum(1) + 0.05 * rng.normal(size=N)

s = torch.tensor(sensors, dtype=torch.float32)
x = torch.tensor(settings, dtype=torch.float32)
y = torch.tensor(y, dtype=torch.float32)
train_loader = DataLoader(TensorDataset(s[:3200], x[:3200], y[:3200]), batch_size=64, shuffle=True)


class MoE(nn.Module):
    def __init__(self, n_experts=8):
        super().__init__()
        self.router = nn.Linear(8, n_experts)
        self.experts = nn.ModuleList(nn.Linear(P, 1) for _ in range(n_experts))

    def forward(self, s, x):
        gate = self.router(s).softmax(-1)
        top, idx = gate.topk(2, dim=-1)
        outs = torch.stack([e(x).squeeze(-1) for e in self.experts], dim=1)
        return outs.gather(1, idx).mean(1), gate


model = MoE()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

for epoch in range(15):
    model.train()
    running = 0.0
    for sb, xb, yb in train_loader:
        pred, gate = model(sb, xb)
        loss = nn.functional.mse_loss(pred, yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
    print(f"epoch {epoch:2d} mse {running / len(train_loader):.4f}")

model.eval()
with torch.no_grad():
    pred, gate = model(s[3200:], x[3200:])
    mse = nn.functional.mse_loss(pred, y[3200:]).item()
    share = torch.bincount(gate.argmax(-1), minlength=8) / len(pred)
print("expert shares", [round(v, 2) for v in share.tolist()])
print(f"test mse {mse:.4f}  (target variance {y[3200:].var().item():.3f})")
