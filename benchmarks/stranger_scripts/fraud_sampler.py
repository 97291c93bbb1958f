import numpy as np
import torch
import torch.nn as nn
from sklearn.datasets import make_classification
from sklearn.metrics import roc_auc_score, balanced_accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import TensorDataset, DataLoader, WeightedRandomSampler

torch.manual_seed(0)
np.random.seed(0)

X, y = make_classification(n_samples=5000, n_features=20, n_informative=8, n_redundant=4,
                           weights=[0.95, 0.05], flip_y=0.0, class_sep=1.2, random_state=4)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
scaler = StandardScaler().fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)

train_ds = TensorDataset(torch.tensor(X_train, dtype=torch.float32), torch.tensor(y_train, dtype=torch.float32))
X_test_t = torch.tensor(X_test, dtype=torch.float32)

class_counts = np.bincount(y_train)
class_weights = torch.tensor(1.0 / class_counts, dtype=torch.double)
sampler = WeightedRandomSampler(class_weights, num_samples=len(train_ds), replacement=True)
train_loader = DataLoader(train_ds, batch_size=64, sampler=sampler)


class FraudNet(nn.Module):
    def __init__(self, n_in):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_in, 64), nn.ReLU(), nn.Dropout(0.1),
            nn.Linear(64, 32), nn.ReLU(),
            nn.Linear(32, 1),
        )

    def forward(self, x):
        return self.layers(x).squeeze(-1)


model = FraudNet(X_train.shape[1])
criterion = nn.BCEWithLogitsLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)

for epoch in range(8):
    model.train()
    total = 0.0
    for xb, yb in train_loader:
        optimizer.zero_grad()
        loss = criterion(model(xb), yb)
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch + 1:2d}  loss {total / len(train_loader):.5f}")

model.eval()
with torch.no_grad():
    scores = torch.sigmoid(model(X_test_t)).numpy()
print(f"test AUC {roc_auc_score(y_test, scores):.3f}  "
      f"balanced accuracy {balanced_accuracy_score(y_test, scores > 0.5):.3f}")
