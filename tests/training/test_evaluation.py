"""What is measured of a run: on its own test part, and on other data."""

import json
import math

import numpy as np
import pandas
import pytest
import torch
from support.runs import house_runs, houses, made_run

from sigmoidcore.training.data import DataError
from sigmoidcore.training.use.evaluate import interval_text, value_text
from sigmoidcore.training.use.scores import Score
from sigmoidcore.training.use.trained import open_run

NEW = houses(200, seed=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return house_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def sold(folder):
    return open_run(folder / "sold")


def test_without_data_it_is_the_runs_own_test_part(sold):
    found = sold.evaluate()
    data = sold.data()
    with torch.no_grad():
        outputs = torch.cat([sold.model(x) for x, _ in data.test_batches(1000)])
    targets = torch.cat([y for _, y in data.test_batches(1000)])
    assert found.samples == len(data.test) == 48
    assert found["accuracy"] * 100 == pytest.approx(data.metric(outputs, targets))
    assert found["log loss"] == pytest.approx(float(data.loss_fn(outputs, targets)), rel=1e-5)


def test_on_other_data_it_agrees_with_the_predictions(sold):
    found = sold.evaluate(NEW)
    guesses = sold.predict(NEW)["prediction"]
    assert found["accuracy"] == pytest.approx((guesses == NEW["sold"]).mean())
    table = pandas.crosstab(NEW["sold"], guesses).reindex(index=["no", "yes"], columns=["no", "yes"], fill_value=0)
    assert [list(row) for row in found.confusion] == table.to_numpy().tolist()
    for place, score in enumerate(found.classes):
        assert score.samples == sum(found.confusion[place])
        if score.samples:
            assert score.recall == pytest.approx(found.confusion[place][place] / score.samples)


def test_of_numbers_errors_are_in_their_unit(folder):
    run = open_run(folder / "price")
    found = run.evaluate(NEW)
    error = run.predict(NEW)["prediction"] - NEW["price"]
    assert found["RMSE"] == pytest.approx(math.sqrt((error**2).mean()), rel=1e-5)
    assert found["MAE"] == pytest.approx(error.abs().mean(), rel=1e-5)
    assert [score.name for score in open_run(folder / "both").evaluate().scores][::3] == [
        "RMSE of price",
        "RMSE of rent",
    ]


def test_json_has_null_for_what_is_not_defined(sold):
    found = sold.evaluate(NEW[NEW["sold"] == "yes"])
    content = json.loads(found.to_json())
    assert content["classes"][0]["recall"] is None
    assert content["samples"] == int((NEW["sold"] == "yes").sum())
    assert set(content["scores"]) == {"accuracy", "macro-F1", "log loss"}
    assert content["scores"]["accuracy"]["low"] < content["scores"]["accuracy"]["high"]


def test_a_frame_has_a_row_a_metric(sold):
    frame = sold.evaluate().frame()
    assert list(frame.columns) == ["value", "low", "high"]
    assert (frame["low"] <= frame["value"]).all()


def test_text_says_what_was_measured_on_what(sold):
    text = str(sold.evaluate())
    assert "sold on the test part of houses, 48 samples" in text
    assert "macro-F1" in text


def test_the_figure_of_classes_has_the_numbers_in_its_cells(sold):
    found = sold.evaluate(NEW)
    axes = found.figure().axes[0]
    written = {text.get_text() for text in axes.texts}
    assert written == {f"{n:,}" for row in found.confusion for n in row if n}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no", "yes"]


def test_the_figure_of_numbers_has_a_panel_a_target(folder):
    assert [axes.get_xlabel() for axes in open_run(folder / "both").evaluate().figure().axes] == [
        "price, true",
        "rent, true",
    ]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (NEW.drop(columns="sold"), "the table has no column 'sold'"),
        (
            NEW.assign(sold=["maybe", *["no"] * 199]),
            "target 'sold' has 'maybe' in row 1, which is not one of its",
        ),
        (NEW.assign(sold=[*["no"] * 199, None]), "target 'sold' is missing in row 200"),
    ],
)
def test_data_without_their_target_are_refused(sold, data, cause):
    with pytest.raises(DataError) as raised:
        sold.evaluate(data)
    assert cause in str(raised.value)


def test_data_that_have_changed_since_are_no_test(folder, tmp_path):
    path = tmp_path / "houses.parquet"
    houses().to_parquet(path)
    run = open_run(made_run(tmp_path / "run", path, target="sold"))
    run.evaluate()
    houses(seed=5).to_parquet(path)
    with pytest.raises(DataError, match="has changed since the training"):
        run.evaluate()
    path.unlink()
    with pytest.raises(DataError, match="is neither a file nor a folder nor a built-in set"):
        run.evaluate()


def test_the_data_that_were_learnt_from_are_said_to_be_so(sold, folder):
    assert "knows most of the samples" in sold.evaluate(folder / "houses.parquet").notes[0]
    assert sold.evaluate(NEW).notes == ()


def test_values_and_intervals_are_written_with_as_many_digits_as_say_something():
    assert value_text(Score("accuracy", 0.91234, 0.9, 0.95, percent=True)) == "91.2 %"
    assert interval_text(Score("accuracy", 0.91234, 0.9, 0.95, percent=True)) == "[90.0 %, 95.0 %]"
    assert value_text(Score("R2", math.nan, math.nan, math.nan)) == "undefined"
    assert interval_text(Score("R2", math.nan, math.nan, math.nan)) == ""


def test_metrics_are_a_frame_of_epochs(folder, tmp_path):
    run = open_run(folder / "sold")
    assert run.metrics.empty
    with (folder / "sold" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "epoch": 1, "step": 3, "loss": "nan", "accuracy": 50.0}\n')
    assert run.metrics["accuracy"].tolist() == [50.0]
    assert np.isnan(run.metrics["loss"][0])
