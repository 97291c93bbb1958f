"""Where samples go: a few numbers and one picture, whatever the number of layers."""

import csv
import math
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sigmoidcore import MLP, Equalizer, Monitor
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Weight
from sigmoidcore.equalizer.equalizer import Sample
from sigmoidcore.integrations.sinks import CSV, JSONL, SCALARS, MLflow, TensorBoard, WandB, picture, scalars
from sigmoidcore.training.runs.folder import read_metrics

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


def train(*sinks, steps=5, depth=4):
    """A network, a few steps of it measured and equalized."""
    model = MLP(8, 16, depth, 3)
    optimizer = torch.optim.Adam(model.parameters())
    with Equalizer(model, optimizer, every=2, sinks=sinks), Monitor(model, every=4, sinks=sinks):
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(20, 8)), torch.randint(0, 3, (20,))).backward()
            optimizer.step()


def test_the_scalars_of_a_measurement_are_these():
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


def test_what_is_not_known_is_left_out():
    assert scalars(Measurement((), (), samples=8)) == {"not_finite": 0}
    unknown = replace(MEASUREMENT.layers[0], gradient=math.nan, spread=None, nonfinite_gradient=0)
    found = scalars(Measurement((unknown,), (Weight("0.weight", (2, 2), update=math.nan),), samples=8))
    assert math.isnan(found.pop("spread"))
    assert math.isnan(found.pop("smallest_gradient"))
    assert math.isnan(found.pop("largest_gradient"))
    assert found == {"not_finite": 0}


def test_the_names_are_those_that_are_described():
    assert set(SCALARS) == {*scalars(MEASUREMENT), *scalars(SAMPLE)}


ODD = replace(SAMPLE, spread=math.nan, log_sizes=(math.nan, -math.inf, math.inf, -900.0, 900.0))


@pytest.mark.parametrize("sample", [MEASUREMENT, Measurement((), (), samples=8), SAMPLE, ODD])
def test_the_picture_is_one_of_900_pixels_and_not_empty(sample):
    drawn = picture(sample)
    height, width, colours = drawn.shape
    assert (width, colours, drawn.dtype) == (900, 3, np.uint8)
    assert 200 < height < 1000
    assert (drawn != 255).any()


class Writer:
    """Has what a SummaryWriter has."""

    def __init__(self):
        self.tags = []

    def add_scalar(self, tag, value, step):
        self.tags.append((tag, step))

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HWC"
        self.tags.append((tag, step))


@pytest.mark.parametrize("depth", [4, 60])
def test_tensorboard_gets_as_many_tags_for_a_deep_network_as_for_a_shallow_one(depth):
    train(TensorBoard(writer := Writer()), depth=depth)
    tags = {tag for tag, _ in writer.tags}
    assert tags <= {"sigmoidcore/layers", "sigmoidcore/cores", *(f"sigmoidcore/{name}" for name in SCALARS)}
    assert [step for tag, step in writer.tags if tag == "sigmoidcore/layers"] == [0, 4]
    assert [step for tag, step in writer.tags if tag == "sigmoidcore/cores"] == [0]
    assert [step for tag, step in writer.tags if tag == "sigmoidcore/equalizer_spread"] == [0, 2, 4]


def test_of_an_equalizer_alone_there_is_a_picture_at_most_every_hundred_steps():
    sink = TensorBoard(writer := Writer())
    for step in (0, 1, 60, 99, 100, 170, 230, 329, 330, 5, 40, 105, 105):  # goes on from a checkpoint of step 5
        sink(replace(SAMPLE, step=step))
    assert [step for tag, step in writer.tags if tag == "sigmoidcore/cores"] == [0, 100, 230, 330, 5, 105, 105]


def test_the_picture_of_an_equalizers_sample_is_the_profile_of_its_cores(monkeypatch):
    from sigmoidcore.diagnosis.report import plots

    figures, draw = [], plots.profile
    monkeypatch.setattr(plots, "profile", lambda measurement: figures.append(draw(measurement)) or figures[-1])
    picture(replace(SAMPLE, spread=40.0, log_sizes=(0.0, math.log(8.0), math.log(0.5))))
    (axes,) = figures[0].axes
    tops = [bar.get_y() + bar.get_height() for bar in axes.patches]
    assert tops == pytest.approx([1.0, 8.0, 0.5])
    assert axes.get_title(loc="left") == "Gradient profile of the cores, spread 40"  # of all, not of those drawn


