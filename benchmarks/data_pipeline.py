"""Rows a second that a training gets from Parquet and CSV, against plain pandas or pyarrow with a DataLoader.

The table has 20 columns of numbers, 2 of categories and a number to learn. Every way feeds the same network (3 layers
of 64 cores, batches of 256, Adam), and a row counts when its step is done:

- `first`: rows over the time from nothing to the end of the first epoch: reading, scaling and training;
- `epoch`: rows over the time of one more epoch.

The plain ways are what the first pages of the manuals show: `pandas.read_csv` or `read_parquet`, `get_dummies`, mean
and deviation, `TensorDataset` and a shuffling `DataLoader`; where memory is too small, `pyarrow`'s `iter_batches` in
an `IterableDataset`, whose means and deviations come from a first pass over the file. They split nothing off, check
nothing and keep nothing for later data; the stream does not shuffle either. Ours do all that, with a test part of a
thousandth, so that all have as many rows to learn from. The ways take turns; the medians of several rounds are
compared.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas
import pyarrow.parquet
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import sigmoidcore as sc
from _report import Report, arguments
from sigmoidcore.training.data import load

BATCH, NUMBERS, COLOURS, SHAPES = 256, 20, 5, 12
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


def table(rows: int) -> pandas.DataFrame:
    generator = np.random.default_rng(0)
    found = pandas.DataFrame(generator.normal(50, 20, (rows, NUMBERS)).round(3)).add_prefix("n")
    found["colour"] = generator.choice([f"colour {n}" for n in range(COLOURS)], rows)
    found["shape"] = generator.choice([f"shape {n}" for n in range(SHAPES)], rows)
    found["price"] = found["n0"] - found["n1"] + generator.normal(0, 1, rows)
    return found


def ours(path: Path, in_memory: int) -> tuple[Batches, int]:
    data = load(path, target="price", test_size=0.001, in_memory=in_memory)
    return lambda epoch: data.train_batches(BATCH, 0, epoch), len(data.train)


def plain_in_memory(path: Path) -> tuple[Batches, int]:
    read = pandas.read_csv if path.suffix == ".csv" else pandas.read_parquet
    found = pandas.get_dummies(read(path), columns=["colour", "shape"], dtype=np.float32)
    y = found.pop("price")
    found.iloc[:, :NUMBERS] = (found.iloc[:, :NUMBERS] - found.iloc[:, :NUMBERS].mean()) / found.iloc[:, :NUMBERS].std()
    x = torch.tensor(found.to_numpy(np.float32))
    targets = torch.tensor(((y - y.mean()) / y.std()).to_numpy(np.float32))[:, None]
    loader = DataLoader(TensorDataset(x, targets), batch_size=BATCH, shuffle=True)
    return lambda epoch: iter(loader), len(x)


class Pieces(IterableDataset):  # type: ignore[type-arg]
    """A Parquet file, piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path
        pieces = [piece.to_pandas() for piece in pyarrow.parquet.ParquetFile(path).iter_batches(65_536)]
        self.rows = sum(len(piece) for piece in pieces)
        self.means = sum(piece.iloc[:, :NUMBERS].sum() for piece in pieces) / self.rows
        squares = sum((piece.iloc[:, :NUMBERS] - self.means).pow(2).sum() for piece in pieces)
        self.deviations = (squares / self.rows) ** 0.5
        self.kinds = {name: sorted({k for p in pieces for k in p[name].unique()}) for name in ("colour", "shape")}

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for piece in pyarrow.parquet.ParquetFile(self.path).iter_batches(BATCH):
            found = piece.to_pandas()
            numbers = (found.iloc[:, :NUMBERS] - self.means) / self.deviations
            for name, kinds in self.kinds.items():
                found[name] = pandas.Categorical(found[name], kinds)
            dummies = pandas.get_dummies(found[list(self.kinds)], dtype=np.float32)
            x = np.concatenate([numbers.to_numpy(np.float32), dummies.to_numpy()], axis=1)
            yield torch.from_numpy(x), torch.from_numpy(found["price"].to_numpy(np.float32) / 30)[:, None]


def plain_stream(path: Path) -> tuple[Batches, int]:
    pieces = Pieces(path)
    loader = DataLoader(pieces, batch_size=None)
    return lambda epoch: iter(loader), pieces.rows


def rates(prepare: Callable[[], tuple[Batches, int]]) -> tuple[float, float]:
    """Rows a second: from nothing to the end of the first epoch, and of one more epoch."""
    torch.manual_seed(0)
    model = sc.MLP(NUMBERS + COLOURS + SHAPES, 64, 3, 1)
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
    found, started = [], time.perf_counter()
    batches, rows = prepare()
    for epoch in range(2):
        for x, y in batches(epoch):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        found.append(rows / (time.perf_counter() - started))
        started = time.perf_counter()
    return found[0], found[1]


def main() -> None:
    options = arguments(__doc__).parse_args()
    rows, rounds = (20_000, 1) if options.quick else (400_000, 5)
    settings = {"rows": rows, "rounds": rounds, "batch": BATCH, "numbers": NUMBERS, "categories": [COLOURS, SHAPES]}
    report = Report("data_pipeline", options, key=("source", "way"), seeds=[0], settings=settings)
    load(table(1000), target="price")  # imports what it needs
    with tempfile.TemporaryDirectory() as folder:
        csv, parquet = Path(folder) / "table.csv", Path(folder) / "table.parquet"
        table(rows).to_csv(csv, index=False)
        table(rows).to_parquet(parquet, row_group_size=50_000)
        sources: dict[str, dict[str, Callable[[], tuple[Batches, int]]]] = {
            "CSV": {"plain": lambda: plain_in_memory(csv), "ours": lambda: ours(csv, 2**40)},
            "Parquet": {"plain": lambda: plain_in_memory(parquet), "ours": lambda: ours(parquet, 2**40)},
            "Parquet, streamed": {"plain": lambda: plain_stream(parquet), "ours": lambda: ours(parquet, 0)},
        }
        for source, ways in sources.items():
            if not any(report.wants(source=source, way=way) for way in ways):
                continue
            measured: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, prepare in ways.items():
                    measured[way].append(rates(prepare))
            plain = [statistics.median(values) for values in zip(*measured["plain"], strict=True)]
            for way, found in measured.items():
                first, epoch = (statistics.median(values) for values in zip(*found, strict=True))
                report.add(
                    source=source,
                    way=way,
                    first=round(first),
                    epoch=round(epoch),
                    first_of_plain=round(first / plain[0], 2),
                    epoch_of_plain=round(epoch / plain[1], 2),
                    all=found,
                )
    report.finish()


if __name__ == "__main__":
    main()
