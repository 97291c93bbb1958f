"""Tables with a column of every kind, in files of every kind, and the samples of batches."""

import numpy as np
import pandas
import torch
from pyarrow import feather

from sigmoidcore.training.data.readers import FORMATS, suffix

ROWS = 400


def frame(rows=ROWS, seed=0):
    """A table with a column of every kind, and missing values in each."""
    generator = np.random.default_rng(seed)
    found = pandas.DataFrame(
        {
            "size": generator.normal(100, 30, rows),
            "rooms": generator.integers(1, 9, rows),
            "colour": generator.choice(["red", "green", "blue, dark"], rows),
            "street": generator.choice([f"street {n}" for n in range(60)], rows),
            "garden": generator.choice([True, False], rows),
            "built": pandas.Timestamp("1990-01-01") + pandas.to_timedelta(generator.integers(0, 12000, rows), "D"),
            "constant": "same",
            "nothing": np.full(rows, np.nan),
            "id": [f"house {n}" for n in range(rows)],
            "price": generator.normal(0, 1, rows),
            "rent": generator.normal(5, 2, rows),
            "sold": generator.choice(["yes", "no"], rows),
        }
    )
    found["price"] += 0.03 * found["size"]
    for column in ("size", "colour", "built", "street"):
        found.loc[generator.choice(rows, rows // 10, replace=False), column] = None
    return found


def written(path, table):
    """The table in a file whose name says of what kind it is."""
    write = {
        "parquet": lambda: table.to_parquet(path, row_group_size=97),
        "ipc": lambda: feather.write_feather(table, path),
        "orc": lambda: table.to_orc(path, index=False),
        "tsv": lambda: table.to_csv(path, index=False, sep="\t"),
        **dict.fromkeys(("csv", "txt"), lambda: table.to_csv(path, index=False)),
    }
    ending = suffix(path)
    write[FORMATS.get(ending) or ending.split(".")[1]]()
    return path


def all_of(batches):
    """The samples of all batches."""
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)
