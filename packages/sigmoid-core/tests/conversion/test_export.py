"""Models of cores and folded ones leave PyTorch's Python: torch.export, safetensors, checkpoints of plain models."""

from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore import SigmoidCore
from sigmoidcore.nn import CoreRNN

# PyTorch says this of every recurrent layer: its list of weights is made anew while it is exported.
pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning")

# PyTorch 2.6 refuses a recurrent layer without a maximum.
ANY_BATCH = ({0: torch.export.Dim("batch", max=2**31 - 1)},)


class LastStep(nn.Module):
    """A recurrent layer, and a linear reading of its last output."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


class Residual(nn.Module):
    """A sum that a factor cannot pass, so that it stays."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.linear, self.act, self.out = nn.Linear(8, 8), act, nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.act(self.linear(x)) + x)


def tanh_core(features, dim=-1):
    """What stands for an nn.Tanh."""
    return SigmoidCore(features, dim=dim, alpha=2.0, centered=True, scale=2.0)


def mlp(hidden):
    return nn.Sequential(nn.Linear(8, 16), hidden(16, -1), nn.Linear(16, 16), hidden(16, -1), nn.Linear(16, 3))


def convnet(hidden):
    layers = [nn.Conv2d(2, 4, 3, padding=1), hidden(4, 1), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, padding=1), hidden(4, 1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))


PLAIN = {"mlp": lambda: mlp(lambda n, dim: nn.Tanh()), "convnet": lambda: convnet(lambda n, dim: nn.Tanh())}
PLAIN["rnn"] = lambda: LastStep(nn.RNN(3, 8, batch_first=True))
CORES = {"mlp": lambda: mlp(tanh_core), "convnet": lambda: convnet(tanh_core)}
CORES["rnn"] = lambda: LastStep(CoreRNN(3, 8, batch_first=True))
CORES["residual"] = lambda: Residual(tanh_core(8))
INPUTS = {"mlp": (16, 8), "convnet": (16, 2, 8, 8), "rnn": (16, 6, 3), "residual": (16, 8)}


def calibrated(name):
    """A model whose slopes and shifts are not those of the plain one, in evaluation mode, and inputs."""
    model, x = CORES[name]().eval(), torch.randn(INPUTS[name])
    sc.calibrate(model, x)
    return model, x


def exported(model, x):
    return torch.export.export(model, (x,), dynamic_shapes=ANY_BATCH, strict=False)


def operations(program):
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", CORES)
def test_torch_export_takes_any_batch_and_gives_the_same(name, folded):
    model, x = calibrated(name)
    program = exported(sc.fold(model) if folded else model, x).module()
    for batch in (x, x[:3]):
        torch.testing.assert_close(program(batch), model(batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_a_folded_model_exports_to_the_operations_of_the_plain_one(name):
    model, x = calibrated(name)
    plain = operations(exported(PLAIN[name]().eval(), x))
    assert operations(exported(sc.fold(model), x)) == plain
    assert operations(exported(model, x)) != plain


@pytest.mark.parametrize("name", CORES)
def test_safetensors_hold_slopes_and_shifts(name, tmp_path: Path):
    model, x = calibrated(name)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert any("slope" in key for key in stored)
    assert any("shift" in key for key in stored)
    again = CORES[name]().eval()
    assert not torch.allclose(again(x), model(x), atol=1e-3)
    again.load_state_dict(stored, strict=True)
    assert torch.equal(again(x), model(x))
