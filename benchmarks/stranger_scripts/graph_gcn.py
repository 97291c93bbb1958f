import numpy as np
import torch
import torch.nn.functional as F
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

torch.manual_seed(0)
rng = np.random.default_rng(3)

# papers in 4 fields citing mostly inside their own field
N, CLASSES, FEATS = 600, 4, 16
field = rng.integers(0, CLASSES, size=N)
citations = []
for a in range(N):
    for _ in range(5):
        same = rng.random() < 0.85
        pool = np.flatnonzero(field == field[a]) if same else np.arange(N)
        b = int(rng.choice(pool))
        if b != a:
            citations.append((a, b))
            citations.append((b, a))

centers = rng.normal(size=(CLASSES, FEATS)) * 0.35
x = centers[field] + rng.normal(size=(N, FEATS))

edge_index = torch.tensor(citations, dtype=torch.long).reshape(2, -1)
data = Data(x=torch.tensor(x, dtype=torch.float32), edge_index=edge_index, y=torch.tensor(field))
perm = torch.randperm(N)
data.train_mask = torch.zeros(N, dtype=torch.bool)
data.train_mask[perm[:120]] = True
data.test_mask = ~data.train_mask
print(data)


class GCN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = GCNConv(FEATS, 32)
        self.conv2 = GCNConv(32, CLASSES)

    def forward(self, data):
        h = F.relu(self.conv1(data.x, data.edge_index))
        h = F.dropout(h, 0.5, training=self.training)
        return self.conv2(h, data.edge_index)


model = GCN()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)


def test():
    model.eval()
    with torch.no_grad():
        pred = model(data).argmax(1)
    hit = pred == data.y
    return hit[data.train_mask].float().mean().item(), hit[data.test_mask].float().mean().item()


for epoch in range(1, 76):
    model.train()
    optimizer.zero_grad()
    out = model(data)
    loss = F.cross_entropy(out[data.train_mask], data.y[data.train_mask])
    loss.backward()
    optimizer.step()
    if epoch % 25 == 0:
        train_acc, test_acc = test()
        print(f"epoch {epoch:3d} loss {loss.item():.4f} train acc {train_acc:.3f} test acc {test_acc:.3f}")
