"""Multi-label tagging: every image holds a random subset of ten small glyphs."""
import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(11)
rng = np.random.default_rng(11)
TAGS, S = 10, 12
glyphs = rng.normal(0, 1, (TAGS, S, S))


class TaggedImages(Dataset):
    def __init__(self, n):
        self.images, self.tags = [], []
        self.target = np.zeros(TAGS, np.float32)
        for _ in range(n):
            k = rng.integers(1, 4)
            tags = rng.choice(TAGS, k, replace=False)
            img = glyphs[tags].sum(0) + rng.normal(0, 0.8, (S, S))
            self.images.append(img.astype(np.float32)[None])
            self.tags.append(tags)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        target = self.target
        target[self.tags[i]] = 1.0
        return self.images[i], target


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(S * S, 96), nn.BatchNorm1d(96), nn.ReLU(),
                                 nn.Dropout(0.1), nn.Linear(96, TAGS))

    def forward(self, x):
        return self.net(x)


train, val = TaggedImages(2000), TaggedImages(400)
loader = DataLoader(train, batch_size=50, shuffle=True)
model = Tagger()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
criterion = nn.BCEWithLogitsLoss()

for epoch in range(10):
    model.train()
    total = 0
    for x, y in loader:
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch} bce {total / len(loader):.4f}")

model.eval()
with torch.no_grad():
    prob = torch.sigmoid(model(torch.from_numpy(np.stack(val.images)))).numpy()
tp = fp = fn = 0
for p, tags in zip(prob, val.tags):
    found, true = set(np.flatnonzero(p > 0.5)), set(tags)
    tp += len(found & true)
    fp += len(found - true)
    fn += len(true - found)
print(f"val micro F1 {2 * tp / (2 * tp + fp + fn):.3f}")
