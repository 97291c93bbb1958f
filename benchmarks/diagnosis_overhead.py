"""Overhead of watching: a training step with `unstuck.Monitor` or a peer over one that nobody watches.

Networks of 3 MLPs, a conv net, an LSTM and a transformer, and one MLP under `torch.compile`; cadences of one step in
100, which is the Monitor's default, and of every step. `_watchers.py` says how each watcher is asked.

Two trainings of the same network on the same batches, one watched and one not, take turns step by step, so that what
else the machine does slows both. Each is in a process of its own, for a watched step leaves marks in its process: hooks
on all modules, and compiled code that runs uncompiled, which would slow the other one, too. A ratio is that of the sums
over all steps; the median over the pairs stands, in every second of which the processes swap their parts and the other
goes first. Steps come in whole numbers of the cadence, after some that warm up. Whatever a watcher does before the
first step and after the last is left out: of a training of some length it is nothing, and wandb's takes seconds.

`graphs` and `breaks` are those of the watched training beyond what the other one has: graphs that were compiled, and
breaks in them.

    pip install wandb tensorboard torchmortem

A watcher that is not installed, or that fails, has a row that says so. One thread, unless `--threads` says otherwise.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

from _report import Report, arguments
from _watchers import WATCHERS, nobody

WARM_UP = 5
"""Steps before the watcher comes."""
COMPILED = "MLP 10 x 64, compiled"


@dataclass(frozen=True)
class Network:
    """What is trained.

    Attributes:
        make: the model.
        shape: of a batch of inputs; they are normally distributed.
        steps: a pair trains for, at every step watched.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    steps: int


def mlp(depth: int, width: int) -> nn.Module:
    hidden = [part for _ in range(depth - 1) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def convnet() -> nn.Module:
    channels = [3, 32, 32, 64, 64, 64]
    parts = [
        part
        for i, (before, after) in enumerate(pairwise(channels))
        for part in (nn.Conv2d(before, after, 3, stride=1 + i % 2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
    ]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class LSTM(nn.Module):
    """Two layers of 128 units, read at the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 128, num_layers=2, batch_first=True)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Transformer(nn.Module):
    """Four encoder layers of 128 features and 4 heads, read as a mean over the positions."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


NETWORKS = {
    "MLP 10 x 64": Network(lambda: mlp(10, 64), (100, 64), 200),
    "MLP 100 x 64": Network(lambda: mlp(100, 64), (100, 64), 100),
    "MLP 6 x 512": Network(lambda: mlp(6, 512), (512, 512), 40),
    "conv net": Network(convnet, (32, 3, 32, 32), 40),
    "LSTM": Network(LSTM, (32, 50, 32), 40),
    "transformer": Network(Transformer, (16, 64, 128), 40),
    COMPILED: Network(lambda: mlp(10, 64), (100, 64), 200),
}


def steps(network: str, watcher: str, every: int, seed: int) -> Iterator[float]:
    """Train, and yield after every step what it took; the first one is of the warm-up."""
    torch.manual_seed(seed)
    kind = NETWORKS[network]
    model = kind.make()
    batches = [(torch.randn(kind.shape), torch.randint(10, kind.shape[:1])) for _ in range(8)]
    compiled = network == COMPILED
    forward = torch.compile(model, fullgraph=True) if compiled else model
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def train(i: int) -> Tensor:
        x, y = batches[i % len(batches)]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    for i in range(WARM_UP):
        train(i)
    with WATCHERS.get(watcher, nobody)(model, optimizer, every) as after:
        yield 0.0
        i = 0
        while True:
            started = time.perf_counter()
            after(i, train(i))
            yield time.perf_counter() - started
            i += 1


def work(orders: Connection, threads: int) -> None:
    """A process: starts a training, makes a step of it, or ends it, as it is told, and answers."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    running: Iterator[float] = iter(())
    while True:
        order, *told = orders.recv()
        try:
            if order == "start":
                torch._dynamo.reset()
                torch._dynamo.utils.counters.clear()
                running = steps(*told)
                orders.send(next(running))
            elif order == "step":
                orders.send(next(running))
            elif order == "end":
                running.close()  # type: ignore[attr-defined]
                counters = torch._dynamo.utils.counters
                orders.send((counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())))
            else:
                return
        except Exception as error:  # a watcher that falls over is a result
            orders.send(f"{type(error).__name__}: {error}".splitlines()[0][:120])


class Failed(Exception):
    """What a process could not do."""


def ask(process: Connection, *order: Any) -> Any:
    process.send(order)
    answer = process.recv()
    if isinstance(answer, str):
        raise Failed(answer)
    return answer


def pair(processes: list[Connection], network: str, watcher: str, every: int, count: int, seed: int) -> dict[str, Any]:
    """Two trainings that take turns: their ratio, and what the one without a watcher took."""
    watched, alone = processes if seed % 2 else processes[::-1]
    ask(watched, "start", network, watcher, every, seed)
    ask(alone, "start", network, "nobody", every, seed)
    taken: dict[int, list[float]] = {0: [], 1: []}
    for _ in range(count):
        for i, process in enumerate(processes):
            taken[i].append(ask(process, "step"))
    mine, others = (taken[processes.index(process)] for process in (watched, alone))
    (graphs, breaks), (own_graphs, own_breaks) = ask(watched, "end"), ask(alone, "end")
    return {
        "ratio": sum(mine) / sum(others),
        "step": statistics.median(others),
        "graphs": graphs - own_graphs,
        "breaks": breaks - own_breaks,
    }


def started(threads: int) -> list[Connection]:
    """Two processes; they end with this one."""
    context = multiprocessing.get_context("spawn")
    ends = []
    for _ in range(2):
        mine, its = context.Pipe()
        context.Process(target=work, args=(its, threads), daemon=True).start()
        ends.append(mine)
    return ends


def measure(processes: list[Connection], network: str, watcher: str, every: int, seeds: list[int], quick: bool) -> Any:
    """The columns of a row."""
    count = 2 * every if every > 1 else 20 if quick else NETWORKS[network].steps
    pairs = [pair(processes, network, watcher, every, count, seed) for seed in seeds]
    ratios = [one["ratio"] for one in pairs]
    return {
        "over_alone": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "step_ms": round(1e3 * statistics.median(one["step"] for one in pairs), 2),
        "steps": count,
        **({name: max(one[name] for one in pairs) for name in ("graphs", "breaks")} if network == COMPILED else {}),
    }


def main() -> None:
    options = arguments(__doc__).parse_args()
    options.threads = options.threads or 1
    report = Report(
        "diagnosis_overhead",
        options,
        key=("network", "watcher", "every"),
        seeds=list(range(2 if options.quick else 6)),
        settings={"warm_up": WARM_UP, "optimizer": "Adam, fused"},
    )
    processes = started(options.threads)
    networks = [next(iter(NETWORKS)), COMPILED] if options.quick else list(NETWORKS)
    for network in networks:
        for watcher in WATCHERS:
            for every in (100, 1):
                key = {"network": network, "watcher": watcher, "every": every}
                if not report.wants(**key):
                    continue
                try:
                    columns = measure(processes, network, watcher, every, report.seeds, options.quick)
                except Failed as error:
                    columns = {"error": str(error)}
                report.add(**key, **columns)
    for process in processes:
        process.send(("stop",))
    report.finish()


if __name__ == "__main__":
    main()
