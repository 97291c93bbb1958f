import numpy as np
import torch
import torch.nn as nn
from sklearn.preprocessing import LabelEncoder
from torch.utils.data import Dataset, DataLoader

torch.manual_seed(0)
rng = np.random.default_rng(5)

CITIES = np.array([f"city_{i:03d}" for i in range(60)])
BRANDS = np.array([f"brand_{i:02d}" for i in range(40)])
city_price = rng.normal(size=60)
city_click = rng.normal(size=60)
brand_price = rng.normal(size=40)
brand_click = rng.normal(size=40)


def make_table(n, cities, brands):
    c = rng.choice(cities, size=n)
    b = rng.choice(brands, size=n)
    age = rng.normal(size=n)
    price = city_price[c] + brand_price[b] + 0.3 * age + 0.1 * rng.normal(size=n)
    click = (2 * city_click[c] + 2 * brand_click[b] - 0.5 * age + 0.3 * rng.normal(size=n)) > 0
    return {"city": CITIES[c], "brand": BRANDS[b], "age": age, "price": price, "click": click.astype(float)}


train = make_table(5000, np.arange(60), np.arange(40))
# last week's data: not every city and brand turned up
valid = make_table(1200, np.sort(rng.permutation(60)[:45]), np.sort(rng.permutation(40)[:30]))

encoders = {"city": LabelEncoder(), "brand": LabelEncoder()}


def encode(table, fit):
    cols = []
    for name in ("city", "brand"):
        enc = encoders[name]
        cols.append(enc.fit_transform(table[name]) if fit else enc.transform(table[name]))
    return np.stack(cols, axis=1)


class AdsDataset(Dataset):
    def __init__(self, table, fit):
        self.cat = torch.as_tensor(encode(table, fit), dtype=torch.long)
        self.age = torch.tensor(table["age"], dtype=torch.float32)
        self.price = torch.tensor(table["price"], dtype=torch.float32)
        self.click = torch.tensor(table["click"], dtype=torch.float32)

    def __len__(self):
        return len(self.cat)

    def __getitem__(self, i):
        return self.cat[i], self.age[i], self.price[i], self.click[i]


class MultiTaskNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.city = nn.Embedding(60, 8)
        self.brand = nn.Embedding(40, 8)
        self.body = nn.Sequential(nn.Linear(17, 64), nn.ReLU())
        self.price_head = nn.Linear(64, 1)
        self.click_head = nn.Linear(64, 1)

    def forward(self, cat, age):
        h = torch.cat([self.city(cat[:, 0]), self.brand(cat[:, 1]), age[:, None]], dim=1)
        h = self.body(h)
        return self.price_head(h).squeeze(1), self.click_head(h).squeeze(1)


train_ds = AdsDataset(train, fit=True)
valid_ds = AdsDataset(valid, fit=True)
train_loader = DataLoader(train_ds, batch_size=64, shuffle=True)
valid_loader = DataLoader(valid_ds, batch_size=256)

model = MultiTaskNet()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
mse, bce = nn.MSELoss(), nn.BCEWithLogitsLoss()

for epoch in range(8):
    model.train()
    train_loss = 0.0
    for cat, age, price, click in train_loader:
        p, c = model(cat, age)
        loss = mse(p, price) + bce(c, click)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        train_loss += loss.item() * len(cat)

    model.eval()
    err = hits = 0.0
    with torch.no_grad():
        for cat, age, price, click in valid_loader:
            p, c = model(cat, age)
            err += ((p - price) ** 2).sum().item()
            hits += ((c > 0) == (click > 0.5)).sum().item()
    print(f"epoch {epoch} train loss {train_loss / len(train_ds):.4f}  "
          f"valid price mse {err / len(valid_ds):.4f}  click acc {hits / len(valid_ds):.3f}")
