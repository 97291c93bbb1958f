"""`sigmoid-core train` and `sigmoid-core predict`, from file to file."""

import errno
import os
import pickle
import signal

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from sklearn.tree import DecisionTreeClassifier

from sigmoidcore.cli import main
from sigmoidcore.cli.train import interval
from sigmoidcore.tables import model as tables
from sigmoidcore.tables.reading import read_file

ROWS = 40


@pytest.fixture(autouse=True)
def _small_networks_in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "HIDDEN", (4,))


@pytest.fixture(scope="module")
def houses():
    random = np.random.default_rng(0)
    size = random.normal(100, 20, ROWS).round(1)
    table = pd.DataFrame({"size": size, "town": random.choice(["=Bern", "Köln", ""], ROWS)})
    table["built"] = pd.Timestamp("1990-01-01") + pd.to_timedelta(random.integers(0, 9000, ROWS), "D")
    table["id"] = [f"house {n}" for n in range(ROWS)]
    table["note"] = " "
    table["price"] = (3000 * size + random.normal(0, 100, ROWS)).round()
    return table


@pytest.fixture(scope="module")
def trained(houses, tmp_path_factory):
    """Models of the price (from a German file) and of the town, by their target."""
    folder = tmp_path_factory.mktemp("models")
    german = houses.assign(price=[f"{price:,.0f} €".replace(",", ".") for price in houses["price"]])
    german.to_csv(folder / "houses.csv", sep=";", decimal=",", index=False, date_format="%d.%m.%Y", encoding="cp1252")
    houses.replace("", "Ulm").to_parquet(folder / "houses.parquet")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "HIDDEN", (4,))
        for target, name in (("price", "houses.csv"), ("town", "houses.parquet")):
            found[target] = folder / f"{target}.skops"
            assert main(["train", str(folder / name), "--target", target, "-o", str(found[target])]) == 0
    return found


def line(capsys):
    """The only line of the error output."""
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text


def test_training_shows_the_table_the_scores_and_the_next_command(houses, capsys):
    houses.assign(price=[f"€{price:,.0f}" for price in houses["price"]]).to_csv("houses.csv", index=False)
    assert main(["train", "houses.csv", "--target", "price", "-o", "model.skops", "--drop", "built"]) == 0
    printed = capsys.readouterr().out
    assert all(len(each) <= 80 for each in printed.splitlines())
    for text in (
        "houses.csv: 40 rows, UTF-8, separated by ','", " €\n", "number: size\n", "text: town\n",
        "different in every row: id\n", "constant or empty: note\n", "R2 on rows that were not learnt from",
        "Sigmoid Core  ", "HistGradientBoostingRegressor  ", "RidgeCV  ", " better: ",
        "sigmoid-core predict model.skops NEW.csv -o predictions.csv",
    ):  # fmt: skip
        assert text in printed
    assert sorted(os.listdir()) == ["houses.csv", "model.skops"]


def test_an_interval_is_wider_than_that_of_independent_scores():
    assert interval([0.5] * 5) == (0.5, 0.5, 0.5)
    # The 97.5 % quantile of Student's t with 4 degrees of freedom is 2.776, and the standard deviation is 1.5811.
    np.testing.assert_allclose(interval([1, 2, 3, 4, 5]), (3, 3 - 2.945, 3 + 2.945), atol=1e-3)


def test_a_class_of_one_row_is_counted_and_needs_no_warning(houses, capsys):
    houses.assign(town=["Rom", *["Ulm", "Köln", "Bern"] * 13]).to_csv("houses.csv", index=False)
    assert main(["train", "houses.csv", "--target", "town", "-o", "model.skops"]) == 0
    printed = capsys.readouterr()
    assert "target: town, Bern (13), Köln (13), Rom (1), Ulm (13)\n" in printed.out
    assert printed.err == ""


