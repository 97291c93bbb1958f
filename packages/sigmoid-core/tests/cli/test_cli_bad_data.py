"""The commands on files that cannot be used: exit code 2, one line with cause and remedy, and nothing is left."""

import contextlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import feather, parquet
from core_support.malformed import MALFORMED, MISFITS, NEW_TEXT, QUICK, as_file
from core_support.runs import houses, made_run

from sigmoidcore.cli import main

OUTPUTS = st.sampled_from(["out.csv", "out.parquet"])


@pytest.fixture(scope="module")
def run(tmp_path_factory, without_figures):
    """A run that has learnt which houses were sold; beside it is one of their prices."""
    folder = tmp_path_factory.mktemp("houses")
    houses().to_csv(folder / "houses.csv", index=False)
    made_run(folder / "price", folder / "houses.csv", target="price", depth=1)
    small = ["--depth", "2", "--width", "4", "--epochs", "1", "--output", str(folder / "sold")]
    learnt = ["--target", "sold", "--drop", "price", "--drop", "rent"]
    assert main(["train", "--data", str(folder / "houses.csv"), *learnt, *small]) == 0
    return folder / "sold"


@pytest.fixture
def begun(monkeypatch):
    """The data of trainings that would have begun now."""
    found = []
    monkeypatch.setattr("sigmoidcore.training.launch.lead", lambda choice, *rest: found.append(choice.data))
    return found


@contextlib.contextmanager
def placed(file, folder):
    """The path of a file that is the only thing in a folder, before and after."""
    path = file.put(folder)
    try:
        yield path
        assert list(folder.iterdir()) == [path]
    finally:
        path.rmdir() if path.is_dir() else path.unlink()


def states(folder):
    """Everything in a folder, and when it was changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def assert_is_helpful(error):
    """One line, with the cause and, after a colon or a semicolon, the remedy; see the fixture `refused` for more."""
    message = error.removeprefix("sigmoid-core: ").removesuffix("\n")
    assert message.isprintable()
    assert 20 < len(message) < 600
    assert ":" in message or ";" in message
    assert "Traceback" not in message
    assert "Error:" not in message


def test_train_refuses_60_malformed_files_in_one_line(tmp_path, refused):
    seen = set()

    @settings(QUICK, max_examples=75)
    @given(file=MALFORMED)
    def check(file):
        with placed(file, tmp_path) as path:
            assert_is_helpful(refused(["train", "--data", str(path), "--target", "price", "--output", "run"]))
        seen.add(file)

    check()
    assert len(seen) >= 60


def test_predict_refuses_60_unsuitable_files_in_one_line(tmp_path, refused, run):
    seen, before = set(), states(run)

    @settings(QUICK, max_examples=75)
    @given(file=MISFITS, output=OUTPUTS)
    def check(file, output):
        with placed(file, tmp_path) as path:
            assert_is_helpful(refused(["predict", str(run), str(path), "-o", output]))
        seen.add(file)

    check()
    assert len(seen) >= 60
    assert states(run) == before


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 1e300])
def test_a_target_that_is_not_finite_is_refused(tmp_path, refused, run, value):
    table = houses(12).astype({"sold": object})
    for name, target in (("price", "price"), ("sold", "sold")):
        table.assign(**{target: [*houses(12)[target][:11], value]}).to_csv(tmp_path / "a.csv", index=False)
        error = refused(["evaluate", str(run.parent / name), "a.csv"])
        assert_is_helpful(error)
        assert f"target '{target}'" in error
        assert "in row 12" in error


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_column_that_a_format_does_not_support_leaves_no_incomplete_file(tmp_path, refused, run, ending):
    rows = pa.Table.from_pandas(houses(12), preserve_index=False)
    odd = pa.array([[1]] * 12) if ending == "csv" else pa.array([(1, 2, 3)] * 12, pa.month_day_nano_interval())
    feather.write_feather(rows.append_column("odd", odd), tmp_path / "a.feather")
    arguments = ["predict", str(run), "a.feather", "--keep", "odd", "-o", f"out.{ending}"]
    assert_is_helpful(refused(arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["a.feather"]


def test_an_error_in_ten_thousand_columns_is_one_line(tmp_path, refused):
    content = ",".join(f"c{n}" for n in range(10_000)) + ("\n" + ",".join("1" * 10_000)) * 6
    with placed(as_file(content), tmp_path) as path:
        error = refused(["train", "--data", str(path), "--target", "price", "--output", "run"])
    assert_is_helpful(error)
    assert "there is no target 'price': the names are c0, c1, c2, c3, c4, c5, c6, c7 and 9,992 more" in error


def test_classes_that_are_whole_numbers_keep_all_their_digits(tmp_path, begun):
    large = [2**64 - 1, 2**64 - 2, 2**53 + 1]
    parquet.write_table(pa.table({"x": range(30), "y": pa.array(large * 10, pa.uint64())}), "a.parquet")
    assert main(["train", "--data", "a.parquet", "--target", "y", "--kind", "class", "--depth", "2"]) == 0
    assert begun[0].classes == (str(2**64 - 2), str(2**64 - 1), str(2**53 + 1))


LONG = "x" * 300 + ".csv"
"""No file system has names as long as this."""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--data", LONG, "--target", "price"],
        ["train", "--data", "plain.csv", "--target", "price", "--depth", "2", "--output", LONG],
        ["train", "--resume", LONG],
        ["train", "--config", LONG],
        ["predict", LONG, "plain.csv", "-o", "out.csv"],
        ["predict", "RUN", LONG, "-o", "out.csv"],
        ["predict", "RUN", "plain.csv", "-o", LONG],
        ["evaluate", "RUN", LONG],
        ["evaluate", "RUN", LONG, "--json", "plain.csv", "--overwrite"],
        ["evaluate", "RUN", "plain.csv", "--json", LONG],
        ["export", "RUN", "-o", LONG],
        ["diagnose", LONG],
        ["runs", LONG],
    ],
)
def test_names_that_are_too_long_are_refused(tmp_path, refused, run, arguments):
    (tmp_path / "plain.csv").write_text(NEW_TEXT)
    assert_is_helpful(refused([str(run) if word == "RUN" else word for word in arguments]))
    assert [path.name for path in tmp_path.iterdir()] == ["plain.csv"]
