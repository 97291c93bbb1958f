"""A model that does not learn: watch, repair, train, ship. The walk of an engineer.

    python examples/stuck_model.py --folder runs/stuck

The last step writes a program of `torch.export` that runs without this file and without sigmoidcore.
docs/notebooks/rescue.ipynb explains a similar rescue. Data: scikit-learn's digits (extra `sklearn`).
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import sigmoidcore as sc


class Reader(nn.Module):
    """Twenty layers whose sigmoids are called in the forward."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(20))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.head(x)


def train(model, optimizer, inputs, targets, epochs):
    steps = epochs * (len(inputs) // 100)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 * (1 - step / steps)))
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def accuracy(model, inputs, targets):
    return float((model(inputs).argmax(1) == targets).double().mean())


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("runs/stuck"))
    options.add_argument("--epochs", type=int, default=10)
    options = options.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    digits = load_digits()
    order = torch.randperm(1797)
    inputs, targets = torch.tensor(digits.data / 16, dtype=torch.float32)[order], torch.tensor(digits.target)[order]
    learn, test = (inputs[:1400], targets[:1400]), (inputs[1400:], targets[1400:])

    model = Reader()
    with sc.Monitor(model, every=10) as monitor:
        train(model, torch.optim.Adam(model.parameters(), lr=0.001), *learn, epochs=3)
    print(f"stuck at {accuracy(model, *test):.1%}\n\n{monitor.diagnosis()}\n")

    # The calls that the diagnosis names; `prepare` draws new weights, and nothing was learned with the old ones.
    print(sc.convert(model, centered=True))
    sc.prepare(model, learn[0][:256])
    repaired = sc.diagnose(model, learn[0][:256], learn[1][:256], nn.functional.cross_entropy)
    print(f"{repaired}\n")
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))
    with sc.Equalizer(model, optimizer):
        train(model, optimizer, *learn, options.epochs)
    print(f"repaired and trained: {accuracy(model, *test):.1%}")

    plain = sc.fold(model)
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(plain, (inputs[:2],), dynamic_shapes=(batch,), strict=False)
    torch.export.save(program, options.folder / "reader.pt2")
    print(f"wrote {options.folder / 'reader.pt2'}")
    return monitor.diagnosis(), repaired, model, test


if __name__ == "__main__":
    main()
