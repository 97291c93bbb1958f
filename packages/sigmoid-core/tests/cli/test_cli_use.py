"""`sigmoid-core predict`, `evaluate`, `export` and `runs`: from a table to predictions, and what may go wrong."""

import contextlib
import json
import os
import signal
import sys

import numpy as np
import pandas
import pytest

from sigmoidcore.cli import main
from sigmoidcore.training.use import open_run
from sigmoidcore.training.use.predict import outputs_of

SMALL = ["--depth", "3", "--width", "8", "--epochs", "2"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with two runs on tables, and new rows."""
    folder = tmp_path_factory.mktemp("houses")
    generator = np.random.default_rng(0)
    table = pandas.DataFrame({"size": generator.normal(100, 20, 300), "colour": generator.choice(["red", "blue"], 300)})
    table["price"] = 3 * table["size"] + generator.normal(0, 9, 300)
    table["sold"] = np.where(table["price"] > 300, "yes", "no")
    table.loc[::20, "size"] = np.nan
    table["id"] = [f"house {n}" for n in range(300)]
    table[:200].to_csv(folder / "houses.csv", index=False)
    table[200:].drop(columns=["price", "sold"]).to_csv(folder / "new.csv", index=False)
    table[200:].to_csv(folder / "known.csv", index=False)
    with contextlib.chdir(folder):
        for target, other in (("sold", "price"), ("price", "sold")):
            more = ["--target", target, "--drop", other, "--output", f"runs/{target}", *SMALL]
            assert main(["train", "--data", "houses.csv", *more]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_its_folder(trained, monkeypatch):
    monkeypatch.chdir(trained)


def test_predict_writes_one_row_per_row_with_the_columns_of_keep(trained, tmp_path, capsys):
    output = tmp_path / "out.parquet"
    assert main(["predict", "runs/sold", "new.csv", "-o", str(output), "--keep", "id"]) == 0
    found = pandas.read_parquet(output)
    assert list(found.columns) == ["id", "prediction", "probability_no", "probability_yes"]
    assert found["id"].tolist() == [f"house {n}" for n in range(200, 300)]
    assert f"100 predictions in {output}" in capsys.readouterr().out
    pandas.testing.assert_frame_equal(found.drop(columns="id"), open_run("runs/sold").predict("new.csv"))


def test_evaluate_agrees_with_the_metrics_of_the_training(trained, capsys):
    assert main(["evaluate", "runs/sold", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 40
    metrics = open_run("runs/sold").metrics
    assert found["scores"]["accuracy"]["value"] * 100 == pytest.approx(metrics["accuracy"].iloc[-1])


def test_evaluate_shows_metrics_and_classes_and_draws_a_figure(trained, tmp_path, capsys):
    assert main(["evaluate", "runs/sold", "known.csv", "--figure", str(tmp_path / "matrix.png")]) == 0
    output = capsys.readouterr().out
    for word in (
        "sold on known.csv: 100 samples",
        "accuracy",
        "macro-F1",
        "log loss",
        "AUC",
        "precision",
        "95 % inter",
    ):
        assert word in output
    assert (tmp_path / "matrix.png").read_bytes().startswith(b"\x89PNG")
    assert main(["evaluate", "runs/price", "known.csv", "--json", str(tmp_path / "price.json")]) == 0
    assert "RMSE" in capsys.readouterr().out
    assert set(json.loads((tmp_path / "price.json").read_text())["scores"]) == {"RMSE", "MAE", "R2"}


def test_export_writes_network_and_preprocessing_and_says_how_to_load_them(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained / "runs" / "sold")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sold.preprocessing.skops", "sold.safetensors"]
    assert 'load_file("sold.safetensors")' in capsys.readouterr().out


def test_a_missing_package_is_named_with_exit_code_1(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert main(["export", "runs/sold", "--format", "onnx", "-o", str(tmp_path / "x.onnx")]) == 1
    assert 'pip install "sigmoid-core[onnx]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_runs_lists_all_runs_in_the_width_of_the_terminal(trained, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["run", "data", "shape", "outcome", "steps", "metric", "spread", "time", "date"]
    assert [line.split()[0] for line in lines[2:]] == ["sold", "price"]  # the oldest first
    assert "houses" in lines[2]
    assert "3x8" in lines[2]
    assert "finished" in lines[2]
    assert "R2" in lines[3]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["predict", "runs/none", "new.csv", "-o", "out.csv"], "runs/none does not exist: give the folder of a run"),
        (["predict", "new.csv", "new.csv", "-o", "out.csv"], "new.csv is a file: give the folder of a run"),
        (["predict", "runs", "new.csv", "-o", "out.csv"], "runs does not contain a run: it has no config.toml"),
        (["predict", "runs/sold", "new.csv"], "Missing option '--output'"),
        (["predict", "runs/sold", "nothing.csv", "-o", "out.csv"], "nothing.csv is neither a file nor a folder"),
        (["predict", "runs/sold", "new.csv", "-o", "out.txt"], "has an unknown ending"),
        (["predict", "runs/sold", "new.csv", "-o", "no/out.csv"], "there is no folder no; make it"),
        (["predict", "runs/sold", "new.csv", "-o", "known.csv"], "known.csv exists"),
        (["predict", "runs/sold", "new.csv", "-o", "out.csv", "--keep", "ID"], "no column 'ID': did you mean 'id'?"),
        (["evaluate", "runs/sold", "new.csv"], "new.csv has no column 'sold'"),
        (["evaluate", "runs/sold", "--figure", "x.jpg"], "let it end with .png"),
        (["evaluate", "runs/sold", "--json", "known.csv"], "known.csv exists"),
        (["export", "runs/sold", "-o", "no/x"], "there is no folder no; make it"),
        (["export", "runs/sold", "--format", "pickle"], "'pickle' is not one of"),
        (["runs", "nowhere"], "there is no folder nowhere"),
        (["runs", "new.csv"], "new.csv cannot be read: Not a directory; give a folder of runs"),
        (["runs", "--sort", "luck"], "'luck' is not one of"),
    ],
)
def test_wrong_input_is_one_line_with_exit_code_2_and_changes_no_file(trained, refused, arguments, cause):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert cause in refused(arguments)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (["export", "runs/sold", "-o"], "runs/sold/model.safetensors"),
        (["export", "runs/sold", "-o"], "runs/price/../sold/MODEL.safetensors"),
        (["export", "runs/sold", "-o"], "link.safetensors"),
        (["export", "runs/sold", "-o"], "other/sold/checkpoints/step-000000001.safetensors"),
        (["predict", "runs/sold", "new.csv", "-o"], "runs/price/figures/out.csv"),
        (["evaluate", "runs/sold", "--json"], "runs/sold/metrics.jsonl"),
        (["evaluate", "runs/sold", "--figure"], "runs/sold/figures/learning_curves.png"),
    ],
)
def test_no_output_replaces_a_file_of_a_run(trained, refused, command, output):
    with contextlib.suppress(FileExistsError):
        os.symlink("runs/sold/model.safetensors", "link.safetensors")
        os.symlink("runs", "other")
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    found = refused([*command, output, "--overwrite"])
    assert f"{output} is a file of the run" in found
    assert "give another name" in found
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_predict_without_a_file(trained, tmp_path, capsys, monkeypatch, number, code):
    def signalled(network, inputs, first=0):
        os.kill(os.getpid(), number)
        return outputs_of(network, inputs, first)

    monkeypatch.setattr("sigmoidcore.training.use.predict.outputs_of", signalled)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["predict", "runs/sold", "new.csv", "-o", str(tmp_path / "out.csv")]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
