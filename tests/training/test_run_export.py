"""A run's network leaves this package: it computes the same, and loads without it."""

import json
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.runs import houses, made_run
from torch import nn

from sigmoidcore.training.data import DataError, Preprocessing
from sigmoidcore.training.runs.network import OWN, Network, NetworkError
from sigmoidcore.training.use import export as export_module
from sigmoidcore.training.use.export import layers_of
from sigmoidcore.training.use.trained import TrainedRun, open_run

NO_PICKLES = pytest.mark.skipif(torch.__version__ < "2.7", reason="PyTorch 2.6 writes pickles into .pt2 files")


def loaded(code, *arguments):
    """What a program prints that has neither this package nor pickle."""
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


TORCH = "print(json.dumps(torch.export.load(sys.argv[1]).module()(inputs).tolist()))"
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


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        pytest.param("mlp", "torch", TORCH, marks=NO_PICKLES),
        pytest.param("rnn", "torch", TORCH, marks=NO_PICKLES),
        ("mlp", "safetensors", SAFETENSORS),
    ],
    ids=["mlp torch", "rnn torch", "mlp safetensors"],
)
def test_it_computes_the_same_where_this_package_and_pickle_are_not(runs, tmp_path, name, kind, code):
    run = runs[name]
    path = run.export(kind, tmp_path / f"out.{kind}")
    inputs, outputs = samples(run, 7)  # not the number that it was exported with
    (tmp_path / "inputs.json").write_text(json.dumps(inputs.tolist()))
    torch.testing.assert_close(loaded(code, path, tmp_path / "inputs.json"), outputs, rtol=1e-5, atol=1e-5)


@NO_PICKLES
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_it_takes_any_number_of_samples(runs, tmp_path, name):
    run = runs[name]
    program = torch.export.load(run.export("torch", tmp_path / "out.pt2")).module()
    for count in (1, 5):
        inputs, outputs = samples(run, count)
        torch.testing.assert_close(program(inputs), outputs, rtol=1e-5, atol=1e-5)


@NO_PICKLES
def test_the_archive_of_torch_holds_no_pickle(runs, tmp_path):
    path = runs["mlp"].export("torch", tmp_path / "out.pt2")
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            content = archive.read(item)
            assert not item.filename.endswith(".pkl")
            assert not content.startswith((b"PK", b"\x80\x02")), item.filename
        assert any(name.endswith("preprocessing.json") for name in archive.namelist())


def test_a_pytorch_that_would_pickle_is_refused(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_pickles", lambda archive: ["data.pkl"])
    with pytest.raises(NetworkError, match=r"writes pickles into \.pt2 files"):
        runs["mlp"].export("torch", tmp_path / "out.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [pytest.param("torch", marks=NO_PICKLES), "safetensors"])
def test_the_preprocessing_goes_with_it_and_lies_beside_it(runs, tmp_path, kind):
    run = runs["mlp"]
    path = run.export(kind, tmp_path / f"net.{kind}")
    assert Preprocessing.from_bytes((tmp_path / "net.preprocessing.skops").read_bytes()).alike(run.preprocessing)
    if kind == "torch":
        files = {"preprocessing.json": "", "outputs.txt": ""}
        torch.export.load(path, extra_files=files)
        inside, meaning = files["preprocessing.json"], files["outputs.txt"]
    else:
        with safe_open(path, "pt") as file:
            inside, meaning = (file.metadata()[key] for key in ("preprocessing", "outputs"))
    assert json.loads(inside)["target"]["classes"] == list(run.preprocessing.target.classes)
    assert "scores before the softmax" in (meaning if isinstance(meaning, str) else meaning.decode())


@NO_PICKLES
def test_formats_beside_each_other_share_the_preprocessing(runs, tmp_path):
    runs["mlp"].export("torch", tmp_path / "net.pt2")
    runs["mlp"].export("safetensors", tmp_path / "net.safetensors")
    with pytest.raises(DataError, match="exists: give another name"):
        runs["mlp"].export("safetensors", tmp_path / "net.safetensors")
    with pytest.raises(DataError, match=r"net\.preprocessing\.skops exists: give another name"):
        runs["conv"].export("torch", tmp_path / "net.other")
    runs["conv"].export("safetensors", tmp_path / "net.safetensors", overwrite=True)
    assert "0.weight" in load_file(tmp_path / "net.safetensors")


def test_layers_of_images_are_told_by_name(runs, tmp_path):
    run = runs["conv"]
    with safe_open(run.export("safetensors", tmp_path / "out.safetensors"), "pt") as file:
        layers = json.loads(file.metadata()["layers"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
    model = nn.Sequential(*(getattr(nn, name)(**arguments) for name, arguments in layers))
    model.load_state_dict(weights)
    inputs, outputs = samples(run, 3)
    torch.testing.assert_close(model(inputs), outputs, rtol=1e-5, atol=1e-5)


def test_layers_that_cannot_be_told_by_name_are_none():
    assert layers_of(nn.Sequential(nn.Linear(2, 2), nn.Softplus())) is None
    assert layers_of(nn.Sequential(nn.Conv2d(1, 2, 3, groups=1, dilation=2))) is None
    assert layers_of(nn.Linear(2, 2)) is None
    assert layers_of(nn.Sequential(nn.Linear(2, 2, bias=False))) is None


def test_there_are_three_formats(runs, tmp_path):
    with pytest.raises(DataError, match="there is no format 'pickle': there are onnx, torch, safetensors"):
        runs["mlp"].export("pickle", tmp_path / "out.pkl")


class Branching(nn.Module):
    """A forward that cannot be followed, with a core in it."""

    def __init__(self):
        super().__init__()
        import sigmoidcore as sc

        self.layers = sc.MLP(24, 8, 2, 2)

    def forward(self, x):
        return self.layers(x) if float(x.sum()) > 0 else self.layers(-x)


def test_a_network_that_cannot_be_folded_is_said(runs, tmp_path):
    run = runs["mlp"]
    with pytest.raises(NetworkError, match="the network cannot be folded into plain layers"):
        export_module.export(tmp_path / "x.pt2", "torch", Network(OWN, {}, Branching()), run.preprocessing)
    assert not list(tmp_path.iterdir())


def test_a_fold_that_computes_something_else_is_refused(runs, tmp_path, monkeypatch):
    def wrong(model):
        plain = fold(model)
        with torch.no_grad():
            plain[0].bias += 0.1
        return plain

    fold = export_module.fold
    monkeypatch.setattr(export_module, "fold", wrong)
    with pytest.raises(NetworkError, match="gives other outputs"):
        runs["mlp"].export("torch", tmp_path / "out.pt2")
    assert not list(tmp_path.iterdir())
