"""What the command does, from Python."""

import contextlib
import os

import numpy as np
import pandas
import pytest
import torch
from core_support.runs import houses

from sigmoidcore.cli import main
from sigmoidcore.training import FitError, fit, open_run

SMALL = {"depth": 3, "width": 8, "epochs": 2}


def test_fit_trains_as_the_command_does(capsys):
    houses().to_csv("houses.csv", index=False)
    ours = fit("houses.csv", "sold", drop=["price"], output="ours", **SMALL)
    assert "target sold: two classes" in capsys.readouterr().out
    typed = "train --data houses.csv --target sold --drop price --depth 3 --width 8 --epochs 2 --output theirs"
    assert main(typed.split()) == 0
    theirs = open_run("theirs")
    assert ours.config == theirs.config
    pandas.testing.assert_frame_equal(ours.metrics.drop(columns="seconds"), theirs.metrics.drop(columns="seconds"))
    for a, b in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_table_in_memory_is_kept_beside_the_run_which_can_be_made_again(capsys):
    run = fit(houses(), ["price", "rent"], progress=False, **SMALL)
    assert capsys.readouterr().out == ""
    assert run.folder.parent.name == "runs"
    assert {path.suffix for path in run.folder.parent.iterdir() if path.is_file()} == {".parquet"}
    assert run.evaluate().samples == 48
    again = fit(config=run.folder / "config.toml", output="again", progress=False)
    assert torch.equal(run.model[0].weight, again.model[0].weight)
    fit(houses(), "price", progress=False, **SMALL)
    assert len([path for path in run.folder.parent.iterdir() if path.is_file()]) == 1


def test_arrays_are_inputs_and_targets():
    x = np.random.default_rng(0).normal(size=(80, 3))
    run = fit((x, x[:, 0] > 0), output="run", progress=False, **SMALL)
    assert run.preprocessing.target.classes == ("false", "true")
    assert len(run.predict(x)) == 80


def test_a_resumed_run_keeps_its_options():
    fit("wine", depth=2, epochs=1, output="run", progress=False)
    with pytest.raises(ValueError, match="so --epochs cannot be given"):
        fit(resume="run", epochs=3)
    with pytest.raises(ValueError, match="so --data cannot be given"):
        fit("wine", resume="run")
    assert len(fit(resume="run", device="cpu", progress=False).metrics) == 1


@pytest.mark.parametrize(
    ("data", "options", "error", "cause"),
    [
        ("nothing.csv", {}, ValueError, "nothing.csv is neither a file nor a folder nor a built-in set"),
        ("wine", {"colour": "red"}, ValueError, "No such option: --colour"),
        ("wine", {"depth": "deep"}, ValueError, "for '--depth'"),
        ("wine", {"target": "no such"}, ValueError, "there is no target 'no such'"),
        ((np.zeros(3),), {}, ValueError, "data is a tuple of 1: give (inputs, targets)"),
        ([1, 2], {}, ValueError, "a list is not a table"),
    ],
)
def test_invalid_data_and_options_are_errors_before_a_run_is_made(data, options, error, cause):
    with pytest.raises(error) as raised:
        fit(data, progress=False, **options)
    assert cause in str(raised.value)
    assert not os.path.exists("runs") or not os.listdir("runs")


def test_the_error_of_a_failed_training_names_the_folder_with_its_results(monkeypatch):
    def fail(*_, **__):
        raise FloatingPointError("the loss is not finite in step 3")

    monkeypatch.setattr("sigmoidcore.training.recording.RecordedTraining._on_step", fail)
    with pytest.raises(FitError, match="the loss is not finite in step 3; the results so far are in run"):
        fit("wine", output="run", progress=False, **SMALL)


def test_a_folder_that_holds_a_run_is_not_overwritten_by_accident():
    fit("wine", output="run", progress=False, **SMALL)
    with pytest.raises(ValueError, match="contains a run"):
        fit("wine", output="run", progress=False, **SMALL)
    with contextlib.suppress(FileNotFoundError):
        os.unlink("run/report.txt")
    fit("wine", output="run", progress=False, overwrite=True, **SMALL)
    assert os.path.exists("run/report.txt")
