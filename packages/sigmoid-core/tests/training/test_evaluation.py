"""The evaluation of a run on its own test part, and on other data."""

import json
import math

import numpy as np
import pandas
import pytest
import torch
from core_support.runs import house_runs, houses

from sigmoidcore.training.data import DataError
from sigmoidcore.training.use import open_run

NEW = houses(200, seed=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return house_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def sold(folder):
    return open_run(folder / "sold")


def test_without_data_the_runs_own_test_part_is_evaluated(sold):
    found = sold.evaluate()
    data = sold.data()
    with torch.no_grad():
        outputs = torch.cat([sold.model(x) for x, _ in data.test_batches(1000)])
    targets = torch.cat([y for _, y in data.test_batches(1000)])
    assert found.samples == len(data.test) == 48
    assert found["accuracy"] * 100 == pytest.approx(data.metric(outputs, targets))
    assert found["log loss"] == pytest.approx(float(data.loss_fn(outputs, targets)), rel=1e-5)


def test_an_evaluation_on_other_data_agrees_with_the_predictions(sold):
    found = sold.evaluate(NEW)
    guesses = sold.predict(NEW)["prediction"]
    assert found["accuracy"] == pytest.approx((guesses == NEW["sold"]).mean())
    table = pandas.crosstab(NEW["sold"], guesses).reindex(index=["no", "yes"], columns=["no", "yes"], fill_value=0)
    assert [list(row) for row in found.confusion] == table.to_numpy().tolist()
    for place, score in enumerate(found.classes):
        assert score.samples == sum(found.confusion[place])
        if score.samples:
            assert score.recall == pytest.approx(found.confusion[place][place] / score.samples)


def test_errors_of_numbers_are_in_the_unit_of_the_target(folder):
    run = open_run(folder / "price")
    found = run.evaluate(NEW)
    error = run.predict(NEW)["prediction"] - NEW["price"]
    assert found["RMSE"] == pytest.approx(math.sqrt((error**2).mean()), rel=1e-5)
    assert found["MAE"] == pytest.approx(error.abs().mean(), rel=1e-5)
    assert [score.name for score in open_run(folder / "both").evaluate().scores][::3] == [
        "RMSE of price",
        "RMSE of rent",
    ]


def test_json_has_null_for_an_undefined_metric(sold):
    found = sold.evaluate(NEW[NEW["sold"] == "yes"])
    content = json.loads(found.to_json())
    assert content["classes"][0]["recall"] is None
    assert content["samples"] == int((NEW["sold"] == "yes").sum())
    assert set(content["scores"]) == {"accuracy", "macro-F1", "log loss"}
    assert content["scores"]["accuracy"]["low"] < content["scores"]["accuracy"]["high"]


def test_the_text_names_the_run_the_data_and_the_metrics(sold):
    text = str(sold.evaluate())
    assert "sold on the test part of houses, 48 samples" in text
    assert "macro-F1" in text


def test_the_confusion_matrix_shows_the_counts(sold):
    found = sold.evaluate(NEW)
    axes = found.figure().axes[0]
    written = {text.get_text() for text in axes.texts}
    assert written == {f"{n:,}" for row in found.confusion for n in row if n}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["no", "yes"]


def test_the_figure_of_numbers_has_one_panel_per_target(folder):
    assert [axes.get_xlabel() for axes in open_run(folder / "both").evaluate().figure().axes] == [
        "price, true",
        "rent, true",
    ]


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (NEW.drop(columns="sold"), "the table has no column 'sold'"),
        (NEW.assign(sold=["maybe", *["no"] * 199]), "target 'sold' has 'maybe' in row 1, which is not one of its"),
        (NEW.assign(sold=[*["no"] * 199, None]), "target 'sold' is missing in row 200"),
    ],
)
def test_data_without_a_valid_target_are_refused(sold, data, cause):
    with pytest.raises(DataError, match=cause):
        sold.evaluate(data)


def test_a_note_says_that_the_training_data_are_evaluated(sold, folder):
    assert "knows most of the samples" in sold.evaluate(folder / "houses.parquet").notes[0]
    assert sold.evaluate(NEW).notes == ()


def test_the_metrics_of_a_training_are_a_frame_of_epochs(folder, tmp_path):
    run = open_run(folder / "sold")
    assert run.metrics.empty
    with (folder / "sold" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "epoch": 1, "step": 3, "loss": "nan", "accuracy": 50.0}\n')
    assert run.metrics["accuracy"].tolist() == [50.0]
    assert np.isnan(run.metrics["loss"][0])
