"""The options of a training: those of the command, with its defaults, its limits and its words."""

import inspect
import types
import typing
from enum import Enum

import numpy as np
import pytest
from support.commands import command_line

from sigmoidcore.cli import main
from sigmoidcore.cli.train import train
from sigmoidcore.training import fit
from sigmoidcore.training.options import OPTIONS, OptionError, options_from, typed

WHERE = {"config", "resume", "output", "overwrite", "shard"}
"""What decides where a run goes, and not what it is."""


def test_the_command_has_these_options_with_these_defaults_limits_and_choices():
    typed_ones = {parameter.name: parameter for parameter in command_line().commands["train"].params}
    hints = typing.get_type_hints(train, include_extras=True)
    parameters = {name: p for name, p in inspect.signature(train).parameters.items() if name != "context"}
    assert parameters.keys() - OPTIONS.keys() == WHERE
    assert [name for name in parameters if name in OPTIONS] == list(OPTIONS)
    for name, option in OPTIONS.items():
        kind, info = typing.get_args(hints[name])
        if isinstance(kind, types.UnionType):
            (kind,) = (one for one in typing.get_args(kind) if one is not types.NoneType)
        default = getattr(parameters[name].default, "value", parameters[name].default)
        assert (name, default) == (name, option.default)
        assert typed(name) in typed_ones[name].opts
        choices = tuple(member.value for member in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()
        assert (name, choices) == (name, option.choices)
        if option.kind is int:
            assert (name, info.min, info.max) == (name, option.least, option.most)


@pytest.fixture
def said(tmp_path, monkeypatch, refused):
    """What `fit` and the command say of a wrong option; neither leaves anything."""
    monkeypatch.chdir(tmp_path)

    def say(name, value):
        with pytest.raises(OptionError) as raised:
            fit("wine", progress=False, **{name: value})
        words = refused(["train", typed(name), str(value)])
        assert list(tmp_path.iterdir()) == []
        return f"sigmoid-core: {raised.value}\n", words

    return say


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("lr", "nan"),
        ("saturation", 101.0),
        ("test_size", 1.0),
        ("weight_decay", -0.5),
        ("clip", 0.0),
        ("every", "often"),
        ("save_every", 0),
    ],
)
def test_what_is_wrong_with_a_value_is_said_in_the_same_words(said, name, value):
    ours, theirs = said(name, value)
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("depth", "deep", "'deep' is not a whole number"),
        ("depth", 2.5, "2.5 is not a whole number"),
        ("depth", True, "True is not a whole number"),
        ("depth", 0, "0 is not from 1 to 2147483647"),
        ("width", 2**31, "2147483648 is not from 1 to"),
        ("threads", 1025, "1025 is not from 1 to 1024"),
        ("seed", -1, "-1 is not from 0 to"),
        ("seed", 2**63, "9223372036854775808 is not from 0 to 9223372036854775807"),
        ("lr", "fast", "'fast' is not a number"),
        ("kind", "joy", "'joy' is not one of 'class', 'number'"),
        ("network", "tree", "'tree' is not one of 'mlp', 'conv', 'rnn', 'auto'"),
        ("device", "abacus", "'abacus' is not one of"),
        ("precision", "fp8", "'fp8' is not one of"),
        ("schedule", "step", "'step' is not one of 'linear', 'cosine'"),
    ],
)
def test_a_value_of_another_kind_or_beyond_its_limits_is_refused_by_both(said, name, value, wrong):
    ours, theirs = said(name, value)
    assert f"Invalid value for '{typed(name)}': {wrong}" in ours
    assert f"'{typed(name)}'" in theirs


@pytest.mark.parametrize(("name", "hint"), [("colour", "--colour (see"), ("epoch", "--epoch; did you mean --epochs?")])
def test_an_option_that_there_is_not_is_refused_by_both_and_the_nearest_is_named(said, name, hint):
    ours, theirs = said(name, 3)
    assert f"No such option: {hint}" in ours
    assert f"No such option: {typed(name)}" in theirs


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"depth": np.int64(3)}, "depth", 3),
        ({"depth": "3"}, "depth", 3),
        ({"lr": 1}, "lr", 1.0),
        ({"every": 5}, "every", "5"),
        ({"drop": "id"}, "drop", ["id"]),
        ({"drop": ("a", 1)}, "drop", ["a", "1"]),
        ({"equalize": np.False_}, "equalize", False),
        ({"prepare": False}, "prepare", False),
        ({"clip": None}, "clip", None),
    ],
)
def test_values_become_what_their_option_takes(given, name, value):
    found = options_from(given)
    assert (type(found[name]), found[name]) == (type(value), value)
    assert found.keys() == OPTIONS.keys()


@pytest.mark.parametrize("value", ["no", 0, 1.0])
def test_what_is_not_true_or_false_is_refused(value):
    with pytest.raises(OptionError, match=r"for '--equalize': .* is neither True nor False"):
        options_from({"equalize": value})


def test_a_set_is_named_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    assert options_from({"data": "a.csv"})["data"] == str(tmp_path / "a.csv")
    assert options_from({"data": "wine"})["data"] == "wine"


def test_the_command_takes_a_config_that_says_false(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--depth", "1", "--width", "2", "--epochs", "1", "--data", "wine"]
    monkeypatch.setattr("sigmoidcore.training.course.save_figures", lambda run, records: [])
    assert main(["train", *small, "--no-equalize", "--class-weights", "--output", "first"]) == 0
    again = fit(config="first/config.toml", output="second", class_weights=False, progress=False)
    assert again.config.options["equalize"] is False
    assert again.config.options["class_weights"] is False
