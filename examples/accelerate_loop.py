"""Train with Hugging Face Accelerate; Equalizer and Monitor are part of Accelerate's checkpoints.

    accelerate launch examples/accelerate_loop.py --folder runs/accelerate
    torchrun --nproc-per-node 2 examples/accelerate_loop.py --folder runs/accelerate --resume

The processes sum their statistics, so all change the same slopes. Data: scikit-learn's digits (extra `data`).
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import sigmoidcore as sc
from sigmoidcore.integrations.sinks import CSV


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("runs/accelerate-loop"))
    options.add_argument("--resume", action="store_true")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--depth", type=int, default=30)
    options.add_argument("--cpu", action="store_true")
    options = options.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)

    accelerator = Accelerator(cpu=options.cpu, gradient_accumulation_steps=2)
    set_seed(0)
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data / 8 - 1, dtype=torch.float32), torch.tensor(digits.target))
    train, test = data[:1400], data[1400:]
    loader = DataLoader(TensorDataset(*train), batch_size=50, shuffle=True)

    model = sc.MLP(64, 64, options.depth, 10)
    sc.prepare(model, train[0])  # equal in every process: same seed, same data
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))

    # Both need the model and the optimizer before `prepare` wraps them.
    table = CSV(options.folder / "samples.csv")  # creates the file at the first sample
    sinks = [table] if accelerator.is_main_process else []
    equalizer = sc.Equalizer(model, optimizer, scaler=accelerator.scaler, sinks=sinks)
    monitor = sc.Monitor(model, every=20, scaler=accelerator.scaler, sinks=sinks)
    network = model
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(equalizer, monitor)

    done = 0
    if options.resume:
        checkpoints = list(options.folder.glob("epoch-*"))
        if not checkpoints:
            raise SystemExit(f"no checkpoint in {options.folder}: leave out --resume")
        last = max(checkpoints, key=lambda path: int(path.name.split("-")[1]))
        accelerator.load_state(str(last))
        done = int(last.name.split("-")[1])

    with equalizer, monitor:
        for epoch in range(done, options.epochs):
            for x, y in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(torch.nn.functional.cross_entropy(model(x), y))
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            accelerator.save_state(str(options.folder / f"epoch-{epoch + 1}"))
            with torch.no_grad():
                x, y = (part.to(accelerator.device) for part in test)
                accuracy = (network(x).argmax(1) == y).double().mean()
            spread = equalizer.history[-1].spread
            accelerator.print(f"epoch {epoch + 1}: {accuracy:.1%} of the test images, spread {spread:.3g}")

    if accelerator.is_main_process:
        print(monitor.diagnosis())
    accelerator.end_training()
    return network, equalizer, monitor


if __name__ == "__main__":
    main()
