"""Exit codes under load: commands that end with an error and commands that end well, eight processes at a time.

25 runs each of eight wrong commands (exit code 2) and eight right ones (0). A process that crashes has another code.
The commands read CSV and Parquet and train, because the libraries for these start threads.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from _report import Report, arguments

RUNS, TOGETHER = 25, 8
TRAINING = """import torch
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
optimizer = torch.optim.Adam(model.parameters())
for _ in range(20):
    optimizer.zero_grad()
    model(torch.randn(32, 4)).square().mean().backward()
    optimizer.step()
"""
WRONG = {
    "train: no such column": "sigmoidcore train x.csv --target typo -o {new}.skops",
    "train: no such file": "sigmoidcore train missing.csv --target y -o {new}.skops",
    "train: rows of different lengths": "sigmoidcore train ragged.csv --target y -o {new}.skops",
    "train: a damaged Parquet file": "sigmoidcore train damaged.parquet --target y -o {new}.skops",
    "train: no such option": "sigmoidcore train x.csv --traget y -o {new}.skops",
    "predict: a column is missing": "sigmoidcore predict model.skops without.csv -o {new}.csv",
    "predict: not a model": "sigmoidcore predict x.csv x.csv -o {new}.csv",
    "unstuck: no such script": "unstuck missing.py",
}
RIGHT = {
    "train: CSV": "sigmoidcore train x.csv --target y -o {new}.skops",
    "train: Parquet": "sigmoidcore train x.parquet --target y -o {new}.skops",
    "predict: CSV": "sigmoidcore predict model.skops x.csv -o {new}.csv",
    "predict: Parquet": "sigmoidcore predict model.skops x.parquet -o {new}.parquet",
    "version": "sigmoidcore --version",
    "unstuck: a training": "unstuck --json {new}.json training.py",
    "unstuck: report": "unstuck report found.json",
    "unstuck: version": "unstuck --version",
}


def prepare(folder: Path) -> None:
    """The files that the commands read, a model and a diagnosis."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal(size=(60, 4)), columns=list("abcd")).assign(kind=random.choice(["u", "v"], 60))
    table["y"] = np.where(table["a"] + table["b"] > 0, "yes", "no")
    table.to_csv(folder / "x.csv", index=False)
    table.to_parquet(folder / "x.parquet")
    table.drop(columns="c").to_csv(folder / "without.csv", index=False)
    (folder / "ragged.csv").write_text("a,b,y\n1,2,yes\n1,2,3,4,no\n")
    content = (folder / "x.parquet").read_bytes()
    (folder / "damaged.parquet").write_bytes(content[: len(content) // 2])
    (folder / "training.py").write_text(TRAINING)
    for command in (RIGHT["train: CSV"].format(new="model"), RIGHT["unstuck: a training"].format(new="found")):
        code, message = run(command, folder)
        if code != 0:
            raise RuntimeError(f"{command} ended with {code}: {message}")


def run(command: str, folder: Path) -> tuple[int, str]:
    """Exit code, and the last line of standard error."""
    words = [sys.executable, "-m", *command.split()]
    process = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return process.returncode, (process.stderr.strip().splitlines() or [""])[-1]


def main() -> None:
    options = arguments(__doc__).parse_args()
    runs, together = (1, 2) if options.quick else (RUNS, TOGETHER)
    settings = {"runs": runs, "together": together}
    report = Report("exit_codes", options, key=("command",), seeds=[0], settings=settings)
    cases = [(name, command, 2) for name, command in WRONG.items()]
    cases += [(name, command, 0) for name, command in RIGHT.items()]
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(together) as pool:
        folder = Path(place)
        prepare(folder)
        for number, (name, command, expected) in enumerate(cases):
            if not report.wants(command=name):
                continue
            commands = [command.format(new=f"new-{number}-{i}") for i in range(runs)]
            ended = list(pool.map(lambda text: run(text, folder), commands))
            unexpected = [f"{code}: {message}" for code, message in ended if code != expected]
            report.add(
                command=name,
                expected=expected,
                runs=runs,
                as_expected=runs - len(unexpected),
                unexpected=dict(Counter(unexpected)),
            )
    report.finish()


if __name__ == "__main__":
    main()
