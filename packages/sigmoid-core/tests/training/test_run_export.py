"""An exported network gives the outputs of the run, and loads without this package."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from core_support.runs import houses, made_run
from torch import nn

import sigmoidcore as sc
from sigmoidcore.folding import fold
from sigmoidcore.training.data import DataError, InputError, Preprocessing
from sigmoidcore.training.use import TrainedRun, export, open_run


def loaded(code, *arguments):
    """The outputs of a program that can import neither this package nor pickle."""
    head = (
        "import json, pickle, sys, torch\n"
        "sys.modules['sigmoidcore'] = None\n"
        "def refuse(*_, **__): raise SystemExit('unpickled')\n"
        "inputs = torch.tensor(json.load(open(sys.argv[2])))\n"
        "torch.load = pickle.loads = pickle.load = torch._C._pickle_load_obj = refuse\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", head + code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return torch.tensor(json.loads(result.stdout))


SAFETENSORS = """
from safetensors import safe_open
from torch import nn
with safe_open(sys.argv[1], "pt") as file:
    layers = json.loads(file.metadata()["layers"])
    weights = {name: file.get_tensor(name) for name in file.keys()}
model = nn.Sequential(*(getattr(nn, name)(**arguments) for name, arguments in layers))
model.load_state_dict(weights)
print(json.dumps(model(inputs).tolist()))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, TrainedRun]:
    folder = tmp_path_factory.mktemp("runs")
    houses().to_parquet(folder / "houses.parquet")
    made = {
        "mlp": made_run(folder / "mlp", folder / "houses.parquet", depth=30, target="sold"),
        "conv": made_run(folder / "conv", "digits", kind="conv", depth=4),
        "rnn": made_run(folder / "rnn", "digits", kind="rnn", depth=1),
    }
    return {name: open_run(path) for name, path in made.items()}


def samples(run, count):
    shape = run.preprocessing.inputs.shape
    inputs = run.network.arranged(torch.randn(count, *shape, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        return inputs, run.model.eval()(inputs)


def test_an_exported_network_gives_the_same_outputs_without_this_package_and_pickle(runs, tmp_path):
    run = runs["mlp"]
    path = run.export("safetensors", tmp_path / "out.safetensors")
    inputs, outputs = samples(run, 7)
    (tmp_path / "inputs.json").write_text(json.dumps(inputs.tolist()))
    torch.testing.assert_close(loaded(SAFETENSORS, path, tmp_path / "inputs.json"), outputs, rtol=1e-5, atol=1e-5)


def test_the_preprocessing_is_described_in_the_file_and_saved_beside_it(runs, tmp_path):
    run = runs["mlp"]
    path = run.export("safetensors", tmp_path / "net.safetensors")
    assert (
        Preprocessing.from_bytes((tmp_path / "net.preprocessing.skops").read_bytes()).description()
        == run.preprocessing.description()
    )
    with safe_open(path, "pt") as file:
        inside, meaning = (file.metadata()[key] for key in ("preprocessing", "outputs"))
    assert json.loads(inside)["target"]["classes"] == list(run.preprocessing.target.classes)
    assert "scores before the softmax" in meaning


def test_files_of_several_formats_share_the_preprocessing(runs, tmp_path):
    (tmp_path / "net.preprocessing.skops").write_bytes((runs["mlp"].folder / "preprocessing.skops").read_bytes())
    runs["mlp"].export("safetensors", tmp_path / "net.safetensors")
    with pytest.raises(DataError, match="exists: give another name"):
        runs["mlp"].export("safetensors", tmp_path / "net.safetensors")
    with pytest.raises(DataError, match=r"net\.preprocessing\.skops exists: give another name"):
        runs["conv"].export("safetensors", tmp_path / "net.other")
    runs["conv"].export("safetensors", tmp_path / "net.safetensors", overwrite=True)
    assert "0.weight" in load_file(tmp_path / "net.safetensors")


def test_a_network_that_is_not_sequential_has_its_text_in_the_metadata(runs, tmp_path):
    with safe_open(runs["rnn"].export("safetensors", tmp_path / "out.safetensors"), "pt") as file:
        assert "RNN" in file.metadata()["network"]
        assert "layers" not in file.metadata()


def test_the_metadata_name_the_layers_of_a_convolutional_network(runs, tmp_path):
    run = runs["conv"]
    with safe_open(run.export("safetensors", tmp_path / "out.safetensors"), "pt") as file:
        layers = json.loads(file.metadata()["layers"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    model = nn.Sequential(*(getattr(nn, name)(**arguments) for name, arguments in layers))
    model.load_state_dict(weights)
    inputs, outputs = samples(run, 3)
    torch.testing.assert_close(model(inputs), outputs, rtol=1e-5, atol=1e-5)


def test_an_unknown_format_is_refused(runs, tmp_path):
    with pytest.raises(DataError, match="there is no format 'pickle': choose one of onnx, safetensors"):
        runs["mlp"].export("pickle", tmp_path / "out.pkl")


class Branching(nn.Module):
    """A forward with a branch that depends on the data."""

    def __init__(self):
        super().__init__()
        self.layers = sc.MLP(24, 8, 2, 2)

    def forward(self, x):
        return self.layers(x) if float(x.sum()) > 0 else self.layers(-x)


def wrong_fold(model):
    plain = fold(model)
    with torch.no_grad():
        plain[0].bias += 0.1
    return plain


def test_a_network_that_cannot_be_folded_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(vars(runs["mlp"]), "network", replace(runs["mlp"].network, model=Branching()))
    with pytest.raises(InputError, match="the network cannot be folded into plain layers"):
        runs["mlp"].export("safetensors", tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_folded_network_with_other_outputs_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "fold", wrong_fold)
    with pytest.raises(InputError, match="gives other outputs"):
        runs["mlp"].export("safetensors", tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())
