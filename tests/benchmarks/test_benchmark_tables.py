"""benchmarks/tabular.py and saturation.py: their data are read as they say, and what they conclude is counted right."""

import argparse
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsClassifier

import saturation
import tabular
from sigmoidcore.calibration.calibrate import CURVED, FEW, USUAL

QUICK, FULL = (argparse.Namespace(mlbench=Path("no folder"), quick=quick) for quick in (True, False))


def test_a_table_of_mlbench_has_no_missing_values_and_a_column_for_each_name(monkeypatch, tmp_path):
    frame = pd.DataFrame(
        {"a": ["1", "2", "3"], "colour": ["red", "blue", "red"], "b": [0.5, np.nan, 1.5], "y": [1, 2, 3]}
    )
    asked = []
    monkeypatch.setitem(
        sys.modules, "pyreadr", SimpleNamespace(read_r=lambda path: asked.append(path) or {"Some": frame})
    )
    X, y = tabular.mlbench(tmp_path, "Some", "y", ("a",))
    assert asked == [tmp_path / "Some.rda"]
    np.testing.assert_array_equal(X, [[1, 0.5, 1], [3, 1.5, 1]])
    np.testing.assert_array_equal(y, [1, 3])


def test_cars_are_numbers_and_their_year_is_one(monkeypatch):
    frame = pd.DataFrame(
        {
            "Name": ["a", "b", "c"],
            "Miles_per_Gallon": [18.0, None, 25.0],
            "Year": pd.to_datetime(["1970-01-01", "1971-01-01", "1972-01-01"]),
            "Origin": ["USA", "Japan", "Japan"],
        }
    )
    monkeypatch.setitem(
        sys.modules, "vega_datasets", SimpleNamespace(local_data=SimpleNamespace(cars=lambda: frame.copy()))
    )
    X, y = tabular.cars()
    np.testing.assert_array_equal(X, [[1970, 0, 1], [1972, 1, 0]])
    np.testing.assert_array_equal(y, [18, 25])


def test_data_that_cannot_be_read_are_left_out_and_named(monkeypatch, capsys):
    def absent():
        raise ImportError("no such package")

    known = {"here": ("numbers", lambda: (np.eye(3), np.arange(3.0))), "away": ("numbers", absent)}
    monkeypatch.setattr(tabular, "sources", lambda folder: known)
    assert list(tabular.read(FULL, 500)) == ["here"]
    assert "away is left out: no such package" in capsys.readouterr().err


def test_samples_are_drawn_with_their_targets_and_classes_of_fewer_than_ten_are_left_out(monkeypatch):
    y = np.repeat(["many", "some", "few"], [60, 10, 9])
    X = np.arange(79.0)[:, None]
    known = {"classes": ("classes", lambda: (X, y)), "numbers": ("numbers", lambda: (X, X[:, 0]))}
    monkeypatch.setattr(tabular, "sources", lambda folder: known)
    kind, (inputs, classes) = tabular.read(FULL, 100)["classes"]
    assert kind == "classes"
    assert sorted(inputs[:, 0]) == list(range(70))
    np.testing.assert_array_equal(classes, y[inputs[:, 0].astype(int)])
    _, (inputs, numbers) = tabular.read(FULL, 50)["numbers"]
    assert len(set(numbers)) == len(inputs) == 50
    np.testing.assert_array_equal(inputs[:, 0], numbers)


def test_a_short_run_needs_no_other_package():
    assert [(name, kind) for name, (kind, _) in tabular.read(QUICK, 100).items()] == [
        ("wine", "classes"),
        ("diabetes", "numbers"),
    ]


def test_every_network_is_measured_at_every_depth_with_the_same_sizes():
    found = tabular.methods(True, 32, (3, 10))
    assert {depth for _, depth in found} == {0, 3, 10}
    for method in tabular.NETWORKS:
        for depth in (3, 10):
            assert found[method, depth]().hidden_layer_sizes == (32,) * depth
    assert found["mlp tanh", 10]().activation == "tanh"
    assert found["sigmoid core, fixed decay", 3]().weight_decay == 2.0
    assert len(found["mlp relu, chosen alpha", 3]().param_grid["alpha"]) == 4


