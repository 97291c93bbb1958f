import random

import torch
import torch.nn as nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from torch.utils.data import Dataset, DataLoader

random.seed(1)
torch.manual_seed(1)

N_WORDS, N_TAGS, PAD_TAG = 60, 5, -100


def make_sentence():
    n = random.randint(4, 20)
    words = [random.randint(1, N_WORDS) for _ in range(n)]
    tags = []
    for i, w in enumerate(words):
        prev = words[i - 1] if i > 0 else 0
        tags.append((w % 4 + (1 if prev > 40 else 0)) % N_TAGS)
    return torch.tensor(words), torch.tensor(tags)


class TagDataset(Dataset):
    def __init__(self, n):
        self.items = [make_sentence() for _ in range(n)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def collate(batch):
    words, tags = zip(*batch)
    lengths = torch.tensor([len(w) for w in words])
    return (pad_sequence(words, batch_first=True),
            pad_sequence(tags, batch_first=True, padding_value=PAD_TAG),
            lengths)


class BiLSTMTagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(N_WORDS + 1, 32, padding_idx=0)
        self.lstm = nn.LSTM(32, 32, batch_first=True, bidirectional=True)
        self.out = nn.Linear(64, N_TAGS)

    def forward(self, words, lengths):
        lengths, order = lengths.sort(descending=True)
        x = self.emb(words[order])
        packed = pack_padded_sequence(x, lengths, batch_first=True)
        h, _ = self.lstm(packed)
        h, _ = pad_packed_sequence(h, batch_first=True)
        return self.out(h)


train_loader = DataLoader(TagDataset(1200), batch_size=32, shuffle=True, collate_fn=collate)
val_loader = DataLoader(TagDataset(300), batch_size=32, collate_fn=collate)

model = BiLSTMTagger()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
criterion = nn.CrossEntropyLoss(ignore_index=PAD_TAG)


def evaluate():
    model.eval()
    hit = total = 0
    with torch.no_grad():
        for words, tags, lengths in val_loader:
            pred = model(words, lengths).argmax(-1)
            keep = tags != PAD_TAG
            hit += (pred[keep] == tags[keep]).sum().item()
            total += keep.sum().item()
    return hit / total


for epoch in range(6):
    model.train()
    running = 0.0
    for words, tags, lengths in train_loader:
        logits = model(words, lengths)
        loss = criterion(logits.reshape(-1, N_TAGS), tags.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        running += loss.item()
    print(f"epoch {epoch}: train loss {running / len(train_loader):.4f}  val acc {evaluate():.3f}")

print(f"final tagging accuracy: {evaluate():.3f}")