def test_without_pictures_and_under_another_name():
    sink = TensorBoard(writer := Writer(), prefix="generator", pictures=False)
    for sample in (MEASUREMENT, SAMPLE):
        sink(sample)
    assert writer.tags == [(f"generator/{name}", 7) for name in (*scalars(MEASUREMENT), *scalars(SAMPLE))]


def test_a_table_has_a_row_a_sample_and_goes_on_in_the_same_file(tmp_path):
    path = tmp_path / "samples.csv"
    for sample in (MEASUREMENT, SAMPLE):
        table = CSV(path)
        table(sample)
        table.close()
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{k: float(v) for k, v in row.items() if v} for row in rows] == [
        {"step": 7, **scalars(MEASUREMENT)},
        {"step": 7, **scalars(SAMPLE)},
    ]


@pytest.mark.parametrize("sink", [CSV, JSONL])
def test_a_file_is_closed_at_the_end_of_its_block_also_where_that_fails(sink, tmp_path):
    with sink(tmp_path / "samples") as file:
        file(SAMPLE)
        inside = file._file if sink is CSV else file._lines
    assert inside.closed if sink is CSV else inside._descriptor < 0
    file(SAMPLE)  # opens it again, as after `close`
    inside = file._file if sink is CSV else file._lines
    with pytest.raises(AttributeError), file as again:
        again(None)
    assert inside.closed if sink is CSV else inside._descriptor < 0
    assert len((tmp_path / "samples").read_text().splitlines()) == (3 if sink is CSV else 2)


@pytest.mark.parametrize("sink", [CSV, JSONL])
def test_in_a_file_that_was_gone_on_with_the_later_row_of_a_kind_counts(sink, tmp_path):
    again = replace(MEASUREMENT, weights=(Weight("0.weight", (2, 2), update=0.3),))
    with sink(tmp_path / "samples") as file:
        for sample in (MEASUREMENT, SAMPLE, replace(SAMPLE, spread=2.5), again):
            file(sample)
    if sink is CSV:
        with (tmp_path / "samples").open(newline="") as text:
            rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(text)]
        latest = {("equalizer" if "equalizer_spread" in row else "measurement", row["step"]): row for row in rows}
        assert {*rows[0]} & {*rows[1]} == {"step"}
        assert {*rows[0]} == {*rows[3]}
    else:
        latest = {(row["kind"], row["step"]): row for row in read_metrics(tmp_path / "samples")}
    assert len(latest) == 2
    assert latest["equalizer", 7]["equalizer_spread"] == 2.5
    assert latest["measurement", 7]["update"] == 0.3


def test_a_file_that_is_another_table_is_left_alone(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"mine\.csv has the columns 'a,b'.*name another file"):
        CSV(path)(SAMPLE)
    assert path.read_text() == "a,b\n1,2\n"


def test_a_row_that_was_cut_off_is_dropped_and_named(tmp_path):
    path = tmp_path / "samples.csv"
    for step in (1, 2):
        table = CSV(path)
        table(replace(SAMPLE, step=step))
        table.close()
    whole = path.read_bytes()
    start = whole.index(b"\n2,") + 1
    for end in range(len(whole)):  # wherever the process was killed
        path.write_bytes(whole[:end])
        table = CSV(path)
        rest = whole[whole[:end].rfind(b"\n") + 1 : end].decode()
        if rest:
            with pytest.warns(RuntimeWarning, match=re.escape(f"{path} was cut off")) as caught:
                table(replace(SAMPLE, step=3))
            assert repr(rest) in str(caught[0].message)
        else:
            table(replace(SAMPLE, step=3))
        table.close()
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["step"] for row in rows] == [*(["1"] if end >= start else []), "3"]
        assert all(row["neurons_opened"] == "3" and None not in row for row in rows)


def test_a_line_of_json_that_was_cut_off_is_dropped_unless_its_end_alone_is_missing(tmp_path):
    path = tmp_path / "samples.jsonl"
    for step in (1, 2):
        lines = JSONL(path)
        lines(replace(SAMPLE, step=step))
        lines.close()
    whole = path.read_bytes()
    second = whole.index(b"\n") + 1
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        lines = JSONL(path)
        if end in (0, second - 1, second, len(whole) - 1):
            lines(replace(SAMPLE, step=3))
        else:
            with pytest.warns(RuntimeWarning, match=re.escape(f"the last line of {path} was cut off")):
                lines(replace(SAMPLE, step=3))
        lines.close()
        before = [1, 2] if end == len(whole) - 1 else [1] if end >= second - 1 else []
        assert [row["step"] for row in read_metrics(path)] == [*before, 3]


