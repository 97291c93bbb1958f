"""`sigmoid-core diagnose`: what it looks at, what it writes, exit codes for CI, and one line for what is wrong."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
import torch
from safetensors.torch import load_file, save_file

import sigmoidcore as sc
from sigmoidcore.cli import main

NETWORKS = '''
import sys

import torch
from torch import nn


def make():
    """Healthy."""
    print("made")
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    return model, torch.randn(64, 8), torch.randint(3, (64,)), nn.functional.cross_entropy


def deep():
    """SC101, an error."""
    layers = [layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    return {"model": nn.Sequential(*layers, nn.Linear(8, 1)), "inputs": torch.randn(64, 8)}


def saturated():
    """SC201, a warning."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    model[0].bias.data.add_(20)
    return model, torch.randn(64, 8)


class Factory:
    def make():
        return make()


class Dislikes(nn.Module):
    def forward(self, x):
        raise ValueError("I do not like x")


model, value = nn.Linear(2, 2), 3


def none():
    pass


def three():
    return make()[:3]


def no_model():
    return 1.5, torch.ones(2)


def no_loss():
    return *make()[:3], "cross_entropy"


def unknown():
    return {"model": model, "inputs": torch.ones(2, 2), "labels": 1}


def no_inputs():
    return {"model": model}


def needs(something):
    return make()


def fails():
    return torch.ones(2) @ torch.ones(3)


def leaves():
    sys.exit("no data here")


def interrupted():
    raise KeyboardInterrupt


def shapes():
    return model, torch.ones(5, 3)


def dislikes():
    return Dislikes(), torch.ones(5, 3)


