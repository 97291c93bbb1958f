"""What runs there are in a folder, whatever state they are in."""

import json

import pytest

from sigmoidcore.cli import main
from sigmoidcore.training.data import DataError
from sigmoidcore.training.runs.folder import Run
from sigmoidcore.training.runs.listing import runs_in, summary
from sigmoidcore.training.runs.lock import is_locked


def a_run(folder, accuracies=(), outcome="finished", **options):
    with Run.create("made", {"data": "digits", "depth": 3, "width": 8, **options}, folder=folder) as run:
        for place, accuracy in enumerate(accuracies, 1):
            run.log("epoch", epoch=place, step=14 * place, loss=1 / place, accuracy=accuracy,
                    spread=1.5, seconds=2.0 * place)  # fmt: skip
        if outcome:
            run.log("end", outcome=outcome, step=14 * len(accuracies), message="")
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs of every kind."""
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "runs" / "b", [90.0, 80.0])
    a_run(tmp_path / "runs" / "a", [95.0], depth=5)
    a_run(tmp_path / "runs" / "stopped", [50.0, 60.0, 70.0], outcome="interrupted", lr=0.1)
    a_run(tmp_path / "runs" / "killed", [10.0], outcome="")
    a_run(tmp_path / "runs" / "begun", outcome="")
    return tmp_path / "runs"


def test_a_summary_has_the_outcome_and_the_last_numbers(runs):
    found = summary(runs / "b")
    assert (found.name, found.data, found.shape, found.outcome) == ("b", "digits", "3x8", "finished")
    assert (found.steps, found.epochs, found.metric) == (28, 2, 80.0)
    assert (found.loss, found.spread, found.seconds, found.metric_name) == (0.5, 1.5, 4.0, "accuracy")


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("name", ["a", "b", "begun", "killed", "stopped"]),
        ("metric", ["a", "b", "stopped", "killed", "begun"]),
        ("time", ["begun", "a", "killed", "b", "stopped"]),
    ],
)
def test_runs_are_sorted(runs, order, names):
    assert [run.name for run in runs_in(runs, order).runs] == names


def test_by_date_the_latest_is_the_last(runs):
    for day, name in enumerate(["stopped", "killed", "a", "begun", "b"], 1):
        path = runs / name / "metrics.jsonl"
        lines = path.read_text().splitlines()
        first = json.dumps({**json.loads(lines[0]), "started": f"2026-01-0{day}T00:00:00+00:00"})
        path.write_text("\n".join([first, *lines[1:]]) + "\n")
    assert [run.name for run in runs_in(runs).runs] == ["stopped", "killed", "a", "begun", "b"]


def test_a_run_without_an_end_was_killed_or_is_running(runs):
    assert [summary(runs / name).outcome for name in ("stopped", "killed", "begun")] == [
        "interrupted", "killed", "killed",
    ]  # fmt: skip
    with Run.reopen(runs / "killed") as run:
        assert is_locked(run.folder)
        assert summary(run.folder).outcome == "running"
    (runs / "killed" / "lock").touch()
    assert summary(runs / "killed").outcome == "killed"


def spoil_config(run):
    (run / "config.toml").write_text("format = 2\n[options")


def spoil_metrics(run):
    (run / "metrics.jsonl").write_text("{]\n")


def lose_fields(run):
    (run / "metrics.jsonl").write_text('{"kind": "epoch"}\n')


def lose_kind(run):
    (run / "metrics.jsonl").write_text('{"epoch": 1}\n')


def newer(run):
    (run / "config.toml").write_text("format = 99\nname = 'x'\n[options]\n")


@pytest.mark.parametrize("spoil", [spoil_config, spoil_metrics, lose_fields, lose_kind, newer])
def test_damaged_runs_are_named_and_other_folders_are_skipped(runs, capsys, spoil):
    spoil(runs / "a")
    (runs / "notes").mkdir()
    (runs / "file.txt").write_text("mine")
    found = runs_in(runs, "name")
    assert [run.name for run in found.runs] == ["b", "begun", "killed", "stopped"]
    assert len(found.damaged) == 1
    assert str(runs / "a") in found.damaged[0]
    assert main(["runs"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "left out: " in output
    assert main(["runs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 4


def test_a_run_alone_is_shown_by_itself(runs, capsys):
    assert main(["runs", "runs/b"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["b", "digits", "3x8"]
    spoil_config(runs / "b")
    assert main(["runs", "runs/b"]) == 2


def test_a_folder_without_runs_says_how_to_make_one(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 0
    assert "`sigmoid-core train` makes one" in " ".join(capsys.readouterr().out.split())


def test_numbers_that_are_not_finite_are_null_in_json(runs, capsys):
    a_run(runs / "bad", [float("nan")], outcome="failed")
    assert main(["runs", "--json", "--sort", "metric"]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert next(run for run in listed if run["name"] == "bad")["metric"] is None


def test_a_narrow_terminal_shows_whole_names_and_fewer_columns(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    name = "houses-in-the-country-100x64-12"
    a_run(runs / name, data="houses-and-all-that-is-in-them.csv")
    assert main(["runs", "--sort", "name"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["run", "outcome", "metric", "time", "date"]
    assert any(line.split()[0] == name for line in lines)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not contain a run"):
        summary(tmp_path)
