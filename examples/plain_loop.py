"""A plain PyTorch loop with prepare, Equalizer and Monitor, which can be stopped and resumed.

    python examples/plain_loop.py --folder runs/plain
    python examples/plain_loop.py --folder runs/plain --resume

It writes checkpoints, a table of samples and a diagnosis into the folder. Data: scikit-learn's digits (extra `data`).
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import sigmoidcore as sc
from sigmoidcore.integrations.sinks import CSV


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("runs/plain-loop"))
    options.add_argument("--resume", action="store_true")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--depth", type=int, default=30)
    options = options.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = options.folder / "checkpoint.pt"
    if options.resume and not checkpoint.exists():
        raise SystemExit(f"no checkpoint in {options.folder}: leave out --resume")

    torch.manual_seed(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 8 - 1, dtype=torch.float32), torch.tensor(digits.target))
    train, test = data[:1400], data[1400:]
    loader = DataLoader(TensorDataset(*train), batch_size=100, shuffle=True)

    model = sc.MLP(64, 64, options.depth, 10)
    sc.prepare(model, train[0])
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)

    table = CSV(options.folder / "samples.csv")
    with (
        sc.Equalizer(model, optimizer, sinks=[table]) as equalizer,
        sc.Monitor(model, every=20, sinks=[table]) as monitor,
    ):
        parts = {"model": model, "optimizer": optimizer, "equalizer": equalizer, "monitor": monitor}
        done = 0
        if options.resume:
            state = torch.load(checkpoint, weights_only=True)
            done = state.pop("epochs")
            torch.set_rng_state(state.pop("random"))
            for name, part in parts.items():
                part.load_state_dict(state[name])

        for epoch in range(done, options.epochs):
            for x, y in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(x), y).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            with torch.no_grad():
                accuracy = (model(test[0]).argmax(1) == test[1]).double().mean()
            print(f"epoch {epoch + 1}: {accuracy:.1%} of the test images, spread {equalizer.history[-1].spread:.3g}")
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "epochs": epoch + 1, "random": torch.get_rng_state()}, checkpoint)

    print(monitor.diagnosis())
    monitor.diagnosis().to_html(options.folder / "diagnosis.html")


if __name__ == "__main__":
    main()
