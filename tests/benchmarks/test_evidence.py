"""`make evidence`: it knows how to run what the READMEs quote, and says what a new result changes."""

import json
from pathlib import Path

import pytest

import _evidence

SCRIPTS = Path(_evidence.__file__).parent


@pytest.fixture
def newer(tmp_path):
    """A folder in which one result is another one."""
    report = json.loads((_evidence.figures.RESULTS / "depth.json").read_text("utf-8"))
    for row in report["rows"]:
        row["accuracy"] -= 1.0
    (tmp_path / "depth.json").write_text(json.dumps(report), "utf-8")
    return tmp_path


def test_every_quoted_result_has_its_command():
    _, quoted = _evidence.differences(_evidence.figures.RESULTS, SCRIPTS)
    assert quoted <= _evidence.SCRIPTS.keys()
    assert {"depth", "failures_peers", "watch_repositories"} < quoted
    assert [command for command in _evidence.SCRIPTS.values() if not (SCRIPTS / command.split()[0]).exists()] == []


def test_committed_results_change_nothing_and_a_new_one_shows_its_rows_on_each_page(newer):
    assert _evidence.differences(_evidence.figures.RESULTS, SCRIPTS)[0] == []
    found, _ = _evidence.differences(_evidence.figures.RESULTS, newer)
    assert any(line.startswith("README.md: | 100 |") and "96.7 %" in line for line in found)
    assert {line.partition(":")[0] for line in found} >= {"README.md", "packages/sigmoid-core/README.md"}
