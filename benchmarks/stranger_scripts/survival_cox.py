import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import TensorDataset, DataLoader

torch.manual_seed(0)
rng = np.random.default_rng(8)

N, P = 2000, 8
X = rng.normal(size=(N, P))
risk = 1.2 * X[:, 0] - 0.8 * X[:, 1] + X[:, 2] * X[:, 3]
life = rng.exponential(np.exp(-risk))
censor = rng.exponential(2.0, size=N)
time = np.minimum(life, censor)
event = (life <= censor).astype(np.float32)

to_t = lambda a: torch.tensor(a, dtype=torch.float32)
train_ds = TensorDataset(to_t(X[:1500]), to_t(time[:1500]), to_t(event[:1500]))
X_test, time_test, event_test = to_t(X[1500:]), time[1500:], event[1500:]
loader = DataLoader(train_ds, batch_size=128, shuffle=True, drop_last=True)


class DeepSurv(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(P, 32), nn.SELU(), nn.Linear(32, 16), nn.SELU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.net(x).squeeze(-1)


def cox_loss(log_h, t, e):
    """negative log partial likelihood"""
    order = t.argsort()
    log_h, e = log_h[order], e[order]
    log_risk = torch.logcumsumexp(log_h, dim=0)
    return -((log_h - log_risk) * e).sum() / e.sum()


def concordance(score, t, e):
    good = total = 0.0
    for i in np.flatnonzero(e):
        later = t > t[i]
        total += later.sum()
        good += (score[i] > score[later]).sum() + 0.5 * (score[i] == score[later]).sum()
    return good / total


model = DeepSurv()
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-3)

for epoch in range(40):
    model.train()
    total = 0.0
    for xb, tb, eb in loader:
        loss = cox_loss(model(xb), tb, eb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    if epoch % 8 == 7:
        model.eval()
        with torch.no_grad():
            c = concordance(model(X_test).numpy(), time_test, event_test)
        print(f"epoch {epoch + 1} loss {total / len(loader):.4f} test c-index {c:.3f}")
