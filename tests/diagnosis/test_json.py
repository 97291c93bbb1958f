"""JSON: a diagnosis comes back, the schema describes it, and anything else is refused with a reason."""

import json
import math
import os
import typing
from dataclasses import MISSING, fields, replace
from itertools import pairwise

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.measurements import changed, dead, frozen, stack, vanishing

from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Subject, Weight
from sigmoidcore.diagnosis.report.json import to_json

BROKEN = Diagnosis(stack(5), (vanishing("net.0", "net.2"), dead("net.5"), frozen("net.0.weight")))
TEXT = to_json(BROKEN)


@pytest.fixture(scope="module")
def schema(root):
    return json.loads((root / "docs" / "diagnosis-schema.json").read_text(encoding="utf-8"))


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


texts = st.text(alphabet=st.characters(codec=None), max_size=8)
counts = st.integers(0, 2**63 - 1)
histograms = st.none() | st.lists(counts, max_size=3).map(tuple)


def optional(strategy):
    return st.none() | strategy


def of(kind, **given):
    """Any value of a dataclass, by its annotations; `given` has the fields that need more than these."""
    hints = typing.get_type_hints(kind)
    simple = {
        str: texts,
        str | None: optional(texts),
        int: counts,
        int | None: optional(counts),
        float: st.floats(),
        float | None: optional(st.floats()),
        bool: st.booleans(),
        tuple[int, ...]: st.lists(counts, max_size=3).map(tuple),
        tuple[str, ...]: st.lists(texts, max_size=3).map(tuple),
        tuple[int, ...] | None: histograms,
        tuple[float, ...] | None: optional(st.lists(st.floats(), max_size=3).map(tuple)),
        Severity: st.sampled_from(Severity),
    }
    return st.builds(kind, **{f.name: simple[hints[f.name]] for f in fields(kind) if f.name not in given}, **given)


roles = st.sampled_from(["weights", "activation", "attention"])
layers = of(Layer, role=roles, sources=st.lists(st.just(0), max_size=2).map(tuple))
measurements = of(
    Measurement,
    layers=st.lists(layers, min_size=1, max_size=3).map(tuple),
    weights=st.lists(of(Weight), max_size=2).map(tuple),
    loss_reads=optional(st.just(0)),
)
diagnoses = st.builds(
    lambda found, last, *before: Diagnosis(last, found, (*before, last) if before else ()),
    st.lists(of(Finding), max_size=2).map(tuple),
    measurements,
    measurements,
) | st.builds(lambda last: Diagnosis(last, ()), measurements)


@settings(max_examples=50, deadline=None)
@given(diagnosis=diagnoses)
def test_any_diagnosis_becomes_strict_json_of_the_schema_and_comes_back(diagnosis, schema):
    text = to_json(diagnosis)
    jsonschema.validate(json.loads(text, parse_constant=refuse), schema)
    again = Diagnosis.from_json(text)
    assert to_json(again) == text
    assert str(again) == str(Diagnosis.from_json(to_json(again)))
    assert again.findings[:0] == ()
    assert [f.layers for f in again.findings] == [f.layers for f in diagnosis.findings]
    assert [layer.name for layer in again.measurement.layers] == [layer.name for layer in diagnosis.measurement.layers]
    assert len(again.history) == len(diagnosis.history)


def test_a_diagnosis_comes_back_with_six_digits():
    numbers = {"gradient": 1.25, "gain": math.inf, "mean": -0.25, "steps": (0.0, -0.0)}
    exact = Diagnosis(changed(BROKEN.measurement, 0, **numbers), BROKEN.findings)
    again = Diagnosis.from_json(to_json(exact))
    assert again.findings == exact.findings
    assert again.measurement.layers[0] == exact.measurement.layers[0]
    assert (
        Diagnosis.from_json(to_json(Diagnosis(changed(stack(1), 0, rms=1 / 3), ()))).measurement.layers[0].rms
        == 0.333333
    )


def test_the_text_is_the_same_after_reading():
    assert str(Diagnosis.from_json(TEXT)).splitlines()[2:] == str(BROKEN).splitlines()[2:]


def test_the_history_comes_back_with_the_latest_measurement_in_it():
    measurements = tuple(replace(stack(2), step=step) for step in (0, 100, 200))
    again = Diagnosis.from_json(to_json(Diagnosis(measurements[-1], (), measurements)))
    assert [m.step for m in again.history] == [0, 100, 200]
    assert again.history[-1] is again.measurement


def test_a_long_history_is_thinned_evenly_until_it_is_small_enough(monkeypatch):
    monkeypatch.setattr("sigmoidcore.diagnosis.report.json.EARLIER", 50_000)
    measurements = tuple(replace(stack(5), step=step) for step in range(1001))
    text = to_json(Diagnosis(measurements[-1], (), measurements))
    assert len(text) < 60_000
    steps = [m.step for m in Diagnosis.from_json(text).history]
    assert steps[0] == 0
    assert steps[-2:] == [999, 1000]
    gaps = [b - a for a, b in pairwise(steps[:-1])]
    assert max(gaps) - min(gaps) <= 1
    assert to_json(Diagnosis.from_json(text)) == text


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    path = tmp_path / "diagnosis.json"
    text = BROKEN.to_json(path)
    assert path.read_text(encoding="utf-8") == text + "\n"
    assert to_json(Diagnosis.from_json(path)) == text == Diagnosis.from_json(text).to_json(str(path))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Diagnosis(stack(1), ()).to_json(path)
    assert path.read_text(encoding="utf-8") == text + "\n"


