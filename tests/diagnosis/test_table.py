"""The layers as a DataFrame."""

import sys
from dataclasses import fields, replace

import pandas
import pytest
from support.measurements import changed, stack

from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Weight
from sigmoidcore.diagnosis.report.table import data_frame, first_weights


def test_the_columns_are_the_fields_of_a_layer_and_three_of_its_weight():
    table = Diagnosis(stack(3), ()).layers
    assert [table.index.name, *table.columns] == [
        *(field.name for field in fields(Layer)),
        "weight_size",
        "weight_gradient",
        "update",
    ]
    assert list(table.index) == [f"net.{i}" for i in range(5)]


def test_numbers_are_numbers_and_unknown_values_are_missing():
    table = data_frame(changed(stack(3), 0, gradient=None))
    assert table["gradient"].isna().tolist() == [True, False, False, False, False]
    assert table["gradient"].min() == table["gradient"]["net.1"]
    assert table["shape"].tolist() == [(64, 8)] * 5
    assert table["weights"]["net.2"] == ("net.2.weight",)
    assert table["histogram"]["net.2"] is None


def test_a_network_without_layers_has_an_empty_table():
    assert data_frame(Measurement((), (), 1)).columns.equals(data_frame(stack(3)).columns)


def test_of_several_weights_the_first_matrix_stands_for_the_layer_or_else_the_first():
    names = ("bias", "weight", "other")
    layer = Layer("a", "a", "Linear", "weights", weights=names)
    weights = (Weight("bias", (8,), size=1.0), Weight("weight", (8, 8), size=2.0), Weight("other", (8, 8), size=3.0))
    assert first_weights(Measurement((layer,), weights, 1))[0].name == "weight"
    assert first_weights(Measurement((layer,), weights[:1], 1))[0].name == "bias"
    assert first_weights(Measurement((layer,), (), 1)) == [None]


def test_the_weight_of_a_layer_is_in_its_row():
    weights = (replace(stack(3).weights[0], update=1e-3, gradient=None), *stack(3).weights[1:])
    row = data_frame(replace(stack(3), weights=weights)).loc["net.0"]
    assert row["weight_size"] == 2.5
    assert pandas.isna(row["weight_gradient"])
    assert row["update"] == 1e-3


def test_without_pandas_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r'pip install "sigmoid-core\[tables\]"'):
        data_frame(stack(3))
