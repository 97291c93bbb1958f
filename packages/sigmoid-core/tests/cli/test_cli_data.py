"""`sigmoid-core train` on the user's own data."""

import json

import numpy as np
import pandas
import pytest

from sigmoidcore.cli import main
from sigmoidcore.training.data import Preprocessing
from sigmoidcore.training.runs.folder import read_metrics

pytestmark = pytest.mark.usefixtures("without_figures")
SMALL = ["--depth", "3", "--width", "8", "--epochs", "2", "--output", "run"]


@pytest.fixture
def houses(tmp_path):
    """A table of houses as CSV."""
    generator = np.random.default_rng(0)
    table = pandas.DataFrame({"size": generator.normal(100, 20, 200), "rooms": generator.integers(1, 9, 200)})
    table["price"] = table["size"] * 3 + generator.normal(0, 1, 200)
    table["rent"] = table["size"] + table["rooms"]
    table["sold"] = generator.choice(["yes", "no"], 200)
    table["id"] = [f"house {n}" for n in range(200)]
    table.to_csv(tmp_path / "my houses.csv", index=False)
    return table


@pytest.mark.parametrize(
    ("arguments", "said", "metric"),
    [
        (["--target", "price"], "target price: a number; 144 training, 16 validation and 40 test samples", "R2"),
        (["--target", "price", "--target", "rent", "--drop", "sold"], "target price, rent: several numbers;", "R2"),
        (
            ["--target", "sold", "--test-size", "0.5"],
            "two classes (no, yes); 90 training, 10 validation and 100 test",
            "accuracy",
        ),
        (["--target", "rooms", "--kind", "number"], "target rooms: a number;", "R2"),
        (["--target", "rooms"], "target rooms: several classes (1, 2, 3, 4, 5, ...);", "accuracy"),
    ],
)
def test_train_prints_the_detected_target_and_trains(houses, capsys, tmp_path, arguments, said, metric):
    assert main(["train", "--data", "my houses.csv", *arguments, *SMALL]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert said in output
    assert "left out, because different in every row: id" in output
    assert f"test {metric}" in output
    assert [row["kind"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")].count("epoch") == 2
    kept = Preprocessing.from_bytes((tmp_path / "run" / "preprocessing.skops").read_bytes())
    assert kept.transform(houses).shape == (200, len(kept.inputs.features))


def test_a_numeric_target_is_learnt(houses, tmp_path):
    arguments = ["--target", "price", "--depth", "3", "--epochs", "30", "--output", "run"]
    assert main(["train", "--data", "my houses.csv", *arguments]) == 0
    epochs = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "epoch"]
    assert epochs[-1]["accuracy"] > 0.9  # R2


def test_a_run_is_repeated_and_diagnosed_from_any_folder(houses, tmp_path, monkeypatch, capsys):
    assert main(["train", "--data", "my houses.csv", "--target", "sold", *SMALL]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--config", "../run/config.toml", "--output", "again"]) == 0
    ours, theirs = (
        [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "epoch"]
        for folder in (tmp_path / "run", tmp_path / "elsewhere" / "again")
    )
    assert ours == theirs
    capsys.readouterr()
    assert main(["diagnose", "../run", "--fail-on", "never", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)
