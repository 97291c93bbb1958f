"""The scripts of examples/ run, and continue from their own checkpoints."""

import csv
import re
import shutil

import pytest
import torch
from support.launched import launched

from sigmoidcore.integrations.sinks import CSV

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def measured_steps(table):
    """The steps at which a Monitor has written a row."""
    with table.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["not_finite"]]


def test_the_plain_loop_continues_from_its_checkpoint(example, tmp_path, capsys):
    main = example("plain_loop").main
    main(["--folder", str(tmp_path / "whole"), "--epochs", "3", "--depth", "5"])
    main(["--folder", str(tmp_path / "parts"), "--epochs", "2", "--depth", "5"])
    main(["--folder", str(tmp_path / "parts"), "--epochs", "3", "--depth", "5", "--resume"])
    whole, parts = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts"))
    assert whole["equalizer"]["history"] == parts["equalizer"]["history"]
    assert [m["step"] for m in parts["monitor"]["measurements"]["kept"]] == [0, 20, 40]
    for name, tensor in whole["model"].items():
        torch.testing.assert_close(tensor, parts["model"][name], rtol=1e-6, atol=1e-6)
    assert "epoch 3: " in capsys.readouterr().out
    assert (tmp_path / "whole" / "diagnosis.html").stat().st_size > 10_000
    assert (tmp_path / "whole" / "samples.csv").read_text().startswith(",".join(CSV.COLUMNS))


def test_the_accelerate_loop_continues_from_a_checkpoint_of_accelerate(example, tmp_path, capsys):
    main = example("accelerate_loop").main
    options = ["--cpu", "--depth", "5", "--epochs"]
    network, equalizer, monitor = main([*options, "3", "--folder", str(tmp_path / "whole")])
    shutil.copytree(tmp_path / "whole" / "epoch-2", tmp_path / "parts" / "epoch-2")
    again, *parts = main([*options, "3", "--folder", str(tmp_path / "parts"), "--resume"])
    assert "epoch 3: " in capsys.readouterr().out
    assert equalizer.history == parts[0].history
    assert [m.step for m in monitor.measurements] == [m.step for m in parts[1].measurements] == [0, 20, 40]
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, again.state_dict()[name], rtol=1e-6, atol=1e-6)
    assert measured_steps(tmp_path / "whole" / "samples.csv") == [0, 20, 40]  # of two micro-batches each


@pytest.mark.parametrize("name", ["plain_loop", "accelerate_loop"])
def test_resume_without_a_checkpoint_is_an_error(name, example, tmp_path):
    options = ["--cpu"] if name == "accelerate_loop" else []
    with pytest.raises(SystemExit, match=re.escape(f"no checkpoint in {tmp_path}: leave out --resume")):
        example(name).main([*options, "--folder", str(tmp_path), "--depth", "5", "--resume"])


def test_two_processes_of_accelerate_train_one_network(root, tmp_path):
    options = ["--cpu", "--depth", "5", "--epochs", "1", "--folder", str(tmp_path)]
    done = launched("examples/accelerate_loop.py", *options, folder=root)
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert done.stdout.count("epoch 1: ") == 1
    assert measured_steps(tmp_path / "samples.csv") == [0]  # 7 steps, written once


@pytest.mark.parametrize("options", [[], ["--keep-norms"]])
def test_a_gpt2_trains_without_norms(options, example, capsys):
    model, losses = example("gpt2_without_norms").main(["--steps", "30", "--layers", "2", *options])
    kept = [name for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(kept) == (5 if options else 0)
    assert losses[-1] < losses[0] - 0.5
    assert "loss of the last tenth" in capsys.readouterr().out