def test_scores_are_accuracies_and_r2_in_percent_of_every_fold():
    X = np.random.default_rng(0).normal(size=(40, 2))
    scores, seconds = tabular.measured(LinearRegression, (X, 1e4 * X[:, 0] + 7), False, 4)
    np.testing.assert_allclose(scores, 100)
    assert len(seconds) == 4
    scores, _ = tabular.measured(lambda: KNeighborsClassifier(1), load_iris(return_X_y=True), True, 3)
    assert all(90 < score <= 100 for score in scores)


def row(data, method, depth, score, seconds=1.0):
    return {"data": data, "method": method, "depth": depth, "score": score, "seconds": seconds}


def test_the_summary_ranks_networks_on_the_data_that_all_of_them_have():
    scores = {"a": (90, 80, 90, 10), "b": (70, 80, 60, 50), "c": (60, 50, 70, 10)}
    rows = [
        row(data, method, 3, score, seconds)
        for data, of in scores.items()
        for method, score, seconds in zip(tabular.NETWORKS, of, (3.0, 1.0, 0.5, 1.0), strict=True)
    ]
    rows += [row("a", "linear", 0, 99), row("a", "mlp tanh, chosen alpha", 3, 99), row("d", "sigmoid core", 3, 1)]
    rows += [row("a", "sigmoid core", 10, 1)]  # no depth at which there are all
    found = tabular.summary(rows)
    assert [line["method"] for line in found] == list(tabular.NETWORKS)
    assert {line["depth"] for line in found} == {3}
    # a: 1 (with tanh), 3, 1, 4; b: 2, 1, 3, 4; c: 2, 3, 1, 4
    assert [line["median rank"] for line in found] == [2, 3, 1, 4]
    assert [line["mean score"] for line in found] == [73.3, 70, 73.3, 23.3]
    assert [line["over tanh"] for line in found] == [6, 2, 1, 2]


def test_a_regret_is_over_the_best_and_does_not_mind_small_errors():
    assert saturation.regrets([1.5, 0.5, 4.5]) == [2, 1, 5]
    assert saturation.regrets([0.0, 0.5]) == [1, 2]


def errors(kind, data, **of):
    return {"kind": kind, "data": data, "depth": 3, **{f"{v:g}": 9.5 for v in saturation.LEVELS}, **of}


def test_the_summary_has_every_kind_all_of_them_and_the_level_that_auto_takes():
    rows = [
        errors("table", "a", **{"0.5": 1.5, "2": 0.5}),
        errors("table", "b", **{"0.5": 3.5, "2": 0.5}),
        errors("function", "c", **{"0.5": 7.5, "2": 0.5}),
    ]
    table, function, everything = saturation.summary(rows)
    assert [line["kind"] for line in (table, function, everything)] == ["table", "function", "all"]
    assert (table["0.5"], table["2"], table["1"]) == (round(8**0.5, 2), 1, 10)
    assert (table["auto"], function["0.5"], function["auto"]) == (table["0.5"], 8, 1)
    assert everything["0.5"] == round(statistics.geometric_mean([2, 4, 8]), 2)
    assert everything["auto"] == round(statistics.geometric_mean([2, 4, 1]), 2)


@pytest.mark.parametrize("name", sorted(set(saturation.PROBLEMS) - {"mnist1d"}))
def test_auto_is_the_level_that_prepare_takes(name):
    problem = saturation.PROBLEMS[name]
    features = problem.make(0)[0].shape[1]
    assert saturation.AUTO[problem.kind] == (CURVED if features <= FEW else USUAL)


@pytest.mark.parametrize("name", ["iris", "friedman 2", "rings, 3-D", "spirals, 2-D"])
def test_inputs_and_numbers_are_standardised_by_the_training_samples(name):
    task = saturation.task(saturation.PROBLEMS[name], 0)
    np.testing.assert_allclose(task.train_x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(task.train_x.std(0, correction=0), 1, rtol=1e-4)
    assert len(task.train_x) == len(task.test_x) == len(task.test_y)
    if task.train_y.is_floating_point():
        np.testing.assert_allclose([task.train_y.mean(), task.train_y.std(correction=0)], [0, 1], atol=1e-5)
        assert task.outputs == 1
    else:
        assert task.outputs == len(set(task.train_y.tolist()))


def test_an_error_is_of_the_test_samples_in_percent():
    for name in ("iris", "rings, 3-D"):
        task = saturation.task(saturation.PROBLEMS[name], 0)
        of_mean = task.error(lambda x, n=task.outputs: x.new_zeros(len(x), n))
        expected = 100 * 2 / 3 if name == "iris" else 100
        assert of_mean == pytest.approx(expected, rel=0.05)