def test_the_model_and_its_batch_are_not_in_it():
    assert to_json(replace(BROKEN, subject=Subject(None, "secret"))) == TEXT
    assert Diagnosis.from_json(TEXT).subject is None


def test_unknown_fields_are_left_out():
    found = json.loads(TEXT)
    found["new"] = found["measurement"]["new"] = found["measurement"]["layers"][0]["new"] = {"deep": [1, None]}
    assert to_json(Diagnosis.from_json(json.dumps(found))) == TEXT


def edited(*path, to):
    """The text with another value at the path."""
    found = json.loads(TEXT)
    place = found
    for key in path[:-1]:
        place = place[key]
    if to is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"the text is not JSON, or incomplete .*: write it again .*; give a file as a pathlib\.Path"),
        ("diagnosis.json", r"give a file as a pathlib\.Path"),
        (TEXT[: len(TEXT) // 2], "incomplete"),
        (TEXT + "x", "is not JSON"),
        ('{"format": NaN}', "NaN"),
        ("[" * 100_000, "is not JSON"),
        ("9" * 5000, "is not JSON"),
        ("[]", "is not a diagnosis, it has no format number"),
        ("{}", "has no format number"),
        (edited("format", to="1"), "has no format number"),
        (edited("format", to=True), "has no format number"),
        (edited("format", to=2), "has format 2, this package reads up to 1: install a newer sigmoid-core"),
        (edited("measurement", to=MISSING), "measurement is null, but must be an object"),
        (edited("findings", to={}), "findings is an object, but must be a list"),
        (edited("findings", 0, "severity", to="bad"), r'findings\[0\]\.severity is "bad", .* error, warning, note'),
        (edited("findings", 0, "severity", to=[]), r"findings\[0\]\.severity is a list"),
        (edited("measurement", "samples", to=MISSING), r"measurement\.samples is missing; write it again"),
        (edited("measurement", "samples", to=None), r"measurement\.samples is null, but must be a whole number"),
        (edited("measurement", "samples", to=1.5), r"measurement\.samples is 1\.5, but must be a whole number"),
        (edited("measurement", "loss", to=False), r"measurement\.loss is false, but must be a number"),
        (edited("measurement", "loss", to="NaN"), r'measurement\.loss is "NaN", but must be a number'),
        (edited("measurement", "loss", to=10**400), r"measurement\.loss is 1000.*\.\.\., but must be a smaller number"),
        (edited("measurement", "layers", 3, "name", to=3), r"measurement\.layers\[3\]\.name is 3, but must be text"),
        (edited("measurement", "layers", 3, "role", to="x"), r"one of weights, activation, attention"),
        (edited("measurement", "layers", 3, "gate", to=0), r"gate is 0, but must be true or false"),
        (edited("earlier", to=[{}]), r"earlier\[0\]\.layers is missing"),
    ],
)
def test_a_broken_diagnosis_is_refused_with_the_place_and_the_remedy(text, message):
    with pytest.raises(ValueError, match=message):
        Diagnosis.from_json(text)


def test_a_file_without_a_diagnosis_is_named(tmp_path):
    path = tmp_path / "figure.png"
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(ValueError, match=r"figure\.png is not JSON"):
        Diagnosis.from_json(path)
    with pytest.raises(FileNotFoundError):
        Diagnosis.from_json(tmp_path / "none")


def places(value, path=()):
    """The paths of all values in nested lists and objects."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


def readable_or_refused(text):
    try:
        diagnosis = Diagnosis.from_json(text)
    except ValueError:
        return
    assert to_json(Diagnosis.from_json(to_json(diagnosis))) == to_json(diagnosis)
    str(diagnosis)


@settings(deadline=None)
@given(st.sampled_from(sorted(places(json.loads(TEXT)), key=str)), anything)
def test_any_value_of_a_field_is_read_or_refused(path, value):
    readable_or_refused(edited(*path, to=value))


@settings(deadline=None)
@given(st.integers(0, len(TEXT)), st.integers(0, 20), texts)
def test_any_damage_is_read_or_refused(start, length, text):
    readable_or_refused(TEXT[:start] + text + TEXT[start + length :])


@settings(deadline=None)
@given(st.text(alphabet=st.characters(codec=None)) | anything.map(json.dumps))
def test_any_text_is_read_or_refused(text):
    readable_or_refused(text)


@pytest.mark.parametrize("kind", [Finding, Layer, Measurement, Weight])
def test_the_schema_has_every_field_with_its_default_and_a_description(kind, schema):
    described = schema["$defs"][kind.__name__.lower()]
    assert list(described["properties"]) == [field.name for field in fields(kind)]
    assert described["required"] == [field.name for field in fields(kind) if field.default is MISSING]
    for field in fields(kind):
        entry = described["properties"][field.name]
        assert entry["description"]
        if field.default is not MISSING:
            default = "nan" if field.default != field.default else field.default
            assert entry["default"] == (list(default) if isinstance(default, tuple) else default)


def test_the_schema_is_valid_and_as_strict_as_the_reader(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(TEXT), schema)
    for text in (edited("format", to=2), edited("measurement", "loss", to="much"), edited("findings", to={})):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(text), schema)
