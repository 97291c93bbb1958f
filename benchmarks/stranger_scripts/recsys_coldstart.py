import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import TensorDataset, DataLoader

torch.manual_seed(0)
rng = np.random.default_rng(11)

N_USERS, N_OLD, N_NEW, DIM = 200, 80, 120, 4
user_taste = rng.normal(size=(N_USERS, DIM))
item_style = rng.normal(size=(N_OLD + N_NEW, DIM))


def ratings(n, lo, hi):
    u = rng.integers(0, N_USERS, size=n)
    i = rng.integers(lo, hi, size=n)
    r = (user_taste[u] * item_style[i]).sum(1) + 0.1 * rng.normal(size=n)
    return torch.tensor(u), torch.tensor(i), torch.tensor(r, dtype=torch.float32)


class MatrixFactorization(nn.Module):
    def __init__(self, n_users, n_items, dim=8):
        super().__init__()
        self.user_emb = nn.Embedding(n_users, dim)
        self.item_emb = nn.Embedding(n_items, dim)
        self.user_bias = nn.Embedding(n_users, 1)
        nn.init.normal_(self.user_emb.weight, std=0.3)
        nn.init.normal_(self.item_emb.weight, std=0.3)
        nn.init.zeros_(self.user_bias.weight)

    def grow_items(self, n_new):
        old = self.item_emb.weight.data
        grown = nn.Embedding(old.size(0) + n_new, old.size(1))
        nn.init.normal_(grown.weight, std=0.3)
        grown.weight.data[: old.size(0)] = old
        self.item_emb = grown

    def forward(self, u, i):
        return (self.user_emb(u) * self.item_emb(i)).sum(1) + self.user_bias(u).squeeze(1)


def train(model, optimizer, loader, epochs, name):
    model.train()
    for epoch in range(epochs):
        running = 0.0
        for u, i, r in loader:
            loss = nn.functional.mse_loss(model(u, i), r)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            running += loss.item()
        print(f"{name} epoch {epoch}: mse {running / len(loader):.4f}")


model = MatrixFactorization(N_USERS, N_OLD)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

# season one: the old catalogue
loader = DataLoader(TensorDataset(*ratings(6000, 0, N_OLD)), batch_size=128, shuffle=True)
train(model, optimizer, loader, 6, "season 1")

# season two: new items arrive
model.grow_items(N_NEW)
loader = DataLoader(TensorDataset(*ratings(9000, 0, N_OLD + N_NEW)), batch_size=128, shuffle=True)
train(model, optimizer, loader, 10, "season 2")

model.eval()
with torch.no_grad():
    u, i, r = ratings(3000, 0, N_OLD + N_NEW)
    mse = nn.functional.mse_loss(model(u, i), r).item()
    u, i, r = ratings(3000, N_OLD, N_OLD + N_NEW)
    mse_new = nn.functional.mse_loss(model(u, i), r).item()
print(f"test mse all items {mse:.3f}, new items {mse_new:.3f}, rating variance {r.var().item():.3f}")
