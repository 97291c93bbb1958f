"""What `train` chooses by validation unless told, and what it says at its end about a training that is no success."""

import tomllib

import numpy as np
import pandas
import pytest

from sigmoidcore.cli import main
from sigmoidcore.training.runs.folder import read_metrics

pytestmark = pytest.mark.usefixtures("without_figures")
SMALL = ["--width", "8", "--batch-size", "20", "--output", "run"]


def table(rows, columns, target):
    """A file of random columns; `target` makes the classes from them and from more random numbers."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(rows, columns))
    frame = pandas.DataFrame(x, columns=[f"x{n}" for n in range(columns)])
    frame["y"] = np.where(target(x, generator.random(rows)), "yes", "no")
    frame.to_parquet("table.parquet")
    return ["train", "--data", "table.parquet", "--target", "y", *SMALL]


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def options():
    with open("run/config.toml", "rb") as file:
        return tomllib.load(file)["options"]


def test_depth_decay_and_class_weights_of_a_table_are_chosen_by_validation(capsys):
    arguments = table(600, 3, lambda x, chance: x[:, 0] + 0.5 * chance > 1.7)  # 7 % are yes
    assert main([*arguments, "--epochs", "2"]) == 0
    output = printed(capsys)
    chosen = options()
    assert f"{chosen['depth']} layers, by the validation loss: 3: " in output
    assert "weight decay" in output
    assert chosen["weight_decay"] > 0
    assert "class weights, by the validation macro-F1: with them" in output
    assert chosen["class_weights"] == ("no class weights" not in output)
    assert main(["train", "--resume", "run"]) == 0
    assert "trials" not in printed(capsys)


def test_options_that_are_given_are_not_tried(capsys):
    arguments = table(200, 3, lambda x, chance: x[:, 0] > 1.2)
    given = ["--depth", "2", "--weight-decay", "0", "--no-class-weights", "--epochs", "1"]
    assert main([*arguments, *given]) == 0
    assert "trials" not in printed(capsys)
    assert (options()["depth"], options()["weight_decay"], options()["class_weights"]) == (2, 0.0, False)


def test_without_a_validation_part_nothing_is_tried(capsys):
    arguments = table(100, 3, lambda x, chance: x[:, 0] > 0)
    assert main([*arguments, "--epochs", "1", "--validation-size", "0"]) == 0
    assert "validation" not in printed(capsys)
    assert (options()["depth"], options()["weight_decay"]) == (10, 0.0)
    assert main([*arguments, "--overwrite", "--validation-size", "0", "--patience", "2"]) == 2
    assert "--patience needs a validation part" in capsys.readouterr().err


def test_a_training_that_learns_nothing_of_uneven_classes_says_so(capsys, tmp_path):
    arguments = table(500, 3, lambda x, chance: chance < 0.06)
    assert main([*arguments, "--depth", "2", "--epochs", "2", "--no-class-weights"]) == 0
    output = printed(capsys)
    (epoch, last) = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "epoch"]
    best = 1 if epoch["validation"] >= last["validation"] else 2
    for words in ("always 'no' 9", "class samples precision recall F1", f"best epoch, {best} ", "validation accuracy"):
        assert words in output
    assert "no better than always saying 'no', which is right for 9" in output
    assert "no better than" in (tmp_path / "run" / "report.txt").read_text()
    assert main(["evaluate", "run"]) == 0
    output = printed(capsys)
    assert "value 95 % interval always 'no'" in output
    assert "no better than always saying 'no'" in output


def test_a_training_that_knows_its_samples_by_heart_says_so(capsys):
    arguments = table(80, 200, lambda x, chance: chance < 0.5)
    assert main([*arguments, "--depth", "2", "--epochs", "30", "--weight-decay", "0"]) == 0
    assert "overfits: accuracy 100.0 % on the training samples" in printed(capsys)
    assert main(["evaluate", "run"]) == 0
    assert "overfits: accuracy 100.0 % on the training samples" in printed(capsys)


def test_a_training_that_learns_has_no_warning(capsys):
    arguments = table(400, 3, lambda x, chance: x[:, 0] > 0)
    assert main([*arguments, "--depth", "2", "--epochs", "5", "--weight-decay", "0"]) == 0
    output = printed(capsys)
    assert "overfits" not in output
    assert "no better" not in output
    assert "precision" not in output  # the classes are even
