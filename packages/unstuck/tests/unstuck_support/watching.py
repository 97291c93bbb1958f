"""Scripts that train, and what `unstuck` says about them in this process."""

import json

from unstuck.cli import main

BEGIN = """
import random
import numpy as np
import torch
from torch import nn

torch.manual_seed(0)
random.seed(0)
np.random.seed(0)
inputs = torch.randn(64, 8)
targets = inputs.sum(1, keepdim=True).sin()


def network(depth=2, activation=nn.Tanh):
    hidden = [layer for _ in range(depth) for layer in (nn.Linear(8, 8), activation())]
    return nn.Sequential(*hidden, nn.Linear(8, 1))


def train(model, optimizer, steps=12):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(inputs) - targets).square().mean()
        loss.backward()
        optimizer.step()


model = network()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
"""

END = """
print(*(p.detach().double().sum().item().hex() for p in model.parameters()))
print(torch.rand(1).item().hex(), random.random().hex(), np.random.rand().hex())
"""

SCRIPTS = {
    "plain": "train(model, optimizer)",
    "subclass with a closure": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = network()
            def forward(self, x):
                return self.inner(x)
        model = Net()
        optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
        def closure():
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            return loss
        for _ in range(7):
            optimizer.step(closure)
    """,
    "dropout and a scheduler": """
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        for _ in range(12):
            train(model, optimizer, 1)
            schedule.step()
            with torch.no_grad():
                model.eval()(inputs)
            model.train()
    """,
    "mixed precision": """
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for _ in range(12):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (model(inputs) - targets).square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
    """,
    "by hand": """
        for _ in range(40):
            model.zero_grad()
            (model(inputs) - targets).square().mean().backward()
            for p in model.parameters():
                p.data.add_(p.grad, alpha=-0.1)
    """,
    "compiled": """
        train(torch.compile(model, backend="eager"), optimizer)
    """,
    "workers": """
        from torch.utils.data import DataLoader, TensorDataset
        data = DataLoader(TensorDataset(inputs, targets), batch_size=16, shuffle=True, num_workers=2)
        for _ in range(2):
            for x, y in data:
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
    """,
}  # fmt: skip


def dedented(text):
    lines = text.splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines) + "\n"


def written(folder, text, name="train.py"):
    path = folder / name
    path.write_text(BEGIN + dedented(text) + END)
    return path


def watched(capfd, path, *arguments, options=()):
    """Output and standard error of the script under `watch`, in this process."""
    capfd.readouterr()
    assert main([*options, str(path), *arguments]) == 0
    return capfd.readouterr()


def verdict_of(folder, name="found.json"):
    """The diagnosis as JSON, and all measurements."""
    found = json.loads((folder / name).read_text())
    return found, [*found["earlier"], found["measurement"]]