class Detector(nn.Module):
    """Gives its loss in training mode only."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return {"loss": self.fc(x).square().mean()} if self.training else []


def detector():
    return Detector(), torch.randn(64, 8), None, lambda outputs, _: outputs["loss"]


def nothing():
    return nn.Sequential(nn.Identity()), torch.ones(5, 2)


def no_scalar():
    return model, torch.ones(5, 2), torch.ones(5, 2), lambda outputs, targets: outputs - targets
'''


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """A folder of its own with a package, which no other test has imported."""
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "networks.py").write_text(NETWORKS)
    (package / "lacking.py").write_text("import a_package_that_is_not_there\n")
    (package / "broken.py").write_text("def make(:\n")
    for name in [n for n in sys.modules if n.partition(".")[0] == "project"]:
        monkeypatch.delitem(sys.modules, name)


def diagnose(*arguments):
    return main(["diagnose", *arguments])


# --- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("make", [], 0),
        ("deep", [], 1),
        ("saturated", [], 0),
        ("saturated", ["--fail-on", "error"], 0),
        ("saturated", ["--fail-on", "warning"], 1),
        ("deep", ["--fail-on", "warning"], 1),
        ("deep", ["--fail-on", "never"], 0),
        ("deep", ["--fail-on", "SC1"], 1),
        ("deep", ["--fail-on", "SC101"], 1),
        ("deep", ["--fail-on", "SC2"], 0),
        ("deep", ["--fail-on", "SC2", "--fail-on", "SC10"], 1),
        ("saturated", ["--fail-on", "SC"], 1),
        ("make", ["--fail-on", "warning", "--fail-on", "SC"], 0),
    ],
)
def test_the_exit_code_is_1_for_what_it_was_told_to_fail_on_and_by_default_for_errors(name, options, code):
    assert diagnose(f"project.networks:{name}", *options) == code


@pytest.mark.parametrize("wrong", ["SC9", "errors", "sc1", ""])
def test_a_condition_that_means_nothing_is_bad_input(capsys, wrong):
    assert diagnose("project.networks:make", "--fail-on", wrong) == 2
    output, error = capsys.readouterr()
    assert f"{wrong!r} is neither error, warning, never, nor the beginning of a rule (SC1, " in error
    assert output == ""


def test_never_stands_alone(capsys):
    assert diagnose("project.networks:make", "--fail-on", "never", "--fail-on", "error") == 2
    assert "never stands alone" in capsys.readouterr().err


def test_ctrl_c_in_the_users_code_exits_with_130(capsys):
    assert diagnose("project.networks:interrupted") == 130
    assert capsys.readouterr().err.lstrip() == "sigmoid-core: interrupted\n"


# --- what it writes --------------------------------------------------------------------------------------------------


def test_the_report_goes_to_standard_output_and_what_the_users_code_prints_to_standard_error(capsys):
    assert diagnose("project.networks:make") == 0
    output, error = capsys.readouterr()
    assert output.startswith("healthy")
    assert error == "made\n"


def test_json_on_standard_output_is_all_that_is_there(capsys):
    assert diagnose("project.networks:deep", "--json", "-", "--fail-on", "never") == 0
    output = capsys.readouterr().out
    assert json.loads(output)["findings"][0]["rule"] == "SC101"
    assert sc.diagnosis.diagnosis.Diagnosis.from_json(output).findings[0].severity == "error"


def test_files_are_written_and_named(capsys, tmp_path):
    assert diagnose("project.networks:deep", "--json", "found.json", "--html", "found.html") == 1
    output = capsys.readouterr().out
    assert output.endswith("written: found.html\nwritten: found.json\n")
    assert "SC101" in output
    assert json.loads((tmp_path / "found.json").read_text())["findings"][0]["rule"] == "SC101"
    assert "SC101" in (tmp_path / "found.html").read_text()


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize(
    ("path", "cause"), [("nowhere/x", "there is no folder nowhere"), ("project", "project is a folder")]
)
def test_a_file_that_cannot_be_written_is_bad_input_before_anything_is_run(capsys, option, path, cause):
    assert diagnose("project.networks:make", option, path) == 2
    error = capsys.readouterr().err
    assert cause in error
    assert "made" not in error


def test_a_page_on_standard_output_is_refused_before_anything_is_run(capsys):
    assert diagnose("project.networks:make", "--html", "-") == 2
    assert "--html - would mix the page with the report: give the name of a file" in capsys.readouterr().err


def test_a_model_runs_in_training_mode_if_asked(capsys):
    assert diagnose("project.networks:detector", "--training", "--fail-on", "never") == 0
    assert "1 layer" in capsys.readouterr().out


def test_an_output_without_unicode_gets_ascii(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    assert diagnose("project.networks:deep") == 1
    assert written.getvalue().isascii()
    assert b"###" in written.getvalue()


def test_a_model_with_fresh_weights_is_the_same_one_each_time(capsys):
    torch.manual_seed(5)
    assert diagnose("project.networks:make", "--json", "-") == 0
    first = json.loads(capsys.readouterr().out)
    torch.rand(7)
    assert diagnose("project.networks:make", "--json", "-") == 0
    second = json.loads(capsys.readouterr().out)
    assert first["measurement"]["loss"] == second["measurement"]["loss"]


def test_the_help_says_that_the_users_code_is_run(capsys):
    assert diagnose("--help") == 0
    text = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[│╭╮╰╯─]", "", capsys.readouterr().out).split())
    assert "imported from this folder and run: your own code" in text


# --- how long it takes -----------------------------------------------------------------------------------------------


def test_what_takes_long_is_said_on_standard_error_where_no_terminal_is(capsys, monkeypatch):
    class AtOnce:
        """A timer whose time has come."""

        def __init__(self, seconds, function):
            self._function = function

        def start(self):
            self._function()

        def cancel(self):
            pass

    monkeypatch.setattr("sigmoidcore.cli.diagnose.threading.Timer", AtOnce)
    assert diagnose("project.networks:make") == 0
    assert capsys.readouterr().err.split("\n") == [
        "getting project.networks:make",
        "made",
        "measuring 3 modules, 195 parameters",
        "writing",
        "",
    ]


def test_in_a_terminal_a_line_turns_and_is_gone_in_the_end():
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
    command = [sys.executable, "-c", "import sys; from sigmoidcore.cli import main; sys.exit(main())"]
    with subprocess.Popen(
        [*command, "diagnose", "project.networks:deep"],
        stdin=child,
        stdout=subprocess.PIPE,
        stderr=child,
        env=environment | {"TERM": "xterm-256color"},
        text=True,
    ) as process:
        os.close(child)
        assert process.stdout is not None
        output = process.stdout.read()
    written = b""
    with contextlib.suppress(OSError):
        while part := os.read(parent, 65536):
            written += part
    os.close(parent)
    assert process.returncode == 1
    assert "SC101" in output
    assert "\x1b" not in output
    text = written.decode()
    assert "measuring 41 modules" in text
    assert text.rstrip("\r\n").endswith(("\x1b[2K", "\x1b[?25h"))


# --- a function of the user ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("nothing", "nothing is no folder of a run, and no function of a module, as package.module:make would be"),
        ("project.networks", "project.networks is no folder of a run"),
        ("project.networks:", "project.networks: is no folder of a run"),
        ("project/networks.py", "is a file: give the folder of a run, or a function of a module as project.networks:"),
        ("project/networks.py:make", "is a path: give the module's name, as in project.networks:make"),
        ("missing.networks:make", "there is no module 'missing' in "),
        ("project.missing:make", "there is no module 'project.missing' in "),
        ("project.lacking:make", "(at 'import a_package_that_is_not_there', project/lacking.py, line 1); install what"),
        ("project.broken:make", "project.broken cannot be imported: SyntaxError: "),
        ("project.networks:mak", "project.networks has no 'mak'; did you mean make?"),
        ("project.networks:Factory.mke", "project.networks has no 'Factory.mke'"),
        ("project.networks:value", "project.networks:value is an int, no function"),
        ("project.networks:model", "project.networks:model is a model: give a function that makes one and a batch"),
        ("project.networks:none", "returned None: return (model, inputs, targets, loss_fn), or (model, inputs)"),
        ("project.networks:three", "returned 3 values: return (model"),
        ("project.networks:no_model", "returned a float as the model, no torch.nn.Module"),
        ("project.networks:no_loss", "returned a str as loss_fn, no function"),
        ("project.networks:unknown", "returned a dict with the unknown key 'labels'"),
        ("project.networks:no_inputs", "returned a dict with no 'inputs'"),
        ("project.networks:needs", "missing 1 required positional argument: 'something'"),
        ("project.networks:fails", "(at 'return torch.ones(2) @ torch.ones(3)', project/networks.py, line "),
        ("project.networks:leaves", "raised SystemExit: no data here"),
        ("project.networks:shapes", "the model does not run on inputs of shape (5, 3) float32"),
        ("project.networks:dislikes", "measuring raised ValueError: I do not like x (at 'raise ValueError("),
        ("project.networks:detector", "ran in evaluation mode; --training runs it as in training"),
        ("project.networks:nothing", "no layers of the model were seen: nothing that it calls has weights"),
        ("project.networks:no_scalar", "loss_fn must give a scalar, got shape (5, 2)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_with_cause_and_remedy_and_exit_code_2(capsys, target, cause):
    assert diagnose(target) == 2
    output, error = capsys.readouterr()
    assert output == ""
    *_, line = error.rstrip("\n").split("\n")
    assert line.startswith("sigmoid-core: ")
    assert cause in line


def test_a_function_of_a_class_will_do():
    assert diagnose("project.networks:Factory.make") == 0


def test_the_path_of_imports_is_as_it_was():
    before = list(sys.path)
    assert diagnose("project.networks:make") == 0
    assert sys.path == before


# --- a run's folder --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "--depth", "3", "--width", "16", "--epochs", "1", "--output", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, to be spoiled."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.toml", "model.safetensors", "metrics.jsonl"):
        (folder / name).write_bytes((finished / name).read_bytes())
    return folder


def metadata(**changes):
    shape = {"in_features": "64", "width": "16", "depth": "3", "out_features": "10"} | changes
    return {key: value for key, value in shape.items() if value is not None}


def test_of_a_run_the_last_weights_are_measured_on_its_data(capsys, run):
    assert diagnose("run", "--json", "-") == 0
    measured = json.loads(capsys.readouterr().out)["measurement"]
    model = sc.MLP(64, 16, 3, 10)
    model.load_state_dict(load_file(run / "model.safetensors"))
    split = sc.training.digits()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(split.train_x[:256]), split.train_y[:256])
    assert measured["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert measured["samples"] == 256


def test_a_run_of_format_1_is_measured_as_well(capsys, run):
    (run / "config.toml").unlink()
    (run / "config.json").write_text('{"format": 1, "name": "digits-3x16-1", "options": {"data": "digits"}}')
    assert diagnose("run") == 0


def test_weights_that_are_not_finite_are_a_finding_and_no_failure(capsys, run):
    tensors = load_file(run / "model.safetensors")
    tensors["0.weight"][0, 0] = float("nan")
    save_file(tensors, run / "model.safetensors", metadata())
    assert diagnose("run") == 1
    assert "SC401" in capsys.readouterr().out


def remove_weights(run):
    (run / "model.safetensors").unlink()


def remove_config(run):
    (run / "config.toml").unlink()


def break_config(run):
    (run / "config.toml").write_text("format = 2\n[options")


def empty_config(run):
    (run / "config.toml").write_text("")


def other_data(run):
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("digits", "cifar"))


def cut_off(run):
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[:-100])


def described_as(**changes):
    def spoil(run):
        save_file(load_file(run / "model.safetensors"), run / "model.safetensors", metadata(**changes))

    return spoil


def of_other_inputs(run):
    model = sc.MLP(7, 16, 3, 10)
    save_file(model.state_dict(), run / "model.safetensors", metadata(in_features="7"))


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (remove_weights, "run holds no weights (model.safetensors): `sigmoid-core train` writes them when a run ends"),
        (remove_config, "run holds no run: it has no config.toml; give a folder that `sigmoid-core train` wrote"),
        (break_config, "run/config.toml is no TOML: "),
        (empty_config, "run/config.toml is no config of a run: it has no format and no options; was the file edited?"),
        (other_data, "cifar is neither a file nor a folder nor a built-in set: built in are: digits, fashion-mnist"),
        (cut_off, "run/model.safetensors cannot be read: "),
        (described_as(width=None), "its metadata lack 'width'"),
        (described_as(width="wide"), "does not fit the network that its metadata describe: invalid literal"),
        (described_as(width="17"), "does not fit the network that its metadata describe: "),
        (described_as(depth="1000000000"), "1000000000 layers, but "),
        (of_other_inputs, "is a network of 7 inputs, but digits has 64"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line_with_cause_and_remedy_and_exit_code_2(capsys, run, spoil, cause):
    spoil(run)
    assert diagnose("run") == 2
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith("sigmoid-core: ")
    assert error.count("\n") == 1
    assert cause in error


def test_a_run_whose_data_are_not_there_says_how_to_get_them(capsys, monkeypatch, run):
    def missing(name, *others):
        raise FileNotFoundError("train-images is not there: install it")

    monkeypatch.setattr("sigmoidcore.training.data.loading.built_in", missing)
    assert diagnose("run") == 2
    assert "train-images is not there: install it" in capsys.readouterr().err
