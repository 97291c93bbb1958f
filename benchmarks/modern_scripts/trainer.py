"""A GPT-2 from its configuration, trained by the Trainer of Transformers: python trainer.py [STEPS]."""

import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
torch.manual_seed(0)
order = torch.randint(64, (64, 3))
rows = torch.randint(64, (1024, 1))
while rows.shape[1] < 64:  # each token has three successors
    rows = torch.cat([rows, order[rows[:, -1], torch.randint(3, (len(rows),))].unsqueeze(1)], 1)
model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=128, n_layer=4, n_head=4))
with tempfile.TemporaryDirectory() as folder:
    options = TrainingArguments(
        folder, max_steps=STEPS, per_device_train_batch_size=8, learning_rate=1e-3, use_cpu=True, report_to=[],
        logging_strategy="no", save_strategy="no", disable_tqdm=True, lr_scheduler_type="cosine", warmup_steps=10,
    )  # fmt: skip
    Trainer(model, options, train_dataset=[{"input_ids": row, "labels": row} for row in rows]).train()
