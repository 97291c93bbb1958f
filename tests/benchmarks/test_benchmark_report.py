import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import _report
from _report import Report, arguments, table


def report(path: Path, *words: str, seeds: tuple[int, ...] = (0, 1), **settings: Any) -> Report:
    options = arguments("a benchmark").parse_args(["--output", str(path), *words])
    return Report("depth", options, key=("method", "depth"), seeds=seeds, settings={"width": 64, **settings})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results" / "depth.json"


@pytest.fixture(autouse=True)
def _clean_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    at_commit(monkeypatch, "a" * 40)


def at_commit(monkeypatch: pytest.MonkeyPatch, commit: str | None, dirty: bool = False) -> None:
    monkeypatch.setattr(_report, "git_state", lambda: {"commit": commit, "dirty": dirty})


def test_the_file_holds_the_rows_and_all_that_is_needed_to_repeat_them(path: Path) -> None:
    running = report(path)
    running.add(method="core", depth=10, accuracy=0.97)
    running.finish()

    content = json.loads(path.read_text())

    assert list(content) == [
        "benchmark",
        "command",
        "git",
        "date",
        "machine",
        "versions",
        "threads",
        "seeds",
        "settings",
        "rows",
        "seconds",
    ]
    assert content["rows"] == [{"method": "core", "depth": 10, "accuracy": 0.97}]
    assert content["settings"] == {"quick": False, "width": 64}
    assert content["seeds"] == [0, 1]
    assert content["versions"]["torch"] == torch.__version__
    assert {"cpu", "cores", "ram_gib", "os"} <= set(content["machine"])


def test_every_row_is_in_the_file_as_soon_as_it_is_added(path: Path) -> None:
    running = report(path)
    for depth in (10, 100):
        running.add(method="core", depth=depth)
        assert json.loads(path.read_text())["rows"][-1]["depth"] == depth
    assert list(path.parent.iterdir()) == [path], "no temporary file stays behind"


def test_a_row_that_cannot_be_written_leaves_the_file_as_it_was(path: Path) -> None:
    running = report(path)
    running.add(method="core", depth=10)
    before = path.read_text()
    with pytest.raises(TypeError):
        running.add(method="core", depth=100, accuracy=object())
    assert path.read_text() == before


def test_a_resumed_run_wants_only_the_rows_that_it_does_not_have(path: Path) -> None:
    report(path).add(method="core", depth=10, accuracy=0.97)

    resumed = report(path, "--resume")

    assert not resumed.wants(method="core", depth=10)
    assert resumed.wants(method="core", depth=100)
    assert resumed.wants(method="plain", depth=10)
    resumed.add(method="core", depth=100, accuracy=0.96)
    assert [row["depth"] for row in json.loads(path.read_text())["rows"]] == [10, 100]


def test_the_seconds_of_a_resumed_run_include_those_before(path: Path) -> None:
    report(path).add(method="core", depth=10)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "seconds": 1000.0}))
    report(path, "--resume").add(method="core", depth=100)
    assert json.loads(path.read_text())["seconds"] >= 1000


@pytest.mark.parametrize(
    ("commit", "dirty", "reason"),
    [("b" * 40, False, "git differ"), ("a" * 40, True, "uncommitted"), (None, False, "uncommitted")],
)
def test_rows_of_other_code_are_not_kept(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    commit: str | None,
    dirty: bool,
    reason: str,
) -> None:
    report(path).add(method="core", depth=10)
    at_commit(monkeypatch, commit, dirty)
    assert report(path, "--resume").wants(method="core", depth=10)
    assert reason in capsys.readouterr().err


def test_rows_of_other_settings_or_seeds_are_not_kept(path: Path) -> None:
    report(path).add(method="core", depth=10)
    assert report(path, "--resume", width=256).wants(method="core", depth=10)
    assert report(path, "--resume", seeds=(0, 1, 2)).wants(method="core", depth=10)
    assert report(path, "--resume", "--quick").wants(method="core", depth=10)
    assert not report(path, "--resume").wants(method="core", depth=10)


def test_two_runs_that_shared_the_work_are_joined(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = path.with_name("other.json")
    report(path).add(method="core", depth=10, accuracy=0.97)
    shared = report(other)
    shared.add(method="core", depth=10, accuracy=0.5)
    shared.add(method="core", depth=100, accuracy=0.96)

    joined = report(path, "--resume", "--join", str(other))
    assert not joined.wants(method="core", depth=100)
    joined.finish()

    assert [row["accuracy"] for row in json.loads(path.read_text())["rows"]] == [0.97, 0.96]
    assert report(path, "--join", str(other), width=256).wants(method="core", depth=100)
    assert "rows of other.json" in capsys.readouterr().err


def test_only_selects_rows_by_the_values_of_their_key(path: Path) -> None:
    running = report(path, "--only", "depth=10,100", "--only", "method=core")
    assert running.wants(method="core", depth=10)
    assert running.wants(method="core", depth=100)
    assert not running.wants(method="core", depth=1000)
    assert not running.wants(method="plain", depth=10)


@pytest.mark.parametrize("text", ["colour=red", "core"])
def test_an_only_that_names_no_column_of_the_key_says_which_there_are(path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}': write NAME=VALUE, with a NAME from method, depth"):
        report(path, "--only", text)


def test_a_row_without_its_key_is_refused_by_name(path: Path) -> None:
    with pytest.raises(ValueError, match="depth"):
        report(path).add(method="core")


@pytest.mark.parametrize(
    ("words", "name"),
    [([], "depth.json"), (["--quick"], "depth.quick.json"), (["--only", "depth=10"], "depth.partial.json")],
)
def test_a_short_or_partial_run_does_not_replace_a_full_result(words: list[str], name: str) -> None:
    options = arguments("a benchmark").parse_args(words)
    assert Report("depth", options, key=("depth",), seeds=[0], settings={}).path == _report.RESULTS / name


def test_the_command_names_no_folder_of_this_machine(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(_report.ROOT / "benchmarks" / "depth.py")
    monkeypatch.setattr("sys.argv", [script, "--quick", "--output", str(path)])
    assert report(path).content["command"] == "python benchmarks/depth.py --quick --output depth.json"


def test_a_row_with_nan_is_written_as_valid_json(path: Path) -> None:
    report(path).add(method="plain", depth=10, loss=math.nan)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse)["rows"][0]["loss"] == "nan"


def test_the_table_is_aligned_and_leaves_out_lists() -> None:
    rows = [
        {"method": "core", "depth": 1000, "accuracy": 0.97531, "each": [0.97, 0.98]},
        {"method": "plain sigmoid", "depth": 3, "accuracy": None, "each": []},
    ]
    assert table(rows).splitlines() == [
        "method         depth  accuracy",
        "-------------  -----  --------",
        "core            1000    0.9753",
        "plain sigmoid      3         -",
    ]
