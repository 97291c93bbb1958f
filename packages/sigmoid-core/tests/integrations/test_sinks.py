"""Sinks write a few numbers of a sample, whatever the number of layers."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from sigmoidcore import MLP, Equalizer, Monitor
from sigmoidcore.equalizer.sample import Sample
from sigmoidcore.integrations.sinks import CSV, SCALARS, scalars
from unstuck.measure.measurement import Layer, Measurement, Weight

SAMPLE = Sample(step=7, spread=1.5, log_sizes=(0.0, math.log(1.5)), slopes=2, neurons=3)
MEASUREMENT = Measurement(
    layers=(
        Layer("0", "0", "Linear", "weights", gradient=0.5, spread=0.9, nonfinite_gradient=1),
        Layer("1", "1", "Sigmoid", "activation", gradient=9.0, saturated=0.25, spread=0.2),
        Layer("2", "2", "Linear", "weights", gradient=2.0, spread=0.8),
        Layer("3", "3", "ReLU", "activation", saturated=None, dead=0.125, nonfinite=2),
        Layer("4", "4", "Sigmoid", "activation", saturated=0.5),
    ),
    weights=(
        Weight("0.weight", (2, 2), update=0.1),
        Weight("2.weight", (2, 2), update=0.4, nonfinite=3),
        Weight("2.bias", (2,), update=0.2),
        Weight("9.bias", (2,)),
    ),
    samples=8,
    step=7,
)


def test_scalars_summarise_a_measurement():
    assert scalars(MEASUREMENT) == {
        "spread": 4.0,
        "smallest_gradient": 0.5,
        "largest_gradient": 2.0,
        "saturated": 0.5,
        "dead": 0.125,
        "smallest_sample_spread": 0.2,
        "update": 0.2,
        "not_finite": 6,
    }
    assert set(SCALARS) == {*scalars(MEASUREMENT), *scalars(SAMPLE)}


def test_unknown_values_are_left_out():
    assert scalars(Measurement((), (), samples=8)) == {"not_finite": 0}
    unknown = replace(MEASUREMENT.layers[0], gradient=math.nan, spread=None, nonfinite_gradient=0)
    numbers = scalars(Measurement((unknown,), (Weight("0.weight", (2, 2), update=math.nan),), samples=8))
    assert all(math.isnan(numbers.pop(name)) for name in ("spread", "smallest_gradient", "largest_gradient"))
    assert numbers == {"not_finite": 0}


@pytest.mark.parametrize("depth", [4, 60])
def test_a_table_has_the_same_columns_for_every_depth(depth, tmp_path):
    model, table = MLP(8, 16, depth, 3), CSV(tmp_path / "samples.csv")
    optimizer = torch.optim.Adam(model.parameters())
    with Equalizer(model, optimizer, every=2, sinks=[table]), Monitor(model, every=4, sinks=[table]):
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(20, 8)), torch.randint(0, 3, (20,))).backward()
            optimizer.step()
    rows = rows_of(tmp_path / "samples.csv")
    assert all(set(row) <= {"step", *SCALARS} for row in rows)
    assert [row["step"] for row in rows if "equalizer_spread" in row] == [0, 2, 4]
    assert [row["step"] for row in rows if "not_finite" in row] == [0, 4]


def rows_of(path):
    """The rows of a table, without empty cells."""
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_table_has_a_row_for_every_sample_and_is_continued(tmp_path):
    for sample in (MEASUREMENT, SAMPLE):
        CSV(tmp_path / "samples.csv")(sample)
    assert rows_of(tmp_path / "samples.csv") == [{"step": 7, **scalars(MEASUREMENT)}, {"step": 7, **scalars(SAMPLE)}]


def test_the_file_is_created_at_the_first_sample_and_a_row_is_in_it_at_once(tmp_path):
    path = tmp_path / "samples.csv"
    table = CSV(path)
    assert not path.exists()
    table(SAMPLE)
    assert [row["step"] for row in rows_of(path)] == [7]


@pytest.mark.parametrize("text", ["hello", "hello\n", "\n{}\n", '{"a": 1', "a,b\n1,2\n"])
def test_another_file_is_left_alone(text, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.txt is another table, .* use another name"):
        CSV(path)(SAMPLE)
    assert path.read_text() == text
