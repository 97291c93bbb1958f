import numpy as np
import torch
from torch.utils.data import Dataset, DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
rng = np.random.default_rng(0)

VOCAB, SEQ_LEN = 24, 32
# each note has three likely followers, with a clear favourite
FOLLOW = np.stack([rng.permutation(VOCAB)[:3] for _ in range(VOCAB)])


def sample_melody(length):
    seq = [int(rng.integers(VOCAB))]
    while len(seq) < length:
        seq.append(int(rng.choice(FOLLOW[seq[-1]], p=[0.8, 0.12, 0.08])))
    return seq


class MelodyDataset(Dataset):
    def __init__(self, n):
        self.data = torch.tensor([sample_melody(SEQ_LEN + 1) for _ in range(n)])

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        notes = self.data[i]
        return {"input_ids": notes[:-1], "labels": notes[1:]}


train_loader = DataLoader(MelodyDataset(512), batch_size=32, shuffle=True)
test = torch.tensor([sample_melody(SEQ_LEN) for _ in range(200)])

config = GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=48, n_layer=2, n_head=4,
                    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
                    bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

for epoch in range(5):
    model.train()
    total = 0.0
    for batch in train_loader:
        out = model(input_ids=batch["input_ids"], labels=batch["labels"])
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        total += out.loss.item()
    print(f"epoch {epoch} loss {total / len(train_loader):.4f}")

model.eval()
with torch.no_grad():
    logits = model(input_ids=test).logits
    pred = logits[:, :-1].argmax(-1)
    acc = (pred == test[:, 1:]).float().mean().item()
print(f"next-note accuracy on held-out melodies: {acc:.3f}")
