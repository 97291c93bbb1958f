"""`sigmoid-core diagnose`: its subjects, files and exit codes, and one line for everything that is wrong."""

import contextlib
import io
import json
import sys

import pytest
import torch
from safetensors.torch import load_file

import sigmoidcore as sc
from sigmoidcore.cli import main
from sigmoidcore.training.runs.weights import save_tensors

NETWORKS = '''
import sys

import torch
from torch import nn
from torch.nn.functional import cross_entropy

model, value = nn.Linear(2, 2), 3


def make():
    """Healthy."""
    print("made")
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    return model, torch.randn(64, 8), torch.randint(3, (64,)), cross_entropy


def deep():
    """US101, an error."""
    layers = [layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    return {"model": nn.Sequential(*layers, nn.Linear(8, 1)), "inputs": torch.randn(64, 8)}


def saturated():
    """US201, a warning."""
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    model[0].bias.data.add_(20)
    return model, torch.randn(64, 8)


class Factory:
    def make():
        return make()


class Dislikes(nn.Module):
    def forward(self, x):
        raise ValueError("I do not like x")


class Detector(nn.Module):
    """Returns its loss in training mode only."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return {"loss": self.fc(x).square().mean()} if self.training else []


def interrupted():
    raise KeyboardInterrupt


def fails():
    return torch.ones(2) @ torch.ones(3)


def needs(something):
    return make()


def leaves():
    sys.exit("no data here")


none = lambda: None
three = lambda: make()[:3]
no_model = lambda: (1.5, torch.ones(2))
no_loss = lambda: (*make()[:3], "cross_entropy")
unknown = lambda: {"model": model, "inputs": torch.ones(2, 2), "labels": 1}
no_inputs = lambda: {"model": model}
shapes = lambda: (model, torch.ones(5, 3))
dislikes = lambda: (Dislikes(), torch.ones(5, 3))
detector = lambda: (Detector(), torch.randn(64, 8), None, lambda outputs, _: outputs["loss"])
nothing = lambda: (nn.Sequential(nn.Identity()), torch.ones(5, 2))
no_scalar = lambda: (model, torch.ones(5, 2), torch.ones(5, 2), lambda outputs, targets: outputs - targets)
'''


@pytest.fixture(autouse=True)
def _project(tmp_path, monkeypatch):
    """The current folder is new and contains a package that no other test has imported."""
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


@pytest.mark.parametrize(
    ("name", "conditions", "code"),
    [
        ("make", [], 0),
        ("deep", [], 1),
        ("saturated", [], 0),
        ("saturated", ["warning"], 1),
        ("deep", ["warning"], 1),
        ("deep", ["never"], 0),
        ("deep", ["US101"], 1),
        ("deep", ["US2"], 0),
        ("deep", ["US2", "US10"], 1),
        ("make", ["warning", "US"], 0),
    ],
)
def test_the_exit_code_follows_fail_on(name, conditions, code):
    options = [word for condition in conditions for word in ("--fail-on", condition)]
    assert diagnose(f"project.networks:{name}", *options) == code


@pytest.mark.parametrize(
    ("conditions", "cause"),
    [
        (["US9"], "'US9' is not error, warning, never, a rule such as US101, or a group of rules (US1, "),
        (["sc1"], "'sc1' is not error"),
        ([""], "'' is not error"),
        (["never", "error"], "never excludes other values"),
    ],
)
def test_a_wrong_condition_is_bad_input(refused, conditions, cause):
    options = [word for condition in conditions for word in ("--fail-on", condition)]
    assert cause in refused(["diagnose", "project.networks:deep", *options])


def test_ctrl_c_in_the_users_code_exits_with_130(capsys):
    assert diagnose("project.networks:interrupted") == 130
    assert capsys.readouterr().err.lstrip() == "sigmoid-core: interrupted\n"


def test_prints_of_the_users_code_go_to_standard_error(capsys):
    assert diagnose("project.networks:make") == 0
    output, error = capsys.readouterr()
    assert output.startswith("healthy")
    assert error == "made\n"


def test_standard_output_contains_only_the_json(capsys):
    assert diagnose("project.networks:deep", "--json", "-", "--fail-on", "never") == 0
    output = capsys.readouterr().out
    assert json.loads(output)["findings"][0]["rule"] == "US101"
    assert json.loads(output)["findings"][0]["severity"] == "error"


def test_files_are_written_and_named(capsys, tmp_path):
    assert diagnose("project.networks:deep", "--json", "found.json", "--html", "found.html") == 1
    output = capsys.readouterr().out
    assert output.endswith("written: found.html\nwritten: found.json\n")
    assert "US101" in output
    assert json.loads((tmp_path / "found.json").read_text())["findings"][0]["rule"] == "US101"
    assert "US101" in (tmp_path / "found.html").read_text()


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--json", "nowhere/x"], "there is no folder nowhere"),
        (["--html", "project"], "project is a folder"),
        (["--html", "-"], "--html - would mix the page with the report: give the name of a file"),
    ],
)
def test_a_wrong_file_is_refused_before_the_users_code_runs(refused, options, cause):
    error = refused(["diagnose", "project.networks:make", *options])
    assert cause in error
    assert "made" not in error


