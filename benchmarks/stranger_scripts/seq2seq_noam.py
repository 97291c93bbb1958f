import math

import torch
import torch.nn as nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, DataLoader

torch.manual_seed(3)

PAD, BOS, EOS = 0, 1, 2
SRC_VOCAB, D_MODEL, WARMUP = 19, 32, 100
MAPPING = torch.randperm(16) + 3


class ToyTranslation(Dataset):
    """The target is the source sentence word by word in the other language, back to front."""

    def __init__(self, n, length=6):
        self.src = torch.randint(3, SRC_VOCAB, (n, length))
        body = MAPPING[self.src - 3].flip(1)
        bos = torch.full((n, 1), BOS)
        eos = torch.full((n, 1), EOS)
        self.tgt = torch.cat([bos, body, eos], dim=1)

    def __len__(self):
        return len(self.src)

    def __getitem__(self, i):
        return self.src[i], self.tgt[i]


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.src_emb = nn.Embedding(SRC_VOCAB, D_MODEL)
        self.tgt_emb = nn.Embedding(SRC_VOCAB, D_MODEL)
        pos = torch.arange(32).unsqueeze(1)
        div = torch.exp(torch.arange(0, D_MODEL, 2) * (-math.log(10000.0) / D_MODEL))
        pe = torch.zeros(32, D_MODEL)
        pe[:, 0::2] = torch.sin(pos * div)
        pe[:, 1::2] = torch.cos(pos * div)
        self.register_buffer("pe", pe)
        self.transformer = nn.Transformer(D_MODEL, nhead=4, num_encoder_layers=1, num_decoder_layers=1,
                                          dim_feedforward=64, dropout=0.0, batch_first=True)
        self.out = nn.Linear(D_MODEL, SRC_VOCAB)

    def forward(self, src, tgt):
        mask = nn.Transformer.generate_square_subsequent_mask(tgt.size(1))
        s = self.src_emb(src) + self.pe[: src.size(1)]
        t = self.tgt_emb(tgt) + self.pe[: tgt.size(1)]
        return self.out(self.transformer(s, t, tgt_mask=mask))


def noam(step):
    step = max(step, 1)
    return D_MODEL ** -0.5 * min(step ** -0.5, step * WARMUP ** -1.5)


train_loader = DataLoader(ToyTranslation(2048), batch_size=64, shuffle=True)
val = ToyTranslation(300)

model = Translator()
criterion = nn.CrossEntropyLoss(ignore_index=PAD)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9)
scheduler = LambdaLR(optimizer, lr_lambda=noam)

for epoch in range(9):
    model.train()
    running = 0.0
    for src, tgt in train_loader:
        logits = model(src, tgt[:, :-1])
        loss = criterion(logits.reshape(-1, SRC_VOCAB), tgt[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        running += loss.item()
    print(f"epoch {epoch} loss {running / len(train_loader):.4f}")

model.eval()
with torch.no_grad():
    ys = torch.full((len(val.src), 1), BOS)
    for _ in range(val.tgt.size(1) - 1):
        nxt = model(val.src, ys)[:, -1].argmax(-1, keepdim=True)
        ys = torch.cat([ys, nxt], dim=1)
    token_acc = (ys[:, 1:-1] == val.tgt[:, 1:-1]).float().mean().item()
print(f"greedy translation token accuracy: {token_acc:.3f}")