def test_the_file_predicts_what_the_network_predicts(houses):
    houses.to_csv("houses.csv", index=False)
    file = read_file(tables.Path("houses.csv"))
    for target in ("price", "town"):
        table = file._replace(table=file.table.replace("", "Ulm"))
        model, _, frame, answers = tables.learnt(table, target)
        pipeline = model.candidates(0)["Sigmoid Core"]
        center, scale = (0, 1) if model.classes else (answers.mean(), answers.std())
        pipeline.fit(frame, (answers - center) / scale)
        tables.Path("model.skops").write_bytes(skops.io.dumps(model.fit(frame, answers, 0)))
        found = tables.load(tables.Path("model.skops")).predict(table)
        if model.classes:
            np.testing.assert_allclose(found.iloc[:, 1:], pipeline.predict_proba(frame), atol=1e-9)
        else:
            np.testing.assert_allclose(found["prediction"], pipeline.predict(frame) * scale + center)


def test_predictions_follow_the_columns_by_name(trained, houses, capsys):
    new = houses.drop(columns=["price", "id", "note"]).assign(more=[[1]] * ROWS)[["more", "built", "town", "size"]]
    new.to_parquet("new.parquet")
    new["town"] = new["town"].replace("Köln", "new to it")
    new["size"] = [f"{size}".replace(".", ",") if n else " " for n, size in enumerate(new["size"])]
    new.drop(columns="more").to_csv("new.csv", sep="\t", date_format="%d.%m.%Y", encoding="utf-16", index=False)
    for name in ("new.parquet", "new.csv"):
        assert main(["predict", str(trained["price"]), name, "-o", f"{name}.csv"]) == 0
        assert capsys.readouterr().out == f"{name}.csv: 40 rows, prediction\n"
    one, other = (pd.read_csv(f"{name}.csv") for name in ("new.parquet", "new.csv"))
    assert list(one) == ["prediction"]
    assert np.corrcoef(one["prediction"], houses["price"])[0, 1] > 0.9
    same = (houses["town"] != "Köln") & (houses.index > 0)
    pd.testing.assert_frame_equal(one[same], other[same])


def test_a_text_that_a_spreadsheet_would_run_gets_an_apostrophe_in_csv_only(trained, houses):
    houses.to_parquet("new.parquet")
    for name in ("out.CSV", "out.parquet"):
        assert main(["predict", str(trained["town"]), "new.parquet", "-o", name]) == 0
    text, exact = pd.read_csv("out.CSV"), pd.read_parquet("out.parquet")
    assert list(exact) == ["prediction", "probability_=Bern", "probability_Köln", "probability_Ulm"]
    assert set(exact["prediction"]) >= {"=Bern"}
    assert set(text["prediction"]) == {{"=Bern": "'=Bern"}.get(each, each) for each in exact["prediction"]}
    np.testing.assert_allclose(exact.iloc[:, 1:].sum(axis=1), 1)