def test_a_model_runs_in_training_mode_if_asked(capsys):
    assert diagnose("project.networks:detector", "--training", "--fail-on", "never") == 0
    assert "1 layer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("nothing", "nothing is not the folder of a run: give one, or a function of yours as package.module:make"),
        ("project.networks:", "project.networks: is not the folder of a run"),
        ("project/networks.py", "is a file: give the folder of a run, or a function of a module as project.networks:"),
        ("project/networks.py:make", "is a path: give the module's name, as in project.networks:make"),
        ("missing.networks:make", "there is no module 'missing' in "),
        ("project.missing:make", "there is no module 'project.missing' in "),
        ("project.lacking:make", "(at 'import a_package_that_is_not_there', project/lacking.py, line 1); install what"),
        ("project.broken:make", "project.broken cannot be imported: SyntaxError: "),
        ("project.networks:mak", "project.networks has no 'mak'; did you mean make?"),
        ("project.networks:Factory.mke", "project.networks has no 'Factory.mke'"),
        ("project.networks:value", "project.networks:value is an int, not a function"),
        ("project.networks:model", "project.networks:model is a model: give a function that makes a model and a batch"),
        ("project.networks:none", "returned None: return (model, inputs, targets, loss_fn), or (model, inputs)"),
        ("project.networks:three", "returned 3 values: return (model"),
        ("project.networks:no_model", "no_model: model must be a torch.nn.Module, got float"),
        ("project.networks:no_loss", "no_loss: loss_fn must be a function of outputs and targets, got str"),
        ("project.networks:unknown", "returned a dict with the unknown key 'labels'"),
        ("project.networks:no_inputs", "returned a dict with no 'inputs'"),
        ("project.networks:needs", "is called without arguments: missing a required argument: 'something'"),
        ("project.networks:fails", "(at 'return torch.ones(2) @ torch.ones(3)', project/networks.py, line "),
        ("project.networks:leaves", "raised SystemExit: no data here"),
        ("project.networks:shapes", "the inputs have the shape (5, 3) float32: give one batch as the model takes it"),
        ("project.networks:dislikes", "measuring raised ValueError: I do not like x (at 'raise ValueError("),
        ("project.networks:detector", "ran in evaluation mode; --training runs it as in training"),
        ("project.networks:nothing", "no layers of the model were seen: it calls nothing that has weights"),
        ("project.networks:no_scalar", "loss_fn must give a scalar, got shape (5, 2)"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_with_cause_and_remedy(capsys, target, cause):
    assert diagnose(target) == 2
    output, error = capsys.readouterr()
    assert output == ""
    *_, line = error.rstrip("\n").split("\n")
    assert line.startswith("sigmoid-core: ")
    assert cause in line


def test_a_function_of_a_class_is_found_and_sys_path_is_restored():
    before = list(sys.path)
    assert diagnose("project.networks:Factory.make") == 0
    assert sys.path == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", "--depth", "3", "--width", "16", "--epochs", "1", "--output", str(folder)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(arguments) == 0
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, to damage."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.toml", "model.safetensors", "metrics.jsonl"):
        (folder / name).write_bytes((finished / name).read_bytes())
    return folder


def metadata(**changes):
    sizes = {"in_features": "64", "width": "16", "depth": "3", "out_features": "10"}
    return {"architecture": "mlp"} | sizes | changes


def test_the_last_weights_of_a_run_are_measured_on_its_data(capsys, run):
    assert diagnose("run", "--json", "-") == 0
    measured = json.loads(capsys.readouterr().out)["measurement"]
    model = sc.MLP(64, 16, 3, 10)
    model.load_state_dict(load_file(run / "model.safetensors"))
    split = sc.training.digits()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(split.train_x[:256]), split.train_y[:256])
    assert measured["loss"] == pytest.approx(float(loss), rel=1e-4)
    assert measured["samples"] == 256


def test_weights_that_are_not_finite_are_a_finding(capsys, run):
    tensors = load_file(run / "model.safetensors")
    tensors["0.weight"][0, 0] = float("nan")
    save_tensors(run / "model.safetensors", tensors, metadata())
    assert diagnose("run") == 1
    assert "US401" in capsys.readouterr().out


def other_inputs(run):
    save_tensors(run / "model.safetensors", sc.MLP(7, 16, 3, 10).state_dict(), metadata(in_features="7"))


def wrong_metadata(**changes):
    path = "model.safetensors"
    return lambda run: save_tensors(run / path, load_file(run / path), metadata(**changes))


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (
            lambda run: (run / "model.safetensors").unlink(),
            "run contains no weights (model.safetensors): `sigmoid-core",
        ),
        (
            lambda run: (run / "config.toml").unlink(),
            "run does not contain a run: it has no config.toml; give a folder",
        ),
        (lambda run: (run / "config.toml").write_text("[options"), "run/config.toml is not TOML: "),
        (
            lambda run: (run / "config.toml").write_text(""),
            "is not the config of a run: it has no format and no options",
        ),
        (wrong_metadata(width="wide"), "does not match the network that its metadata describe: invalid literal"),
        (wrong_metadata(depth="1000000000"), "1000000000 layers, but "),
        (other_inputs, "is a network with 7 inputs, but digits has 64"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(refused, run, damage, cause):
    damage(run)
    assert cause in refused(["diagnose", "run"])


def test_an_unknown_language_is_refused_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("SIGMOIDCORE_LANG", "en")
    assert main(["diagnose", "x", "--lang", "fr"]) == 2
    assert capsys.readouterr().err.endswith("is 'fr': choose en or zh\n")


def test_the_option_lang_gives_messages_in_chinese_for_this_command_only(capsys):
    assert main(["diagnose", "project.networks:deep", "--lang", "zh"]) == 1
    assert "US101 错误：梯度消失" in capsys.readouterr().out
    assert main(["diagnose", "project.networks:deep"]) == 1
    assert "US101 error: vanishing gradient" in capsys.readouterr().out
