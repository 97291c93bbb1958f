"""Data that change after a training are noticed: `train --resume` and `evaluate` name the columns."""

import shutil

import pytest
from core_support.runs import houses

from sigmoidcore.cli import main

TRAIN = ["--target", "price", "--drop", "rent", "--drop", "sold", "--depth", "2", "--width", "4", "--epochs", "1"]


def ten_times(table):
    return table.assign(rooms=table["rooms"] * 10)


CHANGES = {
    "a row removed": (lambda table: table.drop(index=17), "changed: "),
    "rows in another order": (lambda table: table.iloc[::-1], "changed: "),
    "a column times 10": (ten_times, "changed: rooms"),
    "a column renamed": (lambda table: table.rename(columns={"rooms": "beds"}), "missing: rooms; new: beds"),
    "a column added": (lambda table: table.assign(floor=range(len(table))), "new: floor"),
    "another file": (lambda table: houses(seed=1), "changed: "),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    houses().to_csv(folder / "houses.csv", index=False)
    assert main(["train", "--data", str(folder / "houses.csv"), *TRAIN, "--output", str(folder / "run")]) == 0
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_are_refused_and_the_columns_named(trained, tmp_path, capsys, change):
    make, words = CHANGES[change]
    shutil.copytree(trained / "run", tmp_path / "run")
    run = str(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    try:
        make(houses()).to_csv(trained / "houses.csv", index=False)
        for arguments in (["train", "--resume", run], ["evaluate", run]):
            capsys.readouterr()
            assert main(arguments) == 2
            error = capsys.readouterr().err
            assert f"houses has changed since the training ({words}" in error
            assert "start a new run: sigmoid-core train --config" in error or arguments[0] == "evaluate"
        assert {path: path.read_bytes() for path in before} == before
    finally:
        houses().to_csv(trained / "houses.csv", index=False)
    assert main(["evaluate", run]) == 0