def test_a_long_line_that_is_dropped_is_quoted_in_part(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text('{"kind": "' + 1990 * "x")
    with pytest.warns(RuntimeWarning, match=r"dropped: '\{\"kind\": \"x{290}'\.\.\. \(2,000 characters\)$"):
        JSONL(path)(SAMPLE)


@pytest.mark.parametrize("text", ["hello", "hello\n", "1\n", "\n{}\n", '{"a": 1', "a,b\n1,2\n", "[" * 100_000])
def test_a_file_of_something_else_than_json_objects_is_left_alone(text, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.jsonl begins with .* no JSON object: name another file"):
        JSONL(path)(SAMPLE)
    assert path.read_text() == text


def test_lines_are_not_written_through_a_link(tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"kind": "cut o')
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "mine.jsonl")
    with pytest.raises(OSError, match="no regular file"):
        JSONL(tmp_path / "link.jsonl")(SAMPLE)
    assert (tmp_path / "mine.jsonl").read_text() == '{"kind": "cut o'


def test_no_file_is_made_before_the_first_sample(tmp_path):
    CSV(tmp_path / "a").close()
    JSONL(tmp_path / "b").close()
    assert not list(tmp_path.iterdir())


def test_lines_of_json_have_every_layer_and_can_be_read_back(tmp_path):
    lines = JSONL(tmp_path / "samples.jsonl")
    broken = replace(MEASUREMENT.layers[0], gradient=math.nan)
    for sample in (MEASUREMENT, SAMPLE, Measurement((broken,), (), samples=8, step=9)):
        lines(sample)
    lines.close()
    first, second, third = read_metrics(tmp_path / "samples.jsonl")
    assert first == {
        "kind": "measurement",
        "step": 7,
        **scalars(MEASUREMENT),
        "layers": ["0", "1", "2", "3", "4"],
        "gradients": [0.5, 9.0, 2.0, None, None],
    }
    assert second == {"kind": "equalizer", "step": 7, **scalars(SAMPLE), "log_sizes": [0.0, math.log(1.5)]}
    assert math.isnan(third["gradients"][0])


@pytest.mark.parametrize(("sink", "package"), [(lambda: WandB(None), "wandb"), (MLflow, "mlflow-skinny")])
def test_a_package_that_is_missing_is_named(sink, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package.split("-")[0], None)
    with pytest.raises(ImportError, match=rf"sinks\.\w+ needs {package}.*missing: pip install {package}"):
        sink()


@pytest.mark.parametrize(("writer", "named"), [(None, "None"), ("runs", "'runs'"), (Writer, "the class Writer")])
def test_what_is_no_writer_of_tensorboard_is_an_error_at_once(writer, named):
    message = rf'TensorBoard takes what has add_scalar and add_image, such as .*SummaryWriter\("runs"\), got {named}'
    with pytest.raises(TypeError, match=message):
        TensorBoard(writer)


def test_a_writer_without_pictures_is_enough_for_none():
    writer = SimpleNamespace(add_scalar=lambda tag, value, step: None)
    with pytest.raises(TypeError, match="got SimpleNamespace"):
        TensorBoard(writer)
    TensorBoard(writer, pictures=False)(MEASUREMENT)


def test_what_is_no_run_of_weights_and_biases_is_an_error_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Image=None))
    with pytest.raises(
        TypeError, match=r"WandB takes what has define_metric and log, such as wandb\.init\(\), got None"
    ):
        WandB(None)


def test_what_is_no_id_of_a_run_of_mlflow_is_an_error_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(active_run=lambda: None))
    with pytest.raises(TypeError, match=r"run_id must be .* run\.info\.run_id, got SimpleNamespace"):
        MLflow(SimpleNamespace())


def test_without_matplotlib_pictures_are_an_error_at_once(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("sigmoidcore.diagnosis.report.plots", "sigmoidcore.plots.style"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=r"pip install \"sigmoid-core\[plots\]\""):
        TensorBoard(Writer())
    TensorBoard(Writer(), pictures=False)(SAMPLE)
