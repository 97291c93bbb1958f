"""Run folders without a training: a table and an untrained network."""

from pathlib import Path

import numpy as np
import pandas
import torch

import sigmoidcore as sc
from sigmoidcore.training.data import load
from sigmoidcore.training.networks import network, sizes_for
from sigmoidcore.training.runs.folder import PREPROCESSING, Run
from sigmoidcore.training.runs.weights import WEIGHTS, save_network
from unstuck.files import write_file


def houses(rows=240, seed=0):
    """A table of every kind of column, with missing values."""
    generator = np.random.default_rng(seed)
    table = pandas.DataFrame(
        {
            "size": generator.normal(100, 20, rows).round(1),
            "rooms": generator.integers(1, 9, rows),
            "colour": generator.choice(["red", "white", "blue"], rows),
            "garden": generator.choice([True, False], rows),
            "built": pandas.Timestamp("1990-01-01") + pandas.to_timedelta(generator.integers(0, 9000, rows), "D"),
        }
    )
    table["price"] = 3 * table["size"] + 20 * table["rooms"] + generator.normal(0, 10, rows)
    table["rent"] = table["size"] + 5 * table["rooms"]
    table["sold"] = np.where(table["price"] > 390, "yes", "no")
    table.loc[generator.choice(rows, rows // 20, False), "size"] = np.nan
    table.loc[generator.choice(rows, rows // 20, False), "colour"] = None
    return table


def made_run(folder: Path, source, kind="mlp", depth=3, **options):
    """The folder of a run on a source, with a prepared network."""
    data = load(source, **options)
    torch.manual_seed(0)
    made = network(kind, **sizes_for(kind, data.shape, data.outputs, 8, depth))
    inputs, targets = data.probes(64)
    sc.prepare(made.model, made.arranged(inputs), targets=targets, loss_fn=data.loss_fn)
    kept = {
        "data": str(source),
        "target": [options["target"]] if isinstance(options.get("target"), str) else list(options.get("target", ())),
        "drop": list(options.get("drop", ())),
        "seed": 0,
        "validation_size": 0.0,
    }
    with Run.create("made", kept, folder=folder) as run:
        run.log("data", columns=dict(data.fingerprint), metric=data.metric_name)
        write_file(run.folder / PREPROCESSING, data.preprocessing.to_bytes())
        save_network(run.folder / WEIGHTS, made)
    return folder


def house_runs(folder: Path) -> Path:
    """A folder with runs on `houses()`: of classes, "sold", of a number, "price", and of two, "both"."""
    houses().to_parquet(folder / "houses.parquet")
    made_run(folder / "sold", folder / "houses.parquet", target="sold", drop=("price", "rent"))
    made_run(folder / "price", folder / "houses.parquet", target="price")
    made_run(folder / "both", folder / "houses.parquet", target=("price", "rent"))
    return folder
