"""A run's folder: it is made, kept, replaced only when asked for, and readable whatever happened."""

import contextlib
import json
import math
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import sigmoidcore as sc
from sigmoidcore.plots.style import save_figure
from sigmoidcore.training.data import InputError
from sigmoidcore.training.networks import network
from sigmoidcore.training.runs.folder import FORMAT, Config, Run, contains_run, read_config, read_metrics
from sigmoidcore.training.runs.weights import WEIGHTS, network_of, save_network

BEGUN = ["config.toml", "environment.json", "lock", "metrics.jsonl"]


def draw(run):
    (run.folder / "figures").mkdir(exist_ok=True)
    save_figure(Figure(), run.folder / "figures" / "old.png")


def test_the_config_holds_options_versions_and_machine(tmp_path):
    with Run.create("test", {"depth": 3, "output": None}, folder=tmp_path / "run"):
        config = read_config(tmp_path / "run")
        environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert config == Config(FORMAT, "test", {"depth": 3})
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["versions"]["sigmoid-core"] == sc.__version__
    assert environment["machine"]["threads"] == torch.get_num_threads()


def test_runs_without_a_folder_are_numbered_and_never_share_one():
    folders = []
    for _ in range(3):
        with Run.create("test", {}) as run:
            folders.append(run.folder)
    assert folders == [Path("runs/test-1"), Path("runs/test-2"), Path("runs/test-3")]


def test_a_number_is_never_given_twice_even_if_an_earlier_folder_has_gone():
    for name in ("test-7", "test-x", "other-9"):
        Path("runs", name).mkdir(parents=True)
    with Run.create("test", {}) as run:
        assert run.folder == Path("runs/test-8")


def test_a_line_is_in_the_file_as_soon_as_it_is_logged(tmp_path):
    with Run.create("test", {}, folder=tmp_path / "run") as run:
        run.log("epoch", epoch=1, loss=0.5)
        rows = read_metrics(run.folder / "metrics.jsonl")
    assert rows[0]["kind"] == "run"
    assert rows[1] == {"kind": "epoch", "epoch": 1, "loss": 0.5}


def test_numbers_that_are_not_finite_come_back_and_the_lines_are_strict_json(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    with Run.create("test", {}, folder=tmp_path / "run") as run:
        run.log("sample", spread=math.inf, log_sizes=(-math.inf, 0.5, math.nan))
    path = run.folder / "metrics.jsonl"
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    row = read_metrics(path)[-1]
    assert row["spread"] == math.inf
    assert row["log_sizes"][:2] == [-math.inf, 0.5]
    assert math.isnan(row["log_sizes"][2])


def test_a_last_line_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "run", "format": 1}\n{"kind": "epoch", "epoch": 1}\n{"kind": "epo')
    assert [row["kind"] for row in read_metrics(path)] == ["run", "epoch"]


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "run", "format": 1}\nnonsense\n')
    with pytest.raises(ValueError, match=r"line 2 is not a JSON object: 'nonsense'"):
        read_metrics(path)


def made(*sizes):
    return network("mlp", **dict(zip(("in_features", "width", "depth", "out_features"), sizes, strict=True)))


def test_weights_come_back_into_the_network_that_their_metadata_describe(tmp_path):
    before = made(5, 8, 3, 2)
    x = torch.randn(20, 5)
    sc.prepare(before.model, x)
    with Run.create("test", {}, folder=tmp_path / "run") as run:
        save_network(run.folder / WEIGHTS, before)
    again = network_of(tmp_path / "run")
    assert (again.architecture, again.sizes) == (before.architecture, before.sizes)
    assert torch.equal(again.model(x), before.model(x))


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_was(tmp_path):
    with Run.create("test", {"seed": 1}, folder=tmp_path / "run") as run:
        run.log("epoch", epoch=1)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    with pytest.raises(InputError, match="contains a run"):
        Run.create("test", {"seed": 2}, folder=run.folder)
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_overwriting_replaces_all_of_the_old_run_and_nothing_else(tmp_path):
    with Run.create("test", {"seed": 1}, folder=tmp_path / "run") as run:
        run.log("epoch", epoch=1)
        save_network(run.folder / WEIGHTS, made(2, 2, 1, 2))
        draw(run)
        (run.folder / "report.txt").write_text("old")
        (run.folder / "notes.txt").write_text("mine")
    with Run.create("test", {"seed": 2}, folder=run.folder, overwrite=True):
        left = sorted(str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file())
        assert left == [*BEGUN, "notes.txt"]
        assert len(read_metrics(run.folder / "metrics.jsonl")) == 1
        assert read_config(run.folder).options == {"seed": 2}


def test_a_folder_that_holds_no_run_is_never_overwritten(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").touch()
    (tmp_path / "config.toml").write_text("x = 1")
    assert not contains_run(tmp_path)
    with pytest.raises(InputError, match="does not contain a run"):
        Run.create("test", {}, folder=tmp_path, overwrite=True)
    assert (tmp_path / "figures" / "mine.png").is_file()


def test_an_empty_folder_that_is_there_already_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    with Run.create("test", {}, folder=tmp_path / "run") as run:
        assert contains_run(run.folder)


@pytest.mark.parametrize(
    "text", ["", "[", "format = 2", "[" * 100_000, 'format = "2"\n[options]\n', "\x00", "x" * 2**21]
)
def test_an_invalid_config_is_an_error_of_one_line(tmp_path, text):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.toml") as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)
    assert not contains_run(tmp_path)


def test_a_config_of_a_newer_format_is_refused(tmp_path):
    (tmp_path / "config.toml").write_text(f"format = {FORMAT + 1}\n[options]\n")
    with pytest.raises(ValueError, match="install a newer sigmoid-core"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.toml", "environment.json", "lock", "figures/old.png"])
def test_links_in_a_folder_lead_nowhere(tmp_path, name):
    with Run.create("test", {}, folder=tmp_path / "run") as run:
        draw(run)
    mine = tmp_path / "mine"
    mine.write_text("precious")
    path = run.folder / name
    path.unlink(missing_ok=True)
    path.symlink_to(mine)
    with (
        contextlib.suppress(OSError, InputError),
        Run.create("test", {}, folder=run.folder, overwrite=True) as again,
    ):
        draw(again)
    assert mine.read_text() == "precious"


def test_a_process_killed_before_its_run_began_leaves_a_folder_that_can_be_taken(tmp_path):
    (tmp_path / "lock").write_text("")
    (tmp_path / "config.toml.17.part").write_text("half")
    with Run.create("test", {}, folder=tmp_path) as run:
        assert contains_run(run.folder)
