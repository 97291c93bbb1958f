"""The command `unstuck` with Lightning, the Hugging Face Trainer, Accelerate and torchrun: the same results."""

import json
import os
import subprocess
import sys

import pytest
from support.launched import launched

pytestmark = [pytest.mark.integration]

BEGIN = """
import os, sys
import torch
from torch import nn

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 240
    def __getitem__(self, i):
        x = torch.sin(torch.arange(8.0) * (i + 1))
        return {"x": x, "labels": (x.sum() > 0).long()}

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(*[m for _ in range(DEPTH) for m in (nn.Linear(8, 8), nn.Sigmoid())], nn.Linear(8, 2))
    def forward(self, x, labels):
        outputs = self.body(x)
        return {"loss": nn.functional.cross_entropy(outputs, labels), "logits": outputs}

torch.manual_seed(0)
DEPTH = int(sys.argv[1])
"""

LIGHTNING = """
import lightning

class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = Network()
    def training_step(self, batch, index):
        return self.network(**batch)["loss"]
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())

model = Module()
lightning.seed_everything(1, verbose=False)
trainer = lightning.Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False,
                            enable_model_summary=False, enable_checkpointing=False, gradient_clip_val=1.0)
trainer.fit(model, torch.utils.data.DataLoader(Data(), batch_size=40, shuffle=True))
"""

TRAINER = """
from transformers import Trainer, TrainingArguments

model = Network()
arguments = TrainingArguments("out", num_train_epochs=4, per_device_train_batch_size=20, report_to=[], use_cpu=True,
                              gradient_accumulation_steps=2, save_strategy="no", disable_tqdm=True)
Trainer(model, arguments, train_dataset=Data()).train()
"""

ACCELERATE = """
from accelerate import Accelerator

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = Network()
loader = torch.utils.data.DataLoader(Data(), batch_size=20, shuffle=True)
wrapped, optimizer, loader = accelerator.prepare(model, torch.optim.Adam(model.parameters()), loader)
for _ in range(4):
    for batch in loader:
        with accelerator.accumulate(wrapped):
            accelerator.backward(wrapped(**batch)["loss"])
            accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
"""

RANKS = """
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = Network()
wrapped = DistributedDataParallel(model)
optimizer = torch.optim.Adam(wrapped.parameters())
batch = torch.utils.data.default_collate([Data()[i] for i in range(dist.get_rank(), 240, 2)])
for _ in range(24):
    optimizer.zero_grad()
    wrapped(**batch)["loss"].backward()
    optimizer.step()
dist.barrier()  # a process that ends while the other one sends aborts it
dist.destroy_process_group()
del wrapped  # the last reference to the group: see clean_exit
"""

END = """
if os.environ.get("RANK", "0") == "0":
    print(*(p.detach().double().sum().item().hex() for p in model.parameters()), torch.rand(1).item().hex())
"""

FRAMEWORKS = {"lightning": LIGHTNING, "transformers": TRAINER, "accelerate": ACCELERATE}
WATCH = ["-m", "unstuck", "--no-trials", "--json", "found.json"]


def result(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def weights(output):
    return [line for line in output.splitlines() if line.startswith(("0x", "-0x"))]


def findings(folder):
    return [f["rule"] for f in json.loads((folder / "found.json").read_text())["findings"] if f["severity"] == "error"]


@pytest.mark.parametrize(("depth", "expected"), [("2", []), ("30", ["US101"])])
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_trains_as_without_it_and_its_model_is_judged(tmp_path, name, depth, expected):
    (tmp_path / "train.py").write_text(BEGIN + FRAMEWORKS[name] + END)
    plain = result(tmp_path, "train.py", depth)
    watched = result(tmp_path, *WATCH, "train.py", depth)
    assert plain.returncode == 0, plain.stderr
    assert watched.returncode == 0, watched.stderr
    assert weights(watched.stdout) == weights(plain.stdout) != []
    assert "unstuck: Network, trained by" in watched.stderr
    assert findings(tmp_path) == expected


@pytest.mark.parametrize("depth", ["2", "30"])
def test_under_torchrun_the_first_process_speaks_and_the_results_are_those_without_it(tmp_path, depth):
    (tmp_path / "train.py").write_text(BEGIN + RANKS + END)
    plain = launched("train.py", depth, folder=tmp_path)
    watched = launched(*WATCH, "train.py", depth, folder=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert watched.returncode == 0, watched.stderr
    assert weights(watched.stdout) == weights(plain.stdout) != []
    assert watched.stderr.count("unstuck: Network, trained by Adam") == 1
    assert findings(tmp_path) == (["US101"] if depth == "30" else [])
