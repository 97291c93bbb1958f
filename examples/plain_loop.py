"""Train a plain network of 30 layers of sigmoids in plain PyTorch, in one process or several.

    python examples/plain_loop.py --folder runs/plain
    torchrun --nproc-per-node 2 examples/plain_loop.py --folder runs/plain

If the training is killed, start it again by the same command, with any number of processes: it continues from its last
epoch and ends with the same weights. It writes a checkpoint, a table of samples and a diagnosis into the folder. The
processes use a GPU each (NCCL), or the CPU (gloo). Data: scikit-learn's digits. Extra: `sklearn`.
"""

import argparse
import os
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import sigmoidcore as sc
from sigmoidcore.integrations.sinks import CSV

BATCH = 100
"""Samples of a step, of all processes together."""


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("runs/plain-loop"))
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--depth", type=int, default=30)
    options.add_argument("--cpu", action="store_true")
    options = options.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = options.folder / "checkpoint.pt"

    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available() and not options.cpu
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if ranks > 1:
        dist.init_process_group("nccl" if cuda else "gloo")

    torch.manual_seed(0)  # every process draws the same weights
    digits = load_digits()
    x = torch.tensor(digits.data / 8 - 1, dtype=torch.float32)
    data = TensorDataset(x.to(device), torch.tensor(digits.target, device=device))
    train, test = TensorDataset(*data[:1400]), data[1400:]
    sampler = DistributedSampler(train, ranks, rank)
    loader = DataLoader(train, BATCH // ranks, sampler=sampler)

    model = sc.MLP(64, 64, options.depth, 10).to(device)
    sc.prepare(model, train[:400][0])
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: min(1, 2 * (1 - epoch / options.epochs)))
    parallel = DistributedDataParallel(model) if ranks > 1 else model

    sinks = [CSV(options.folder / "samples.csv")] if rank == 0 else []
    equalizer, monitor = sc.Equalizer(model, optimizer, sinks=sinks), sc.Monitor(model, every=20, sinks=sinks)
    parts = {"model": model, "optimizer": optimizer, "fall": fall, "equalizer": equalizer, "monitor": monitor}
    if checkpoint.exists():
        for name, state in torch.load(checkpoint, map_location=device, weights_only=True).items():
            parts[name].load_state_dict(state)

    with equalizer, monitor:
        for epoch in range(fall.last_epoch, options.epochs):
            sampler.set_epoch(epoch)  # the order of the samples follows from the epoch
            for inputs, targets in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(parallel(inputs), targets).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
            fall.step()
            if rank == 0:
                with torch.no_grad():
                    accuracy = (model(test[0]).argmax(1) == test[1]).double().mean()
                print(f"epoch {epoch + 1}: {accuracy:.1%} of the test images")
                written = checkpoint.with_suffix(".new")
                torch.save({name: part.state_dict() for name, part in parts.items()}, written)
                written.replace(checkpoint)  # a kill leaves the old checkpoint or the new one, both whole

    diagnosis = monitor.diagnosis()
    if rank == 0:
        print(diagnosis)
        diagnosis.to_html(options.folder / "diagnosis.html")
    if ranks > 1:
        dist.destroy_process_group()
    return model, equalizer, monitor


if __name__ == "__main__":
    main()