@pytest.mark.parametrize(
    ("answers", "task", "classes"),
    [
        ([f"€{n},000" for n in range(1, 21)], None, []),
        ([f"€{n % 2}" for n in range(20)], None, []),
        ([n % 3 for n in range(20)], None, [0, 1, 2]),
        ([n % 3 + 0.5 for n in range(20)], None, []),
        ([n % 3 for n in range(20)], "regression", []),
        ([n % 2 + 0.5 for n in range(20)], "classification", [0.5, 1.5]),
        (["yes", "no"] * 10, None, ["no", "yes"]),
        ([n % 21 for n in range(420)], None, []),
    ],
)
def test_texts_and_a_few_whole_numbers_are_classes(answers, task, classes):
    pd.DataFrame({"y": answers, "x": range(len(answers))}).to_csv("x.csv", index=False)
    assert tables.learnt(read_file(tables.Path("x.csv")), "y", task)[0].classes == classes


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([1, None, 3, None] * 10, "'y' has 20 missing values (first: row 2): fill or drop them"),
        (["2024-01-01", "2024-01-02"] * 20, "'y' has dates such as"),
        ([1, "on request", *range(38)], "'y' has 'on request' in row 2, not a number like '1': correct it"),
        (["€5"] * 40, "'y' has only '€5' in all rows"),
        ([f"name {n}" for n in range(40)], "has 40 different values such as 'name 0' in 40 rows"),
        (["yes"] * 37 + ["no"] * 3, "2 different values such as 'yes' in 40 rows"),
        (["yes", "no"] * 2, "in 4 rows: too few rows, or no classes"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_refused(answers, message, capsys):
    pd.DataFrame({"y": answers, "x": range(len(answers))}).to_csv("x.csv", index=False)
    assert main(["train", "x.csv", "--target", "y", "-o", "m.skops"]) == 2
    assert message in line(capsys)
    assert os.listdir() == ["x.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train x.csv --target z -o m.skops", "x.csv has no column 'z': choose from y, x"),
        ("train x.csv --target y --drop z -o m.skops", "x.csv has no column 'z'"),
        ("train x.csv --target y --drop x -o m.skops", "x.csv has no column to learn from"),
        ("train z.csv --target y -o m.skops", "'z.csv' does not exist"),
        ("train x.csv --target y -o no/m.skops", "cannot write no/m.skops: No such file or directory"),
        ("train x.csv --target y -o y.csv", "y.csv exists: give another name, or --overwrite"),
        ("train x.csv --target y -o x.csv --overwrite", "x.csv is an input, which is not replaced"),
        ("predict MODEL x.csv -o out.csv", "'built': the model has learnt from it, so add it to y, x"),
        ("predict MODEL x.csv -o x.csv --overwrite", "x.csv is an input, which is not replaced"),
        ("predict MODEL x.csv -o out.txt", "out.txt must end with .csv or .parquet"),
        ("predict MODEL sizes.csv -o out.csv", "'1.5' in row 1, not a number like '0,5': correct it, empty it"),
        ("predict x.csv x.csv -o out.csv", "x.csv is not a model of sigmoid-core train: give the .skops file"),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_no_file(arguments, message, trained, capsys):
    pd.DataFrame({"y": range(30), "x": range(30)}).to_csv("x.csv", index=False)
    tables.Path("y.csv").write_text("mine")
    tables.Path("sizes.csv").write_text("size,town,built\n1.5,Ulm,01.02.2024\n")
    before = {name: tables.Path(name).read_bytes() for name in os.listdir()}
    assert main([str(trained["price"]) if word == "MODEL" else word for word in arguments.split()]) == 2
    assert message in line(capsys)
    assert {name: tables.Path(name).read_bytes() for name in os.listdir()} == before


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            skops.io.dumps(DecisionTreeClassifier()),
            "sklearn.tree._classes.DecisionTreeClassifier, which is not trusted",
        ),
        (skops.io.dumps([os.path.join]), "posixpath.join, which is not trusted"),
        (skops.io.dumps({"columns": []}), "is not a model of sigmoid-core train"),
        (pickle.dumps(_Runs()), "is not a model of sigmoid-core train"),
        (b"", "is not a model of sigmoid-core train"),
    ],
)
def test_a_model_with_anything_else_is_refused_and_not_executed(content, message, houses, capsys):
    houses.to_csv("houses.csv", index=False)
    tables.Path("model.skops").write_bytes(content)
    assert main(["predict", "model.skops", "houses.csv", "-o", "out.csv"]) == 2
    assert message in line(capsys)
    assert sorted(os.listdir()) == ["houses.csv", "model.skops"]


@pytest.mark.parametrize("steps", [1, 300, 750])
def test_ctrl_c_ends_with_a_line_and_leaves_no_file(steps, houses, monkeypatch, capsys):
    houses.to_csv("houses.csv", index=False)
    original, done = torch.optim.AdamW.step, []

    def step(self, *arguments):
        done.append(None)
        if len(done) == steps:
            signal.raise_signal(signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    assert main(["train", "houses.csv", "--target", "price", "-o", "model.skops"]) == 130
    assert line(capsys) == "sigmoid-core: interrupted\n"
    assert os.listdir() == ["houses.csv"]


def test_a_full_disk_is_named_with_its_file(trained, houses, monkeypatch, capsys):
    houses.to_parquet("new.parquet")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert main(["predict", str(trained["price"]), "new.parquet", "-o", "out.csv"]) != 0
    assert "out.csv: No space left on device" in line(capsys)
    assert os.listdir() == ["new.parquet"]
