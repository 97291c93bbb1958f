"""Sinks write a few numbers and one picture of a sample, whatever the number of layers."""

import csv
import json
import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from sigmoidcore import MLP, Equalizer, Monitor
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Weight
from sigmoidcore.equalizer.equalizer import Sample
from sigmoidcore.integrations.sinks import CSV, JSONL, SCALARS, TensorBoard, picture, scalars

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


# --- numbers and pictures --------------------------------------------------------------------------------------------


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


NOT_FINITE = replace(SAMPLE, spread=math.nan, log_sizes=(math.nan, -math.inf, math.inf, -900.0, 900.0))


@pytest.mark.parametrize("sample", [MEASUREMENT, Measurement((), (), samples=8), SAMPLE, NOT_FINITE])
def test_a_picture_is_900_pixels_wide_and_not_empty(sample):
    image = picture(sample)
    assert image.shape[1:] == (900, 3)
    assert 200 < image.shape[0] < 1000
    assert image.dtype == np.uint8
    assert (image != 255).any()


# --- trackers --------------------------------------------------------------------------------------------------------


class Writer:
    """Records the calls of a SummaryWriter."""

    def __init__(self):
        self.tags = []

    def add_scalar(self, tag, value, step):
        self.tags.append((tag, step))

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HWC"
        self.tags.append((tag, step))

    def steps(self, tag):
        return [step for name, step in self.tags if name == tag]


@pytest.mark.parametrize("depth", [4, 60])
def test_tensorboard_gets_the_same_tags_for_every_depth(depth):
    model, sink = MLP(8, 16, depth, 3), TensorBoard(writer := Writer())
    optimizer = torch.optim.Adam(model.parameters())
    with Equalizer(model, optimizer, every=2, sinks=[sink]), Monitor(model, every=4, sinks=[sink]):
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(20, 8)), torch.randint(0, 3, (20,))).backward()
            optimizer.step()
    assert {tag for tag, _ in writer.tags} <= {f"sigmoidcore/{name}" for name in (*SCALARS, "layers", "cores")}
    assert writer.steps("sigmoidcore/layers") == [0, 4]
    assert writer.steps("sigmoidcore/cores") == [0]
    assert writer.steps("sigmoidcore/equalizer_spread") == [0, 2, 4]


def test_an_equalizer_is_pictured_at_most_every_hundred_steps_also_after_a_resume():
    sink = TensorBoard(writer := Writer())
    for step in (0, 1, 60, 99, 100, 170, 230, 329, 330, 5, 40, 105):  # resumed at step 5
        sink(replace(SAMPLE, step=step))
    assert writer.steps("sigmoidcore/cores") == [0, 100, 230, 330, 5, 105]


def test_pictures_and_prefix_are_optional():
    sink = TensorBoard(writer := Writer(), prefix="generator", pictures=False)
    for sample in (MEASUREMENT, SAMPLE):
        sink(sample)
    assert writer.tags == [(f"generator/{name}", 7) for name in (*scalars(MEASUREMENT), *scalars(SAMPLE))]


def test_pictures_without_matplotlib_are_refused_at_once(monkeypatch):
    for name in ["matplotlib", *(name for name in sys.modules if name.startswith("matplotlib."))]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("sigmoidcore.diagnosis.report.figures", "sigmoidcore.plots.style"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=r"pip install \"sigmoid-core\[plots\]\""):
        TensorBoard(Writer())
    TensorBoard(Writer(), pictures=False)(SAMPLE)


# --- files -----------------------------------------------------------------------------------------------------------


def rows_of(path):
    """The rows of a CSV or JSONL sink."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_a_table_has_a_row_for_every_sample_and_is_continued(tmp_path):
    for sample in (MEASUREMENT, SAMPLE):
        CSV(tmp_path / "samples.csv")(sample)
    assert rows_of(tmp_path / "samples.csv") == [
        {"step": 7, **scalars(MEASUREMENT)},
        {"step": 7, **scalars(SAMPLE)},
    ]


def test_lines_of_json_have_every_layer(tmp_path):
    path = tmp_path / "samples.jsonl"
    broken = replace(MEASUREMENT.layers[0], gradient=math.nan)
    lines = JSONL(path)
    for sample in (MEASUREMENT, SAMPLE, Measurement((broken,), (), samples=8, step=9)):
        lines(sample)
    first, second, third = rows_of(path)
    layers = {"layers": ["0", "1", "2", "3", "4"], "gradients": [0.5, 9.0, 2.0, None, None]}
    assert first == {"kind": "measurement", "step": 7, **scalars(MEASUREMENT), **layers}
    assert second == {"kind": "equalizer", "step": 7, **scalars(SAMPLE), "log_sizes": [0.0, math.log(1.5)]}
    assert third["gradients"] == ["nan"]


@pytest.mark.parametrize("sink", [CSV, JSONL])
def test_the_file_is_created_at_the_first_sample_and_a_line_is_in_it_at_once(sink, tmp_path):
    path = tmp_path / f"samples.{sink.__name__.lower()}"
    file = sink(path)
    assert not path.exists()
    file(SAMPLE)
    assert [row["step"] for row in rows_of(path)] == [7]


@pytest.mark.parametrize("sink", [CSV, JSONL])
def test_a_line_that_a_killed_process_left_incomplete_is_removed_and_quoted(sink, tmp_path):
    path = tmp_path / f"samples.{sink.__name__.lower()}"
    for step in (1, 2):
        sink(path)(replace(SAMPLE, step=step))
    complete = path.read_bytes()
    for end in range(len(complete)):
        path.write_bytes(complete[:end])
        rest = complete[complete[:end].rfind(b"\n") + 1 : end].decode()
        before = max(complete[:end].count(b"\n") - (sink is CSV), 0)
        if rest:
            message = f"{path}: removed the incomplete last line {rest[:100]!r}"
            with pytest.warns(RuntimeWarning, match=re.escape(message)):
                sink(path)(replace(SAMPLE, step=3))
        else:
            sink(path)(replace(SAMPLE, step=3))
        assert [row["step"] for row in rows_of(path)] == [*[1, 2][:before], 3]


@pytest.mark.parametrize("sink", [CSV, JSONL])
@pytest.mark.parametrize("text", ["hello", "hello\n", "\n{}\n", '{"a": 1', "a,b\n1,2\n"])
def test_a_file_of_another_format_is_left_alone(sink, text, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"mine\.txt is not a file of {sink.__name__}, .* use another name"):
        sink(path)(SAMPLE)
    assert path.read_text() == text
