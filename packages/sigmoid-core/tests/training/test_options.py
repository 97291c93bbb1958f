"""The options of a training: one definition for the command, `fit`, config.toml and the documentation."""

import dataclasses

import numpy as np
import pytest
from support.commands import command_line

from sigmoidcore.training import fit
from sigmoidcore.training.data import InputError
from sigmoidcore.training.options import Options, default_text, flag, types_of

FILES = {"config", "resume", "output", "overwrite"}


@pytest.fixture
def said(tmp_path, monkeypatch, refused):
    """The messages of `fit` and of the command about an option; neither writes anything."""
    monkeypatch.chdir(tmp_path)

    def say(name, value):
        with pytest.raises(ValueError, match=r"option|value") as raised:
            fit("wine", progress=False, **{name: value})
        words = refused(["train", flag(name), str(value)])
        assert list(tmp_path.iterdir()) == []
        return f"sigmoid-core: {raised.value}\n", words

    return say


def test_the_command_has_exactly_these_options():
    parameters = {parameter.name for parameter in command_line().commands["train"].params}
    assert parameters == {option.name for option in dataclasses.fields(Options)} | FILES | {"lang"}


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("depth", "deep", "'deep' is not a whole number"),
        ("depth", "2.5", "'2.5' is not a whole number"),
        ("depth", 0, "0 is not from 1 to 2,147,483,647"),
        ("threads", 1025, "1025 is not from 1 to 1,024"),
        ("seed", -1, "-1 is not from 0 to"),
        ("seed", 2**63, "9223372036854775808 is not from 0 to"),
        ("lr", "fast", "'fast' is not a number"),
        ("lr", 0.0, "0.0 is not above 0; 0.03 is a usual value"),
        ("lr", "nan", "nan is not above 0"),
        ("saturation", 101.0, "101.0 is not above 0 to 100; 0.5 is a usual value"),
        ("test_size", 1.0, "1.0 is not above 0 and below 1; 0.2 is a usual value"),
        ("weight_decay", -0.5, "-0.5 is not from 0"),
        ("clip", 0.0, "0.0 is not above 0; 1 is a usual value"),
        ("every", "often", "'often' is not a whole number or 'auto'"),
        ("save_every", 0, "0 is not from 1 to 2,147,483,647 or 'epoch'"),
        ("kind", "joy", "'joy' is not one of 'class', 'number'"),
        ("network", "tree", "'tree' is not one of 'mlp', 'conv', 'rnn', 'auto'"),
    ],
)
def test_an_invalid_value_is_refused_in_the_same_words_by_fit_and_the_command(said, name, value, wrong):
    from_fit, from_command = said(name, value)
    assert f"Invalid value for '{flag(name)}': {wrong}" in from_fit
    assert from_fit == from_command


@pytest.mark.parametrize(("name", "hint"), [("colour", "--colour"), ("epoch", "--epoch")])
def test_an_unknown_option_is_refused_and_the_nearest_is_named(said, name, hint):
    from_fit, from_command = said(name, 3)
    assert all(f"No such option: {hint}" in message for message in (from_fit, from_command))
    assert name != "epoch" or "did you mean --epochs?" in from_fit


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"depth": np.int64(3)}, "depth", 3),
        ({"depth": "3"}, "depth", 3),
        ({"lr": 1}, "lr", 1.0),
        ({"every": 5}, "every", 5),
        ({"every": "auto"}, "every", "auto"),
        ({"drop": "id"}, "drop", ("id",)),
        ({"drop": ["a", "b"]}, "drop", ("a", "b")),
        ({"equalize": np.False_}, "equalize", False),
        ({"clip": None}, "clip", None),
    ],
)
def test_values_are_converted_to_the_type_of_their_option(given, name, value):
    found = getattr(Options.parse(given), name)
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("value", ["no", 0, 1.0])
def test_a_flag_accepts_only_true_or_false(value):
    with pytest.raises(InputError, match=r"for '--equalize': .* is neither True nor False"):
        Options.parse({"equalize": value})


def test_a_file_is_stored_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").touch()
    assert Options.parse({"data": "a.csv"}).data == str(tmp_path / "a.csv")
    assert Options.parse({"data": "wine"}).data == "wine"


def test_options_survive_a_config():
    options = Options.parse({"depth": 3, "equalize": False, "target": ["a", "b"], "every": 7})
    assert Options.parse(options.to_dict()) == options


def test_the_documentation_has_a_row_for_each_option(root):
    page = (root / "docs" / "cli.md").read_text(encoding="utf-8")
    for option in dataclasses.fields(Options):
        kind, words = types_of(option.name)
        value = option.metadata["metavar"] or ("" if kind is bool else "|".join(words))
        typed = f"{flag(option.name)} {value}".rstrip().replace("|", "\\|")
        assert f"| `{typed}` | {default_text(option)} | {option.metadata['help']} |\n" in page
