import numpy as np
import torch
import torch.nn as nn
from torch.utils.data import Dataset, DataLoader

torch.manual_seed(0)
rng = np.random.default_rng(0)

N_PHONES, N_MEL, BLANK = 5, 12, 0
TEMPLATES = rng.normal(size=(N_PHONES, N_MEL)).astype(np.float32)


def utterance():
    n = int(rng.integers(3, 6))
    labels = rng.integers(0, N_PHONES, size=n)
    frames = []
    for p in labels:
        for _ in range(int(rng.integers(3, 6))):
            frames.append(TEMPLATES[p])
        for _ in range(int(rng.integers(1, 3))):
            frames.append(np.zeros(N_MEL))
    frames = np.stack(frames) + rng.normal(scale=0.3, size=(len(frames), N_MEL))
    return torch.tensor(frames, dtype=torch.float32), torch.tensor(labels)


class SpeechDataset(Dataset):
    def __init__(self, n):
        self.items = [utterance() for _ in range(n)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def collate(batch):
    feats, labels = zip(*batch)
    feat_len = torch.tensor([len(f) for f in feats])
    label_len = torch.tensor([len(l) for l in labels])
    feats = nn.utils.rnn.pad_sequence(feats, batch_first=True)
    return feats, torch.cat(labels), feat_len, label_len


class AcousticModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(N_MEL, 32, 3, padding=1)
        self.rnn = nn.GRU(32, 32, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(64, N_PHONES + 1)

    def forward(self, x):
        h = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        h, _ = self.rnn(h)
        return self.fc(h).log_softmax(dim=-1)


def edit_distance(a, b):
    d = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        prev, d[0] = d[0], i
        for j, y in enumerate(b, 1):
            prev, d[j] = d[j], min(d[j] + 1, d[j - 1] + 1, prev + (x != y))
    return d[-1]


def greedy_decode(path):
    out, last = [], BLANK
    for p in path:
        if p != last and p != BLANK:
            out.append(p)
        last = p
    return out


train_loader = DataLoader(SpeechDataset(800), batch_size=32, shuffle=True, collate_fn=collate)
test_set = SpeechDataset(150)

model = AcousticModel()
ctc = nn.CTCLoss(blank=BLANK, zero_infinity=True)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

for epoch in range(8):
    model.train()
    running = 0.0
    for feats, labels, feat_len, label_len in train_loader:
        scores = model(feats).transpose(0, 1)
        loss = ctc(scores, labels, feat_len, label_len)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        running += loss.item()
    print(f"epoch {epoch} ctc loss {running / len(train_loader):.4f}")

model.eval()
errors = total = 0
with torch.no_grad():
    for feats, labels in test_set:
        hyp = greedy_decode(model(feats[None])[0].argmax(-1).tolist())
        errors += edit_distance(hyp, labels.tolist())
        total += len(labels)
print(f"phone error rate: {errors / total:.3f}")
