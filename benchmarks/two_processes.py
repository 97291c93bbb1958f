"""What several processes cost: a step of one process and of two on this machine, with the same global batch.

Digits, batch 100, the networks of `sigmoid-core train`, the Equalizer with its defaults. Three ways, in turns: a bare
loop over the same batches; `Training` in one process; two processes (gloo, on the loopback), each with half of every
batch. A step is the median over all repeats, evaluations
left out. Megabytes are those of the gradients that two processes sum in a step. A process has one thread; on a machine
with fewer free cores than processes these take turns.
"""

import itertools
import json
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

import sigmoidcore as sc
from _report import Report, arguments
from sigmoidcore.training import Recipe, Split, Training, digits
from sigmoidcore.training.place import Place, place_of

NETWORKS = ((10, 64), (100, 64), (10, 512), (30, 512))
WAYS = ("bare loop", "one process", "two processes")
BATCH = 100


def network(depth: int, width: int, split: Split) -> nn.Module:
    torch.manual_seed(0)
    model = sc.MLP(64, width, depth, 10)
    sc.prepare(model, split.train_x[:256])
    return model


def bare(depth: int, width: int, epochs: int) -> list[float]:
    """Seconds of each step of the loop that nobody has to write."""
    split = digits()
    model = network(depth, width, split)
    optimizer = torch.optim.AdamW(sc.depth_scaled_lr(model), weight_decay=0.0, fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps, step, times = epochs * split.steps(BATCH), 0, []
    with sc.Equalizer(model, optimizer):
        for epoch in range(epochs):
            started = time.perf_counter()
            for x, y in split.train_batches(BATCH, 0, epoch):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), y)
                loss.backward()
                if not torch.isfinite(loss):
                    raise FloatingPointError(f"step {step}")
                optimizer.step()
                step += 1
                times.append(time.perf_counter() - started)
                started = time.perf_counter()
    return times


def trained(depth: int, width: int, epochs: int, place: Place) -> list[float]:
    """Seconds of each step of `Training`."""
    split = digits()
    seconds = [0.0]
    training = Training(network(depth, width, split), split, Recipe(epochs, BATCH), place=place)
    training.run(lambda progress: seconds.append(progress.seconds))
    return [after - before for before, after in itertools.pairwise(seconds)]


def _worker(rank: int, port: int, file: str, depth: int, width: int, epochs: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    times = trained(depth, width, epochs, place_of("cpu"))
    dist.destroy_process_group()
    if rank == 0:
        Path(file).write_text(json.dumps(times))


def two(depth: int, width: int, epochs: int) -> list[float]:
    """Seconds of each step of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/times.json"
        mp.spawn(_worker, args=(port, file, depth, width, epochs), nprocs=2)
        times: list[float] = json.loads(Path(file).read_text())
    return times


def measured(way: str, depth: int, width: int, epochs: int) -> list[float]:
    if way == "bare loop":
        return bare(depth, width, epochs)
    if way == "two processes":
        return two(depth, width, epochs)
    return trained(depth, width, epochs, Place())


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    epochs, repeats = (2, 1) if options.quick else (10, 5)
    report = Report(
        "two_processes",
        options,
        key=("depth", "width", "way"),
        seeds=[0],
        settings={"batch": BATCH, "epochs": epochs, "repeats": repeats},
    )
    for depth, width in NETWORKS[:1] if options.quick else NETWORKS:
        ways = [way for way in WAYS if report.wants(depth=depth, width=width, way=way)]
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way in ways:
                times[way] += measured(way, depth, width, epochs)
        weights = sum(p.numel() for p in sc.MLP(64, width, depth, 10).parameters())
        medians = {way: statistics.median(found) for way, found in times.items()}
        for way, seconds in medians.items():
            report.add(
                depth=depth,
                width=width,
                way=way,
                step_ms=round(1e3 * seconds, 3),
                over_bare=round(seconds / medians["bare loop"], 3) if "bare loop" in medians else None,
                megabytes=round(4e-6 * weights, 2) if way == "two processes" else 0.0,
            )
    report.finish()


if __name__ == "__main__":
    main()
