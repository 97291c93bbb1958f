import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import TensorDataset, DataLoader

torch.manual_seed(0)
rng = np.random.default_rng(7)

# pump pressure logged once a second; the pump runs through a 30 second cycle
START = 1_700_000_000
CYCLE = 30.0
timestamps = START + np.sort(rng.choice(20_000, size=6000, replace=False))
load = rng.uniform(0.5, 1.5, size=6000)
phase = 2 * np.pi * (timestamps % CYCLE) / CYCLE
pressure = load * np.sin(phase) + 0.5 * np.cos(2 * phase) + 0.05 * rng.normal(size=6000)


def time_features(ts):
    t = torch.as_tensor(ts, dtype=torch.float32)
    angle = 2 * np.pi * torch.remainder(t, CYCLE) / CYCLE
    return torch.stack([angle.sin(), angle.cos()], dim=1)


features = torch.cat([time_features(timestamps),
                      torch.tensor(load, dtype=torch.float32).unsqueeze(1)], dim=1)
target = torch.tensor(pressure, dtype=torch.float32).unsqueeze(1)

split = 5000
train_loader = DataLoader(TensorDataset(features[:split], target[:split]), batch_size=64, shuffle=True)
x_test, y_test = features[split:], target[split:]


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x):
        return self.net(x)


model = Forecaster()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
criterion = nn.MSELoss()

for epoch in range(15):
    model.train()
    running = 0.0
    for xb, yb in train_loader:
        loss = criterion(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item() * len(xb)
    print(f"epoch {epoch:2d} train mse {running / split:.4f}")

model.eval()
with torch.no_grad():
    mse = criterion(model(x_test), y_test).item()
print(f"test mse {mse:.4f}  (variance of the target {y_test.var().item():.4f})")
