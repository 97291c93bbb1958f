"""Exit codes under load: commands that end with an error and commands that end well, eight processes at a time.

25 runs each of eight wrong commands (exit code 2) and eight right ones (0). A process that crashes has another code.
The commands read CSV, Parquet and runs, because the libraries for these start threads.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from _report import Report, arguments

RUNS, TOGETHER = 25, 8
SMALL = ("--depth", "1", "--width", "8", "--epochs", "1", "--weight-decay", "0", "--no-class-weights")
WRONG = {
    "train: no such column": ("train", "--data", "x.csv", "--target", "typo"),
    "train: no such file": ("train", "--data", "missing.csv", "--target", "y"),
    "train: rows of different lengths": ("train", "--data", "ragged.csv", "--target", "y"),
    "train: a damaged Parquet file": ("train", "--data", "damaged.parquet", "--target", "y"),
    "train: no such option": ("train", "--depht", "3"),
    "predict: a column is missing": ("predict", "run", "without.csv", "-o", "{new}.csv"),
    "evaluate: not a run": ("evaluate", "x.csv"),
    "diagnose: no such module": ("diagnose", "missing.module:make"),
}
RIGHT = {
    "train: CSV": ("train", "--data", "x.csv", "--target", "y", *SMALL, "--output", "{new}"),
    "train: Parquet": ("train", "--data", "x.parquet", "--target", "y", *SMALL, "--output", "{new}"),
    "predict: CSV": ("predict", "run", "x.csv", "-o", "{new}.csv"),
    "predict: Parquet": ("predict", "run", "x.parquet", "-o", "{new}.parquet"),
    "evaluate: CSV": ("evaluate", "run", "x.csv"),
    "diagnose: a run": ("diagnose", "run", "--fail-on", "never"),
    "runs": ("runs", "."),
    "version": ("--version",),
}


def prepare(folder: Path) -> None:
    """The files that the commands read, and a run."""
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.normal(size=(400, 4)), columns=list("abcd")).assign(kind=random.choice(["u", "v"], 400))
    table["y"] = np.where(table["a"] + table["b"] > 0, "yes", "no")
    table.to_csv(folder / "x.csv", index=False)
    table.to_parquet(folder / "x.parquet")
    table.drop(columns="c").to_csv(folder / "without.csv", index=False)
    (folder / "ragged.csv").write_text("a,b,y\n1,2,yes\n1,2,3,4,no\n")
    content = (folder / "x.parquet").read_bytes()
    (folder / "damaged.parquet").write_bytes(content[: len(content) // 2])
    code, message = run(["train", "--data", "x.csv", "--target", "y", *SMALL, "--output", "run"], folder)
    if code != 0:
        raise RuntimeError(f"the run of the commands ended with {code}: {message}")


def run(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Exit code, and the last line of standard error."""
    words = [sys.executable, "-m", "sigmoidcore", *command]
    process = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return process.returncode, (process.stderr.strip().splitlines() or [""])[-1]


def main() -> None:
    options = arguments(__doc__).parse_args()
    runs, together = (2, 2) if options.quick else (RUNS, TOGETHER)
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
            commands = [[word.format(new=f"new-{number}-{i}") for word in command] for i in range(runs)]
            ended = list(pool.map(lambda words: run(words, folder), commands))
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
