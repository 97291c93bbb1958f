"""The columns of the table of layers."""

import pandas
from unstuck_support.measurements import stack

from unstuck.diagnosis import Diagnosis
from unstuck.measure.measurement import Layer, Measurement, Weight
from unstuck.report.layer_table import first_weights


def test_the_layers_of_a_diagnosis_make_a_table_of_pandas():
    table = pandas.DataFrame(map(vars, Diagnosis(stack(3), ()).layers))
    assert table["name"].tolist() == [f"net.{i}" for i in range(5)]
    assert table["gradient"].min() == table["gradient"][0]


def test_of_several_weights_the_first_matrix_stands_for_the_layer_or_else_the_first():
    names = ("bias", "weight", "other")
    layer = Layer("a", "a", "Linear", "weights", weights=names)
    weights = (Weight("bias", (8,), size=1.0), Weight("weight", (8, 8), size=2.0), Weight("other", (8, 8), size=3.0))
    assert first_weights(Measurement((layer,), weights, 1))[0].name == "weight"
    assert first_weights(Measurement((layer,), weights[:1], 1))[0].name == "bias"
    assert first_weights(Measurement((layer,), (), 1)) == [None]
