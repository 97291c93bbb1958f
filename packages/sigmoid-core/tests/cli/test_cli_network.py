"""`train --network`, `--device`: what is trained, and where."""

import tomllib

import numpy as np
import pytest
import torch

from sigmoidcore.cli import main
from sigmoidcore.training.place import place_of
from sigmoidcore.training.runs.folder import read_metrics
from sigmoidcore.training.runs.weights import network_of

pytestmark = pytest.mark.usefixtures("without_figures")
QUICK = ["train", "--epochs", "1", "--width", "8", "--output", "run"]


def arrays(shape, classes=3, samples=120):
    """A file of samples of a shape, whose class is that of their mean."""
    generator = np.random.default_rng(0)
    y = generator.integers(classes, size=samples)
    x = generator.normal(size=(samples, *shape)).astype(np.float32) + y.reshape(-1, *[1] * len(shape))
    np.savez("data.npz", x=x, y=y)
    return ["--data", "data.npz"]


@pytest.mark.parametrize(
    ("shape", "kind", "words"),
    [
        ((5,), "mlp", "5 inputs, 4 layers of 8 sigmoids"),
        ((6, 2), "rnn", "sequences of 2 numbers, 1 recurrent layer of 8 sigmoids"),
        ((2, 9, 8), "conv", "images of 9 x 8 and 2 channels, 4 layers of 8 channels"),
    ],
)
def test_auto_chooses_the_network_by_the_shape_of_the_data(capsys, tmp_path, shape, kind, words):
    depth = ["--depth", "4"] if kind != "rnn" else []
    assert main([*QUICK, *arrays(shape), "--network", "auto", *depth]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert words in output
    assert f"gradient by {'step' if kind == 'rnn' else 'layer'}, 1 to {6 if kind == 'rnn' else 4}" in output
    options = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["options"]
    assert (options["network"], options["depth"]) == (kind, 4 if depth else 1)
    made = network_of(tmp_path / "run")
    assert made.architecture == kind
    assert made.model(made.arranged(torch.zeros(7, *shape))).shape == (7, 3)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["outcome"] == "finished"
    assert main(["diagnose", "run", "--fail-on", "never"]) == 0


@pytest.mark.parametrize("kind", ["conv", "rnn"])
def test_images_are_learnt_by_convolutions_and_as_sequences(tmp_path, kind):
    depth = ["--depth", "3"] if kind == "conv" else []
    arguments = ["train", "--network", kind, "--epochs", "3", "--width", "16", "--output", "run", *depth]
    assert main(arguments) == 0
    epochs = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "epoch"]
    assert epochs[-1]["accuracy"] > (85 if kind == "conv" else 40)


def test_a_convolutional_network_refuses_rows_of_numbers(capsys, tmp_path):
    assert main([*QUICK, "--data", "wine", "--network", "conv"]) == 2
    error = capsys.readouterr().err
    assert "a convolutional network needs images, and a sample has the shape [13]: use mlp" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_is_wrong_input(capsys, tmp_path):
    assert main([*QUICK, "--device", "cuda"]) == 2
    assert (
        "there is no device cuda here, or this PyTorch is built without it: use auto or cpu" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
    assert place_of("auto").device == torch.device("cpu")
