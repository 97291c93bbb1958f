"""JSON of a diagnosis, which the schema describes; and the measurements of a Monitor's state, which come back."""

import json
import math
from dataclasses import MISSING, fields, is_dataclass, replace
from itertools import pairwise

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unstuck_support.measurements import TEXTS, anything, changed, dead, few, frozen, stack, vanishing

from unstuck.diagnosis import Diagnosis
from unstuck.findings import Finding, Gap, Trial, Trials
from unstuck.measure import measurement
from unstuck.measure.measurement import (
    Comparison,
    Layer,
    Measurement,
    Subject,
    Swap,
    Weight,
)
from unstuck.report.json import to_json
from unstuck.values import read, written

BROKEN = Diagnosis(stack(5), (vanishing("net.0", "net.2"), dead("net.5"), frozen("net.0.weight")))
TEXT = to_json(BROKEN)


@pytest.fixture(scope="module")
def schema(root):
    return json.loads((root / "docs" / "diagnosis-schema.json").read_text(encoding="utf-8"))


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


layers = anything(Layer, name=TEXTS, sources=few(st.just(0)))
measurements = anything(
    Measurement, layers=few(layers, 1), weights=few(anything(Weight)), loss_reads=st.just(0),
    comparisons=few(anything(Comparison)), answers=st.none() | st.dictionaries(TEXTS, TEXTS),
    swaps=few(anything(Swap)),
    dropouts=few(st.floats(0, 1)),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(max_examples=15)
@given(few(anything(Finding, message=TEXTS)), few(measurements, 1), few(anything(Gap)), anything(Trials))
def test_any_diagnosis_becomes_strict_json_of_the_schema(schema, findings, history, gaps, trials):
    diagnosis = Diagnosis(history[-1], findings, history if len(history) > 1 else (), None, gaps, trials)
    jsonschema.validate(json.loads(to_json(diagnosis), parse_constant=refuse), schema)


@settings(max_examples=50)
@given(measurements)
def test_any_measurement_comes_back_with_six_digits(measurement):
    values = written(measurement)
    again = read(Measurement, json.loads(json.dumps(values)))
    assert written(again) == values
    assert [layer.name for layer in again.layers] == [layer.name for layer in measurement.layers]


def test_numbers_of_six_digits_and_those_that_are_not_finite_come_back_as_they_were():
    exact = changed(stack(2), 0, gradient=1.25, gain=math.inf, rms=0.25)
    assert read(Measurement, written(exact)).layers[0] == exact.layers[0]
    assert read(Layer, written(replace(exact.layers[0], rms=1 / 3))).rms == 0.333333


def test_a_long_history_is_thinned_evenly_until_it_is_small_enough(monkeypatch):
    monkeypatch.setattr("unstuck.report.json.EARLIER", 250)
    measurements = tuple(replace(stack(5), step=step) for step in range(1001))
    text = to_json(Diagnosis(measurements[-1], (), measurements))
    assert len(text) < 60_000
    steps = [m.get("step", 0) for m in json.loads(text)["earlier"]]
    assert (steps[0], steps[-1]) == (0, 999)
    gaps = [b - a for a, b in pairwise(steps)]
    assert max(gaps) - min(gaps) <= 1


def test_the_text_is_returned_and_written(tmp_path):
    path = tmp_path / "diagnosis.json"
    assert BROKEN.to_json(str(path)) + "\n" == path.read_text(encoding="utf-8")


def test_the_model_and_its_batch_are_not_in_it():
    assert to_json(replace(BROKEN, subject=Subject(None, "secret"))) == TEXT


def test_a_diagnosis_comes_back_from_its_text():
    again = Diagnosis.from_json(TEXT)
    assert again.to_json() == TEXT
    assert str(again) == str(Diagnosis.from_json(again.to_json()))
    assert again.findings == BROKEN.findings


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', TEXT.replace('"layers"', '"other"', 1)])
def test_another_text_is_no_diagnosis(text):
    with pytest.raises(ValueError, match=r"."):
        Diagnosis.from_json(text)


@pytest.mark.parametrize(
    ("conditions", "fails"),
    [(["error"], True), (["warning"], True), (["US1"], True), (["US101"], True), (["US2"], False)],
)
def test_conditions_are_severities_rules_or_groups(conditions, fails):
    assert Diagnosis(stack(30, 1e-2), (vanishing("0"),)).fails(conditions) is fails
    assert not Diagnosis(stack(3), ()).fails(conditions)


def test_unknown_fields_are_left_out():
    values = written(stack(2))
    values["new"] = values["layers"][0]["new"] = {"deep": [1, None]}
    assert read(Measurement, values) == read(Measurement, written(stack(2)))


MEASURED = [
    kind
    for kind in vars(measurement).values()
    if is_dataclass(kind) and kind.__module__ == measurement.__name__ and kind is not Subject
]


@pytest.mark.parametrize("kind", [Finding, Gap, Trial, Trials, *MEASURED])
def test_the_schema_has_every_field_with_its_default_and_a_description(kind, schema):
    described = schema["$defs"].get(kind.__name__.lower(), {"properties": {}})
    names = [field.name for field in fields(kind)]
    assert list(described["properties"]) == names, "describe each field in docs/diagnosis-schema.json"
    assert described.get("required", []) == [field.name for field in fields(kind) if field.default is MISSING]
    for field in fields(kind):
        entry = described["properties"][field.name]
        assert entry["description"]
        if field.default is not MISSING:
            default = "nan" if field.default != field.default else field.default
            assert entry["default"] == (list(default) if isinstance(default, tuple) else default)


def test_the_schema_is_valid_and_as_strict_as_the_reader(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(TEXT), schema)
    for broken in ({"format": 2}, {"measurement": {"loss": "much"}}, {"findings": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(TEXT) | broken, schema)
