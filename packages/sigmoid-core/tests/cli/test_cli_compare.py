"""`sigmoid-core compare`: what it shows and writes, how it resumes, and what it refuses."""

import json
import os
import re
import signal

import pytest
from support.terminal import ESCAPE, in_terminal

from sigmoidcore.cli import compare, main
from sigmoidcore.peers import BUILT_IN, registry

SMALL = ["compare", "--data", "wine", "--depth", "2", "--width", "8", "--epochs", "1", "--rates", "0.01,0.1"]


def test_each_training_is_a_line_and_the_table_and_the_figures_are_written(capsys, tmp_path):
    assert main([*SMALL, "--methods", "sigmoid,sigmoid-core,tanh-orthogonal", "--seeds", "2"]) == 0
    output, error = capsys.readouterr()
    assert error == ""
    assert len(re.findall(r"^ +\d+/18  [a-z-]+, 2 layers, .*rate [\d.]+, seed [01]: ", output, re.M)) == 18
    tried = {name: count for name, count in re.findall(r"^ +([a-z-]+) +2 .* (\d) +[\d.]+ *$", output, re.M)}
    assert tried == {"sigmoid": "2", "sigmoid-core": "1", "tanh-orthogonal": "6"}
    folder = tmp_path / "comparison-wine"
    assert sorted(p.name for p in folder.iterdir()) == [
        "by_rate.png", "by_seconds.png", "profiles.png", "results.json", "results.md",
    ]  # fmt: skip
    content = json.loads((folder / "results.json").read_text())
    assert content["facts"].items() >= {"data": "wine", "width": 8, "epochs": 1, "network": "mlp"}.items()
    assert len(content["trials"]) == 18
    assert "| tanh-orthogonal | 2 | " in (folder / "results.md").read_text()


def test_a_terminal_shows_the_table_during_the_trainings_in_its_width():
    code, written = in_terminal([*SMALL, "--methods", "sigmoid,selu", "--epochs", "200"], 60)
    assert code == 0
    assert "\x1b[2K" in written  # lines are drawn again
    text = ESCAPE.sub("", written)
    assert "0 of 4 trainings; sigmoid, 2 layers, rate 0.01" in text
    assert text.count("settings tried") > 1
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= 60


def test_an_interruption_keeps_the_results_and_names_the_command_that_resumes(capsys, monkeypatch, tmp_path):
    original = compare.metric_text

    def interrupted_after_the_first(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(compare, "metric_text", interrupted_after_the_first)
    assert main([*SMALL, "--methods", "sigmoid"]) == 130
    output, error = capsys.readouterr()
    assert error == "sigmoid-core: interrupted, 1 training left: the same command resumes\n"
    assert "Not complete: 1 of 2 trainings are missing." in " ".join(output.split())
    monkeypatch.setattr(compare, "metric_text", original)
    assert main([*SMALL, "--methods", "sigmoid"]) == 0
    assert "2/2" in capsys.readouterr().out


def test_a_function_of_the_user_is_a_method(capsys, tmp_path):
    (tmp_path / "elu_method.py").write_text(
        "from torch import nn\ndef build(problem):\n    return problem.plain(lambda n: nn.ELU())\n"
    )
    assert main([*SMALL, "--methods", "elu_method:build"]) == 0
    assert re.search(r"^ +elu_method:build +2 .* 2 ", capsys.readouterr().out, re.M)


def test_another_package_adds_methods_by_entry_points(capsys, monkeypatch, tmp_path):
    class Entry:
        name, value = "theirs", "package:METHOD"

        def load(self):
            return BUILT_IN["selu"]

    monkeypatch.setattr(registry, "entry_points", lambda group, name="theirs": [Entry()] * (name == "theirs"))
    assert main([*SMALL, "--methods", "theirs"]) == 0
    assert re.search(r"^ +theirs +2 .* 2 ", capsys.readouterr().out, re.M)
    assert main(["compare", "--list"]) == 0
    assert "theirs" in capsys.readouterr().out


def test_the_list_has_all_methods_with_their_sources(capsys):
    assert main(["compare", "--list"]) == 0
    output = capsys.readouterr().out
    for name in BUILT_IN:
        assert re.search(rf"^ *{name} ", output, re.M)
    assert "1711.04735" in output


def test_names_of_methods_may_have_spaces_between_them(capsys):
    assert main([*SMALL, "--methods", "sigmoid, selu"]) == 0
    assert re.search(r"^ +selu +2 ", capsys.readouterr().out, re.M)


@pytest.mark.parametrize(
    ("network", "cause"),
    [
        ("nn.Linear(3, 3)", "the network of other_shape:build, with inputs of shape (142, 13) and the loss, raised"),
        ("nn.Flatten()", "no_weights:build returned a network without trainable parameters: set requires_grad=True"),
    ],
)
def test_a_network_of_the_user_that_does_not_fit_the_data_is_named_before_it_trains(capsys, tmp_path, network, cause):
    name = "other_shape" if "Linear" in network else "no_weights"
    (tmp_path / f"{name}.py").write_text(f"from torch import nn\ndef build(problem):\n    return {network}\n")
    assert main([*SMALL, "--methods", f"{name}:build"]) == 2
    assert cause in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--methods", "tanh-ortogonal"], "there is no method 'tanh-ortogonal'; did you mean tanh-orthogonal"),
        (["--methods", "magic"], "there is no method 'magic'; `sigmoid-core compare --list` lists them"),
        (["--methods", "nowhere:build"], "there is no module 'nowhere'"),
        (["--methods", "lstm"], "lstm makes rnn networks only: give another --network"),
        (["--depth", "2,x"], "'--depth': 'x' is not a whole number"),
        (["--rates", "0"], "'--rates': 0.0 is not above 0; 0.03 is a usual value. (see sigmoid-core compare --help)"),
        (["--budget", "soon"], "'--budget': 'soon' is not a time such as 60s or 5m"),
        (["--budget", "0s"], "'--budget': '0s' is not a time"),
        (["--seeds", "0"], "--seeds"),
        (["--data", "nothing"], "nothing is neither a file nor a folder"),
        (["--output", __file__], "test_cli_compare.py is a file; give another --output"),
    ],
)
def test_wrong_input_is_one_line(refused, arguments, cause):
    assert cause in refused(["compare", *arguments])


def test_an_error_of_the_users_function_names_its_line(capsys, tmp_path):
    (tmp_path / "broken_method.py").write_text("def build(problem):\n    return 1 / 0\n")
    assert main([*SMALL, "--methods", "broken_method:build"]) == 2
    assert (
        "broken_method:build raised ZeroDivisionError: division by zero (at 'return 1 / 0', broken_method.py, line 2)"
        in (capsys.readouterr().err)
    )
