"""The scripts of examples/ run, and continue from their own checkpoints after a kill."""

import csv
import re
import shutil
import signal
import sys

import pytest
import torch
from support.launched import example as launched
from support.launched import outcome_of

from sigmoidcore.integrations.sinks import CSV

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

TRAININGS = {  # options, the steps at which they are killed, the file of a checkpoint that is then written
    "plain_loop": (["--cpu", "--depth", "5", "--epochs", "4"], 35, "checkpoint.pt"),
    "lightning_cifar10": (["--quick", "--epochs", "4"], 20, "last.ckpt"),
    "transformers_trainer": (["--cpu", "--depth", "5", "--steps", "40"], 27, "checkpoint-20"),
}


def assert_same(found, expected, tolerance=1e-6):
    assert found["measured"] == expected["measured"]
    assert [s["step"] for s in found["samples"]] == [s["step"] for s in expected["samples"]]
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_killed_training_continues_and_ends_with_the_weights_of_an_uninterrupted_one(name, example, tmp_path, capfd):
    options, step, checkpoint = TRAININGS[name]
    main, parts, whole = example(name).main, tmp_path / "parts", tmp_path / "whole"
    parts.mkdir()
    killed = launched(name, *options, folder=parts, kill=step, launcher=[sys.executable])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (parts / checkpoint).exists()
    resumed = outcome_of(*main([*options, "--folder", str(parts)]))
    assert_same(resumed, outcome_of(*main([*options, "--folder", str(whole)])))
    assert len(resumed["samples"]) >= 2
    assert "of the test images" in capfd.readouterr().out
    assert (whole / "samples.csv").read_text().startswith(",".join(CSV.COLUMNS))


def test_two_processes_have_the_same_weights_also_after_one_was_killed(example, tmp_path):
    options, step, checkpoint = TRAININGS["plain_loop"]
    (tmp_path / "two").mkdir()
    killed = launched("plain_loop", *options, folder=tmp_path / "two", kill=step)
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    assert (tmp_path / "one" / checkpoint).exists()
    resumed = launched("plain_loop", *options, folder=tmp_path / "two")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("epoch 4: ") == 1
    assert "2 processes" in resumed.stdout
    first, second = (torch.load(tmp_path / "two" / f"{rank}.pt") for rank in range(2))
    assert_same(first, second, tolerance=0)
    assert first["samples"] == second["samples"]
    for folder in ("one", "alone"):  # one process continues, or trains from the start; the order of sums is another
        alone = outcome_of(*example("plain_loop").main([*options, "--folder", str(tmp_path / folder)]))
        assert_same(first, alone, tolerance=1e-3)


def measured_steps(table):
    """The steps at which a Monitor has written a row."""
    with table.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["not_finite"]]


def test_the_accelerate_loop_continues_from_a_checkpoint_of_accelerate(example, tmp_path, capsys):
    main = example("accelerate_loop").main
    options = ["--cpu", "--depth", "5", "--epochs", "3"]
    whole = outcome_of(*main([*options, "--folder", str(tmp_path / "whole")]))
    shutil.copytree(tmp_path / "whole" / "epoch-2", tmp_path / "parts" / "epoch-2")
    assert_same(outcome_of(*main([*options, "--folder", str(tmp_path / "parts"), "--resume"])), whole)
    assert "epoch 3: " in capsys.readouterr().out
    assert measured_steps(tmp_path / "whole" / "samples.csv") == [0, 20, 40]  # of two micro-batches each
    with pytest.raises(SystemExit, match=re.escape(f"no checkpoint in {tmp_path}: leave out --resume")):
        main([*options, "--folder", str(tmp_path), "--resume"])


def test_two_processes_of_accelerate_train_one_network(tmp_path):
    done = launched("accelerate_loop", "--cpu", "--depth", "5", "--epochs", "1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("epoch 1: ") == 1
    assert measured_steps(tmp_path / "samples.csv") == [0]  # 7 steps, written once
    assert_same(torch.load(tmp_path / "0.pt"), torch.load(tmp_path / "1.pt"), tolerance=0)
